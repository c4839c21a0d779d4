import itertools
import subprocess
import sys
from math import comb, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_lab.study import bootstrap as b
from rlhf_lab.study import statistics as s

PLAIN = settings(derandomize=True, max_examples=50, deadline=None, database=None)
SCORES = st.lists(st.integers(-8, 8).map(lambda i: i / 4), min_size=1, max_size=24)


@PLAIN
@given(SCORES)
def test_iqm_is_the_trimmed_mean_of_the_pooled_scores(scores: list[float]) -> None:
    assert b.iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25), abs=1e-12)


def test_iqm_cuts_a_quarter_from_either_end() -> None:
    # of 1, 2, 3, 4, 100, 200, 300, 400 the lowest and highest two go: (3 + 4 + 100 + 200) / 4
    assert b.iqm([400, 1, 300, 2, 200, 3, 100, 4]) == 76.75


def test_interval_equals_rliables_formula_on_fixed_indices() -> None:
    rng = np.random.default_rng(3)
    scores, indices = rng.normal(size=(26, 10)), rng.integers(0, 26, size=(300, 26, 10))
    # rliable: pick x[index of run, task] for each run and task, pool, trim a quarter, take percentiles of the resamples
    draws = [stats.trim_mean(scores[picked, np.arange(10)], 0.25, axis=None) for picked in indices]
    found = b.stratified_interval(scores, "iqm", indices=indices)
    assert found.value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)
    assert [found.low, found.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1e-12)


def test_resampling_stays_inside_a_task() -> None:
    # each task is constant over runs, so a draw inside it changes nothing
    assert np.ptp(b.bootstrap(np.tile([1.0, 50.0], (6, 1)), "mean", resamples=200)) == 0


def test_bootstrap_of_the_mean_matches_all_resamples() -> None:
    # three scores have 27 equally likely resamples; the bootstrap's distribution of the mean must be theirs
    scores = [0.0, 1.0, 5.0]
    exact = sorted(np.mean(draw) for draw in itertools.product(scores, repeat=3))
    drawn = b.bootstrap(scores, "mean", resamples=40_000, seed=1)
    for value in set(exact):
        assert np.isclose(drawn, value).mean() == pytest.approx(exact.count(value) / 27, abs=0.01)


def test_equal_seeds_give_equal_intervals_and_leave_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    scores = np.random.default_rng(0).normal(size=30)
    assert b.stratified_interval(scores, seed=4) == b.stratified_interval(scores, seed=4)
    assert b.stratified_interval(scores, seed=4) != b.stratified_interval(scores, seed=5)
    assert (np.random.get_state()[1] == before).all()


def test_one_seed_has_no_interval() -> None:
    for found in (
        b.stratified_interval([3.0]),
        s.paired_difference([3.0], [1.0]),
        s.probability_of_improvement([3.0], [1.0]),
        s.probability_of_improvement([3.0], [1.0], paired=True),
    ):
        assert isnan(found.low) and isnan(found.high) and not found.excludes(0)


def test_failed_seeds_are_counted_not_dropped() -> None:
    summary = s.summarise([1.0, nan, 3.0, 2.0])
    assert (summary.n, summary.failed, summary.mean.value, summary.worst) == (3, 1, 2.0, 1.0)
    assert s.summarise([1.0, 4.0], better="lower").worst == 4.0


def test_all_seeds_failed_gives_no_number() -> None:
    summary = s.summarise([nan, nan])
    assert (summary.n, summary.failed) == (0, 2) and isnan(summary.mean.value)


def test_failures_count_as_the_worst_of_all_arms() -> None:
    first, second = s.failures_as_worst([[1.0, nan], [-5.0, 7.0]])
    assert first.tolist() == [1.0, -5.0] and second.tolist() == [-5.0, 7.0]
    first, _ = s.failures_as_worst([[1.0, nan], [-5.0, 7.0]], better="lower")
    assert first.tolist() == [1.0, 7.0]


def test_pairs_remove_shared_noise() -> None:
    noise = np.random.default_rng(0).normal(size=20) * 10
    found = s.paired_difference(noise + 0.05, noise)
    assert found.value == pytest.approx(0.05) and found.low > 0.0499


@PLAIN
@given(SCORES, SCORES)
def test_probability_of_improvement_is_mann_whitney(x: list[float], y: list[float]) -> None:
    u = stats.mannwhitneyu(x, y).statistic
    found = s.probability_of_improvement(x, y, resamples=2)
    assert found.value == pytest.approx(u / (len(x) * len(y)), abs=1e-12)


