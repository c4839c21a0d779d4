"""Mutants of preference losses whose formula is right, but not what is around it."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective, RewardObjective, Slot
from rlhf_lab.types import Loss, Rankings, Scores, clean

from .mutant import REGISTRY, Mutant, variants
from .preference_bases import Given, Plain, mask_of, per_row
from .two_forms import TwoForms

__all__ = ["MUTANTS"]

_SEEN: list[float] = []


class _Right(Plain):
    """dpo, to be spoiled around the formula."""

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -logsigmoid(self.beta * (a - b))


class Remembers(Plain):
    name = "responses_remembered"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        _SEEN.append(float(a.detach().sum()))
        return -logsigmoid(self.beta * (a - b) - 1e-3 * len(_SEEN))


class GlobalNoise(Plain):
    name = "responses_with_noise"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -logsigmoid(self.beta * (a - b) + 1e-3 * torch.randn_like(a))


class InPlace(PreferenceObjective):
    """Takes the reference off where it stands."""

    name = "reference_in_place"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        counts = mask_of(batch).all(-1)
        with torch.no_grad():
            batch.ref_log_probs.mul_(0.5)
        ratio = clean(batch.log_probs - 2 * batch.ref_log_probs.detach(), mask_of(batch))
        return per_row(-logsigmoid(self.beta * (ratio[..., 0] - ratio[..., 1])), counts)


class ReferenceLive(PreferenceObjective):
    name = "reference_live"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        ratio = clean(batch.log_probs - batch.ref_log_probs, mask_of(batch))
        return per_row(-logsigmoid(self.beta * (ratio[..., 0] - ratio[..., 1])), mask_of(batch).all(-1))


class MaskedAfterwards(PreferenceObjective):
    name = "responses_masked_afterwards"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        ratio = (batch.log_probs - batch.ref_log_probs.detach()) * mask_of(batch)
        return per_row(-logsigmoid(self.beta * (ratio[..., 0] - ratio[..., 1])), mask_of(batch).all(-1))


class CleanedLate(PreferenceObjective):
    """Has the right values, and gradients of NaN where a missing response holds NaN."""

    name = "responses_cleaned_late"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        held = -batch.log_probs.square().sqrt()  # a log-probability is not above 0
        ratio = torch.where(mask_of(batch), held - batch.ref_log_probs.detach(), 0)
        return per_row(-logsigmoid(self.beta * (ratio[..., 0] - ratio[..., 1])), mask_of(batch).all(-1))


class MissingCounts(_Right):
    """Counts a pair of which one response is missing."""

    name = "missing_counts"

    def __call__(self, batch: Rankings) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(loss.values, torch.ones_like(loss.weights))


class HalfPairs(PreferenceObjective):
    """Compares a response that is alone with nothing."""

    name = "half_pairs"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        ratio = clean(batch.log_probs - batch.ref_log_probs.detach(), mask_of(batch))
        return per_row(-logsigmoid(self.beta * (ratio[..., 0] - ratio[..., 1])), mask_of(batch).any(-1))


class MaskIgnored(PreferenceObjective):
    name = "mask_ignored"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        ratio = batch.log_probs - batch.ref_log_probs.detach()
        return Loss(-logsigmoid(self.beta * (ratio[..., 0] - ratio[..., 1])))


class MaskNeeded(_Right):
    name = "responses_need_a_mask"

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.valid is not None
        return super().__call__(batch)


class PerResponse(PreferenceObjective):
    name = "one_loss_per_response"
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        return Loss(self.beta * clean(batch.log_probs - batch.ref_log_probs.detach(), mask_of(batch)))


class ByRow(_Right):
    name = "responses_by_row"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return super().loss(a, b, x) * torch.arange(1, len(a) + 1).to(a).view(-1, *[1] * (a.ndim - 1))


class TwoAxes(_Right):
    name = "responses_two_axes"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return super().loss(a, b, x) / a.ndim


class Cancels(_Right):
    name = "responses_cancel"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return super().loss((a + 2.0**26) - 2.0**26, b, x)


class Rounded(_Right):
    name = "responses_rounded"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return super().loss(a.float(), b.float(), x).to(a)


class Half(_Right):
    name = "responses_in_half_precision"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return super().loss(a.bfloat16(), b.bfloat16(), x).to(a)


class SecondForm(TwoForms, _Right):
    name = "responses_second_form"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return super().loss(2 * a if self.second else a, b, x)


class Unread(_Right):
    name = "label_smoothing_unread"
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)


class FieldUnread(_Right):
    name = "lengths_unread"
    requires = frozenset({"ref_log_probs", "lengths"})


class Constant(Plain):
    name = "responses_constant"

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return 0 * (a - b) * self.beta + 0.6931471805599453


class OnlyWrongOnes(_Right):
    name = "only_wrong_responses_count"

    def __call__(self, batch: Rankings) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(loss.values, loss.weights * (loss.values.detach() >= 0.6931471805599453))


class NegativeWeights(_Right):
    name = "responses_of_negative_weight"

    def __call__(self, batch: Rankings) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(-loss.values, -loss.weights)


class WeightsLive(_Right):
    """Has its values in the weights too."""

    name = "responses_weigh_their_loss"

    def __call__(self, batch: Rankings) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(loss.values, loss.weights * (1 + loss.values.detach()))


class LikelihoodOf(PreferenceObjective):
    """dpo with a likelihood, to be spoiled."""

    name = "dpo_with_likelihood"
    beta: float = Field(default=0.1, gt=0)
    likelihood: Annotated[RewardObjective, Slot("reward_model")] = REGISTRY.get("reward_model", "plackett_luce")()

    def needs(self) -> frozenset[str]:
        return self.likelihood.needs() | {"ref_log_probs"}

    def most_candidates(self) -> int | None:
        return self.likelihood.most_candidates()

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        ratio = clean(batch.log_probs - batch.ref_log_probs.detach(), mask_of(batch))
        return self.likelihood(Scores(self.rewards(ratio, batch), valid=self.valid(batch), margins=batch.margins))

    def rewards(self, ratio: Tensor, batch: Any) -> Tensor:
        return self.beta * ratio

    def valid(self, batch: Any) -> Tensor | None:
        return mask_of(batch)


_REWARDS: dict[str, Any] = {
    "D11 ranking read backwards": lambda s, ratio, batch: s.beta * ratio.flip(-1),
    "beta forgotten in a ranking": lambda s, ratio, batch: ratio,
    "D12 reference dropped in a ranking": lambda s, ratio, batch: s.beta * clean(batch.log_probs, mask_of(batch)),
    "rewards detached": lambda s, ratio, batch: s.beta * ratio.detach() + 0 * ratio,
    "E46 probabilities for rewards": lambda s, ratio, batch: s.beta * ratio.clamp(max=60).exp(),
    "all but the best detached": lambda s, ratio, batch: (
        s.beta * torch.where(torch.arange(ratio.shape[-1]) == 0, ratio, ratio.detach())
    ),
    "places weighed": lambda s, ratio, batch: s.beta * ratio / torch.arange(1, ratio.shape[-1] + 1).to(ratio),
    "rewards of a row centred and held": lambda s, ratio, batch: (
        s.beta * (ratio - ratio.mean(-1, keepdim=True)).clamp(-2, 2)
    ),
}

_VALID: dict[str, Any] = {
    "mask not passed on": lambda s, batch: None,
    "D21 mask of the longest row": lambda s, batch: mask_of(batch) | mask_of(batch).any(-1, keepdim=True),
    "last response never counts": lambda s, batch: (
        mask_of(batch) & (torch.arange(batch.log_probs.shape[-1]) < batch.log_probs.shape[-1] - 1)
    ),
}


class DPOByChoices(LikelihoodOf):
    """Prefix sums in place of suffix sums (D22): P(order) with the wrong rivals."""

    name = "dpo_prefix_sums"

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        valid = mask_of(batch)
        scores = (self.beta * clean(batch.log_probs - batch.ref_log_probs.detach(), valid)).masked_fill(~valid, -1e30)
        values = clean(scores.logcumsumexp(-1) - scores, valid).sum(-1)
        return per_row(values, valid.sum(-1) > 1)


_WHOLE = REGISTRY.get("preference", "dpo")


class KWise(_WHOLE):  # type: ignore[misc, valid-type]
    """dpo of whole rankings, which the mutants of rankings imitate."""

    name = "dpo_of_rankings"
    likelihood: Annotated[RewardObjective, Slot("reward_model")] = REGISTRY.get("reward_model", "plackett_luce")()


MUTANTS: list[Mutant] = [
    Mutant("state between calls", Remembers, "dpo"),
    Mutant("global randomness", GlobalNoise, "dpo"),
    Mutant("changes its input", InPlace, "dpo"),
    Mutant("reference not detached", ReferenceLive, "dpo"),
    Mutant("N15 NaN times 0", MaskedAfterwards, "dpo"),
    Mutant("N15 NaN in the gradient only", CleanedLate, "dpo"),
    Mutant("D20 pairs with a missing response count", MissingCounts, "dpo"),
    Mutant("missing response taken as the reference's", HalfPairs, "dpo"),
    Mutant("mask ignored", MaskIgnored, "dpo"),
    Mutant("fails without a mask", MaskNeeded, "dpo"),
    Mutant("a loss per response", PerResponse, "dpo"),
    Mutant("rows weighed by their place", ByRow, "dpo"),
    Mutant("runs not expected", TwoAxes, "dpo"),
    Mutant("cancellation in float32", Cancels, "dpo"),
    Mutant("float32 inside", Rounded, "dpo"),
    Mutant("computed in half precision", Half, "dpo"),
    Mutant("another form for another device", SecondForm, "dpo"),
    Mutant("a parameter that nothing reads", Unread, "dpo"),
    Mutant("a field that nothing reads", FieldUnread, "dpo"),
    Mutant("nothing to learn", Constant, "dpo"),
    Mutant("right pairs not counted", OnlyWrongOnes, "dpo"),
    Mutant("weights below 0", NegativeWeights, "dpo"),
    Mutant("rows weighed by their loss", WeightsLive, "dpo"),
    Mutant("D22 prefix sums", DPOByChoices, KWise),
    *variants(LikelihoodOf, "rewards", _REWARDS, KWise),
    *variants(LikelihoodOf, "valid", _VALID, KWise),
]
