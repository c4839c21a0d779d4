"""Broken KL estimators of whole distributions, and a right one in another form."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from mutants.mutant import Mutant
from rlhf_lab.components import KLEstimator

__all__ = ["WHOLE", "ByCrossEntropy"]


class Whole(KLEstimator):
    """An estimator of whole distributions."""

    stacked = True
    distributions = True


def cleaned(policy: Tensor, reference: Tensor, chances: Tensor | None = None) -> Tensor:
    """Return π log(π/π_ref) per action, 0 where impossible."""
    impossible = policy.detach().exp() == 0
    chances = policy if chances is None else chances
    kept = chances.masked_fill(impossible, 0).exp()
    return kept * (policy - reference.detach()).masked_fill(impossible, 0)


class Forward(Whole):
    name = "forward"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        reference = ref_log_probs.detach()
        return (reference.exp() * (reference - log_probs)).nan_to_num(nan=0.0).sum(-1)


class NotANumberAtZero(Whole):
    name = "not_a_number_at_zero"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return (log_probs.exp() * (log_probs - ref_log_probs.detach())).sum(-1)


class Mean(Whole):
    name = "mean"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return cleaned(log_probs, ref_log_probs).mean(-1)


class OnlySeen(Whole):
    name = "only_seen"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        chances = log_probs if old_log_probs is None else old_log_probs.detach()
        return cleaned(log_probs, ref_log_probs, chances).sum(-1)


class WeighedTwice(Whole):
    name = "weighed_twice"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        terms = cleaned(log_probs, ref_log_probs)
        weights = 1.0 if old_log_probs is None else (log_probs - old_log_probs.detach()).exp()
        return (weights * terms).nan_to_num(nan=0.0).sum(-1)


class ChancesDetached(Whole):
    name = "chances_detached"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return cleaned(log_probs, ref_log_probs, log_probs.detach()).sum(-1)


class CrossEntropy(Whole):
    name = "cross_entropy"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return -(log_probs.exp() * ref_log_probs.detach()).nan_to_num(nan=0.0).sum(-1)


class Floored(Whole):
    name = "floored"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return cleaned(log_probs.clamp(min=-20), ref_log_probs.clamp(min=-20)).sum(-1)


class ReferenceFloored(Whole):
    name = "reference_floored"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return cleaned(log_probs, ref_log_probs.clamp(min=-50)).sum(-1)


class TopTwo(Whole):
    name = "top_two"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        chances, kept = log_probs.topk(2, dim=-1)
        return cleaned(chances, ref_log_probs.gather(-1, kept)).sum(-1)


class Stopped(Whole):
    name = "stopped"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return cleaned(log_probs, ref_log_probs).sum(-1).detach()


class SumOfAbsolutes(Whole):
    name = "sum_of_absolutes"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return cleaned(log_probs, ref_log_probs).abs().sum(-1)


class ByCrossEntropy(Whole):
    """Right: cross-entropy minus entropy, of logits."""

    name = "by_cross_entropy"
    implements = "full"
    claims = frozenset({"unbiased-value", "loss-gradient", "off-policy-loss-gradient", "flat-at-the-reference"})

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        logs = log_probs.log_softmax(-1)
        chances, impossible = logs.exp(), logs.detach().exp() == 0
        own, other = (x.masked_fill(impossible, 0) for x in (logs, ref_log_probs.detach()))
        return (chances * own).sum(-1) - (chances * other).sum(-1)


WHOLE: Final = [
    Mutant("K01: the other divergence", Forward, "full"),
    Mutant("0 log 0", NotANumberAtZero, "full"),
    Mutant("mean over actions", Mean, "full"),
    Mutant("expectation under the old policy", OnlySeen, "full"),
    Mutant("weighed though all actions are known", WeighedTwice, "full"),
    Mutant("probabilities detached", ChancesDetached, "full"),
    Mutant("entropy forgotten", CrossEntropy, "full"),
    Mutant("log-probabilities floored", Floored, "full"),
    Mutant("reference floored", ReferenceFloored, "full"),
    Mutant("only the likeliest actions", TopTwo, "full"),
    Mutant("gradient stopped", Stopped, "full"),
    Mutant("sum of absolute terms", SumOfAbsolutes, "full"),
]
