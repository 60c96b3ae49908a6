# Stage 2: instruction tuning, one job a run. Weights aren't declared: training owns checkpoint/.


rule tune:
    """Trains one cell of the grid."""
    input:
        lambda wildcards: training_inputs(run_of(wildcards)),
        alignment=lambda wildcards: record_of(run_of(wildcards)["projector"]),
    output:
        "results/runs/{run}/train.json",
    log:
        "logs/runs/{run}/tune.log",
    benchmark:
        "logs/runs/{run}/tune.benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: asked("tune", "threads", run_of)
    resources:
        gpu=asked("tune", "gpu", run_of),
        mem_mb=asked("tune", "mem_mb", run_of),
        runtime=asked("tune", "runtime", run_of),
        nodes=1,
    params:
        run=run_of,
    message:
        "Tune {wildcards.run}"
    shell:
        "sight tune {params.run:q} --record {output:q}"
        " --threads {threads} --gpus {resources.gpu} --log {log:q}"
