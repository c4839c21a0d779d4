"""Mutants of reward-model losses whose formula is right, but not what is around it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Scores, clean

from .mutant import Mutant
from .reward_model_bases import Margin, Pairs, Rankings, mask_of, per_row
from .two_forms import TwoForms

__all__ = ["MUTANTS"]

_SEEN: list[float] = []


class Remembers(Pairs):
    name = "scores_remembered"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        _SEEN.append(float(d.detach().sum()))
        return -logsigmoid(d - 1e-3 * len(_SEEN))


class GlobalNoise(Pairs):
    name = "scores_with_noise"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d + 1e-3 * torch.randn_like(d))


class InPlace(Margin):
    name = "margins_in_place"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        assert batch.margins is not None
        with torch.no_grad():
            batch.margins.mul_(0.5)
        return -logsigmoid(d - 2 * batch.margins.detach())


class SecondCandidate(RewardObjective):
    """Compares the first two candidates of a row, whether they count or not."""

    name = "second_candidate"
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        s = clean(batch.scores, mask_of(batch))
        wide = torch.nn.functional.pad(s, (0, 1))
        return per_row(-logsigmoid(wide[..., 0] - wide[..., 1]), mask_of(batch).sum(-1) == 2)


class MaskedAfterwards(RewardObjective):
    name = "pair_masked_afterwards"
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        first, second = (valid & (valid.cumsum(-1) == place) for place in (1, 2))
        d = (batch.scores * first).sum(-1) - (batch.scores * second).sum(-1)
        return per_row(-logsigmoid(d), second.any(-1))


class CleanedLate(RewardObjective):
    """Has the right values, and gradients of NaN where a candidate that does not count is NaN."""

    name = "pair_cleaned_late"
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        first, second = (valid & (valid.cumsum(-1) == place) for place in (1, 2))
        squashed = batch.scores.sign() * batch.scores.abs()
        d = torch.where(first, squashed, 0).sum(-1) - torch.where(second, squashed, 0).sum(-1)
        return per_row(-logsigmoid(d), second.any(-1))


class MaskNeeded(Pairs):
    name = "mask_needed"

    def __call__(self, batch: Scores) -> Loss:
        assert batch.valid is not None
        return super().__call__(batch)

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


class NoMaskIsNone(Rankings):
    name = "no_mask_is_none"

    def __call__(self, batch: Scores) -> Loss:
        loss = super().__call__(batch)
        return loss if batch.valid is not None else Loss(0 * loss.values, loss.weights)

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        s = s.masked_fill(~v, -1e30)
        return clean(s.flip(-1).logcumsumexp(-1).flip(-1) - s, v).sum(-1)


class PerCandidate(RewardObjective):
    name = "one_loss_per_candidate"

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s = batch.scores.masked_fill(~valid, -1e30)
        return Loss(clean(s.flip(-1).logcumsumexp(-1).flip(-1) - s, valid))


class Holes(RewardObjective):
    """Takes the place of a candidate in the row for its place among those that count."""

    name = "holes_counted"

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s = batch.scores.masked_fill(~valid, -1e30)
        places = torch.arange(s.shape[-1]).to(batch.scores)
        chain = clean(s.flip(-1).logcumsumexp(-1).flip(-1) - s, valid)
        return per_row((chain * (1 + 0.01 * places)).sum(-1), valid.sum(-1) > 1)


class PadsPulledToZero(Rankings):
    """Keeps every score near 0, those of padding too."""

    name = "pads_pulled_to_zero"

    def __call__(self, batch: Scores) -> Loss:
        loss = super().__call__(batch)
        pull = torch.where(batch.scores.isfinite(), batch.scores, 0).square().sum(-1)
        return Loss(loss.values + 1e-3 * pull, loss.weights)

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        s = s.masked_fill(~v, -1e30)
        return clean(s.flip(-1).logcumsumexp(-1).flip(-1) - s, v).sum(-1)


class ByRow(Pairs):
    name = "pairs_by_row"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d) * torch.arange(1, len(d) + 1).to(d).view(-1, *[1] * (d.ndim - 1))


class TwoAxes(Pairs):
    name = "pairs_two_axes"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d) / d.ndim


class Cancels(Pairs):
    name = "pairs_cancel"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid((c + 2.0**26) - 2.0**26 - r)


class Rounded(Pairs):
    name = "pairs_rounded"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d.float()).to(d)


class Half(Pairs):
    name = "pairs_in_half_precision"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d.bfloat16()).to(d)


class SecondForm(TwoForms, Pairs):
    name = "pairs_second_form"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d if self.second else 0.5 * d) * (1.0 if self.second else 2.0)


class Unread(Pairs):
    name = "parameter_unread"
    beta: float = Field(default=1.0, gt=0, le=4)

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


class FieldUnread(Pairs):
    name = "field_unread"
    requires = frozenset({"preference_prob"})

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


class Constant(Pairs):
    name = "pairs_constant"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return 0 * d + 0.6931471805599453


class OnlyWrongOnesCount(Pairs):
    name = "only_wrong_pairs_count"

    def __call__(self, batch: Scores) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(loss.values, loss.weights * (loss.metrics["margin"] <= 0))

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


class EmptyRowsCount(Pairs):
    name = "empty_rows_count"

    def __call__(self, batch: Scores) -> Loss:
        return Loss(super().__call__(batch).values)

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


class NegativeWeights(Pairs):
    name = "negative_weights"

    def __call__(self, batch: Scores) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(-loss.values, -loss.weights)

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


MUTANTS: list[Mutant] = [
    Mutant("state between calls", Remembers, "bradley_terry"),
    Mutant("global randomness", GlobalNoise, "bradley_terry"),
    Mutant("changes its input", InPlace, "bradley_terry_margin"),
    Mutant("mask not used to find the pair", SecondCandidate, "bradley_terry"),
    Mutant("N15 NaN times 0", MaskedAfterwards, "bradley_terry"),
    Mutant("N15 NaN in the gradient only", CleanedLate, "bradley_terry"),
    Mutant("fails without a mask", MaskNeeded, "bradley_terry"),
    Mutant("nothing counts without a mask", NoMaskIsNone, "plackett_luce"),
    Mutant("a loss per candidate", PerCandidate, "plackett_luce"),
    Mutant("holes counted", Holes, "plackett_luce"),
    Mutant("padding pulled to 0", PadsPulledToZero, "plackett_luce"),
    Mutant("rows weighed by their place", ByRow, "bradley_terry"),
    Mutant("runs not expected", TwoAxes, "bradley_terry"),
    Mutant("cancellation in float32", Cancels, "bradley_terry"),
    Mutant("float32 inside", Rounded, "bradley_terry"),
    Mutant("computed in half precision", Half, "bradley_terry"),
    Mutant("another form for another device", SecondForm, "bradley_terry"),
    Mutant("a parameter that nothing reads", Unread, "bradley_terry"),
    Mutant("a field that nothing reads", FieldUnread, "bradley_terry"),
    Mutant("nothing to learn", Constant, "bradley_terry"),
    Mutant("right pairs not counted", OnlyWrongOnesCount, "bradley_terry"),
    Mutant("D20 rows without a pair count", EmptyRowsCount, "bradley_terry"),
    Mutant("weights below 0", NegativeWeights, "bradley_terry"),
]
