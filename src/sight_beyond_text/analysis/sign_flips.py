"""The paired permutation test: under no difference, each cluster's could as well be negative.

Up to `_EXACT` clusters that differ at all, every pattern of signs is tried. Beyond, the
distribution over all patterns is computed, not sampled, by its saddlepoint approximation (Robinson,
Saddlepoint approximations for permutation tests and confidence intervals, Journal of the Royal
Statistical Society B 44, 1982), with the second continuity correction where sums move in steps
(Daniels, Tail probability approximations, International Statistical Review 55, 1987). Sampled
signs can't give a p value below one over their number, and adjusting for a hundred comparisons
needs smaller ones.
"""

import numpy as np
from scipy.stats import norm

_EXACT = 12
_NEAR = 1e-9


def sign_flip_p(sums: np.ndarray, alternative: str = "two-sided") -> np.ndarray:
    """p of each column's total.

    Args:
        sums: (clusters, columns): what each cluster adds to the total, in any unit.
        alternative: "two-sided", "greater" (than zero) or "less", as scipy has it.

    Returns:
        (columns,); 1 where nothing differs.
    """
    signs = {"two-sided": None, "greater": 1.0, "less": -1.0}
    sign = signs[alternative]
    if sign is None:
        return np.array([_two_sided(column) for column in sums.T])
    return np.array([_greater(sign * column) for column in sums.T])


def _greater(sums: np.ndarray) -> float:
    if not np.any(sums):
        return 1.0
    half = _two_sided(sums) / 2
    # The distribution is symmetric about zero.
    return half if sums.sum() > 0 else 1 - half


def _two_sided(sums: np.ndarray) -> float:
    size = np.abs(sums)
    size = size[size > _NEAR * size.max(initial=0)]
    if not len(size):
        return 1.0
    total = abs(float(sums.sum()))
    least = 2.0 ** (1 - len(size))
    # Sums in units of their spread, so that no limit below depends on the metric's unit.
    unit = float(np.sqrt(np.sum(size**2)))
    size, total = size / unit, total / unit
    if len(size) <= _EXACT:
        patterns = np.arange(2 ** (len(size) - 1))[:, None] >> np.arange(len(size)) & 1
        flipped = np.abs((1.0 - 2.0 * patterns) @ size)
        return float(np.mean(flipped >= total - _NEAR))
    # Of sums that are multiples of a step, totals lie two steps apart.
    step = _step(size)
    reached = total - step
    if reached <= _NEAR:
        return 1.0
    if reached >= size.sum() - _NEAR:
        return least
    return float(np.clip(2 * _tail(size, reached, step), least, 1.0))


def _step(size: np.ndarray) -> float:
    """The largest number that all are multiples of, among simple fractions of the smallest; 0
    where there is none, or where it is too small to matter."""
    for parts in range(1, 7):
        step = float(size.min()) / parts
        ratios = size / step
        if step > 1e-4 and np.allclose(ratios, np.round(ratios), rtol=0, atol=1e-6):
            return step
    return 0.0


def _tail(size: np.ndarray, reached: float, step: float) -> float:
    """P(total >= reached) over all signs, by Lugannani and Rice's formula."""
    # Newton's steps from the left on a concave function never overshoot.
    place = reached
    for _ in range(100):
        tanh = np.tanh(place * size)
        gap = reached - float(size @ tanh)
        slope = float(size**2 @ (1 - tanh**2))
        if slope < 1e-12:
            break
        place += gap / slope
        if abs(gap) < 1e-10:
            break
    tanh = np.tanh(place * size)
    # log cosh without overflow.
    powers = np.abs(place * size)
    cumulant = float(np.sum(powers + np.log1p(np.exp(-2 * powers)) - np.log(2)))
    spread = float(np.sqrt(max(size**2 @ (1 - tanh**2), 1e-300)))
    root = np.sqrt(2 * max(place * reached - cumulant, 0.0))
    if root < 1e-3:
        return float(norm.sf(root))
    moved = np.sinh(place * step) / step if step else place
    return float(norm.sf(root) + norm.pdf(root) * (1 / (moved * spread) - 1 / root))
