from collections.abc import Callable
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pytest

from rlhf_lab.errors import LabError
from rlhf_lab.study.conclusions import check_names, check_quantities, evaluate
from rlhf_lab.study.results import ArmResult, Results
from rlhf_lab.study.schema import Study

Make = Callable[..., Results]
NOISE = np.random.default_rng(0).normal(size=20)
CENTRED = NOISE - NOISE.mean()


def order(better: str = "a", worse: str = "b", **more: Any) -> dict[str, Any]:
    return {"kind": "order", "statement": "a is better", "better": better, "worse": worse, **more}


def with_exact(results: Results, exact: dict[str, dict[str, float]]) -> Results:
    return replace(results, arms=tuple(replace(arm, exact=exact[arm.name]) for arm in results.arms))


def verdicts(results: Results) -> list[str]:
    return [finding.verdict for finding in evaluate(results)]


def test_order_is_decided_by_the_paired_difference(score_results: Make) -> None:
    # arms share their noise: the shift of 0.5 is exact although the noise is twice as large
    scores = {"a": NOISE + 0.5, "b": NOISE}
    assert verdicts(score_results(scores, [order(), order("b", "a")])) == ["reproduced", "not reproduced"]


def test_order_follows_the_scores_better_direction(score_results: Make) -> None:
    scores = {"a": NOISE + 0.5, "b": NOISE}
    assert verdicts(score_results(scores, [order()], better="lower")) == ["not reproduced"]
    assert verdicts(score_results(scores, [order(direction="higher")], better="lower")) == ["reproduced"]


def test_order_without_separation_is_undecided_and_says_how_many_seeds(score_results: Make) -> None:
    shift = np.where(np.arange(20) % 2, 1.0, -0.8)  # mean 0.1, standard deviation 0.92: (1.96 + 0.84)² · 85 + 2 = 670
    (finding,) = evaluate(score_results({"a": NOISE + shift, "b": NOISE}, [order()]))
    assert finding.verdict == "undecided" and "seeds would decide" in finding.because
    needed = int(finding.because.split("about ")[1].split()[0])
    assert 640 < needed < 700


def test_orders_share_one_error_rate(score_results: Make) -> None:
    # alone the difference is separated at 5 %; among thirty that say nothing it is not
    shift = np.where(np.arange(20) % 4 == 0, -1.0, 0.95)
    scores = {"a": NOISE + shift, "b": NOISE, "c": NOISE[::-1]}
    assert verdicts(score_results(scores, [order()])) == ["reproduced"]
    family = [order(), *[order("b", "c")] * 30]
    findings = evaluate(score_results(scores, family))
    assert {finding.verdict for finding in findings} == {"undecided"}
    assert findings[0].interval is not None and findings[0].interval.level == pytest.approx(1 - 0.05 / 31)


def test_few_seeds_decide_nothing(score_results: Make) -> None:
    few = NOISE[:4]
    conclusions = [
        order(),
        {"kind": "level", "statement": "s", "arm": "a", "published": 10, "tolerance": 50},
        {"kind": "best", "statement": "s", "expected": "a"},
        {"kind": "share", "statement": "s", "arm": "a", "threshold": -50, "share": 0.5},
        {"kind": "bound", "statement": "s", "arm": "a", "at_least": -50},
    ]
    findings = evaluate(score_results({"a": few + 9, "b": few}, conclusions))
    assert {finding.verdict for finding in findings} == {"undecided"}
    assert all("4 seeds cannot decide" in finding.because for finding in findings)


def test_failing_cannot_win(score_results: Make) -> None:
    # the two seeds of a that finished are good; the failed ones count as the worst score of both arms
    failing = np.where(np.arange(20) < 2, 5.0, nan)
    (finding,) = evaluate(score_results({"a": failing, "b": np.linspace(0, 1, 20)}, [order()]))
    assert finding.verdict != "reproduced" and "18 failed seeds" in finding.because


