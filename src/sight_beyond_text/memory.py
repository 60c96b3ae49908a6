"""The memory that a training takes, foretold from shapes. No torch here.

What is counted is what the trainer holds: weights, gradients, optimizer states, and what a forward
pass keeps for the backward pass, tensor by tensor as transformers' layers, peft's adapters and the
chunked loss keep it (attention by torch's SDPA, so no scores). `benchmarks/memory.py` compares it
with what trainings take. Not counted: the program itself (on a GPU, about 0.5 GiB of CUDA context),
gaps between tensors, and images kept in the main memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from sight_beyond_text.shapes import (
    Shape,
    TowerShape,
    adapter_parameters,
    projector_parameters,
)

CHUNK = 1024
"""Learned tokens whose logits are in memory at a time (as `training.loss.CHUNK`)."""

_FLOAT = 4
_ADAMW, _ADAMW_8BIT = 8, 2 + 8 / 256
"""Bytes of optimizer states a parameter; in 8 bits with a scale for every 256, twice."""


@dataclass(frozen=True)
class Job:
    """What of a run's recipe its memory hangs on.

    Attributes:
        mode: "align", "frozen", "full", "lora" or "qlora".
        projector: "linear" or "mlp2x_gelu".
        lora: `{rank, dropout, targets}`, for lora and qlora.
        precision: of frozen weights and of the computation: "fp32" or "bf16".
        optimizer: "adamw" or "paged_adamw_8bit".
        with_images: whether there are images, so that the projector learns.
        processes, fsdp: how many share the run, and whether they share its weights too.
        gpu: whether it runs on a GPU; a CPU's dropout keeps larger masks.
    """

    mode: str
    projector: str = "linear"
    lora: Mapping[str, Any] | None = None
    precision: str = "bf16"
    optimizer: str = "adamw"
    with_images: bool = True
    processes: int = 1
    fsdp: bool = False
    gpu: bool = True

    @property
    def bytes_a_value(self) -> int:
        """Of frozen weights and of what is computed."""
        return 2 if self.precision == "bf16" else _FLOAT


def job_of(spec: Mapping[str, Any], gpu: bool = True) -> Job:
    """The job of an alignment's or a run's spec (`grid.align_spec`, `grid.run_spec`)."""
    training = spec["training"]
    return Job(
        mode=spec["mode"],
        projector=spec["tower"]["projector"],
        lora=spec["lora"],
        with_images=spec["source"]["form"] == "visual",
        gpu=gpu,
        **{key: training[key] for key in ("precision", "optimizer", "processes", "fsdp")},
    )


@dataclass(frozen=True)
class Estimate:
    """The memory of one process at its peak, in bytes by part.

    Attributes:
        weights: frozen weights of the language model.
        tower: weights of the vision tower.
        learned: learned weights, in float32.
        gradients, optimizer: of the learned weights.
        activations: what a forward pass keeps for the backward pass, with the copies of learned
            weights in the computing precision.
        logits: of a chunk of learned tokens, with what their gradient takes; or what the gradient
            of a layer takes, where that is more.
        total: at the peak; not the sum, as not everything is there at the same time.
    """

    weights: int
    tower: int
    learned: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    total: int


def learned_parameters(shape: Shape, tower: TowerShape, job: Job) -> dict[str, int]:
    """Parameters that learn, by part: projector, adapters, language_model."""
    parts = {}
    if job.with_images:
        parts["projector"] = projector_parameters(job.projector, tower.width, shape.hidden)
    if job.mode in ("lora", "qlora"):
        parts["adapters"] = adapter_parameters(shape, job.lora)
    if job.mode == "full":
        parts["language_model"] = shape.total
    return parts


def all_parameters(shape: Shape, tower: TowerShape, job: Job) -> int:
    """Parameters of the whole model: language model, adapters, projector, tower."""
    adapters = adapter_parameters(shape, job.lora) if job.mode in ("lora", "qlora") else 0
    projector = projector_parameters(job.projector, tower.width, shape.hidden)
    return shape.total + adapters + projector + tower.total


def estimate(
    shape: Shape,
    tower: TowerShape,
    job: Job,
    positions: int,
    checkpointing: bool,
    length: int | None = None,
    learned_positions: int | None = None,
    several_passes: bool = True,
) -> Estimate:
    """The memory of one process of a training.

    Args:
        shape, tower: of the language model and of the vision tower.
        job: what learns, and how.
        positions: of a forward pass, padding included.
        checkpointing: whether activations are computed again for the backward pass.
        length: positions of its longest sample; matters where attention keeps its scores.
        learned_positions: of the pass; all, if it isn't known.
        several_passes: whether a step has more than one, so that gradients are there already.
    """
    value, learned = job.bytes_a_value, sum(learned_parameters(shape, tower, job).values())
    shares = job.processes if job.fsdp else 1
    weights = _frozen_weights(shape, job) / shares
    seen = tower.total * value / shares
    masters = gradients = learned * _FLOAT / shares
    states = learned * (_ADAMW if job.optimizer == "adamw" else _ADAMW_8BIT) / shares
    if job.processes > 1 and not job.fsdp:
        gradients *= 2  # once more, in the buckets in which they travel

    tokens = min(CHUNK, positions if learned_positions is None else learned_positions)
    layer = _kept_by_layer(shape, job, length or positions) * positions
    kept = _kept_outside(shape, tower, job) * positions
    recomputed = 0
    if checkpointing:
        kept += shape.layers * shape.hidden * _stream(job) * positions
        recomputed = layer
    else:
        kept += shape.layers * layer
    head = _head_work(shape, job, tokens)
    work = _layer_work(shape, job) * positions
    copies, copies_of_layer = _copies(shape, tower, job)
    there = gradients if several_passes else 0
    moments = (
        there + copies + kept + head,
        there + (copies_of_layer if checkpointing else copies) + kept + recomputed + work,
        gradients + _step_work(shape, job, learned / shares),
    )
    return Estimate(
        weights=round(weights),
        tower=round(seen),
        learned=round(masters),
        gradients=round(gradients),
        optimizer=round(states),
        activations=round(copies + kept + recomputed),
        logits=round(head),
        total=round(weights + seen + masters + states + max(moments) + _gathered(shape, job)),
    )


def positions_that_fit(
    room: int,
    shape: Shape,
    tower: TowerShape,
    job: Job,
    checkpointing: bool,
    length: int | None = None,
) -> int:
    """The largest pass, in positions, that fits in some memory.

    Args:
        room: bytes of one process.
        shape, tower, job, checkpointing, length: as for `estimate`.

    Returns:
        Positions; 0 where not even one fits.
    """

    def fits(positions: int) -> bool:
        return estimate(shape, tower, job, positions, checkpointing, length).total <= room

    if not fits(1):
        return 0
    most = 1
    while fits(2 * most) and most < 2**40:
        most *= 2
    step = most
    while step := step // 2:
        if fits(most + step):
            most += step
    return most


def _frozen_weights(shape: Shape, job: Job) -> float:
    """Bytes of the language model's frozen weights."""
    if job.mode == "full":
        return 0
    if job.mode != "qlora":
        return shape.total * job.bytes_a_value
    # NF4 with double quantization: 4 bits a weight, 8 for the scale of 64, 32 for that of 256
    # scales, and two tables of values a matrix. Only matrices of layers are quantized.
    packed = shape.layers * sum(prod(size) for size in shape.matrices.values())
    tables = shape.layers * len(shape.matrices) * (16 + 256 + 1) * _FLOAT
    whole = (shape.total - packed) * job.bytes_a_value
    return packed * (1 / 2 + 1 / 64 + _FLOAT / (64 * 256)) + tables + whole


