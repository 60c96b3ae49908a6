# Scores of every run, base and reference, on text (the LLM alone) and on images.

if STUDY.jobs.evaluations_per_job == 1:

    rule evaluate:
        """Scores a run, a base or a reference on one suite."""
        input:
            lambda wildcards: evaluation_inputs(evaluation_of(wildcards)),
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

else:
    for NUMBER, TOGETHER in enumerate(grid.evaluations_together(STUDY), 1):

        rule:
            # Scores several runs of one base in one process.
            name:
                f"evaluate_{NUMBER}"
            input:
                [evaluation_inputs(spec) for spec in TOGETHER],
            output:
                evaluation_tables(TOGETHER),
            log:
                f"logs/studies/{STUDY.name}/evaluate_{NUMBER}.log",
            benchmark:
                f"logs/studies/{STUDY.name}/evaluate_{NUMBER}.benchmark.tsv"
            conda:
                "../../envs/evaluate.yaml"
            threads: asked("evaluate", "threads", always(TOGETHER[0]))
            resources:
                gpu=asked("evaluate", "gpu", always(TOGETHER[0])),
                mem_mb=asked("evaluate", "mem_mb", always(TOGETHER[0])),
                runtime=asked("evaluate", "runtime", always(TOGETHER[0])),
            params:
                evaluations=TOGETHER,
            message:
                f"Evaluate {TOGETHER[0]['subject']['id']} and others of its base"
            shell:
                "sight evaluate {params.evaluations:q}"
                " --threads {threads} --gpus {resources.gpu} --log {log:q}"
