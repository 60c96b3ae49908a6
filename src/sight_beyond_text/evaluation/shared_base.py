"""One base, loaded once, for all the adapters that are evaluated on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sight_beyond_text.models.building import DTYPES, load_language_model
from sight_beyond_text.models.checkpoints import EMBEDDINGS, device, load_tuned_language_model

ADAPTED = ("lora", "qlora")


def base_key(subject: dict) -> tuple[str, ...]:
    """What is loaded for a subject; those of the same key share it.

    Args:
        subject: as in `load_tuned_language_model`.
    """
    base, own = subject["base"], _has_own_weights(subject)
    return (
        base["model"],
        base["revision"] or "",
        subject["precision"],
        "4 bits" if subject["mode"] == "qlora" else "",
        str(subject["checkpoint"]) if own else "",
    )


def _has_own_weights(subject: dict) -> bool:
    """Whether a subject's weights are more than its base's with adapters."""
    embeddings = Path(subject["checkpoint"] or "") / EMBEDDINGS
    return subject["mode"] == "full" or (bool(subject["checkpoint"]) and embeddings.is_file())


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

    def take(self, subject: dict) -> torch.nn.Module:
        """A subject's language model in eval mode, on the accelerator if there is one.

        What was taken before is no longer what it was.

        Args:
            subject: `{base, mode, checkpoint, precision}`.
        """
        self._put_back()
        if self._key != base_key(subject):
            # The old one goes before the new one comes.
            self._model = self._key = None
            if _has_own_weights(subject):
                model, _ = load_tuned_language_model(subject)
            else:
                four_bit = subject["mode"] == "qlora"
                model = load_language_model(subject["base"], DTYPES[subject["precision"]], four_bit)
            if model.device.type != device().type:
                model = model.to(device())
            self._model, self._key = model.eval(), base_key(subject)
            self.loads += 1
        if subject["mode"] in ADAPTED and not _has_own_weights(subject):
            self._adapt(Path(subject["checkpoint"]) / "adapter", subject["mode"] == "lora")
        return self._model

    def _adapt(self, folder: Path, merged: bool) -> None:
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapted = PeftModel.from_pretrained(self._model, folder)
        if not merged:
            self._undo = adapted.unload
            return
        layers = [layer for layer in adapted.modules() if isinstance(layer, BaseTunerLayer)]
        weights = [layer.get_base_layer().weight for layer in layers]
        originals = [weight.detach().to("cpu", copy=True) for weight in weights]
        adapted.merge_and_unload()

        @torch.no_grad()
        def put_back() -> None:
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)

        self._undo = put_back

    def _put_back(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None
