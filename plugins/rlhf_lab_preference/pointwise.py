"""Losses on scores that have a target of their own: no candidate is compared with another."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.batch import true_somewhere
from rlhf_lab.components import RewardObjective
from rlhf_lab.types import BatchError, Loss, Refused, Scores, clean
from rlhf_lab_preference.candidates import total, valid_of

__all__ = ["PointwiseBCE", "Regression"]


class Regression(RewardObjective):
    """The squared error of each score, minimised by the expected target.

    ``L = 1/K Σ_i (s_i − y_i)²``

    Reads the valid ``scores`` and ``targets`` of each row, in any order ``[*b,k]``; a row with none has weight 0. The
    metric ``error`` is the mean absolute error.

    Source: Hastie et al. 2009, eq. 2.10; Wang et al. 2023 (HelpSteer).
    """

    name = "regression"
    reference = "Hastie et al. 2009, eq. 2.10"
    requires = frozenset({"targets"})
    claims = frozenset(
        {
            "candidates-apart",
            "convex-in-scores",
            "gradient-of-its-value",
            "mean-target-minimises",
            "non-negative",
            "order-has-no-meaning",
            "targets-minimise",
            "zero-at-targets",
        }
    )
    implements = "regression"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        # Cleaning after a subtraction is safe: its gradient does not depend on the inputs.
        errors = clean(batch.scores - _targets(batch), valid_of(batch))
        return _mean(errors.square(), batch, {"error": errors.detach().abs()})


class PointwiseBCE(RewardObjective):
    """The cross-entropy of the probability σ(s) that a response is good: a classifier's loss.

    ``L = 1/K Σ_i [−y_i log σ(s_i) − (1 − y_i) log σ(−s_i)]``

    Targets are labels 0 and 1, or probabilities; outside they are refused. The optimum of a score is log(y / (1 − y)).
    A process reward model labels each step of a response so.

    Reads the valid ``scores`` and ``targets`` of each row, in any order ``[*b,k]``; a row with none has weight 0. The
    metric ``error`` is the mean of |σ(s) − y|.

    Source: Cox 1958; Cobbe et al. 2021 (verifiers); Lightman et al. 2023 (process supervision).
    """

    name = "pointwise_bce"
    reference = "Cox 1958; Cobbe et al. 2021"
    requires = frozenset({"targets"})
    claims = frozenset(
        {
            "candidates-apart",
            "convex-in-scores",
            "gradient-bounded-by-one",
            "gradient-of-its-value",
            "linear-in-the-label",
            "logit-of-the-label-minimises",
            "non-negative",
            "order-has-no-meaning",
        }
    )
    implements = "pointwise_bce"
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        valid = valid_of(batch)
        targets, scores = clean(_targets(batch), valid), clean(batch.scores, valid)
        if true_somewhere((targets < 0) | (targets > 1)):
            found = f"from {float(targets.min()):g} to {float(targets.max()):g}"
            raise Refused(f"targets are probabilities, from 0 to 1, found {found}; take regression for other numbers")
        losses = clean(-targets * logsigmoid(scores) - (1 - targets) * logsigmoid(-scores), valid)
        return _mean(losses, batch, {"error": clean((scores.detach().sigmoid() - targets).abs(), valid)})


def _targets(batch: Scores) -> Tensor:
    if batch.targets is None:
        raise BatchError("Scores.targets: this loss compares each score with its target, found None")
    return batch.targets.detach()


def _mean(losses: Tensor, batch: Scores, metrics: dict[str, Tensor]) -> Loss:
    """Return the means over valid candidates; a row without any has weight 0."""
    count = valid_of(batch).sum(-1)
    share = 1 / count.clamp(min=1).to(losses.dtype)
    means = {name: share * total(x) for name, x in metrics.items()}
    return Loss(share * total(losses), (count > 0).to(losses.dtype), means)
