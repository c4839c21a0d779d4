"""Laws of preference losses that read the tokens of a response, and what such a loss may claim.

Throughout h is the difference of log(π/π_ref) of the chosen and of the rejected response, D the sum of KL(π_ref ‖ π)
over the steps of a response, L the row's loss.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import insert, map_fields
from rlhf_lab.conformance.properties.losses import answered
from rlhf_lab.conformance.properties.response_answers import claim, dpo, pull, ratios
from rlhf_lab.conformance.property import Property, Violation, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS", "LAWS"]

_SLOPE: Final = "dL/dtoken_log_probs"


def _invalid_tokens(subject: Subject, case: Rankings) -> None:
    before, counted = subject(case), _counted(case)
    for junk in (torch.nan, -1e6):

        def widened(_: str, axes: str, x: Tensor, junk: float = junk) -> Tensor:
            if axes != "token":
                return x
            kept = x if x.dtype == torch.bool else x.masked_fill(~counted, junk)
            return insert(insert(kept, x.shape[-1], junk, 2, -1), 0, junk, 1, -1)

        after = subject(map_fields(case, widened))
        inner = {symbol: x[..., 1:-2] if x.ndim == 3 else x for symbol, x in after.items()}
        note = f"as before, whatever stands at tokens that do not count ({junk} now), and with three more of them"
        expect_equal(inner, before, note=note)


def _counted(case: Rankings) -> Tensor:
    if case.token_valid is None or case.valid is None:
        raise Violation("token_valid not read", "a component that reads which tokens count")
    return case.token_valid & case.valid[..., None]


def _tokens(case: Rankings) -> Tensor:
    """Return log(π/π_ref) of each token ``[rows, 2, t]``, 0 where it does not count."""
    counted = _counted(case)
    if case.token_log_probs is None or case.token_ref_log_probs is None:
        raise Violation("token_log_probs not read", "a component that reads log-probabilities of tokens")
    return (case.token_log_probs - case.token_ref_log_probs).masked_fill(~counted, 0)


def _weight_one(subject: Subject, case: Rankings) -> None:
    whole, counted = _tokens(case).sum(-1), _counted(case)
    due = dpo(whole[:, 0] - whole[:, 1], subject.parameter("beta", 0.1))
    slope = due["dL/dlog_probs"][..., None] * counted
    expect_equal(subject.of(alpha=1.0)(case), {"L": due["L"], _SLOPE: slope}, note="by dpo on sums, for alpha = 1")


def _equally_long(subject: Subject, case: Rankings) -> None:
    counted = _counted(case)
    level = (torch.arange(counted.shape[-1]) < counted.sum(-1)[:, :1, None]).expand_as(counted).contiguous()

    def change(name: str, axes: str, x: Tensor) -> Tensor:
        return level if name == "token_valid" else torch.where(level & ~counted, -1.0, x) if axes == "token" else x

    here = map_fields(case, change)
    due = {symbol: subject.of(alpha=1.0)(here)[symbol] for symbol in ("L", _SLOPE)}
    expect_equal(subject(here), due, note="as for alpha = 1, for responses of equal length")


def _tail(subject: Subject, case: Rankings) -> None:
    counted, alpha = _counted(case), subject.parameter("alpha", 0.5)
    shorter = counted.sum(-1).amin(-1)[:, None, None]
    within = (torch.arange(counted.shape[-1]) < shorter).double()
    weight = (within + alpha * (1 - within)) * counted
    whole = (weight * _tokens(case)).sum(-1)
    due = dpo(whole[:, 0] - whole[:, 1], subject.parameter("beta", 0.1))
    slope = {"L": due["L"], _SLOPE: due["dL/dlog_probs"][..., None] * weight}
    expect_equal(subject(case), slope, note=f"for tokens beyond the shorter response of weight {alpha:g}")


def _every_token(subject: Subject, case: Rankings) -> None:
    _tokens(case)
    slope = subject(case)[_SLOPE]
    due = torch.stack([slope[:, 0].clamp(max=0), slope[:, 1].clamp(min=0)], dim=1)
    expect_equal({_SLOPE: slope}, {_SLOPE: due}, note="or of the other sign, at every token")


def _divergence(case: Rankings) -> Tensor:
    if case.token_kl is None:
        raise Violation("token_kl not read", "a component that reads divergences")
    return case.token_kl


def _shifts(subject: Subject, case: Rankings) -> None:
    moved, a, alpha = _divergence(case), ratios(case), subject.parameter("alpha", 0.5)
    due = dpo(a[:, 0] - a[:, 1] - alpha * (moved[:, 1] - moved[:, 0]), subject.parameter("beta", 0.1))
    expect_equal(subject(case), due, note="by dpo at h − alpha (D_l − D_w)")


def _rejected_only(subject: Subject, case: Rankings) -> None:
    _divergence(case)
    stopped = subject.of(stop_gradient=True)
    rejected = subject.parameter("alpha", 0.5) * pull(stopped, case)[:, 1]
    due = torch.stack([torch.zeros_like(rejected), rejected], dim=-1)
    note = "= 0 of the chosen response, and alpha dL/dlog π of the rejected one, with stop_gradient"
    expect_equal(stopped(case), {"dL/dtoken_kl": due}, note=note)


def _reads_tokens(component: Component) -> str | None:
    return None if "token_valid" in component.needs() else "it reads no tokens"


LAWS: list[Property] = [
    Property(
        "invalid-tokens-ignored",
        "preference",
        "tokens that do not count change nothing, whatever stands there, NaN included, and however many they are",
        "DeepSpeed-Chat 620; trlx 107",
        False,
        answered(_invalid_tokens),
        applies=_reads_tokens,
    )
]

_LENGTHS: Final = "Liu et al. 2024 (arXiv 2409.06411), eq. 11"
_TDPO: Final = "Zeng et al. 2024, eq. 17 and 18"

CLAIMS: list[Property] = [
    claim(
        "tokens-of-weight-one-are-dpo",
        "at alpha = 1, L and the gradient of each token are those of dpo on sums",
        _LENGTHS,
        _weight_one,
        applies=about("token_log_probs"),
    ),
    claim(
        "equal-lengths-weigh-alike",
        "for responses of equal length alpha does not matter",
        _LENGTHS,
        _equally_long,
        applies=about("token_log_probs"),
    ),
    claim(
        "longer-tails-weigh-alpha",
        "tokens beyond the length of the shorter response count alpha times",
        _LENGTHS,
        _tail,
        applies=about("token_log_probs"),
    ),
    claim(
        "chosen-tokens-up-rejected-down",
        "dL/dlog π ≤ 0 at every token of the chosen response and ≥ 0 at every one of the rejected, whatever the policy",
        _LENGTHS,
        _every_token,
        applies=about("token_log_probs"),
    ),
    claim(
        "divergence-shifts-the-margin",
        "divergences act as −alpha (D_l − D_w) in h",
        _TDPO,
        _shifts,
        applies=about("token_kl"),
    ),
    claim(
        "only-rejected-divergence-pulls",
        "with stop_gradient dL/dD is 0 of the chosen response, and alpha dL/dlog π of the rejected one",
        _TDPO,
        _rejected_only,
        applies=about("token_kl"),
    ),
]
