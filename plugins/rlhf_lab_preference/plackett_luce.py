"""The likelihood of a whole ranking as a chain of choices: the best of all, then the best of those left."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Scores, clean
from rlhf_lab_preference.candidates import least, ranking_loss, total, valid_of

__all__ = ["PlackettLuce"]


class PlackettLuce(RewardObjective):
    """The negative log-likelihood of a ranking in which each place goes to one of those left, by a softmax of scores.

    ``L = −Σ_k [s_k − log Σ_{j ≥ k} e^{s_j}]``,  k = 1 the best

    For two candidates it is ``bradley_terry``. The last factor is 1. All sums over j ≥ k come from one cumulative sum
    from the last candidate to the first, so time and memory grow with K, not with K². The model is one of choosing the
    best: the ranking read backwards, as choosing the worst first, has another likelihood.

    Reads the valid ``scores`` of each row, best first ``[*b,k]``; a row with fewer than two has weight 0. The model
    knows no ties: candidates that ``ranks`` calls equal count in the order in which they stand.

    Source: Plackett 1975; Luce 1959; Xia et al. 2008 (ListMLE); Rafailov et al. 2023, appendix A.3.
    """

    name = "plackett_luce"
    reference = "Plackett 1975; Luce 1959"
    claims = frozenset(
        {
            "best-then-the-rest",
            "convex-in-scores",
            "counts-give-log-odds",
            "depends-on-differences-only",
            "gradient-of-its-value",
            "hopeless-last-drops-out",
            "log-odds-are-differences",
            "log-two-at-equal-scores",
            "non-negative",
            "orders-alike-at-equal-scores",
            "orders-sum-to-one",
            "pairs-are-bradley-terry",
            "raises-best-lowers-worst",
            "sorted-is-likeliest",
            "top-one-is-softmax",
        }
    )
    implements = "plackett_luce"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        valid = valid_of(batch)
        # In float64, since sums of scores far apart lose digits that a loss in float32 or less should have.
        scores = batch.scores.double()
        scores = scores.masked_fill(~valid, least(scores))
        left = scores.flip(-1).logcumsumexp(-1).flip(-1)  # log Σ_{j ≥ k} e^{s_j}
        rivals = torch.cat([left[..., 1:], torch.full_like(left[..., :1], least(scores))], dim=-1)  # the same for j > k
        # Against all rivals together each place is a pair, whose log-sigmoid keeps the digits of small losses.
        losses = total(clean(-logsigmoid(scores - rivals), valid))
        return ranking_loss(losses.to(batch.scores.dtype), batch.scores, valid)
