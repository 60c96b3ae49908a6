# All scores of the study as tidy tables, with paired effects.


rule compare:
    """Gathers the study's records and scores into figures/data/."""
    input:
        [record_of(spec["checkpoint"]) for spec in [*RUNS.values(), *ALIGNMENTS.values()]],
        evaluation_tables(EVALUATIONS.values()),
    output:
        tables(),
        record=COMPARED,
    log:
        f"logs/studies/{STUDY.name}/compare.log",
    benchmark:
        f"logs/studies/{STUDY.name}/compare.benchmark.tsv"
    conda:
        "../../envs/draw.yaml"
    params:
        study=grid.compare_spec(STUDY),
        tables=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "Compare {STUDY.name}"
    shell:
        "sight compare {params.study:q} --tables {params.tables:q}"
        " --record {output.record:q} --log {log:q}"