@pytest.mark.parametrize(
    ("published", "tolerance", "verdict"),
    [
        (0.0, 0.5, "reproduced"),  # mean 0, standard error 1 / sqrt 20 = .22: half-width .44 <= .5
        (0.0, 0.2, "undecided"),  # the interval is wider than the tolerance
        (0.7, 0.5, "undecided"),  # the mean is outside, the interval reaches inside
        (3.0, 0.5, "not reproduced"),
        (-3.0, 0.5, "not reproduced"),
    ],
)
def test_level(score_results: Make, published: float, tolerance: float, verdict: str) -> None:
    scores = CENTRED / NOISE.std(ddof=1)
    level = {"kind": "level", "statement": "s", "arm": "a", "published": published, "tolerance": tolerance}
    (finding,) = evaluate(score_results({"a": scores}, [level]))
    assert finding.verdict == verdict
    assert (finding.published, finding.tolerance, finding.n) == (published, tolerance, 20)


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        ({"at_least": -0.5}, "reproduced"),  # mean 0 ± .44, see test_level
        ({"at_least": 0.3}, "undecided"),
        ({"at_least": -0.3}, "undecided"),
        ({"at_least": 0.5}, "not reproduced"),
        ({"at_most": 0.5}, "reproduced"),
        ({"at_most": 0.3}, "undecided"),
        ({"at_most": -0.5}, "not reproduced"),
    ],
)
def test_bound_is_decided_by_the_interval(score_results: Make, bound: dict[str, float], verdict: str) -> None:
    scores = CENTRED / NOISE.std(ddof=1)
    (finding,) = evaluate(score_results({"a": scores}, [{"kind": "bound", "statement": "s", "arm": "a", **bound}]))
    assert finding.verdict == verdict and finding.published == next(iter(bound.values()))
    assert ("seeds would decide" in finding.because) == (verdict == "undecided")


def test_a_failed_seed_speaks_against_a_bound_on_either_side(score_results: Make) -> None:
    # nine scores of -1 and nine of 1, and two failed: counted as -1 the mean is -0.1, counted as 1 it is 0.1
    scores = np.concatenate([-np.ones(9), np.ones(9), [nan, nan]])
    both = [{"kind": "bound", "statement": "s", "arm": "a", side: 0.0} for side in ("at_least", "at_most")]
    findings = evaluate(score_results({"a": scores}, both))
    assert [finding.effect for finding in findings] == pytest.approx([-0.1, 0.1])
    assert all("2 failed seeds" in finding.because for finding in findings)


def test_bounds_on_exact_quantities_hold_up_to_rounding(score_results: Make) -> None:
    bounds = [{"at_most": 0.0}, {"at_least": 0.0}, {"at_most": -1e-9}, {"at_least": -1e-9}]
    claims = [{"kind": "bound", "statement": "s", "arm": "a", "quantity": "largest", **bound} for bound in bounds]
    results = with_exact(score_results({"a": [0.0]}, claims), {"a": {"largest": 1e-15}})
    findings = evaluate(results)
    assert [f.verdict for f in findings] == ["reproduced", "reproduced", "not reproduced", "reproduced"]
    assert findings[2].because == "exactly 1e-15, which is not at most -1e-9" and findings[0].n == "exact"


def test_best_must_be_expected_and_separated(score_results: Make) -> None:
    scores = {"n=1": NOISE, "n=4": NOISE + 1, "n=4 too": NOISE + 0.999, "n=8": NOISE + CENTRED[::-1] + 0.1}
    best = [{"kind": "best", "statement": "s", "expected": expected} for expected in ("n=4*", "n=1", "n=8")]
    # the two arms that match do not compete; n=8 is noisy, but far below
    findings = evaluate(score_results(scores, best))
    assert [finding.verdict for finding in findings] == ["reproduced", "not reproduced", "not reproduced"]
    assert findings[0].arms == ("n=4", "n=8")


def test_best_without_separation_is_undecided(score_results: Make) -> None:
    scores = {"a": NOISE + 0.01 * NOISE[::-1] + 1e-4, "b": NOISE}
    best = [{"kind": "best", "statement": "s", "expected": expected} for expected in ("a", "b")]
    assert verdicts(score_results(scores, best)) == ["undecided", "undecided"]


def test_best_that_compares_nothing_is_refused(score_results: Make) -> None:
    best = {"kind": "best", "statement": "s", "expected": "*"}
    with pytest.raises(LabError, match="compares nothing"):
        evaluate(score_results({"a": NOISE, "b": NOISE}, [best]))


