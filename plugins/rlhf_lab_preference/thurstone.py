"""Thurstone's law of comparative judgment, the probit twin of Bradley-Terry."""

from __future__ import annotations

import torch
from pydantic import Field

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Scores
from rlhf_lab_preference.candidates import pair_loss, pair_of

__all__ = ["Thurstone"]


class Thurstone(RewardObjective):
    """The negative log-likelihood of a comparison of two scores that are each seen with the same Gaussian noise.

    ``L = −log Φ((r_w − r_l) / (√2 scale))``

    Case V: independent noise of standard deviation ``scale``. Its curve is within 0.0095 of the logistic one of
    ``bradley_terry`` at a slope of 1.702; but the loss of a surprise grows with the square of the difference, and its
    gradient without bound.

    Reads the two valid ``scores`` of each row, the better one first ``[*b,k]``; a row with fewer than two has weight 0,
    one with more is refused.

    Source: Thurstone 1927; Mosteller 1951.
    """

    name = "thurstone"
    reference = "Thurstone 1927"
    claims = frozenset(
        {
            "bests-sum-to-one",
            "convex-in-scores",
            "depends-on-differences-only",
            "gradient-of-its-value",
            "hopeless-last-drops-out",
            "log-two-at-equal-scores",
            "non-negative",
            "orders-alike-at-equal-scores",
            "orders-sum-to-one",
            "probit-near-logit",
            "raises-best-lowers-worst",
            "scale-is-a-unit",
            "sorted-is-likeliest",
        }
    )
    implements = "thurstone"
    stacked = True
    max_candidates = 2
    scale: float = Field(default=1.0, gt=0, description="standard deviation of the noise on each score")

    def __call__(self, batch: Scores) -> Loss:
        pair = pair_of(batch)
        x = pair.difference / (2 * self.scale)  # Φ(√2 x) = ½ erfc(−x)
        # torch's log_ndtr would do, but for its gradient in the lower tail, which is off by half in float32.
        unlikely = (-x).clamp(min=0)
        lower = unlikely.square() - (0.5 * torch.special.erfcx(unlikely)).log()
        upper = -torch.log1p(-0.5 * torch.erfc(x.clamp(min=0)))
        return pair_loss(torch.where(x < 0, lower, upper), pair)
