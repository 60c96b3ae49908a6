"""The loss of a batch, without the logits of tokens that nobody learns."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sight_beyond_text.data.samples import IGNORED
from sight_beyond_text.models.features import tower_features

CHUNK = 1024
"""Tokens whose logits are in memory at a time."""


class TokenLoss(nn.Module):
    """A LLaVA model with its loss.

    Most positions of a sample are image, prompt or padding. The head, which for a small model is
    the larger part of the work, is applied to the learned positions alone.

    Args:
        model: the assembled `LlavaForConditionalGeneration`.
        with_images: whether the run has images at all. Where it has, passes without one still
            touch the projector, so that it gets gradients (of zero) in all processes alike.
    """

    def __init__(self, model, with_images: bool = True):
        super().__init__()
        self.model = model
        self.with_images = with_images

    def train(self, mode: bool = True) -> TokenLoss:
        """As torch's, but the tower always stays as it is when it is used."""
        super().train(mode)
        self.model.model.vision_tower.eval()
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The sum of the cross-entropies, in nats, over the learned tokens.

        Args:
            input_ids, labels: (B, T), padded on the right (so the causal mask is mask enough).
            pixel_values: (images, 3, H, W), in the order of their places in the batch.
            image_features: (images, positions, features), what the tower makes of them, where that
                is at hand.

        Returns:
            A scalar, in float32.
        """
        inner = self.model.model
        images, touched = {}, None
        if image_features is None and pixel_values is not None:
            layer = self.model.config.vision_feature_layer
            image_features = tower_features(inner.vision_tower, pixel_values, layer)
        if image_features is not None:
            projected = inner.multi_modal_projector(image_features)
            images["mm_encoder_outputs"] = {
                "image": BaseModelOutputWithPooling(pooler_output=list(projected))
            }
        elif self.with_images:
            width = self.model.config.vision_config.hidden_size
            blank = torch.zeros(1, 1, width, device=input_ids.device)
            dtype = next(inner.multi_modal_projector.parameters()).dtype
            touched = inner.multi_modal_projector(blank.to(dtype)).float().sum() * 0.0
        states = inner(input_ids=input_ids, use_cache=False, **images).last_hidden_state
        hidden = states[:, :-1]
        targets = labels[:, 1:]
        learned = targets != IGNORED
        loss = summed_loss(hidden[learned], targets[learned], self.model.lm_head)
        return loss if touched is None else loss + touched


def summed_loss(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    """Sum of cross-entropies, a chunk of tokens at a time.

    Where there is more than one chunk, logits are computed again for the gradient, and never kept.

    Args:
        hidden: (N, hidden) last states of the positions that predict.
        targets: (N,) ids of what they should predict.
        head: from states to logits.

    Returns:
        A scalar in float32; 0 (with a graph) for N = 0.
    """
    if not len(targets):
        return hidden.float().sum() * 0.0
    if len(targets) <= CHUNK:
        return _chunk_loss(hidden, targets, head)
    parts = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    losses = [checkpoint(_chunk_loss, *part, head, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum()


def _chunk_loss(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module) -> torch.Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="sum")
