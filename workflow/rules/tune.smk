# Stage 2: instruction tuning, one job a run. Weights aren't declared: training owns checkpoint/.


rule tune:
    """Trains one cell of the grid."""
    input:
        lambda wildcards: training_inputs(RUNS[wildcards.run]),
        alignment=lambda wildcards: record_of(RUNS[wildcards.run]["projector"]),
    output:
        "results/runs/{run}/train.json",
    log:
        "logs/runs/{run}/tune.log",
    benchmark:
        "logs/runs/{run}/tune.benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    params:
        run=lambda wildcards: RUNS[wildcards.run],
    message:
        "Tune {wildcards.run}"
    shell:
        "sight tune {params.run:q} --record {output:q} --threads {threads} --log {log:q}"
