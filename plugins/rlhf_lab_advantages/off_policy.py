"""Advantages from steps that an older policy took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from pydantic import Field

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_advantages.backends import BACKENDS, scans

__all__ = ["VTrace"]


class VTrace(AdvantageEstimator):
    """V-trace: n-step targets for the current policy from steps of another one, with truncated importance weights.

    vₜ = V(sₜ) + ρₜδₜ + γ·cₜ·(v_{t+1} − V(s_{t+1})), Aₜ = ρₜ·(rₜ + γ·v_{t+1} − V(sₜ)), with ρₜ = min(ρ̄, π/μ), cₜ =
    λ·min(c̄, π/μ), π/μ = exp(``target_log_probs`` − ``log_probs``) and δ the one-step error; v_{t+1} = V(s_{t+1})
    behind the end of an episode. returns = v.

    On policy (and ρ̄, c̄ ≥ 1) v is the λ-return, and A is GAE(1) at λ = 1. For λ < 1 the advantage keeps the
    paper's form: one real step, then v, so that it is not GAE(λ). ρ̄ sets the policy whose value is learned, c̄
    only how fast.

    Source: Espeholt et al. 2018, eq. 1, remark 2 and section 4.2.
    """

    name = "v_trace"
    reference = "Espeholt et al. 2018, eq. 1"
    claims = frozenset(
        {
            "future-only",
            "linear-in-rewards-and-values",
            "no-trace-is-one-step",
            "on-policy-is-the-lambda-return",
            "perfect-critic-gives-zero",
            "ratios-are-capped",
            "shaping-invariant",
            "unbiased-advantages",
            "unbiased-off-policy",
            "v-trace-fixed-point",
        }
    )
    requires = frozenset({"values", "next_values", "log_probs", "target_log_probs"})
    implements = "v_trace"
    stacked = True

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    lam: float = Field(default=1.0, ge=0, le=1, description="weight of longer returns")
    rho_bar: float = Field(
        default=1.0, gt=0, allow_inf_nan=True, description="cap of the weight of one error: which policy is evaluated"
    )
    c_bar: float = Field(
        default=1.0, ge=0, allow_inf_nan=True, description="cap of the weights along the trace: how far errors travel"
    )

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        return BACKENDS

    def __call__(self, batch: Trajectories) -> Advantages:
        return Advantages(*scans(batch).v_trace(batch, self.gamma, self.lam, self.rho_bar, self.c_bar))
