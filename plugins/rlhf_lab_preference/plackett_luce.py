"""The likelihood of a whole ranking as a chain of choices: the best of all, then the best of those left."""

from __future__ import annotations

import torch

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Scores, clean
from rlhf_lab_preference.candidates import ranking_loss, total, valid_of

__all__ = ["PlackettLuce"]


class PlackettLuce(RewardObjective):
    """The negative log-likelihood of a ranking in which each place goes to one of those left, by a softmax of scores.

    ``L = −Σ_k [s_k − log Σ_{j ≥ k} e^{s_j}]``,  k = 1 the best

    For two candidates it is ``bradley_terry``. The last factor is 1. All sums over j ≥ k come from one cumulative sum
    from the last candidate to the first, so time and memory grow with K, not with K². The model is one of choosing the
    best: the ranking read backwards, as choosing the worst first, has another likelihood.

    Reads the valid ``scores`` of each row, best first ``[*b,k]``; a row with fewer than two has weight 0. Equal
    ``ranks`` are not known to this model: the order counts.

    Source: Plackett 1975; Luce 1959; Xia et al. 2008 (ListMLE); Rafailov et al. 2023, eq. 18.
    """

    name = "plackett_luce"
    reference = "Plackett 1975; Luce 1959"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        valid = valid_of(batch)
        # e^{-far} is 0 beside every score, and unlike -inf it has no gradient of inf − inf
        far = 0.25 * torch.finfo(batch.scores.dtype).min
        masked = batch.scores.masked_fill(~valid, far)
        scores = masked - masked.detach().amax(-1, keepdim=True)  # which no likelihood sees, and keeps digits
        left = scores.flip(-1).logcumsumexp(-1).flip(-1)  # log Σ_{j ≥ k} e^{s_j}
        return ranking_loss(total(clean(left - scores, valid)), batch.scores, valid)
