# Scores of every run, base and reference, on text (the LLM alone) and on images.

EVALUATIONS = {
    spec["folder"]: spec for subject in SUBJECTS.values() for spec in evaluations(subject)
}


def evaluation_of(wildcards):
    """The spec behind an evaluation's folder."""
    return EVALUATIONS[f"results/runs/{wildcards.subject}/{wildcards.suite}-{wildcards.key}"]


def evaluation_inputs(wildcards):
    """What an evaluation waits for: weights, projector, benchmarks."""
    spec = evaluation_of(wildcards)
    subject = spec["subject"]
    waits = [made(subject["base"]["model"])]
    if subject["checkpoint"] is not None:
        waits.append(f"{os.path.dirname(subject['checkpoint'])}/train.json")
    if spec["suite"] == "image":
        waits += [f"{os.path.dirname(subject['projector'])}/train.json"]
        waits += [made(subject["tower"]["model"])]
    return waits + benchmark_inputs(spec["suite"])


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
    threads: 1
    params:
        evaluation=evaluation_of,
        folder=lambda wildcards: evaluation_of(wildcards)["folder"],
    message:
        "Evaluate {wildcards.subject} ({wildcards.suite})"
    shell:
        "sight evaluate {params.evaluation:q} --out {params.folder:q}"
        " --threads {threads} --log {log:q}"
