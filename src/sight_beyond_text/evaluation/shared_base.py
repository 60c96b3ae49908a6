"""One base, loaded once, for all the adapters that are evaluated on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sight_beyond_text.evaluation.weights import base_key, has_own_weights
from sight_beyond_text.models.building import DTYPES, load_language_model
from sight_beyond_text.models.checkpoints import (
    device,
    forget_unused,
    load_adapter,
    load_tuned_language_model,
)

ADAPTED = ("lora", "qlora")


class SharedBase:
    """The base that was loaded last.

    A model is the very one that `load_tuned_language_model` gives: LoRA is merged, and the base's
    own weights are put back afterwards, to the bit; QLoRA's adapters are taken off again.

    Attributes:
        loads: how often weights were loaded.
    """

    def __init__(self):
        self.loads = 0
        self._key: tuple[str, ...] | None = None
        self._model: torch.nn.Module | None = None
        self._undo: Callable[[], None] | None = None
        self._originals: dict[torch.nn.Parameter, torch.Tensor] = {}

    def take(self, subject: dict, again: bool = True) -> torch.nn.Module:
        """A subject's language model in eval mode, on the accelerator if there is one.

        What was taken before is no longer what it was.

        Args:
            subject: `{base, mode, checkpoint, precision}`.
            again: whether another subject of the same base may come: its weights are kept for it,
                in the CPU's memory, where an adapter is merged into them.
        """
        if self._undo is not None:
            self._undo()
            self._undo = None
        if self._key != base_key(subject):
            # The old one goes before the new one comes.
            self._model = self._key = None
            self._originals = {}
            forget_unused()
            if has_own_weights(subject):
                model, _ = load_tuned_language_model(subject)
            else:
                four_bit = subject["mode"] == "qlora"
                model = load_language_model(subject["base"], DTYPES[subject["precision"]], four_bit)
            if model.device.type != device().type:
                model = model.to(device())
            self._model, self._key = model.eval(), base_key(subject)
            self.loads += 1
        model = self._model
        if subject["mode"] in ADAPTED and not has_own_weights(subject):
            self._adapt(Path(subject["checkpoint"]) / "adapter", subject["mode"] == "lora", again)
        return model

    def _adapt(self, folder: Path, merged: bool, again: bool) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapted = load_adapter(self._model, folder)
        if not merged:
            self._undo = adapted.unload
            return
        layers = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
        changed = [own for layer in layers for own in layer.get_base_layer().parameters()]
        if again:
            for own in changed:
                if own not in self._originals:
                    self._originals[own] = own.detach().to("cpu", copy=True)
        else:
            # What is merged is nobody's base any more.
            self._model = self._key = None
        adapted.merge_and_unload()

        @torch.no_grad()
        def put_back() -> None:
            for own in changed:
                own.copy_(self._originals[own])

        self._undo = put_back if again else None