@pytest.mark.parametrize(
    ("reaching", "verdict"),
    [(4, "reproduced"), (5, "reproduced"), (3, "undecided"), (0, "not reproduced")],
)
def test_share_of_seeds(score_results: Make, reaching: int, verdict: str) -> None:
    # 3 of 5: Wilson's interval .23 to .88 reaches .8; 0 of 5: 0 to .43 does not
    scores = np.where(np.arange(5) < reaching, 475.0, nan)
    share = {"kind": "share", "statement": "s", "arm": "a", "threshold": 475, "share": 0.8}
    assert verdicts(score_results({"a": scores}, [share])) == [verdict]


def test_share_counts_downwards_where_lower_is_better(score_results: Make) -> None:
    share = {"kind": "share", "statement": "s", "arm": "a", "threshold": 0.3, "share": 1.0}
    assert verdicts(score_results({"a": [0.1, 0.2, 0.3, 0.1, 0.2]}, [share], better="lower")) == ["reproduced"]


def test_exact_quantities_need_no_seed(score_results: Make) -> None:
    conclusions = [
        order(quantity="bias", direction="lower"),
        order(quantity="bias", direction="higher"),
        order(quantity="same", direction="higher"),
        {"kind": "level", "statement": "s", "arm": "a", "quantity": "bias", "published": 0.25, "tolerance": 1e-9},
        {"kind": "level", "statement": "s", "arm": "b", "quantity": "bias", "published": 0.25, "tolerance": 1e-9},
        {"kind": "best", "statement": "s", "expected": "a", "quantity": "bias", "direction": "lower"},
        {"kind": "share", "statement": "s", "arm": "b", "quantity": "bias", "threshold": 0.5, "share": 1},
    ]
    results = with_exact(
        score_results({"a": [0.0], "b": [0.0]}, conclusions),
        {"a": {"bias": 0.25, "same": 1 / 3}, "b": {"bias": 0.5, "same": 1 / 3}},
    )
    findings = evaluate(results)
    yes, no = "reproduced", "not reproduced"
    assert [finding.verdict for finding in findings] == [yes, no, no, yes, no, yes, yes]
    assert all(finding.n == "exact" and finding.interval is None for finding in findings)


@pytest.mark.parametrize(
    ("conclusion", "message"),
    [
        (order("aa"), r"no arm is called 'aa'. Did you mean|Possible: a, b"),
        (order(quantity="bais", direction="lower"), "neither a score nor an exact quantity. Did you mean 'bias'"),
        (order(quantity="bias"), "Add `direction: lower`"),
        ({"kind": "best", "statement": "s", "expected": "z*"}, "no arm matches 'z*'"),
    ],
)
def test_names_that_do_not_exist_are_refused(score_results: Make, conclusion: dict[str, Any], message: str) -> None:
    results = score_results({"a": NOISE, "b": NOISE}, [conclusion])
    results = with_exact(results, {"a": {"bias": 1.0}, "b": {"bias": 1.0}})
    with pytest.raises(LabError) as error:
        evaluate(results)
    assert message.split("|")[-1] in str(error.value)


def test_names_are_checked_before_a_study_runs(score_results: Make) -> None:
    study = score_results({"a": NOISE, "b": NOISE}, [order("a", "gone")]).study
    with pytest.raises(LabError, match=r"conclusion 1: no arm is called 'gone'"):
        check_names(study, ["a", "b"])
    check_names(study, ["a", "b", "gone"])


def interrupted(results: Results, *lacking: str) -> Results:
    """Return the results as they were before the arms ``lacking`` were finished."""
    names = [arm.name for arm in results.arms]
    arms = tuple(arm for arm in results.arms if arm.name not in lacking)
    return replace(results, arms=arms, provenance={"arms": names})


