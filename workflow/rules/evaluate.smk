# Scores of every run, base and reference, on text (the LLM alone) and on images.


rule evaluate:
    """Scores a run, a base or a reference on one suite."""
    input:
        evaluation_inputs,
    output:
        "results/runs/{subject}/{suite}-{key}/scores.parquet",
        "results/runs/{subject}/{suite}-{key}/items.parquet",
    log:
        "logs/runs/{subject}/{suite}-{key}.log",
    benchmark:
        "logs/runs/{subject}/{suite}-{key}.benchmark.tsv"
    wildcard_constraints:
        suite="text|image",
        key="[0-9a-f]{8}",
    conda:
        "../../envs/evaluate.yaml"
    threads: asked("evaluate", "threads", evaluation_of)
    resources:
        gpu=asked("evaluate", "gpu", evaluation_of),
        mem_mb=asked("evaluate", "mem_mb", evaluation_of),
        runtime=asked("evaluate", "runtime", evaluation_of),
    params:
        evaluation=evaluation_of,
        folder=lambda wildcards: evaluation_of(wildcards)["folder"],
    message:
        "Evaluate {wildcards.subject} ({wildcards.suite})"
    shell:
        "sight evaluate {params.evaluation:q} --out {params.folder:q}"
        " --threads {threads} --gpus {resources.gpu} --log {log:q}"
