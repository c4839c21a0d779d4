"""Published forms along a curve: what is fitted, and when a study says that a form describes its curves."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lab.errors import LabError
from rlhf_lab.study.conclusions import evaluate
from rlhf_lab.study.forms import fit
from rlhf_lab.study.results import ArmResult, Results
from rlhf_lab.study.schema import Study

D = np.linspace(0.0, 3.0, 31)
POINTS = {"d (a - b d)": D * (2 - 0.5 * D), "d (a - b log d)": D * (2 - 0.5 * np.log(np.maximum(D, 1e-300)))}


@pytest.mark.parametrize("form", POINTS)
def test_a_curve_of_a_form_gives_its_parameters_and_carries_on(form: str) -> None:
    found = fit(D, POINTS[form], form)
    assert (found.a, found.b) == pytest.approx((2, 0.5), abs=1e-12)
    assert found.r2 == pytest.approx(1, abs=1e-12)
    assert found.carried == pytest.approx(0, abs=1e-12)


def test_the_peak_is_where_the_derivative_vanishes() -> None:
    # a - 2 b d = 0 at d = a / 2b = 2; a - b log d - b = 0 at d = exp(a / b - 1) = e^3
    assert fit(D, POINTS["d (a - b d)"], "d (a - b d)").peak == pytest.approx(2)
    assert fit(D, POINTS["d (a - b log d)"], "d (a - b log d)").peak == pytest.approx(np.exp(3))
    assert fit(D, D * (1 + D), "d (a - b d)").peak == np.inf


def test_a_curve_of_another_form_is_explained_in_part() -> None:
    # sin turns back twice, a parabola through 0 once
    found = fit(D, np.sin(4 * D), "d (a - b d)")
    assert found.r2 < 0.5
    assert found.carried > 0.5


def test_too_few_points_give_no_fit() -> None:
    assert np.isnan(fit(D[:5], D[:5], "d (a - b d)").r2)  # d = 0 says nothing, which leaves four
    assert np.isnan(fit(D, np.zeros_like(D), "d (a - b d)").r2)  # nothing to explain


def results(y: np.ndarray, form: str, failed: int = 0) -> Results:
    data = {
        "title": "forms",
        "spec": {},
        "conclusions": [{"kind": "form", "statement": "it bends", "arm": "base", "y": "gold", "x": "d", "form": form}],
    }
    x = np.repeat(D[:, None], y.shape[1], axis=1)
    arm = ArmResult(
        "base",
        {},
        {},
        tuple(range(y.shape[1])),
        {"steps": D},
        {"gold": y, "d": x},
        failed=np.arange(y.shape[1]) < failed,
    )
    return Results("forms", Study.model_validate(data), (arm,), {})


def noisy(scale: float, seeds: int = 8) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((len(D), seeds))
    return POINTS["d (a - b d)"][:, None] + scale * noise


@pytest.mark.parametrize(
    ("scale", "seeds", "failed", "verdict"),
    [(0.01, 8, 0, "reproduced"), (2.0, 8, 0, "not reproduced"), (0.01, 4, 0, "undecided"), (0.01, 8, 4, "undecided")],
)
def test_a_form_is_reproduced_where_it_explains_enough_in_enough_seeds(
    scale: float, seeds: int, failed: int, verdict: str
) -> None:
    (finding,) = evaluate(results(noisy(scale, seeds), "d (a - b d)", failed))
    assert finding.verdict == verdict
    assert finding.n == seeds - failed


def test_a_form_of_a_metric_that_is_not_recorded_is_refused() -> None:
    with pytest.raises(LabError, match=r"arm 'base' has no metric 'gold'. .*silver"):
        found = results(noisy(0.1), "d (a - b d)")
        arm = found.arms[0]
        renamed = {"silver": arm.curves["gold"], "d": arm.curves["d"]}
        evaluate(Results("forms", found.study, (ArmResult("base", {}, {}, arm.seeds, arm.x, renamed),), {}))
