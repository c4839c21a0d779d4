"""Losses on pairs that may be tied: two extensions of Bradley-Terry by a parameter for how often nobody wins."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.batch import true_somewhere
from rlhf_lab.components import RewardObjective
from rlhf_lab.types import BatchError, Loss, Refused, Scores
from rlhf_lab_preference.candidates import Pair, pair_in, pair_loss, pair_of

__all__ = ["Davidson", "RaoKupper"]


class RaoKupper(RewardObjective):
    """Bradley-Terry with a threshold: scores that seem nearer than ``log theta`` are called a tie.

    ``L = −log σ(d − log θ)`` for a win, ``−log((θ² − 1) σ(d − log θ) σ(−d − log θ))`` for a tie,  ``d = r_w − r_l``

    Equal scores tie with probability (θ − 1) / (θ + 1), 1/3 by default. At θ = 1 it is ``bradley_terry``, under which a
    tie is impossible: a batch with one is refused.

    Reads the two valid ``scores`` of each row, the better one first, and whether their ``ranks`` are equal ``[*b,k]``.

    Source: Rao & Kupper 1967.
    """

    name = "rao_kupper"
    reference = "Rao & Kupper 1967"
    requires = frozenset({"ranks"})
    claims = frozenset(
        {
            "convex-in-scores",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "non-negative",
            "sorted-is-likeliest",
            "threshold-is-a-handicap",
            "tie-is-scaled-product",
            "ties-are-symmetric",
            "ties-likeliest-at-equal-scores",
            "win-loss-tie-sum-to-one",
            "without-ties-is-bradley-terry",
        }
    )
    implements = "rao_kupper"
    stacked = True
    max_candidates = 2
    theta: float = Field(default=2.0, ge=1, description="odds below which a difference is not seen")

    def __call__(self, batch: Scores) -> Loss:
        pair = pair_of(batch)
        tied = _tied(batch, pair, possible=self.theta > 1)
        win = -logsigmoid(pair.difference - math.log(self.theta))
        lose = -logsigmoid(-pair.difference - math.log(self.theta))
        # where theta is 1 nothing is tied, and any number will do
        room = 2 * math.log(self.theta) + math.log1p(-(self.theta**-2)) if self.theta > 1 else 0.0  # log(θ² − 1)
        return pair_loss(win + tied.to(win.dtype) * (lose - room), pair)


class Davidson(RewardObjective):
    """Bradley-Terry with a third outcome, a tie, whose strength is ``nu`` times the geometric mean of both.

    ``L = log Z − d/2`` for a win, ``log Z − log ν`` for a tie,  ``Z = e^{d/2} + e^{−d/2} + ν``,  ``d = r_w − r_l``

    Unlike under ``rao_kupper`` the odds of win to loss are those of ``bradley_terry`` whatever ν. Equal scores tie with
    probability ν / (2 + ν), 1/3 by default. At ν = 0 it is ``bradley_terry``, under which a tie is impossible: a batch
    with one is refused.

    Reads the two valid ``scores`` of each row, the better one first, and whether their ``ranks`` are equal ``[*b,k]``.

    Source: Davidson 1970.
    """

    name = "davidson"
    reference = "Davidson 1970"
    requires = frozenset({"ranks"})
    claims = frozenset(
        {
            "convex-in-scores",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "log-odds-are-differences",
            "non-negative",
            "sorted-is-likeliest",
            "tie-is-geometric-mean",
            "ties-are-symmetric",
            "ties-likeliest-at-equal-scores",
            "win-loss-tie-sum-to-one",
            "without-ties-is-bradley-terry",
        }
    )
    implements = "davidson"
    stacked = True
    max_candidates = 2
    nu: float = Field(default=1.0, ge=0, description="strength of a tie, in units of equal responses' strength")

    def __call__(self, batch: Scores) -> Loss:
        pair = pair_of(batch)
        tied = _tied(batch, pair, possible=self.nu > 0)
        log_nu = math.log(self.nu) if self.nu > 0 else -math.inf
        half = 0.5 * pair.difference
        third = torch.full_like(half, log_nu)
        # log Z less an outcome's own exponent is −log σ of its log-odds; as a difference it would lose its digits
        own, others = torch.where(tied, third, half), torch.where(tied, half, third)
        return pair_loss(-logsigmoid(own - torch.logaddexp(-half, others)), pair)


def _tied(batch: Scores, pair: Pair, *, possible: bool) -> Tensor:
    """Return which pairs are tied; raises ``Refused`` for one that the model holds impossible."""
    if batch.ranks is None:
        raise BatchError("Scores.ranks: this loss tells ties by equal ranks, found None")
    tied = pair_in(batch.ranks, batch.valid).difference == 0
    if pair.counts is not None:
        tied = tied & pair.counts
    if not possible and true_somewhere(tied):
        raise Refused("a tie has probability 0 at this setting; take theta above 1, or nu above 0")
    return tied
