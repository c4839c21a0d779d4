"""Laws of role objective, which every sensible policy loss obeys, and all that one may claim."""

from __future__ import annotations

from typing import Any, Final

import torch

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import map_fields, with_fields
from rlhf_lab.conformance.properties import (
    objective_claims,
    objective_clipping,
    objective_expectations,
    objective_state,
)
from rlhf_lab.conformance.properties.losses import answered, some_gradient
from rlhf_lab.conformance.properties.policy_cases import (
    Choices,
    choices,
    crossed,
    decisions,
    expected_slope,
    on_policy,
    with_advantages,
)
from rlhf_lab.conformance.property import Property, expect_equal, expect_true
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import PolicyBatch

__all__ = ["PROPERTIES"]

_EXTREME: Final = 30.0  # log-ratios that a diverged or sparse policy reaches; exp(30) is far from overflow


def _pushes_up(subject: Subject, case: PolicyBatch) -> None:
    here = on_policy(case)
    before = subject(here)["dL/dlog_probs"]
    after = subject(with_advantages(here, here.advantages + 1))
    note = "at most, as before all advantages rose by 1 (at π = π_old)"
    expect_equal(after, {"dL/dlog_probs": torch.minimum(after["dL/dlog_probs"], before)}, here.valid, note=note)


def _finite(subject: Subject, case: PolicyBatch) -> None:
    signs = torch.where(torch.arange(case.log_probs.shape[-1]) % 2 == 0, 1.0, -1.0).to(case.log_probs)
    others = {name: getattr(case, name) for name in ("old_log_probs", "behaviour_log_probs", "ref_log_probs")}
    for side in (signs, -signs):
        far = {name: case.log_probs - _EXTREME * side for name, x in others.items() if x is not None}
        wide = with_fields(case, far)
        for batch in (wide, map_fields(wide, lambda _, __, x: x.float() if x.is_floating_point() else x)):
            for symbol, x in subject(batch).items():
                good = x.isfinite() | ~case.valid
                kind = str(batch.log_probs.dtype).removeprefix("torch.")
                expect_true(bool(good.all()), f"{symbol} not finite in {kind}", "finite numbers at log-ratios of ±30")


def _entropy(subject: Subject, case: PolicyBatch) -> None:
    answer = subject(case)
    slope, sign = answer["dL/dentropy"], -1 if subject.parameter("entropy_coef", 1.0) < 0 else 1
    note = "or of the other sign: descent must not lower the entropy"
    expect_equal(answer, {"dL/dentropy": sign * (sign * slope).clamp(max=0)}, case.valid, note=note)


def _attracts(subject: Subject, case: Choices) -> None:
    policy, reference = case.logits.log_softmax(-1), case.old_logits.log_softmax(-1)
    level = with_fields(case, {"advantages": torch.zeros_like(case.advantages)})
    batch = decisions(level, sampler=policy, reference=reference)
    slope = expected_slope(subject(batch), batch, policy)
    due = torch.where(policy >= reference, slope.clamp(min=0), slope.clamp(max=0))
    note = "or of the other sign: at A = 0, descent must not leave the reference"
    expect_equal({"E[dL/dlogits]": slope}, {"E[dL/dlogits]": due}, note=note)


def _judged_alone(component: Component) -> str | None:
    if component.scope not in ("step", "episode"):
        return f"its scope is {component.scope}: other rows may matter"
    return "it is random" if "uniforms" in component.needs() else None


def _reads(field: str, component: Component) -> str | None:
    return None if field in component.needs() else f"it does not read {field}"


def _law(id_: str, statement: str, reference: str, check: Any, **options: Any) -> Property:
    return Property(id_, "objective", statement, reference, False, answered(check), **{"share": 0.25, **options})


PROPERTIES: list[Property] = [
    some_gradient("objective"),
    _law(
        "higher-advantage-pushes-up",
        "at π = π_old, raising all advantages by the same amount never raises dL/dlog π",
        "Williams 1992, theorem 1; Truxify issue 11885",
        _pushes_up,
        cases=crossed,
        applies=_judged_alone,
    ),
    _law(
        "finite-at-extreme-ratios",
        "values and gradients are finite at log-ratios of ±30, in float64 and float32",
        "contract of rlhf_lab",
        _finite,
        cases=crossed,
    ),
    _law(
        "entropy-never-lowered",
        "descent never lowers the entropy: dL/dentropy ≤ 0, unless entropy_coef is negative on purpose",
        "Mnih et al. 2016, section 4; stable-baselines3 issue 127",
        _entropy,
        applies=lambda component: _reads("entropy", component),
    ),
    _law(
        "reference-attracts",
        "at A = 0 and for two actions, descent in expectation never moves π away from π_ref",
        "Ziegler et al. 2019, eq. 2; verl issue 179",
        _attracts,
        cases=choices(2),
        applies=lambda component: _reads("ref_log_probs", component) or _judged_alone(component),
    ),
    *objective_state.LAWS,
    *objective_claims.CLAIMS,
    *objective_clipping.CLAIMS,
    *objective_expectations.CLAIMS,
]
