"""What a loss on labelled responses may claim: each response against a reference point z, which the batch estimates.

Throughout a is log(π/π_ref) of a response, z the mean of that over mismatched responses or 0, whichever is larger, L is
a row's loss and g its gradient dL/dlog π.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import map_fields, take_rows, take_steps
from rlhf_lab.conformance.properties.response_answers import claim, ratios, slopes, whole_rows
from rlhf_lab.conformance.property import Property, Violation, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS"]

_SMALL_LEAD: Final = 0.75


def _with(case: Rankings, **changes: Tensor) -> Rankings:
    return map_fields(case, lambda name, _, x: changes.get(name, x))


def _mismatched(case: Rankings) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of mismatched responses under policy and reference."""
    if case.mismatched_log_probs is None or case.mismatched_ref_log_probs is None:
        raise Violation("mismatched_log_probs not read", "a component that reads mismatched responses")
    return case.mismatched_log_probs, case.mismatched_ref_log_probs


def _desirable(case: Rankings) -> Tensor:
    if case.desirable is None:
        raise Violation("desirable not read", "a component that reads labels")
    return case.desirable


def _at_point(case: Rankings, z: float) -> Rankings:
    """Return the batch with log-ratios of mismatched responses that have the mean ``z``."""
    policy, reference = _mismatched(case)
    ratio = policy - reference
    return _with(case, mismatched_log_probs=reference + ratio - ratio.mean() + z)


def _detached(subject: Subject, case: Rankings) -> None:
    _mismatched(case)
    slope = subject(_at_point(case, 1.0)).get("dL/dmismatched_log_probs", torch.zeros_like(case.log_probs))
    zero = {"dL/dmismatched_log_probs": torch.zeros_like(slope)}
    expect_equal({"dL/dmismatched_log_probs": slope}, zero, note="at z = 1: the reference point is given")


def _floor(subject: Subject, case: Rankings) -> None:
    due = slopes(subject, _at_point(case, 0.0))
    expect_equal(subject(_at_point(case, -2.5)), due, note="as for z = 0: a divergence is not negative")


def _gain_only(subject: Subject, case: Rankings) -> None:
    here = _at_point(case, 0.5)
    policy, _ = _mismatched(here)
    risen = _with(here, log_probs=here.log_probs + _SMALL_LEAD, mismatched_log_probs=policy + _SMALL_LEAD)
    expect_equal(subject(risen), slopes(subject, here), note=f"as before a and z rose by {_SMALL_LEAD}")


def _at_zero(subject: Subject, case: Rankings) -> None:
    beta, lam_d, lam_u = (subject.parameter(name, default) for name, default in _KTO_DEFAULTS.items())
    gain = beta * ratios(case)
    due = torch.where(_desirable(case), lam_d * torch.sigmoid(-gain), lam_u * torch.sigmoid(gain)).mean(-1)
    expect_equal(subject(_at_point(case, 0.0)), {"L": due}, note="= the mean of lam σ(∓β a) at z = 0")


def _labels_mirror(subject: Subject, case: Rankings) -> None:
    every = torch.ones_like(_desirable(case))
    good, bad = (subject(_with(case, desirable=label))["L"] for label in (every, ~every))
    total = good / subject.parameter("lam_d", 1.0) + bad / subject.parameter("lam_u", 1.0)
    expect_equal({"ΣL/lam": total}, {"ΣL/lam": torch.ones_like(total)}, note="over both labels")


def _count_once(subject: Subject, case: Rankings) -> None:
    """Give every response a row of its own, all in one call."""
    _desirable(case)
    rows, k = case.log_probs.shape
    many = take_rows(take_steps(case, [0]), [row for row in range(rows) for _ in range(k)])
    apart = map_fields(many, lambda name, axes, x: getattr(case, name).reshape(-1, 1) if axes == "same" else x)
    alone, answer = subject(apart), subject(case)
    due = {
        "weights · L": (alone["weights"] * alone["L"]).view(rows, k).sum(-1),
        "weights": alone["weights"].view(rows, k).sum(-1),
    }
    found = {"weights · L": answer["weights"] * answer["L"], "weights": answer["weights"]}
    expect_equal(found, due, note="= the sum over its responses, each in a row of its own")


_KTO: Final = "Ethayarajh et al. 2024, eq. 8"
_KTO_DEFAULTS: Final = {"beta": 0.1, "lam_d": 1.0, "lam_u": 1.0}

CLAIMS: list[Property] = [
    claim(
        "reference-point-detached",
        "no gradient reaches the mismatched responses",
        "Ethayarajh et al. 2024, section 4.1; HALOs issue 4",
        _detached,
        cases=whole_rows,
        applies=about("mismatched_log_probs"),
    ),
    claim(
        "reference-point-not-negative",
        "a negative estimate of z counts as 0",
        _KTO,
        _floor,
        cases=whole_rows,
        applies=about("mismatched_log_probs"),
    ),
    claim(
        "only-the-gain-matters",
        "adding a number to a of all responses and to z > 0 changes neither L nor g",
        _KTO,
        _gain_only,
        cases=whole_rows,
        applies=about("mismatched_log_probs"),
    ),
    claim(
        "sigmoid-of-the-log-ratio-at-zero",
        "at z = 0, L is lam_d σ(−β a) of desirable and lam_u σ(β a) of undesirable responses",
        _KTO,
        _at_zero,
        cases=whole_rows,
        applies=about("mismatched_log_probs"),
    ),
    claim(
        "labels-mirror-each-other",
        "L / lam_d with the label desirable and L / lam_u with the other sum to 1",
        _KTO,
        _labels_mirror,
        cases=whole_rows,
        applies=about("desirable"),
    ),
    claim(
        "every-response-counts-once",
        "a row counts as its responses do in rows of their own",
        "contract of rlhf_lab",
        _count_once,
        cases=whole_rows,
        applies=about("desirable"),
    ),
]
