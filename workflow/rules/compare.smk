# All scores of the study as tidy tables, with paired effects.

COMPARISON = grid.compare_spec(STUDY)


rule compare:
    """Gathers the study's records and scores into figures/data/."""
    input:
        [
            record_of(spec["checkpoint"])
            for spec in [*RUNS.values(), *ALIGNMENTS.values()]
        ],
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
        study=COMPARISON,
        tables=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "Compare {STUDY.name}"
    shell:
        "printf '%s' {params.study:q} | sight compare - --tables {params.tables:q}"
        " --record {output.record:q} --log {log:q}"


rule seal_tables:
    """Writes the layout of the tables: their hashes, and what made them."""
    input:
        tables(),
        pictures(),
    output:
        LAYOUT,
    log:
        f"logs/studies/{STUDY.name}/seal_tables.log",
    benchmark:
        f"logs/studies/{STUDY.name}/seal_tables.benchmark.tsv"
    conda:
        "../../envs/draw.yaml"
    params:
        study=grid.Spec({key: COMPARISON[key] for key in ("study", *cache.DERIVED)}),
        tables=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "Seal the tables of {STUDY.name}"
    shell:
        "sight cache seal {params.study:q} --tables {params.tables:q} --log {log:q}"


rule gather_pictures:
    """Keeps small copies of the image benchmarks' images, for the explorer."""
    input:
        f"{TABLES}/items.parquet",
        benchmark_inputs("image"),
    output:
        f"{TABLES}/images.parquet",
    log:
        f"logs/studies/{STUDY.name}/gather_pictures.log",
    benchmark:
        f"logs/studies/{STUDY.name}/gather_pictures.benchmark.tsv"
    conda:
        "../../envs/draw.yaml"
    params:
        pictures=grid.pictures_spec(STUDY),
        tables=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "Gather pictures for the explorer"
    shell:
        "sight pictures {params.pictures:q} --tables {params.tables:q} --log {log:q}"
