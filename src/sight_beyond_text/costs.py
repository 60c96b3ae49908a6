"""What a training will take, foretold from its spec: work, time, money, memory, disk. No torch.

Shapes come from the models' configurations, and lengths from the instructions' characters, as far
as these files are at hand or known; nothing is fetched, and what can't be known is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sight_beyond_text.benchmark_sizes import image_size, text_size
from sight_beyond_text.errors import UserError
from sight_beyond_text.known_files import known_samples
from sight_beyond_text.lengths import Sizes, measure, read_samples
from sight_beyond_text.memory import (
    Job,
    all_parameters,
    estimate,
    job_of,
    learned_parameters,
    positions_that_fit,
)
from sight_beyond_text.shapes import (
    Shape,
    TowerShape,
    micro_config,
    model_shape,
    read_config,
    tower_shape,
)
from sight_beyond_text.study import Study

RESERVED = 2**30
"""Bytes of a GPU that a training can't have: CUDA's context, and gaps between tensors."""

WRITING = 0.005
"""Share of the peak that each answer of a batch uses while it is written: for every token all
weights are read, and a GPU of 312 TFLOP/s reads 2 TB/s."""


class Foreteller:
    """Foretells the costs of a study's trainings; each file is read once.

    Args:
        study: the study; its `hardware`, if any, gives time, money, and what fits.
    """

    def __init__(self, study: Study):
        self.hardware = study.hardware
        self.captions = study.data.captions_in_place
        self._shape = cache(self._read_shape)
        self._tower = cache(self._read_tower)
        self._study = study
        self._samples = cache(self._read_samples)
        self._sizes = cache(self._measure)

    def costs(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What one alignment or run takes.

        Args:
            spec: as `grid.align_spec` and `grid.run_spec` make it.

        Returns:
            `parameters`, `learned_parameters`, `memory` (see `_memory`), `steps`, `tokens`,
            `flops`, `disk` and `disk_while_training` (bytes), `gpu_hours`, `hours`, `price`; None
            for what isn't known.
        """
        shape = self._shape(spec["base"]["model"], spec["base"]["revision"])
        tower = self._tower(spec["tower"]["model"], spec["tower"]["revision"])
        training, job = spec["training"], job_of(spec)
        source, data = spec["source"], spec["data"]
        sizes = self._sizes(
            (
                data["instructions"],
                data.get("layout"),
                tuple(data.get("kinds", {}).items()),
                spec["stage"] == "align",
            ),
            (source["form"], _hashable(source["kinds"]), source.get("boxes", False)),
            spec["template"],
            tower.patches if tower else None,
            training["max_length"],
            training["max_samples"],
            training.get("max_learned_tokens"),
        )
        steps = None
        if sizes is not None:
            an_epoch = math.ceil(sizes.samples / training["batch_size"])
            steps = math.ceil(an_epoch * training["epochs"])
        out = dict.fromkeys(
            ("parameters", "learned_parameters", "memory", "flops", "disk", "disk_while_training")
        )
        out |= {"steps": steps, "tokens": sizes and round(sizes.tokens * training["epochs"])}
        if shape is None or tower is None:
            return {**out, **self._time(None, training)}
        learned = sum(learned_parameters(shape, tower, job).values())
        saved = spec["training"]["save_steps"]
        points = 1 if steps is not None and steps <= saved else 2
        states = 2 if training["optimizer"] == "paged_adamw_8bit" else 8
        out |= {
            "parameters": all_parameters(shape, tower, job),
            "learned_parameters": learned,
            "memory": self._memory(shape, tower, job, training, sizes),
            "disk": 4 * learned,
            # A resume point goes only when the step after the next one was finite.
            "disk_while_training": points * (4 + states) * learned,
        }
        if sizes is not None:
            out["flops"] = training["epochs"] * learning_flops(shape, tower, job, sizes)
        return {**out, **self._time(out["flops"], training)}

    def _memory(
        self, shape: Shape, tower: TowerShape, job: Job, training: Mapping, sizes: Sizes | None
    ) -> dict[str, Any]:
        """The memory of a process of the run.

        Returns:
            `positions` of its largest pass, bytes `without_checkpointing` and
            `with_checkpointing`; and where the study names its GPU, the `checkpointing` with which
            it `fits` there, and `positions_that_fit`.
        """
        longest = training["max_length"] if sizes is None else sizes.longest
        share = math.ceil(training["batch_size"] / training["processes"])
        whole = share * longest
        positions = max(min(training["token_budget"] or whole, whole), longest)
        several = positions < whole
        by = {
            checkpointing: estimate(
                shape, tower, job, positions, checkpointing, longest, several_passes=several
            ).total
            for checkpointing in (False, True)
        }
        out = {
            "positions": positions,
            "without_checkpointing": by[False],
            "with_checkpointing": by[True],
        }
        if self.hardware is None:
            return out
        room = int(self.hardware.memory_gib * 2**30) - RESERVED
        wanted = training["gradient_checkpointing"]
        choices = [False, True] if wanted == "auto" else [wanted]
        fitting = [choice for choice in choices if by[choice] <= room]
        return {
            **out,
            "fits": bool(fitting),
            "checkpointing": (fitting or choices[-1:])[0],
            "positions_that_fit": positions_that_fit(room, shape, tower, job, choices[-1], longest),
        }

    def _time(self, flops: float | None, training: Mapping) -> dict[str, float | None]:
        """GPU hours, hours and money of some work in bfloat16 on the study's GPU."""
        known = self.hardware is not None and flops is not None and training["precision"] == "bf16"
        if not known:
            return {"gpu_hours": None, "hours": None, "price": None}
        rate = self.hardware.tflops * 1e12 * self.hardware.utilization
        hours = flops / rate / 3600
        price = self.hardware.price_per_hour
        return {
            "gpu_hours": hours,
            "hours": hours / training["processes"],
            "price": None if price is None else hours * price,
        }

    def evaluation(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What one scoring takes.

        Args:
            spec: as `grid.evaluation_spec` makes it.

        Returns:
            `items`, `flops`, `gpu_hours` and `price`; None for what isn't known. Benchmarks of
            unknown size are counted in `unknown`, questions about corrupted images in `corrupted`.
        """
        subject = spec["subject"]
        shape = self._shape(subject["base"]["model"], subject["base"]["revision"])
        tower = subject["tower"] and self._tower(
            subject["tower"]["model"], subject["tower"]["revision"]
        )
        patches = tower.patches if tower else 0
        sizes = [
            text_size(name, entry) if spec["suite"] == "text" else image_size(entry, patches)
            for name, entry in spec["benchmarks"].items()
        ]
        known = [size for size in sizes if size is not None]
        corrupted = sum(
            size.items
            for size, entry in zip(sizes, spec["benchmarks"].values(), strict=True)
            if size is not None and "corruption" in entry
        )
        out = {"items": sum(size.items for size in known), "unknown": len(sizes) - len(known)}
        out["corrupted"] = corrupted
        out |= dict.fromkeys(("flops", "gpu_hours", "price"))
        if shape is None or not known:
            return out
        # The head is computed at few positions alone, the embeddings are no product.
        a_position = 2 * (shape.parameters["attention"] + shape.parameters["mlp"])
        read = sum(size.items * size.read for size in known) * a_position
        written = sum(size.items * size.written for size in known) * a_position
        if tower is not None and spec["suite"] == "image":
            read += 2 * tower.total * patches * sum(size.items for size in known)
        out["flops"] = float(read + written)
        if self.hardware is not None and subject["precision"] == "bf16":
            peak = self.hardware.tflops * 1e12 * 3600
            busy = min(self.hardware.utilization, WRITING * spec["batch_size"])
            out["gpu_hours"] = read / (peak * self.hardware.utilization) + written / (peak * busy)
            if self.hardware.price_per_hour is not None:
                out["price"] = out["gpu_hours"] * self.hardware.price_per_hour
        return out

    def _config(self, model: str, revision: str | None) -> dict | None:
        """A model's configuration; one of the micro world's needn't be there yet."""
        found = read_config(model, revision)
        folder, _, name = model.rpartition("/")
        if found is None and self._study.micro and folder == f"{self._study.world}/models":
            return micro_config(name, self._study.micro.model_dump())
        return found

    def _read_shape(self, model: str, revision: str | None) -> Shape | None:
        config = self._config(model, revision)
        try:
            return config and model_shape(config, model)
        except UserError:
            return None

    def _read_tower(self, model: str, revision: str | None) -> TowerShape | None:
        config = self._config(model, revision)
        try:
            return config and tower_shape(config, model)
        except UserError:
            return None

    def _read_samples(self, path, layout, kinds, alignment):
        """Samples, and whether they are the file's own."""
        read = read_samples(path, layout, dict(kinds))
        return read or known_samples(self._study, path, alignment), read is not None

    def _measure(self, file, source, template, patches, max_length, max_samples, max_learned):
        (samples, read), (form, kinds, boxes) = self._samples(*file), source
        if samples is None or patches is None:
            return None
        chosen = [sample for sample in samples if kinds == "all" or sample.kind in kinds]
        if not sum(sample.weight for sample in chosen):
            return None
        captions = self.captions if form == "caption" else 0
        found = measure(chosen, form, template, patches, captions, max_length, boxes)
        if not read:
            # Means tell nothing of the longest; it may be as long as it is allowed to be.
            found = replace(found, longest=max_length)
        part = min(1.0, (max_samples or found.samples) / found.samples)
        part = min(part, (max_learned or found.learned) / found.learned)
        if part == 1:
            return found
        return replace(
            found,
            samples=round(found.samples * part),
            images=round(found.images * part),
            tokens=found.tokens * part,
            learned=found.learned * part,
            squares=found.squares * part,
        )


def learning_flops(shape: Shape, tower: TowerShape, job: Job, sizes: Sizes) -> float:
    """The floating-point operations of one pass over the data, by the shortest route.

    A matrix of N weights takes 2 N operations a position forward, 2 N back to its input, and 2 N
    for its own gradient where it learns. The head is counted at learned tokens alone; attention
    (its causal half) is 2 T^2 a layer and unit of its width forward, twice that back; the tower
    2 N forward. Padding, computing again for checkpointing, and what isn't a matrix product are
    left out.
    """
    own = 6 if job.mode == "full" else 4
    matrices = sum(rows * columns for rows, columns in shape.matrices.values())
    a_position = own * shape.layers * matrices
    a_position += 6 * learned_parameters(shape, tower, job).get("adapters", 0)
    attention = 6 * shape.layers * shape.queries * sizes.squares
    head = own * shape.hidden * shape.vocabulary * sizes.learned
    seen = 2 * tower.total * tower.patches * sizes.images
    return float(a_position * sizes.tokens + attention + head + seen)


def _hashable(kinds: Sequence[str] | str) -> tuple[str, ...] | str:
    return kinds if isinstance(kinds, str) else tuple(kinds)
