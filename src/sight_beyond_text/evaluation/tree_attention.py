"""A causal model that reads rows of branching sequences after a shared start, each token once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, get_layer_types_and_kwargs

from sight_beyond_text.evaluation.prefix_tree import Layout, grow, lay_out

KINDS = {"full_attention", "sliding_attention"}
"""Kinds of layer whose keys and values may be kept and shared; recurrent ones may not."""

ALIGNED = 16
"""Keys come and are let go by so many at once. Vector units sum them in lanes, and those left over
in another way; in bfloat16, where that shows, keys then count as they do where all are there."""


class _Layer(CacheLayerMixin):
    """One layer's keys and values of a shared start, (1, heads, tokens, size) each."""

    is_croppable = False

    def __init__(self, window: int | None):
        super().__init__()
        self.window = window
        self.is_sliding = window is not None
        self.growing = False
        self.length = 0

    def lazy_initialization(self, key_states, value_states) -> None:
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        keys, values = self._whole(self.keys, key_states), self._whole(self.values, value_states)
        if self.growing:
            length = key_states.shape[-2] + (0 if self.keys is None else self.keys.shape[-2])
            # What no later token sees isn't kept. A copy, so that the rest is freed.
            first = 0 if self.window is None else max(length - self.window + 1, 0)
            first -= first % ALIGNED
            self.keys = keys[..., first:length, :].clone()
            self.values = values[..., first:length, :].clone()
            self.is_initialized = True
        return keys, values

    @staticmethod
    def _whole(kept: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """What is kept, what is new, and zeros up to the next multiple of `ALIGNED`."""
        parts = [new] if kept is None else [kept.expand(new.shape[0], -1, -1, -1), new]
        short = -sum(part.shape[-2] for part in parts) % ALIGNED
        return torch.cat([*parts, new.new_zeros(*new.shape[:2], short, new.shape[3])], dim=-2)

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        kept = 0 if self.keys is None else self.keys.shape[-2]
        return kept + query_length, self.length - kept

    def get_max_length(self) -> int:
        return -1 if self.window is None else self.window


class SharedStart(Cache):
    """Keys and values of tokens that many rows share; reading rows after it doesn't change it."""

    def __init__(self, windows: list[int | None]):
        super().__init__(layers=[_Layer(window) for window in windows])
        self.length = 0


def windows_of(model) -> list[int | None] | None:
    """Each layer's sliding window (None for full attention); None where that isn't all of it."""
    types, settings = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
    if not set(types) <= KINDS:
        return None
    return [setting.get("sliding_window") for setting in settings]


@torch.no_grad()
def read(model, layout: Layout, start: SharedStart | None) -> torch.Tensor:
    """Logits (positions, vocabulary) wherever `layout.wanted`, row by row.

    Args:
        model: a causal language model, in eval mode.
        layout: the rows, all of which come after `start`.
        start: shared keys and values; None for rows that are sequences of their own.
    """
    device = model.device
    wanted = torch.from_numpy(layout.wanted).to(device)
    given = {"input_ids": torch.from_numpy(layout.ids).to(device), "logits_to_keep": wanted}
    if start is None:
        # Padding stands on the right, where a causal model can't see it.
        return model(**given, use_cache=False).logits
    depth = torch.from_numpy(layout.depth).to(device)
    until = torch.from_numpy(layout.until).to(device)
    return model(
        **given,
        position_ids=depth,
        attention_mask=_masks(model, depth, until, start),
        past_key_values=start,
        use_cache=True,
    ).logits


@torch.no_grad()
def extend(model, start: SharedStart, tokens: np.ndarray, most: int) -> SharedStart:
    """A start that goes on with further tokens; the given one stays as it is.

    Args:
        model: as for `read`.
        start: what comes before.
        tokens: what comes next.
        most: tokens of one pass.
    """
    grown = SharedStart([layer.window for layer in start.layers])
    grown.length = start.length
    for new, old in zip(grown.layers, start.layers, strict=True):
        new.keys, new.values, new.length = old.keys, old.values, old.length
    for begin in range(0, len(tokens), most):
        part = torch.from_numpy(tokens[begin : begin + most]).to(model.device)[None]
        width = part.shape[1]
        depth = torch.arange(grown.length, grown.length + width, device=model.device)[None]
        until = torch.full_like(depth, width)
        mask = _masks(model, depth, until, grown)
        for layer in grown.layers:
            layer.growing = True
        model(
            input_ids=part,
            position_ids=depth,
            attention_mask=mask,
            past_key_values=grown,
            use_cache=True,
            logits_to_keep=1,
        )
        grown.length += width
        for layer in grown.layers:
            layer.growing, layer.length = False, grown.length
    return grown


def _masks(
    model, depth: torch.Tensor, until: torch.Tensor, start: SharedStart
) -> torch.Tensor | Mapping[str, torch.Tensor]:
    """Who sees whom: (rows, 1, width, kept + width), by kind of layer where they differ."""
    column = torch.arange(depth.shape[1], device=depth.device)
    row = column[None, :, None]
    ancestors = (column <= row) & (row < until[:, None, :])
    made = {}
    for layer in start.layers:
        kind = "sliding_attention" if layer.is_sliding else "full_attention"
        if kind in made:
            continue
        kept = 0 if layer.keys is None else layer.keys.shape[-2]
        before = torch.arange(start.length - kept, start.length, device=depth.device)
        seen = [before.expand(len(depth), kept), depth]
        visible = torch.cat(
            [torch.ones_like(ancestors[..., :1]).expand(-1, -1, kept), ancestors], -1
        )
        if layer.is_sliding:
            visible &= depth[:, :, None] - torch.cat(seen, 1)[:, None, :] < layer.window
        visible = functional.pad(visible, (0, -visible.shape[-1] % ALIGNED))
        made[kind] = as_mask(model, visible[:, None])
    return made if len(made) > 1 else next(iter(made.values()))


def as_mask(model, visible: torch.Tensor) -> torch.Tensor:
    """A boolean mask in the form that the model's attention takes."""
    if model.config._attn_implementation == "sdpa":
        return visible
    nothing = torch.zeros((), dtype=model.dtype, device=visible.device)
    return torch.where(visible, nothing, torch.finfo(model.dtype).min)


def can_share(model) -> bool:
    """Whether reading branches after a shared start gives what reading each sequence alone gives.

    Tried out on a few tokens, as a model's class may pass over masks, positions or the cache.
    """
    if getattr(model.config, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    size = model.get_input_embeddings().num_embeddings
    tokens = [(37 * number + 11) % size for number in range(12)]
    common, tails = tokens[:6], [tokens[6:9], [tokens[6], *tokens[9:12]], tokens[10:12]]
    sequences = [np.array(common + tail) for tail in tails]
    needed = [len(common)] * len(sequences)
    try:
        windows = windows_of(model)
        if windows is None:
            return False
        start = extend(model, SharedStart(windows), sequences[0][: len(common)], len(tokens))
        branches = grow(sequences, needed)[0].children
        layout = lay_out([branches[:1], branches[1:]], len(common), sequences, needed)
        found = read(model, layout, start).float()
        ranks = layout.wanted.ravel().cumsum() - 1
        for number, sequence in enumerate(sequences):
            alone = torch.from_numpy(sequence).to(model.device)[None]
            with torch.no_grad():
                expected = model(input_ids=alone, use_cache=False).logits[0, len(common) :].float()
            error = (
                (found[torch.from_numpy(ranks[layout.paths[number]])] - expected).square().mean()
            )
            allowed = 1e-3 if model.dtype == torch.float32 else 0.1
            if not error.sqrt() <= allowed * expected.std():
                return False
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False
    return True