def _stream(job: Job) -> int:
    """Bytes of a value that goes from layer to layer: learned embeddings are in float32."""
    return _FLOAT if job.mode == "full" else job.bytes_a_value


def _kept_by_layer(shape: Shape, job: Job, length: int) -> float:
    """Bytes a position that a layer keeps for its backward pass."""
    value, full = job.bytes_a_value, job.mode == "full"
    # Norms compute in float32. Where their weights learn, they keep the normed values too.
    normed = shape.norms * shape.hidden + (shape.queries + shape.keys if shape.qk_norm else 0)
    norms = normed * _FLOAT * (2 if full else 1)
    # Queries, keys, values, their mixture, and a float32 a head from the softmax.
    attention = (2 * shape.queries + 2 * shape.keys) * value + shape.heads * _FLOAT
    if shape.scores:
        # Keys and values for each head; scores as capped, as shares, and as shares in bfloat16.
        attention = 4 * shape.queries * value + 2 * shape.heads * length * _FLOAT
    # What the activation takes in, and both factors of the product.
    mlp = 3 * shape.intermediate * value
    return norms + attention + mlp + _inputs_kept(shape, job)


def _inputs_kept(shape: Shape, job: Job) -> float:
    """Bytes a position of the matrices' inputs, which a layer keeps where weights learn from them.

    The mixture that `o_proj` takes in is kept by the attention anyway.
    """
    value, matrices = job.bytes_a_value, shape.matrices
    half = value < _FLOAT
    inputs = {name: size[0] for name, size in matrices.items()}
    together = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 1, "up_proj": 1, "down_proj": 2}
    if job.mode == "full":
        # Autocast makes a copy of the stream for each matrix.
        if half:
            return value * sum(size for name, size in inputs.items() if name != "o_proj")
        return value * sum({number: inputs[name] for name, number in together.items()}.values())
    if job.mode not in ("lora", "qlora"):
        return 0
    targets = set(job.lora["targets"])
    ranks = len(targets) * job.lora["rank"] * value
    if job.lora["dropout"]:
        mask = 1 if job.gpu else _FLOAT
        return ranks + (mask + value) * sum(inputs[name] for name in targets)
    if half and (job.mode == "lora" or not job.gpu):
        # peft makes a copy for each adapter.
        return ranks + value * sum(inputs[name] for name in targets)
    groups = {number: inputs[name] for name, number in together.items() if name in targets}
    return ranks + value * sum(groups.values())


