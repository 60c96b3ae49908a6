# Scores of every run, base and reference, on text (the LLM alone) and on images.

if STUDY.jobs.evaluations_per_job == 1:

    rule evaluate:
        """Scores a run, a base or a reference on one suite."""
        input:
            known(lambda wildcards: evaluation_inputs(evaluation_of(wildcards))),
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
        threads: asked("evaluate", "threads")
        resources:
            gpu=asked("evaluate", "gpu"),
            mem_mb=asked("evaluate", "mem_mb"),
            runtime=asked("evaluate", "runtime"),
        params:
            evaluation=evaluation_of,
        message:
            "Evaluate {wildcards.subject} ({wildcards.suite})"
        shell:
            "printf '%s\\n' {params.evaluation:q} | sight evaluate -"
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
            threads: asked("evaluate", "threads")
            resources:
                gpu=asked("evaluate", "gpu"),
                mem_mb=asked("evaluate", "mem_mb"),
                runtime=asked("evaluate", "runtime"),
            params:
                evaluations=TOGETHER,
            message:
                f"Evaluate {TOGETHER[0]['subject']['id']} and others of its base"
            shell:
                "printf '%s\\n' {params.evaluations:q} | sight evaluate -"
                " --threads {threads} --gpus {resources.gpu} --log {log:q}"
