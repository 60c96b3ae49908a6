# Stage 1: the projector learns to feed the frozen LLM.


rule align:
    """Trains a base's projector on image and caption pairs."""
    input:
        lambda wildcards: training_inputs(alignment_of(wildcards)),
    output:
        "results/alignments/{alignment}/train.json",
    log:
        "logs/alignments/{alignment}/align.log",
    benchmark:
        "logs/alignments/{alignment}/align.benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: asked("align", "threads", alignment_of)
    resources:
        gpu=asked("align", "gpu", alignment_of),
        mem_mb=asked("align", "mem_mb", alignment_of),
        runtime=asked("align", "runtime", alignment_of),
        nodes=1,
    params:
        run=alignment_of,
    message:
        "Align {wildcards.alignment}"
    shell:
        "sight align {params.run:q} --record {output:q}"
        " --threads {threads} --gpus {resources.gpu} --nodes {resources.nodes} --log {log:q}"
