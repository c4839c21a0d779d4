"""Critic losses. Only ``values`` carries gradient; the factor ½ makes the gradient of ``mse`` the plain error."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from rlhf_lab.components import ValueObjective
from rlhf_lab.types import BatchError, Loss, ValueBatch, clean

__all__ = ["ClippedValue", "HuberValue", "MSEValue"]


class MSEValue(ValueObjective):
    """Half the squared error, minimised by the mean of the returns that a state sees.

    ``L[t] = ½ (V[t] − R[t])²``

    Reads ``values``, ``returns`` ``[*b,t]`` at valid steps.

    Source: Sutton & Barto 2018, eq. 9.1.
    """

    name = "mse"
    reference = "Sutton & Barto 2018, eq. 9.1"
    claims = frozenset(
        {
            "at-least-mse",
            "at-most-mse",
            "depends-on-differences-only",
            "even-in-the-error",
            "gradient-is-the-error",
            "every-step-counts-once",
            "gradient-of-its-value",
            "mean-minimises",
            "non-negative",
            "units-do-not-matter",
            "unmoved-is-mse",
            "zero-at-target",
        }
    )
    implements = "mse"
    stacked = True

    def __call__(self, batch: ValueBatch) -> Loss:
        return Loss(0.5 * _errors(batch).square())


class ClippedValue(ValueObjective):
    """Half the larger of two squared errors: of the value, and of the value held near the one at collection time.

    ``L[t] = ½ max((V − R)², (V_old + clip(V − V_old, −clip, clip) − R)²)``

    Never below ``mse``. The gradient is zero exactly where V has moved by more than ``clip`` and the held value is the
    farther from R, which only happens when V moved towards R. The metric ``value_clip_fraction`` counts these steps.
    Values and ``clip`` are in units of return, so the default suits returns of about 1 only.

    Reads ``values``, ``old_values``, ``returns`` ``[*b,t]`` at valid steps.

    Source: Dhariwal et al. 2017 (OpenAI Baselines, ppo2); Huang et al. 2022, detail 9.
    """

    name = "clipped"
    reference = "Dhariwal et al. 2017 (OpenAI Baselines, ppo2)"
    requires = frozenset({"old_values"})
    claims = frozenset(
        {
            "at-least-mse",
            "clip-gradient-support",
            "depends-on-differences-only",
            "even-in-the-error",
            "every-step-counts-once",
            "gradient-of-its-value",
            "is-the-larger-error",
            "mean-minimises",
            "non-negative",
            "unbounded-is-mse",
            "units-do-not-matter",
            "unmoved-is-mse",
            "zero-at-target",
        }
    )
    implements = "clipped"
    stacked = True
    clip: float = Field(
        default=0.2, ge=0, allow_inf_nan=True, description="how far a value may gain by moving from the old one"
    )

    def __call__(self, batch: ValueBatch) -> Loss:
        if batch.old_values is None:
            raise BatchError("ValueBatch.old_values: this loss holds values near the old ones, found None")
        errors = _errors(batch)
        # Cleaning after a subtraction is safe: its gradient does not depend on the inputs.
        moved = clean(batch.values - batch.old_values.detach(), batch.valid)
        free, held = errors.square(), (errors - moved + moved.clamp(-self.clip, self.clip)).square()
        clipped = (held > free) & (moved.abs() > self.clip)
        return Loss(0.5 * torch.maximum(free, held), metrics={"value_clip_fraction": clipped.to(errors.dtype)})


class HuberValue(ValueObjective):
    """Squared error for small errors and absolute error for large ones, so that outliers pull with bounded force.

    ``L[t] = ½ e²`` where ``|e| ≤ delta``, else ``delta (|e| − ½ delta)``,  ``e = V − R``

    As delta grows it becomes ``mse``; as delta shrinks, L / delta becomes |e| and the minimiser the median of the
    returns, which is not the expected return.

    Reads ``values``, ``returns`` ``[*b,t]`` at valid steps.

    Source: Huber 1964.
    """

    name = "huber"
    reference = "Huber 1964"
    claims = frozenset(
        {
            "at-most-mse",
            "depends-on-differences-only",
            "even-in-the-error",
            "gradient-is-bounded-error",
            "every-step-counts-once",
            "gradient-of-its-value",
            "non-negative",
            "small-delta-is-absolute-error",
            "small-error-is-mse",
            "unbounded-is-mse",
            "units-do-not-matter",
            "zero-at-target",
        }
    )
    implements = "huber"
    stacked = True
    delta: float = Field(
        default=1.0, gt=0, allow_inf_nan=True, description="error at which the loss turns from square to linear"
    )

    def __call__(self, batch: ValueBatch) -> Loss:
        errors = _errors(batch)
        return Loss(functional.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=self.delta))


def _errors(batch: ValueBatch) -> Tensor:
    """Return ``V − R`` with gradient in V only, 0 where not valid."""
    # Cleaning after a subtraction is safe: its gradient does not depend on the inputs.
    return clean(batch.values - batch.returns.detach(), batch.valid)
