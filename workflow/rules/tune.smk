# Stage 2: instruction tuning. Weights aren't declared: training owns checkpoint/.

if STUDY.jobs.trainings_per_job == 1:

    rule tune:
        """Trains one cell of the grid."""
        input:
            known(lambda wildcards: training_inputs(run_of(wildcards))),
            alignment=known(lambda wildcards: record_of(run_of(wildcards)["projector"])),
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
            " --threads {threads} --gpus {resources.gpu} --nodes {resources.nodes} --log {log:q}"

else:
    for NUMBER, TOGETHER in enumerate(grid.trainings_together(STUDY), 1):

        rule:
            # Trains several runs of one base in one process.
            name:
                f"tune_{NUMBER}"
            input:
                [training_inputs(spec) for spec in TOGETHER],
                [record_of(spec["projector"]) for spec in TOGETHER],
            output:
                [record_of(spec["checkpoint"]) for spec in TOGETHER],
            log:
                f"logs/studies/{STUDY.name}/tune_{NUMBER}.log",
            benchmark:
                f"logs/studies/{STUDY.name}/tune_{NUMBER}.benchmark.tsv"
            conda:
                "../../envs/train.yaml"
            threads: asked("tune", "threads", first(TOGETHER))
            resources:
                gpu=asked("tune", "gpu", first(TOGETHER)),
                mem_mb=asked("tune", "mem_mb", first(TOGETHER)),
                runtime=asked("tune", "runtime", first(TOGETHER)),
                nodes=1,
            params:
                runs=TOGETHER,
            message:
                f"Tune {TOGETHER[0]['id']} and others of its base"
            shell:
                "printf '%s\\n' {params.runs:q} | sight tune -"
                " --threads {threads} --gpus {resources.gpu} --nodes {resources.nodes} --log {log:q}"
