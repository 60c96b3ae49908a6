# The micro world: files in upstream formats, two bases and a vision tower, all from one seed.
# Weights are made with a fixed number of threads: sums in another order would give other weights.

if STUDY.micro is not None:
    WORLD = STUDY.world
    MICRO = grid.Spec(STUDY.micro.model_dump())

    rule micro_world:
        """Writes scenes, annotations, texts, benchmarks and the tokenizer."""
        output:
            f"{WORLD}/world.json",
        log:
            f"logs/{WORLD}/world.log",
        benchmark:
            f"logs/{WORLD}/world.benchmark.tsv"
        conda:
            "../../envs/train.yaml"
        params:
            settings=MICRO,
        message:
            "Micro world: scenes, texts, benchmarks"
        shell:
            "sight micro world {params.settings:q} --record {output:q} --log {log:q}"

    rule micro_tower:
        """Trains the CLIP tower on the scenes and their captions."""
        input:
            f"{WORLD}/world.json",
        output:
            f"{WORLD}/models/tower.json",
        log:
            f"logs/{WORLD}/tower.log",
        benchmark:
            f"logs/{WORLD}/tower.benchmark.tsv"
        conda:
            "../../envs/train.yaml"
        threads: 1
        params:
            settings=MICRO,
        message:
            "Micro world: vision tower"
        shell:
            "sight micro tower {params.settings:q} --record {output:q}"
            " --threads {threads} --log {log:q}"

    rule micro_base:
        """Pretrains micro-base on the corpus."""
        input:
            f"{WORLD}/world.json",
        output:
            f"{WORLD}/models/base.json",
        log:
            f"logs/{WORLD}/base.log",
        benchmark:
            f"logs/{WORLD}/base.benchmark.tsv"
        priority: 10
        conda:
            "../../envs/train.yaml"
        threads: 2
        params:
            settings=MICRO,
        message:
            "Micro world: micro-base"
        shell:
            "sight micro base {params.settings:q} --record {output:q} --threads 2 --log {log:q}"

    rule micro_chat:
        """Tunes micro-base on text instructions: micro-chat."""
        input:
            f"{WORLD}/models/base.json",
        output:
            f"{WORLD}/models/chat.json",
        log:
            f"logs/{WORLD}/chat.log",
        benchmark:
            f"logs/{WORLD}/chat.benchmark.tsv"
        priority: 10
        conda:
            "../../envs/train.yaml"
        threads: 1
        params:
            settings=MICRO,
        message:
            "Micro world: micro-chat"
        shell:
            "sight micro chat {params.settings:q} --record {output:q}"
            " --threads {threads} --log {log:q}"
