"""Proximal policy optimisation: the clipped surrogate and the surrogate with an adaptive KL penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import Controller, PolicyObjective, Slot
from rlhf_lab.types import Loss, PolicyBatch
from rlhf_lab_objectives.controller import AdaptiveKL
from rlhf_lab_objectives.policy_gradient import advantages_of, log_ratio_of, ratio_metrics

__all__ = ["PPOKL", "PPOClip"]


class PPOClip(PolicyObjective):
    """The clipped surrogate: gaining from ρ far from 1 is not rewarded, losing by it is still punished.

    ``L[t] = −min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A)``,  ``ρ = exp(log π − log π_old)``

    The paper maximises the minimum; this is its negative. The gradient is zero exactly where A > 0 and ρ > 1 +
    clip_high, or A < 0 and ρ < 1 − clip_low; in the other two corners it stays. Hence the minimum is one bound per
    sign of A, which is put on log ρ: a ρ that overflows then gives a zero gradient and not NaN. ``clip_high >
    clip_low`` is DAPO's clip-higher. The metric ``clip_fraction`` counts the steps without gradient, not all those
    with ρ outside the interval.

    Reads ``log_probs``, ``old_log_probs``, ``advantages`` ``[*b,t]`` at valid steps.

    Source: Schulman et al. 2017, eq. 7; Yu et al. 2025 (DAPO), eq. 10; ``sequence_mean`` as in Shao et al. 2024 (GRPO),
    ``constant`` as in Liu et al. 2025 (Dr. GRPO).
    """

    name = "ppo_clip"
    reference = "Schulman et al. 2017, eq. 7"
    requires = frozenset({"old_log_probs"})
    claims = frozenset(
        {
            "beyond-clip-is-the-edge",
            "clip-gradient-support",
            "clip-infinite-is-importance-weighted",
            "depends-on-ratios-only",
            "every-step-counts-once",
            "gradient-of-its-value",
            "homogeneous-in-advantages",
            "inside-clip-is-importance-weighted",
            "never-against-advantage",
            "on-policy-gradient",
            "on-policy-value",
            "pessimistic-bound",
            "unbiased-on-policy",
            "unclipped-is-unbiased-off-policy",
            "zero-advantage-zero-gradient",
        }
    )
    implements = "ppo_clip"
    stacked = True
    aggregations = ("token_mean", "sequence_mean", "constant")
    clip: float = Field(
        default=0.2, ge=0, allow_inf_nan=True, description="how far the ratio may pay off from 1, on either side"
    )
    clip_low: float | None = Field(default=None, ge=0, allow_inf_nan=True, description="the same below 1; None = clip")
    clip_high: float | None = Field(default=None, ge=0, allow_inf_nan=True, description="the same above 1; None = clip")

    @model_validator(mode="after")
    def _each_side_once(self) -> Self:
        # a saved spec names every parameter: the default beside both sides is no mistake
        default = type(self).model_fields["clip"].default
        if self.clip_low is not None and self.clip_high is not None and self.clip != default:
            raise ValueError("clip: clip_low and clip_high set both sides, so nothing reads it; leave clip out")
        return self

    def __call__(self, batch: PolicyBatch) -> Loss:
        low = self.clip if self.clip_low is None else self.clip_low
        high = self.clip if self.clip_high is None else self.clip_high
        least = math.log1p(-low) if low < 1 else -math.inf
        advantages, log_ratio = advantages_of(batch), log_ratio_of(batch)
        bounded = torch.where(advantages >= 0, log_ratio.clamp(max=math.log1p(high)), log_ratio.clamp(min=least))
        clipped = (bounded != log_ratio) & (advantages != 0)
        metrics = {"clip_fraction": clipped.to(advantages.dtype), **ratio_metrics(log_ratio)}
        return Loss(-advantages * bounded.exp(), metrics=metrics)


class PPOKL(PolicyObjective):
    """The surrogate with a penalty on the divergence from the old policy, whose coefficient a controller adapts.

    ``L[t] = −ρ A + β (ρ − 1 − log ρ)``,  ``ρ = exp(log π − log π_old)``

    The paper has the exact KL(π_old(·|s) ‖ π(·|s)) in place of the bracket. For actions drawn from π_old the bracket
    has the same expectation and the same expected gradient, needs the drawn action only, and is never negative. The
    state is β: ``coef`` at first (also where ``batch.state`` is None), then what the controller makes of it and the
    metric ``approx_kl`` at each ``next_state``, which the paper does once per batch of data, after its last epoch.

    Reads ``log_probs``, ``old_log_probs``, ``advantages`` ``[*b,t]`` at valid steps; ``state["coef"]`` is ``[]`` or
    ``[runs]``, the first axis of ``*b``.

    Source: Schulman et al. 2017, eq. 8 and section 4.
    """

    name = "ppo_kl"
    reference = "Schulman et al. 2017, eq. 8"
    requires = frozenset({"old_log_probs"})
    claims = frozenset(
        {
            "depends-on-ratios-only",
            "every-step-counts-once",
            "gradient-of-its-value",
            "never-against-advantage",
            "on-policy-gradient",
            "on-policy-value",
            "penalty-apart-from-advantages",
            "penalty-follows-controller",
            "penalty-is-kl-from-old",
            "penalty-never-negative",
            "pessimistic-bound",
            "unbiased-on-policy",
        }
    )
    implements = "ppo_kl"
    stacked = True
    coef: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="weight of the penalty before the first step"
    )
    controller: Annotated[Controller, Slot("controller")] = Field(
        default=AdaptiveKL(), description="how the weight follows the observed divergence"
    )

    def __call__(self, batch: PolicyBatch) -> Loss:
        coef = (self.initial_state() if batch.state is None else batch.state)["coef"].to(batch.log_probs)
        coef = coef.reshape(*coef.shape, *[1] * (batch.log_probs.ndim - coef.ndim))  # [runs,1,...,1]
        log_ratio = log_ratio_of(batch)
        penalty = torch.expm1(log_ratio) - log_ratio
        metrics = {"kl_coef": coef.expand_as(log_ratio), **ratio_metrics(log_ratio)}
        return Loss(coef * penalty - advantages_of(batch) * log_ratio.exp(), metrics=metrics)

    def initial_state(self) -> dict[str, Tensor]:
        return {"coef": torch.tensor(self.coef, dtype=torch.float64)}

    def next_state(self, state: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"coef": self.controller(state["coef"], metrics["approx_kl"].to(state["coef"].dtype))}