@pytest.mark.parametrize(
    "conclusion",
    [
        order("a", "late"),
        order("late", "a"),
        order("a", "late", quantity="bias", direction="lower"),
        {"kind": "level", "statement": "s", "arm": "late", "published": 0, "tolerance": 1},
        {"kind": "best", "statement": "s", "expected": "a"},
        {"kind": "share", "statement": "s", "arm": "late", "threshold": 0, "share": 0.5},
    ],
)
def test_an_arm_that_is_not_finished_leaves_a_conclusion_undecided(
    score_results: Make, conclusion: dict[str, Any]
) -> None:
    results = interrupted(score_results({"a": NOISE + 1, "b": NOISE, "late": NOISE}, [conclusion]), "late")
    (finding,) = evaluate(results)
    assert (finding.verdict, finding.because) == ("undecided", "arm 'late' is not finished")


def test_what_needs_no_unfinished_arm_is_judged(score_results: Make) -> None:
    best = {"kind": "best", "statement": "s", "among": ["*", "!late"], "expected": "a"}
    results = interrupted(score_results({"a": NOISE + 1, "b": NOISE, "late": NOISE}, [order(), best]), "late")
    assert verdicts(results) == ["reproduced", "reproduced"]


def test_orders_that_are_still_to_come_count_among_the_orders(score_results: Make) -> None:
    # Holm's level of the first of two orders is .05 / 2, whether or not the other one's arm is finished
    results = score_results({"a": NOISE + 1, "b": NOISE, "late": NOISE}, [order(), order("a", "late")])
    finding = evaluate(interrupted(results, "late"))[0]
    assert finding.interval is not None and finding.interval.level == pytest.approx(1 - 0.05 / 2)


def test_a_share_says_what_its_number_is(score_results: Make) -> None:
    share = {"kind": "share", "statement": "s", "arm": "a", "threshold": 0.3, "share": 1.0}
    scores = {"a": [0.1, 0.2, 0.3, 0.1, 0.2]}
    found = [evaluate(score_results(scores, [share], better=better))[0].judged for better in ("higher", "lower")]
    assert found == ["share of seeds with reward ≥ 0.3", "share of seeds with reward ≤ 0.3"]
    level = {"kind": "level", "statement": "s", "arm": "a", "published": 0, "tolerance": 1}
    assert evaluate(score_results(scores, [level]))[0].judged == "reward"


BOTH = ["a", "b"]


def study_with(**more: Any) -> Study:
    return Study.model_validate({"title": "t", "spec": {}, "arms": {"a": {}, "b": {}}, **more})


def arm(name: str) -> ArmResult:
    one = np.zeros((1, 2))
    return ArmResult(name, {}, {}, (0, 1), {"steps": np.ones(1)}, {"reward": one, "value_error": one}, {"bias": 0.5})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"figures": [{"kind": "curve", "y": "rewrad"}]}, "figure 1 shows 'rewrad'.*Did you mean 'reward'"),
        ({"figures": [{"kind": "curve", "y": "reward", "x": "step"}]}, "Did you mean 'steps'"),
        ({"figures": [{"kind": "sweep", "y": "bais", "x": "lam"}]}, "Did you mean 'bias'"),
        ({"figures": [{"kind": "frontier", "y": "bias", "x": "variance"}]}, "shows 'variance', which is neither"),
        ({"conclusions": [order(quantity="bais")]}, "Did you mean 'bias'"),
        ({"conclusions": [order(quantity="bias")]}, "Add `direction: lower`"),
    ],
)
def test_what_an_arm_does_not_have_is_refused_with_the_first(more: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        check_quantities(study_with(**more), arm("a"), BOTH, alike=BOTH, curved=BOTH)


@pytest.mark.parametrize(
    "more",
    [
        {"figures": [{"kind": "curve", "y": "entropy", "arms": ["b"]}]},  # which b may record
        {"figures": [{"kind": "sweep", "y": "value_error", "x": "lam"}]},  # a usual score of a study without any
        {"figures": [{"kind": "frontier", "y": "bias", "x": "final"}], "scores": {"final": {"metric": "reward"}}},
        {"conclusions": [order(quantity="bias", direction="lower")]},
        {"conclusions": [order()]},
    ],
)
def test_what_an_arm_has_or_another_may_have_is_not_refused(more: dict[str, Any]) -> None:
    check_quantities(study_with(**more), arm("a"), BOTH, alike=BOTH, curved=BOTH)
