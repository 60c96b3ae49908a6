# What is fetched, what is made from data before anything is trained, and the check of what was given.

if RESOURCES:

    localrules:
        fetch,

    rule fetch:
        """Fetches one of the study's resources, or a model into the hub's cache."""
        output:
            f"{grid.FETCHED}/{{resource}}.json",
        log:
            f"logs/{grid.FETCHED}/{{resource}}.log",
        conda:
            "../../envs/train.yaml"
        params:
            resource=lambda wildcards, output: RESOURCES[output[0]],
        message:
            "Fetch {wildcards.resource}"
        shell:
            "sight fetch --spec {params.resource:q} --log {log:q}"


if IMPORTS:

    rule import_checkpoint:
        """Turns released weights into a checkpoint that can be scored."""
        input:
            lambda wildcards: import_inputs(
                IMPORTS[f"{grid.IMPORTED}/{wildcards.released}.json"]
            ),
        output:
            f"{grid.IMPORTED}/{{released}}.json",
        log:
            f"logs/{grid.IMPORTED}/{{released}}.log",
        benchmark:
            f"logs/{grid.IMPORTED}/{{released}}.benchmark.tsv"
        wildcard_constraints:
            released="[^/]+",
        conda:
            "../../envs/train.yaml"
        threads: 1
        resources:
            # A file of weights is held as a whole: of released ones ten GB at most.
            mem_mb=lambda wildcards, attempt: 16_000 * attempt,
        params:
            imported=lambda wildcards, output: IMPORTS[output[0]],
        message:
            "Import {wildcards.released}"
        shell:
            "sight import --spec {params.imported:q} --record {output:q} --log {log:q}"


if INSTRUCTIONS is not None:
    MADE = INSTRUCTIONS["folder"]

    rule make_instructions:
        """Makes LLaVA-style instructions and alignment pairs from COCO annotations."""
        input:
            [made(INSTRUCTIONS[key]) for key in ("captions", "images")],
            made(INSTRUCTIONS["instances"]) if INSTRUCTIONS["instances"] else [],
        output:
            f"{MADE}/alignment.json",
            f"{MADE}/instructions.json" if INSTRUCTIONS["instances"] else [],
        log:
            f"logs/{MADE}.log",
        benchmark:
            f"logs/{MADE}.benchmark.tsv"
        conda:
            "../../envs/train.yaml"
        params:
            files=coco_options(),
            make=grid.Spec(INSTRUCTIONS["make"]),
            folder=lambda wildcards, output: os.path.dirname(output[0]),
        message:
            "Instructions from COCO annotations"
        shell:
            "sight instructions {params.files} --make {params.make:q} --out {params.folder:q}"
            " --log {log:q}"


rule cache_features:
    """Computes the frozen tower's features of images, for all runs or evaluations to read."""
    input:
        lambda wildcards: features_inputs(features_of(wildcards)),
    output:
        f"{grid.FEATURES}/{{key}}/features.json",
    log:
        f"logs/{grid.FEATURES}/{{key}}.log",
    benchmark:
        f"logs/{grid.FEATURES}/{{key}}.benchmark.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: asked("cache_features", "threads")
    resources:
        gpu=asked("cache_features", "gpu"),
        mem_mb=asked("cache_features", "mem_mb"),
        runtime=asked("cache_features", "runtime"),
    params:
        features=features_of,
    message:
        "Features of images"
    shell:
        "printf '%s' {params.features:q} | sight features -"
        " --threads {threads} --gpus {resources.gpu} --log {log:q}"


if STUDY.data.leakage == "drop":
    LEAKS = grid.leaks_spec(STUDY)

    rule find_leaks:
        """Finds the samples that hold photos or text questions of the evaluation."""
        input:
            [made(path) for path in LEAKS["learned_from"]],
            benchmark_inputs("text"),
            benchmark_inputs("image"),
        output:
            f"{LEAKS['folder']}/leaks.json",
        log:
            f"logs/{LEAKS['folder']}.log",
        benchmark:
            f"logs/{LEAKS['folder']}.benchmark.tsv"
        conda:
            "../../envs/evaluate.yaml"
        params:
            leaks=LEAKS,
        message:
            "Look for the evaluation in the training data"
        shell:
            "printf '%s' {params.leaks:q} | sight leaks --spec - --out {output:q} --log {log:q}"


# It is no input of a training: a check that is due again must not make trainings due. Taking all
# cores with a high priority, it runs before them all the same, and stops the workflow if it fails.
# On a cluster, where there is no such total, one core will do: in the job as at submission.
rule check_inputs:
    """Reads benchmarks and given instructions before anything is trained."""
    input:
        benchmark_inputs("text"),
        benchmark_inputs("image"),
        checked_inputs(),
    output:
        touch(CHECKED),
    log:
        f"logs/studies/{STUDY.name}/check_inputs.log",
    benchmark:
        f"logs/studies/{STUDY.name}/check_inputs.benchmark.tsv"
    priority: 100
    conda:
        "../../envs/evaluate.yaml"
    threads: 1 if workflow.remote_exec else workflow.resource_settings.cores or 1
    params:
        inputs=grid.check_spec(STUDY),
    message:
        "Check the files that were given"
    shell:
        "printf '%s' {params.inputs:q} | sight check - --log {log:q}"
