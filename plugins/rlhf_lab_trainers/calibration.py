"""How far predicted preference probabilities are from what happens."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Calibration"]


class Calibration:
    """Sums for the expected calibration error of predicted preferences, in equal bins of [1/2, 1].

    With p = σ(r_best - r_worst), max(p, 1 - p) is how sure the prediction is, and what is counted is how often it is
    right:

        ECE = Σ_bins |Σ_i w_i (max(p_i, 1 - p_i) - right_i)| / Σ_i w_i

    Source: Guo et al. 2017, "On calibration of modern neural networks", eq. 3, with weights.
    """

    def __init__(self, runs: int, bins: int) -> None:
        self._excess = torch.zeros(runs, bins, dtype=torch.float64)  # Σ w (sure - right) of each bin
        self._weight = torch.zeros(runs, dtype=torch.float64)

    def add(self, difference: Tensor, happens: Tensor, weights: Tensor) -> None:
        """Add rows ``[runs, rows]``: score differences, the probability of a positive sign, and weights."""
        difference, happens, weights = (x.detach().double() for x in (difference, happens, weights))
        sure = difference.abs().sigmoid()
        right = torch.where(difference > 0, happens, 1 - happens)
        right = torch.where(difference == 0, 0.5, right)
        bins = self._excess.shape[1]
        places = ((2 * sure - 1) * bins).long().clamp(0, bins - 1)  # 0 where a diverged run says NaN
        self._excess.scatter_add_(1, places, weights * (sure - right))
        self._weight += weights.cumsum(1)[:, -1]

    def error(self) -> Tensor:
        """Return the expected calibration error ``[runs]``; NaN where no row tells."""
        return self._excess.abs().sum(1) / self._weight