def _kept_outside(shape: Shape, tower: TowerShape, job: Job) -> float:
    """Bytes a position that is kept outside of the layers: by the last norm and the projector."""
    norm = shape.hidden * _FLOAT * (2 if job.mode == "full" else 1)
    if not job.with_images:
        return norm
    hidden = 2 * shape.hidden if job.projector == "mlp2x_gelu" else 0
    return norm + (tower.width + hidden) * job.bytes_a_value


def _layer_work(shape: Shape, job: Job) -> float:
    """Bytes a position that a layer's backward pass takes for a while: gradients in the MLP."""
    return 3 * shape.intermediate * job.bytes_a_value + 2 * shape.hidden * _stream(job)


def _head_work(shape: Shape, job: Job, tokens: int) -> float:
    """Bytes that the loss of a chunk takes: logarithms and two gradients; then the head's own."""
    logits = tokens * shape.vocabulary * _FLOAT
    if job.mode != "full":
        return 3 * logits
    return max(3 * logits, logits + _table(shape) * (_FLOAT + job.bytes_a_value % _FLOAT))


def _table(shape: Shape) -> int:
    return shape.vocabulary * shape.hidden


def _copies(shape: Shape, tower: TowerShape, job: Job) -> tuple[float, float]:
    """Bytes of learned weights that autocast copies: of the whole model, and of one layer."""
    if job.bytes_a_value == _FLOAT:
        return 0, 0
    parts = learned_parameters(shape, tower, job)
    if job.mode == "full":
        layers = shape.parameters["attention"] + shape.parameters["mlp"]
        rest = _table(shape) + parts.get("projector", 0)
    else:
        layers, rest = parts.get("adapters", 0), parts.get("projector", 0)
    return 2 * (layers + rest), 2 * layers / shape.layers


def _step_work(shape: Shape, job: Job, learned: float) -> float:
    """Bytes that an optimizer step takes for a while, beside the states."""
    if job.optimizer != "adamw":
        return 0
    if job.gpu:
        return learned * _FLOAT  # all tensors at once
    largest = _table(shape) if job.mode == "full" else 0
    return 2 * largest * _FLOAT


def _gathered(shape: Shape, job: Job) -> float:
    """Bytes of the weights that a process has whole for a while: two layers, embeddings, head."""
    if not job.fsdp or job.processes == 1:
        return 0
    parts = shape.parameters
    layer = (parts["attention"] + parts["mlp"]) / shape.layers
    # Learned weights travel in float32.
    return (2 * layer + parts["embeddings"] + parts["head"]) * _stream(job)
