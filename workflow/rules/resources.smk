# What is made from the given data before anything is trained.

MADE = grid.instructions_spec(STUDY)

if MADE is not None:

    rule make_instructions:
        """Makes LLaVA-style instructions and alignment pairs from COCO annotations."""
        input:
            captions=made(MADE["captions"]),
            instances=made(MADE["instances"]) if MADE["instances"] else [],
            images=made(MADE["images"]),
        output:
            [
                f"{MADE['folder']}/{name}.json"
                for name in (["instructions"] if MADE["instances"] else []) + ["alignment"]
            ],
        log:
            f"logs/{MADE['folder']}.log",
        benchmark:
            f"logs/{MADE['folder']}.benchmark.tsv"
        params:
            captions=MADE["captions"],
            images=MADE["images"],
            instances=f"--instances {MADE['instances']}" if MADE["instances"] else "",
            make=grid.Spec(MADE["make"]),
            folder=MADE["folder"],
        message:
            "Instructions from COCO annotations"
        shell:
            "sight instructions --captions {params.captions:q} --images {params.images:q}"
            " {params.instances} --make {params.make:q} --out {params.folder:q} --log {log:q}"


rule check_benchmarks:
    """Reads all benchmarks, so that mistakes are known before anything is trained."""
    input:
        benchmark_inputs(),
    output:
        touch(f"{RESULTS}/benchmarks.ok"),
    log:
        f"logs/studies/{STUDY.name}/check_benchmarks.log",
    benchmark:
        f"logs/studies/{STUDY.name}/check_benchmarks.benchmark.tsv"
    params:
        benchmarks=benchmark_specs(),
    message:
        "Check the benchmarks' files"
    shell:
        "sight check {params.benchmarks:q} --log {log:q}"