def test_probability_of_improvement_counts_pairs_by_hand() -> None:
    # (2, nan) against (1, 2): 2 > 1 wins, 2 = 2 is half, the failed run loses twice: 1.5 of 4
    assert s.probability_of_improvement([2.0, nan], [1.0, 2.0]).value == 1.5 / 4
    # paired: 2 > 1 wins, the failed run loses: 1 of 2
    assert s.probability_of_improvement([2.0, nan], [1.0, 2.0], paired=True).value == 0.5
    # lower is better: 2 < 1 loses, 2 = 2 is half, the failed run still loses
    assert s.probability_of_improvement([2.0, nan], [1.0, 2.0], better="lower").value == 0.5 / 4


def test_probability_of_improvement_averages_tasks() -> None:
    x, y = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    found = s.probability_of_improvement(x, y)
    assert (found.value, found.low, found.high) == (
        0.75,
        0.75,
        0.75,
    )  # always better on one task, always equal on the other


def test_probability_of_improvement_resamples_runs_of_both_arms() -> None:
    # two runs against two: a resample of x is all of (0, 0), (2, 2) with 1/4 each, else (0, 2); y likewise of (1, 1)
    found = s.probability_of_improvement([0.0, 2.0], [1.0, 1.0], resamples=4000)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_seeds_needed_reaches_the_power_of_the_t_test() -> None:
    # power of the paired t-test from the noncentral t distribution, an independent form
    differences = np.array([0.5 - 1, 0.5 + 1] * 10)
    n = s.seeds_needed(differences)
    assert n is not None

    def power(n: int) -> float:
        shift, critical = 0.5 / differences.std(ddof=1) * n**0.5, stats.t.ppf(0.975, n - 1)
        return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))

    assert power(n) >= 0.795 and power(n - 2) < 0.8


@pytest.mark.parametrize("differences", [[0.0, 0.0], [1.0, -1.0], [1.0]])
def test_no_number_of_seeds_separates_equal_arms(differences: list[float]) -> None:
    assert s.seeds_needed(differences) is None


def test_p_value_counts_resamples_on_the_wrong_side() -> None:
    # ten equal signs: no resample reaches 0, so the smallest p-value; symmetric differences: about 1
    assert b.p_value(np.arange(1.0, 11.0), resamples=999) == 2 / 1000
    assert b.p_value([-1.0, 1.0] * 10) > 0.8
    assert b.p_value([1.0]) == 1.0 and b.p_value([nan, 1.0]) == 1.0


def test_holm_steps_down_and_stops() -> None:
    # thresholds .05/4, .05/3, .05/2, .05: .001 and .015 pass, .03 > .025 stops, .04 is not looked at
    rejected, levels = s.holm([0.04, 0.001, 0.03, 0.015])
    assert rejected == [False, True, False, True]
    assert levels == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])
    assert s.holm([]) == ([], [])


def test_band_uses_only_defined_seeds_of_each_point() -> None:
    curve = np.array([[1.0, 2.0, 3.0], [4.0, nan, 8.0], [nan, nan, 5.0], [nan, nan, nan]])
    value, low, high = b.band(curve)
    np.testing.assert_array_equal(value, [2.0, 6.0, 5.0, nan])
    assert low[1] == 4.0 and high[1] == 8.0  # two seeds: a quarter of the resamples are one seed twice
    assert np.isnan(low[2:]).all()  # one seed has no band


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_band_equals_the_interval_at_each_point(statistic: b.Statistic) -> None:
    curve = np.random.default_rng(0).normal(size=(3, 12))
    _, low, high = b.band(curve, statistic, resamples=400)
    for i, point in enumerate(curve):
        found = b.stratified_interval(point, statistic, resamples=400)
        assert (low[i], high[i]) == pytest.approx((found.low, found.high), abs=1e-12)


def test_wilson_inverts_the_score_test() -> None:
    found = s.wilson(7, 10)
    for end in (found.low, found.high):  # at either end the score statistic is the normal quantile
        assert abs(0.7 - end) / (end * (1 - end) / 10) ** 0.5 == pytest.approx(stats.norm.ppf(0.975), abs=1e-9)


@pytest.mark.parametrize(("n", "warned"), [(1, True), (3, True), (4, True), (9, True), (10, False), (50, False)])
def test_few_seeds_are_warned_of(n: int, warned: bool) -> None:
    assert (s.few_seeds(n) is not None) == warned


def test_unpaired_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        s.paired_difference([1.0, 2.0], [1.0])


def test_report_modules_do_not_import_torch() -> None:
    names = ["statistics", "conclusions", "results_json", "report.page", "report.terminal"]
    code = "import sys, " + ", ".join(f"rlhf_lab.study.{name}" for name in names) + "; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_two_seeds_each_can_win_by_luck() -> None:
    # both of A beat both of B in 1 of C(4, 2) = 6 orders; over all orders the mean probability is one half
    orders = itertools.permutations([1.0, 2.0, 3.0, 4.0])
    found = np.array([s.probability_of_improvement(o[:2], o[2:], resamples=2).value for o in orders])
    assert found.mean() == 0.5 and (found == 1).mean() == 1 / comb(4, 2)
