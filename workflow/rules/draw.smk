# Figures and tables for readers, from the study's tables alone.


# Figures wait for the layout, which tells whether the tables are whole. Not as an `ancient` file:
# Snakemake doesn't ask why jobs are due that come after a due one, and such a file passes none on,
# so a clone with a layout older than its tables would seal them, and do nothing else.
# The record lies outside the repository's files, so a fresh clone draws whatever it is asked to.
rule draw_figure:
    """Draws one figure in all formats."""
    input:
        tables(),
        LAYOUT,
    output:
        [drawing(kind) for kind in STUDY.figures.formats],
        record=f"{RESULTS}/{{figure}}.json",
    log:
        f"logs/studies/{STUDY.name}/{{figure}}.log",
    benchmark:
        f"logs/studies/{STUDY.name}/{{figure}}.benchmark.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    conda:
        "../../envs/draw.yaml"
    params:
        style=grid.Spec(STUDY.figures.model_dump()),
        tables=lambda wildcards, input: os.path.dirname(input[0]),
        stem=lambda wildcards, output: os.path.splitext(output[0])[0],
    message:
        "Draw {wildcards.figure}"
    shell:
        "sight draw {wildcards.figure} --tables {params.tables:q} --out {params.stem:q}"
        " --style {params.style:q} --record {output.record:q} --log {log:q}"


rule draw_table:
    """Writes a table for readers as CSV, Markdown and LaTeX, and as a page of the report."""
    input:
        tables(),
        LAYOUT,
    output:
        [f"{DRAWINGS}/{{table}}.{kind}" for kind in ("csv", "md", "tex")],
        page=report(
            f"{RESULTS}/{{table}}.html",
            caption="../report/result.rst",
            category=lambda wildcards: reporting.TABLES[wildcards.table][0],
            labels=lambda wildcards: {"table": reporting.TABLES[wildcards.table][1]},
        ),
        record=f"{RESULTS}/{{table}}.json",
    log:
        f"logs/studies/{STUDY.name}/{{table}}.log",
    benchmark:
        f"logs/studies/{STUDY.name}/{{table}}.benchmark.tsv"
    wildcard_constraints:
        table="|".join(LISTED),
    conda:
        "../../envs/draw.yaml"
    params:
        tables=lambda wildcards, input: os.path.dirname(input[0]),
        stem=lambda wildcards, output: os.path.splitext(output[0])[0],
    message:
        "Write {wildcards.table}"
    shell:
        "sight draw {wildcards.table} --tables {params.tables:q} --out {params.stem:q}"
        " --page {output.page:q} --record {output.record:q} --log {log:q}"


rule explore:
    """Writes the explorer, a page of runs and items; a big study's data go beside it."""
    input:
        tables(),
        pictures(),
        LAYOUT,
    output:
        page=report(
            f"{DRAWINGS}/explorer.html",
            caption="../report/explorer.rst",
            category="Explorer",
            labels={"page": "Runs, and items that flipped"},
        ),
        record=f"{RESULTS}/explorer.json",
    log:
        f"logs/studies/{STUDY.name}/explorer.log",
    benchmark:
        f"logs/studies/{STUDY.name}/explorer.benchmark.tsv"
    conda:
        "../../envs/draw.yaml"
    params:
        name=STUDY.name,
        tables=lambda wildcards, input: os.path.dirname(input[0]),
    message:
        "Write the explorer"
    shell:
        "sight explore --tables {params.tables:q} --out {output.page:q} --name {params.name:q}"
        " --record {output.record:q} --log {log:q}"
