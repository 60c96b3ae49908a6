"""Muon (Jordan et al., 2024) in float32, for pretraining the micro models on a CPU.

torch.optim.Muon orthogonalizes in bfloat16. On a CPU without instructions for it that takes longer
than forward and backward of a micro model together (17 times what it takes in float32, measured
with torch 2.13 and AVX2), and it rounds otherwise from one kind of CPU to the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; as published."""

STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Gradient steps with momentum (Nesterov's), orthogonalized; no weight decay.

    Args:
        parameters: matrices.
        lr: learning rate; a matrix with more rows than columns takes sqrt(rows / columns) of it.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """One step; matrices of a shape go together."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for (rows, columns), matrices in alike.items():
                updates = orthogonalized(torch.stack([self._moved(matrix) for matrix in matrices]))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.sub_(update, alpha=rate)

    def _moved(self, matrix: torch.nn.Parameter) -> torch.Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        momentum = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(momentum, MOMENTUM)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices with the same singular vectors, and singular values near one.

    Args:
        matrices: (N, rows, columns).

    Returns:
        (N, rows, columns); singular values lie between about 0.5 and 1.3, but for those
        that were thousands of times smaller than the largest.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalized(matrices.mT).mT
    a, b, c = COEFFICIENTS
    near = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = near @ near.mT
        near = torch.baddbmm(near, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), near, beta=a)
    return near
