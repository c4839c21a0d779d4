"""Losses on rankings other than their likelihood: of all pairs in them, and of who is best."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import BatchError, Loss, Scores, clean
from rlhf_lab_preference.candidates import least, ranking_loss, total, valid_of

__all__ = ["ListNet", "ListNetBest", "PairwiseOfK"]


class PairwiseOfK(RewardObjective):
    """The mean of ``bradley_terry`` over all pairs of a ranking.

    ``L = 2 / (K (K − 1)) Σ_{i < j} −log σ(s_i − s_j)``

    The mean keeps a long ranking from counting more than a short one. Pairs of one ranking are not independent, so it
    is no likelihood: where rankings are drawn by ``plackett_luce`` both have the same optimum in expectation, but not
    on a finite sample. Time and memory grow with K².

    Reads the valid ``scores`` of each row, best first ``[*b,k]``; a row with fewer than two has weight 0. The metric
    ``accuracy`` is that of the best candidate, as for ``plackett_luce``.

    Source: Ouyang et al. 2022 (InstructGPT), eq. 1.
    """

    name = "pairwise_of_k"
    reference = "Ouyang et al. 2022, eq. 1"
    claims = frozenset(
        {
            "convex-in-scores",
            "counts-give-log-odds",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "log-odds-are-differences",
            "log-two-at-equal-scores",
            "mean-over-pairs",
            "non-negative",
            "pairs-are-bradley-terry",
            "raises-best-lowers-worst",
            "sorted-is-likeliest",
        }
    )
    implements = "pairwise_of_k"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        valid = valid_of(batch)
        scores = clean(batch.scores, valid)
        losses, count = 0 * total(scores), valid.sum(-1)
        # Distance by distance, since over a matrix of pairs the order of a gradient's sum would depend on the width.
        for distance in range(1, scores.shape[-1]):
            apart = scores[..., :-distance] - scores[..., distance:]
            both = valid[..., :-distance] & valid[..., distance:]
            losses = losses + total(clean(-logsigmoid(apart), both))
        pairs = (count * (count - 1) // 2).clamp(min=1)
        return ranking_loss(losses / pairs, batch.scores, valid)


class ListNetBest(RewardObjective):
    """The cross-entropy of a softmax of scores with the best candidate: all that is known is who is best.

    ``L = −log(e^{s_1} / Σ_j e^{s_j})``

    The first factor of ``plackett_luce``; the order of all others does not matter.

    Reads the valid ``scores`` of each row, the best first ``[*b,k]``; a row with fewer than two has weight 0.

    Source: Luce 1959; Cao et al. 2007 (ListNet) with a label of one best.
    """

    name = "listnet_best"
    reference = "Luce 1959; Cao et al. 2007 (ListNet)"
    claims = frozenset(
        {
            "bests-sum-to-one",
            "convex-in-scores",
            "counts-give-log-odds",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "hopeless-last-drops-out",
            "log-odds-are-differences",
            "log-two-at-equal-scores",
            "non-negative",
            "only-the-best-matters",
            "pairs-are-bradley-terry",
            "raises-best-lowers-worst",
            "sorted-is-likeliest",
        }
    )
    implements = "listnet_best"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        valid = valid_of(batch)
        best = valid & (valid.cumsum(-1) == 1)
        losses = total(clean(-_log_shares(batch.scores, valid), best))
        return ranking_loss(losses.to(batch.scores.dtype), batch.scores, valid)


class ListNet(RewardObjective):
    """The cross-entropy of two top-one distributions: the softmax of targets, and that of scores.

    ``L = −Σ_i softmax(y)_i log softmax(s)_i``

    Its minimum, at s = y + c for any number c, is the entropy of softmax(y), not 0. Targets are ratings or rewards in
    units of score; the order of candidates has no meaning.

    Reads the valid ``scores`` and ``targets`` of each row ``[*b,k]``; a row with fewer than two has weight 0. The
    metrics are those of the first candidate.

    Source: Cao et al. 2007 (ListNet), with top-one probabilities.
    """

    name = "listnet"
    reference = "Cao et al. 2007 (ListNet)"
    requires = frozenset({"targets"})
    claims = frozenset(
        {
            "convex-in-scores",
            "depends-on-differences-only",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "non-negative",
            "order-has-no-meaning",
            "targets-minimise",
        }
    )
    implements = "listnet"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        if batch.targets is None:
            raise BatchError("Scores.targets: this loss compares scores with targets, found None")
        valid = valid_of(batch)
        due = _log_shares(batch.targets.detach(), valid).exp()
        losses = total(clean(-due * _log_shares(batch.scores, valid), valid))
        return ranking_loss(losses.to(batch.scores.dtype), batch.scores, valid)


def _log_shares(x: Tensor, valid: Tensor) -> Tensor:
    """Return the logarithms of a softmax over valid candidates, its sum taken one by one and in float64."""
    x = x.double().masked_fill(~valid, least(x.double()))
    return x - x.logcumsumexp(-1)[..., -1:]
