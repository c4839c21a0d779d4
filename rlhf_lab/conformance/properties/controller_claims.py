"""Claims of role controller: how far the coefficient moves, in which direction, and where it stays.

Each check asks about many observations at once, as runs, since a controller answers run by run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import Observed
from rlhf_lab.conformance.property import Check, Property, about, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["CLAIMS", "answers", "coefficients_of", "observations"]

_PPO: Final = "Schulman et al. 2017, section 4"
_ZIEGLER: Final = "Ziegler et al. 2019, section 2.2"
_OBSERVED: Final = (-1.0, 0.0, 1e-9, 0.001, 0.01, 0.02, 0.5, 1.0, 3.0, 6.0, 9.0, 60.0)
# of the target; an estimated divergence may be negative
_SCALES: Final = (-1.0, 0.0, 0.0625, 0.5, 0.75, 0.875, 0.9375, 1.0, 1.0625, 1.125, 1.25, 1.5, 2.0, 16.0, 64.0)


def answers(subject: Subject, coefficient: float, observed: Sequence[float]) -> Tensor:
    """Return the next coefficient of runs that differ in what was observed."""
    seen = torch.tensor(observed, dtype=torch.float64)
    return subject(Observed(torch.full_like(seen, coefficient), seen))["coefficient"]


def coefficients_of(case: Observed) -> list[float]:
    """Return the different coefficients of a case."""
    return list(dict.fromkeys(case.coefficient.tolist()))


def observations(subject: Subject) -> list[float]:
    """Return what might be observed, from less to more: in terms of the target where there is one."""
    target = subject.parameter("target")
    return list(_OBSERVED) if target is None else [float(target) * scale for scale in _SCALES]


def _expect(found: Tensor, due: Sequence[float], observed: Sequence[float], note: str) -> None:
    """Compare run by run, so that what is told names the observation."""
    for got, number, seen in zip(found, due, observed, strict=True):
        told = f"{note}, observed {show_number(seen)}"
        expect_equal({"coefficient": got}, {"coefficient": torch.tensor(number, dtype=torch.float64)}, note=told)


def _target(subject: Subject) -> float:
    return _number(subject, "target")


def _number(subject: Subject, name: str) -> float:
    """Return a parameter, or raise ``Violation`` where the component has none of that name."""
    value = subject.parameter(name)
    return float(subject.field(name) if value is None else value)


def _never_lowers(subject: Subject, case: Observed) -> None:
    for coefficient in coefficients_of(case):
        falls = float(answers(subject, coefficient, observations(subject)).diff().min())
        got = f"a coefficient that falls by {show_number(-falls)} as more is observed"
        expect_true(falls >= -1e-9 * coefficient, got, "one that stays or rises")


def _never_changes(subject: Subject, case: Observed) -> None:
    seen = observations(subject)
    for coefficient in (*coefficients_of(case), 1e-9, 1e9):
        _expect(answers(subject, coefficient, seen), [coefficient] * len(seen), seen, "as before")


def _zero_stays(subject: Subject, case: Observed) -> None:
    seen = [*observations(subject), *case.observed.tolist()]
    _expect(answers(subject, 0.0, seen), [0.0] * len(seen), seen, "for a coefficient of 0")


def _proportional(subject: Subject, case: Observed) -> None:
    seen = observations(subject)
    once = answers(subject, 1.0, seen).tolist()
    for coefficient in coefficients_of(case):
        note = f"= {show_number(coefficient)} times that of a coefficient of 1"
        _expect(answers(subject, coefficient, seen), [coefficient * each for each in once], seen, note)


def _fixed_point(subject: Subject, case: Observed) -> None:
    target = _target(subject)
    for coefficient in coefficients_of(case):
        _expect(answers(subject, coefficient, [target]), [coefficient], [target], "as before, at the target")


def _towards_target(subject: Subject, case: Observed) -> None:
    seen = [_target(subject) * scale for scale in _SCALES]
    for coefficient in coefficients_of(case):
        for scale, after in zip(_SCALES, answers(subject, coefficient, seen).tolist(), strict=True):
            sign = 1 if scale >= 1 else -1
            due = f"no {'less' if sign > 0 else 'more'} than {show_number(coefficient)}, at {scale:g} times the target"
            expect_true(sign * (after - coefficient) >= -1e-9 * coefficient, show_number(after), due)


def _dead_zone(subject: Subject, case: Observed) -> None:
    target, tolerance = _target(subject), _number(subject, "tolerance")
    inside = [target, *(target * (1 + part * (tolerance - 1)) for part in (0.25, 0.5, 1 - 2.0**-20))]
    seen = [*inside, *(target**2 / each for each in inside)]
    for coefficient in coefficients_of(case):
        _expect(answers(subject, coefficient, seen), [coefficient] * len(seen), seen, "as before, inside the tolerance")


def _steps_by_a_factor(subject: Subject, case: Observed) -> None:
    target, edge, factor = _target(subject), *(_number(subject, name) for name in ("tolerance", "factor"))
    beyond = [edge * (1 + 2.0**-20), edge * 1.25, edge * 16]
    for coefficient in coefficients_of(case):
        for note, seen, due in (
            (f"= factor · {show_number(coefficient)}", [target * each for each in beyond], coefficient * factor),
            (f"= {show_number(coefficient)} / factor", [target / each for each in beyond], coefficient / factor),
        ):
            _expect(answers(subject, coefficient, seen), [due] * len(seen), seen, note)


def _bounded(subject: Subject, case: Observed, low: float, high: float, name: str) -> None:
    for coefficient in coefficients_of(case):
        found = answers(subject, coefficient, observations(subject))
        expect_true(
            float(found.max()) <= high * coefficient * (1 + 1e-9)
            and float(found.min()) >= low * coefficient * (1 - 1e-9),
            f"{show_number(float(found.min()))} to {show_number(float(found.max()))}",
            f"{show_number(low * coefficient)} to {show_number(high * coefficient)}: at most by {name}",
        )


def _within_factor(subject: Subject, case: Observed) -> None:
    factor = _number(subject, "factor")
    _bounded(subject, case, 1 / factor, factor, "factor")


def _within_rate(subject: Subject, case: Observed) -> None:
    most = _number(subject, "rate") * _number(subject, "clip")
    _bounded(subject, case, 1 - most, 1 + most, "rate · clip")


def _linear(subject: Subject, case: Observed) -> None:
    target, rate, clip = _target(subject), *(_number(subject, name) for name in ("rate", "clip"))
    errors = [part * clip for part in (-1 + 2.0**-20, -0.5, -0.25, 0.25, 0.5, 1 - 2.0**-20)]
    seen = [target * (1 + error) for error in errors]
    for coefficient in coefficients_of(case):
        due = [coefficient * (1 + rate * error) for error in errors]
        _expect(answers(subject, coefficient, seen), due, seen, "= β (1 + rate · (observed / target − 1))")


def _saturates(subject: Subject, case: Observed) -> None:
    target, rate, clip = _target(subject), *(_number(subject, name) for name in ("rate", "clip"))
    errors = [sign * clip * scale for sign in (1, -1) for scale in (1 + 2.0**-20, 1.25, 64)]
    seen = [target * (1 + error) for error in errors]
    for coefficient in coefficients_of(case):
        due = [coefficient * (1 + rate * (clip if error > 0 else -clip)) for error in errors]
        _expect(answers(subject, coefficient, seen), due, seen, "= β (1 ± rate · clip)")


def _claim(id_: str, statement: str, reference: str, check: Check, *parameters: str) -> Property:
    return Property(id_, "controller", statement, reference, True, check, applies=about(*parameters), share=0.3)


CLAIMS: list[Property] = [
    _claim(
        "more-divergence-never-lowers",
        "the next coefficient never falls as the observed divergence grows",
        _PPO,
        _never_lowers,
    ),
    _claim(
        "never-changes",
        "the coefficient stays what it is, whatever is observed",
        "none; nothing is steered",
        _never_changes,
    ),
    _claim("zero-stays-zero", "a coefficient of 0 stays 0", _PPO, _zero_stays),
    _claim(
        "proportional-to-the-coefficient",
        "the next coefficient is the present one times a factor that depends on the observed divergence only",
        f"{_PPO}; {_ZIEGLER}",
        _proportional,
    ),
    _claim(
        "fixed-point-at-target",
        "at observed = target the coefficient stays what it is",
        f"{_PPO}; {_ZIEGLER}",
        _fixed_point,
        "target",
    ),
    _claim(
        "moves-towards-target",
        "above the target the coefficient never falls, and below it never rises",
        f"{_PPO}; {_ZIEGLER}",
        _towards_target,
        "target",
    ),
    _claim(
        "dead-zone",
        "nothing changes where target / tolerance ≤ observed ≤ target · tolerance",
        _PPO,
        _dead_zone,
        "target",
        "tolerance",
    ),
    _claim(
        "steps-by-a-factor",
        "β becomes factor · β where observed > target · tolerance, and β / factor where observed < target / tolerance",
        _PPO,
        _steps_by_a_factor,
        "target",
        "tolerance",
        "factor",
    ),
    _claim("step-within-factor", "β / factor ≤ next β ≤ factor · β", _PPO, _within_factor, "factor"),
    _claim(
        "step-within-rate-times-clip",
        "β (1 − rate · clip) ≤ next β ≤ β (1 + rate · clip)",
        _ZIEGLER,
        _within_rate,
        "rate",
        "clip",
    ),
    _claim(
        "linear-within-clip",
        "next β = β (1 + rate · (observed / target − 1)) where the relative error is at most clip",
        _ZIEGLER,
        _linear,
        "target",
        "rate",
        "clip",
    ),
    _claim(
        "saturates-beyond-clip",
        "next β = β (1 ± rate · clip) where the relative error is beyond clip",
        _ZIEGLER,
        _saturates,
        "target",
        "rate",
        "clip",
    ),
]
