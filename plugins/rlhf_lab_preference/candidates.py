"""What losses on scores share: which candidates count, which two of them a pair loss compares, and the metrics.

Requirements this file meets:
- what stands at an invalid candidate reaches neither a value nor a gradient, and its place in the row changes no bit:
  sums over candidates run from the first to the last, so that another run's longer row cannot change this run's;
- a row that says nothing (no pair in it) has the weight 0, not the value of a coin flip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lab.batch import true_somewhere
from rlhf_lab.types import Loss, Rankings, Refused, Scores, clean

__all__ = ["Pair", "least", "pair_in", "pair_loss", "pair_of", "ranking_loss", "total", "valid_of"]


@dataclass(frozen=True, eq=False)
class Pair:
    """The two candidates of each row, ``[*b]``: the better one's score, the worse one's, and where there are two."""

    better: Tensor
    worse: Tensor
    counts: Tensor | None = None  # None = everywhere

    @property
    def difference(self) -> Tensor:
        """``r_w − r_l``, 0 where there is no pair."""
        # Cleaning after a subtraction is safe: its gradient does not depend on the inputs.
        apart = self.better - self.worse
        return apart if self.counts is None else clean(apart, self.counts)


def valid_of(batch: Scores | Rankings) -> Tensor:
    """Return which candidates count, ``[*b,k]``, all of them where the batch does not say; refuse rows without room."""
    like = batch.scores if isinstance(batch, Scores) else batch.log_probs
    if not like.shape[-1]:
        raise Refused("a row has no room for a response; give each prompt one at least")
    return torch.ones_like(like, dtype=torch.bool) if batch.valid is None else batch.valid


def pair_of(batch: Scores) -> Pair:
    """Return the scores of the first and the second valid candidate of each row; raises as ``pair_in``."""
    return pair_in(batch.scores, batch.valid)


def pair_in(x: Tensor, valid: Tensor | None) -> Pair:
    """Return what ``x [*b,k]`` says of the first and of the second valid candidate of each row.

    Raises ``Refused`` where a row has three or more, or no room for two, since a loss on pairs says nothing of them.
    """
    if x.shape[-1] < 2:
        raise Refused(
            f"a loss on pairs compares two responses, found rows of {x.shape[-1]}; "
            "take one on single responses, such as sft or kto"
        )
    if valid is None:
        if x.shape[-1] == 2:
            return Pair(x[..., 0], x[..., 1])
        valid = torch.ones_like(x, dtype=torch.bool)
    place = valid.cumsum(-1)
    if x.shape[-1] > 2 and true_somewhere(place > 2):
        raise Refused(
            f"a loss on pairs compares two responses, found {int(place.max())} in one row; "
            "take plackett_luce or pairwise_of_k for longer rankings, or split them into pairs"
        )
    first, second = valid & (place == 1), valid & (place == 2)
    # one term each, so these sums are exact
    return Pair(clean(x, first).sum(-1), clean(x, second).sum(-1), second.any(-1))


def pair_loss(values: Tensor, pair: Pair) -> Loss:
    """Return the loss ``values [*b]`` of pairs: 0 and of weight 0 where there is no pair.

    Metrics: ``margin`` r_w − r_l, and ``accuracy``, 1 where it is positive and ½ where the scores are equal.
    """
    return _counted(values, pair.counts, pair.difference.detach())


def ranking_loss(values: Tensor, scores: Tensor, valid: Tensor) -> Loss:
    """Return the loss ``values [*b]`` of rankings ``[*b,k]``: 0 and of weight 0 where fewer than two candidates count.

    Metrics: ``margin``, the best candidate's score less the highest of the others, and ``accuracy``, 1 where it is
    positive and ½ where it is 0.
    """
    best = valid & (valid.cumsum(-1) == 1)
    counts = valid.sum(-1) > 1
    others = scores.detach().masked_fill(~valid | best, least(scores)).amax(-1)
    margin = clean(clean(scores.detach(), best).sum(-1) - others, counts)
    return _counted(values, counts, margin)


def least(scores: Tensor) -> float:
    """Return a score whose exponential is 0 beside every other, and that unlike -inf has no gradient of inf − inf."""
    return 0.25 * torch.finfo(scores.dtype).min


def total(x: Tensor) -> Tensor:
    """Return the sum over candidates ``[*b,k] -> [*b]``, added one by one so that zeros of padding change no bit."""
    return x.cumsum(-1)[..., -1]


def _counted(values: Tensor, counts: Tensor | None, margin: Tensor) -> Loss:
    metrics = {"accuracy": 0.5 * (1 + margin.sign()), "margin": margin}
    if counts is None:
        return Loss(values, metrics=metrics)
    weights = counts.to(values.dtype)
    return Loss(clean(values, counts), weights, {name: weights * x for name, x in metrics.items()})
