"""DPO for other divergences from the reference than the usual one."""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_preference.candidates import pair_in
from rlhf_lab_preference.implicit import log_ratios, loss_of_pairs

__all__ = ["FDPO"]

_STRAIGHT: Final = 60.0  # where exponentials go on as straight lines; e^60 is far from the largest float32


class FDPO(PreferenceObjective):
    """DPO whose policy is held near the reference by an f-divergence D_f(π ‖ π_ref).

    ``L = −log σ(β (f'(u_w) − f'(u_l)))``,  ``u = π/π_ref``

    The maximiser of E[r] − β D_f has r = β f'(u) plus a number of the prompt, as DPO's has r = β log u. Up to numbers
    that cancel, f' is log u for ``reverse`` KL(π ‖ π_ref), which is DPO; −1/u for ``forward`` KL(π_ref ‖ π); log(u/(1 +
    u)) for ``js``; (1 − u^−alpha)/alpha for ``alpha``, which is reverse at alpha → 0 and forward at 1. TRL's
    coefficient is 1 − alpha. A response whose u has fallen below e^{−60/alpha} pulls with bounded force: there the
    exponential goes on as its tangent, so that no loss and no gradient is infinite.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Wang et al. 2023 (f-DPO), theorem 1 and table 1.
    """

    name = "f_dpo"
    reference = "Wang et al. 2023 (f-DPO), theorem 1 and table 1"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "alpha-one-is-forward",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "gradient-of-its-value",
            "log-two-at-the-reference",
            "non-negative",
            "orders-sum-to-one",
            "rare-responses-keep-pulling",
            "reverse-is-dpo",
            "rewards-are-slopes-of-the-divergence",
            "small-alpha-is-dpo",
        }
    )
    implements = "f_dpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    divergence: Literal["reverse", "forward", "js", "alpha"] = Field(
        default="reverse", description="which divergence; reverse is DPO's"
    )
    alpha: float = Field(default=0.5, ge=1e-6, le=1, description="order of the alpha-divergence")

    def __call__(self, batch: Rankings) -> Loss:
        pair = pair_in(self._slope(log_ratios(batch)), batch.valid)
        return loss_of_pairs(-logsigmoid(self.beta * pair.difference), pair, self.beta)

    def _slope(self, log_ratio: Tensor) -> Tensor:
        """Return f'(u) up to a number."""
        if self.divergence == "reverse":
            return log_ratio
        if self.divergence == "js":
            return logsigmoid(log_ratio)
        order = self.alpha if self.divergence == "alpha" else 1.0
        return -_expm1(-order * log_ratio) / order


def _expm1(x: Tensor) -> Tensor:
    """Return ``e^x − 1`` up to x = 60, beyond it the tangent there."""
    # one branch each: in a sum of both, slopes of e^60 that cancel would take the digits of the other with them
    tangent = math.exp(_STRAIGHT) * (1 + x - _STRAIGHT) - 1
    return torch.where(x > _STRAIGHT, tangent, torch.expm1(x.clamp(max=_STRAIGHT)))
