# Stage 1: the projector learns to feed the frozen LLM.


rule align:
    """Trains a base's projector on image and caption pairs."""
    input:
        lambda wildcards: training_inputs(ALIGNMENTS[wildcards.alignment]),
    output:
        "results/alignments/{alignment}/train.json",
    log:
        "logs/alignments/{alignment}/align.log",
    benchmark:
        "logs/alignments/{alignment}/align.benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    params:
        run=lambda wildcards: ALIGNMENTS[wildcards.alignment],
    message:
        "Align {wildcards.alignment}"
    shell:
        "sight align {params.run:q} --record {output:q} --threads {threads} --log {log:q}"
