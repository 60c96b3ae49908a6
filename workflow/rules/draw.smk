# Figures and the main table, from the tables alone.


# The record lies outside the repository's files, so a fresh clone draws whatever it is asked to.
rule draw_figure:
    """Draws one figure in all formats."""
    input:
        tables(),
    output:
        [f"{DRAWINGS}/{{figure}}.{kind}" for kind in STUDY.figures.formats],
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
    """Writes the main table as CSV, Markdown and LaTeX."""
    input:
        tables(),
    output:
        [f"{DRAWINGS}/main_table.{kind}" for kind in ("csv", "md", "tex")],
        record=f"{RESULTS}/main_table.json",
    log:
        f"logs/studies/{STUDY.name}/main_table.log",
    benchmark:
        f"logs/studies/{STUDY.name}/main_table.benchmark.tsv"
    conda:
        "../../envs/draw.yaml"
    params:
        tables=lambda wildcards, input: os.path.dirname(input[0]),
        stem=lambda wildcards, output: os.path.splitext(output[0])[0],
    message:
        "Write the main table"
    shell:
        "sight draw main_table --tables {params.tables:q} --out {params.stem:q}"
        " --record {output.record:q} --log {log:q}"
