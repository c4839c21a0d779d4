import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rlhf_lab.errors import LabError
from rlhf_lab.study import text
from rlhf_lab.study.conclusions import evaluate
from rlhf_lab.study.report.lines import lines_of
from rlhf_lab.study.report.page import notebook_html, report_html, write_report
from rlhf_lab.study.report.tables import comparisons, differences, overviews, score_tables, warnings_of
from rlhf_lab.study.report.terminal import print_summary
from rlhf_lab.study.results import Results
from rlhf_lab.study.results_json import results_from_json, results_to_json
from rlhf_lab.study.schema import Figure, Score, Study

Make = Callable[..., Results]


def with_figures(results: Results, *figures: dict[str, Any]) -> Results:
    study = results.study.model_copy(update={"figures": [Figure.model_validate(figure) for figure in figures]})
    return replace(results, study=study)


def test_report_is_the_same_bytes_for_the_same_results(learning_results: Make, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert write_report(learning_results(), tmp_path / folder) == tmp_path / folder / "report.html"
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["curves.csv", "report.html", "results.json", "scores.csv"]  # nothing half-written is left
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_report_loads_nothing(learning_results: Make) -> None:
    page = report_html(learning_results())
    assert not re.search(r"<script|<link rel=.stylesheet|@import|@font-face|<img", page)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page) and not re.search(r"url\((?!#)", page)


def test_ids_of_the_page_are_unique(trade_off_results: Make) -> None:
    page = report_html(trade_off_results())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', page))
    assert used <= set(ids)


def test_names_are_escaped(score_results: Make) -> None:
    results = score_results({"<b>&": [1.0, 2.0], "b": [1.0, 3.0]}, [])
    page = report_html(with_figures(results, {"kind": "curve", "y": "reward"}))
    assert "<b>&" not in page and "&lt;b&gt;&amp;" in page


def test_json_round_trip_keeps_every_bit(learning_results: Make) -> None:
    results = learning_results()
    arm = replace(results.arms[0], exact={"bias": nan, "variance": inf, "third": 1 / 3}, warnings=("w",))
    results = replace(results, arms=(arm, *results.arms[1:]), warnings=("w",))
    written = results_to_json(results)
    json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = results_from_json(written, results.directory)
    assert results_to_json(back) == written and back.study == results.study
    for before, after in zip(results.arms, back.arms, strict=True):
        assert (before.name, before.seeds, before.warnings) == (after.name, after.seeds, after.warnings)
        np.testing.assert_array_equal(before.failed, after.failed)
        for metric, curve in before.curves.items():
            np.testing.assert_array_equal(curve, after.curves[metric])
    assert back.arms[0].exact["variance"] == inf and back.arms[0].exact["third"] == 1 / 3
    assert report_html(back) == report_html(results)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_damaged_json_is_refused(content: str) -> None:
    with pytest.raises(LabError, match="Run the study again"):
        results_from_json(content)


def test_scores_csv_has_every_seed(learning_results: Make, tmp_path: Path) -> None:
    results = learning_results(seeds=20, failed=2)
    write_report(results, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert len(rows) == 4 * 2 * 20  # arms x scores x seeds
    assert [row["seed"] for row in rows if row["failed"] == "1"] == ["0", "1"] * 2
    gae = [float(row["value"]) for row in rows if row["arm"] == "gae" and row["quantity"] == "final"]
    np.testing.assert_array_equal(gae, results.arm("gae").score(results.study.scores["final"]))


def test_curves_csv_leaves_failed_seeds_out(learning_results: Make, tmp_path: Path) -> None:
    results = learning_results(points=4)
    write_report(results, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    assert len(rows) == 4 * 2 * 4  # arms x metrics x points
    first = next(row for row in rows if row["arm"] == "td" and row["metric"] == "exact_return")
    assert first["seeds"] == "18"
    assert float(first["mean"]) == pytest.approx(results.arm("td").curves["exact_return"][0, 2:].mean())


def test_score_table_has_gaps_to_the_truth(learning_results: Make) -> None:
    results = learning_results()
    table = score_tables(results)[0]
    assert [row.arm.name for row in table.rows] == ["gae", "baseline", "reinforce", "td"]  # best mean first
    row, mean = table.rows[0], np.mean(results.arm("gae").score(table.score))
    optimum = -(6 + 4 * 2**0.5)
    assert row.to_optimum == pytest.approx(mean - optimum) and row.over_baseline == pytest.approx(mean + 12)
    assert row.normalised == pytest.approx((mean + 12) / (optimum + 12))


def test_gaps_are_to_the_reference_policy_where_the_uniform_one_is_not_known(learning_results: Make) -> None:
    results = learning_results()
    levels = {"exact_return": {"optimum": -5.0, "reference": -9.0}}
    table = score_tables(replace(results, arms=tuple(replace(arm, references=levels) for arm in results.arms)))[0]
    assert (score_tables(results)[0].baseline, table.baseline) == ("uniform", "reference")
    row = table.rows[0]
    assert row.over_baseline == pytest.approx(row.summary.mean.value + 9)
    assert row.normalised == pytest.approx((row.summary.mean.value + 9) / 4)


def two_scores(results: Results, **second: Any) -> Results:
    """The same results under another score of the same metric."""
    scores = {**results.study.scores, "other": Score(metric="reward", **second)}
    return replace(results, study=results.study.model_copy(update={"scores": scores}))


def printed(results: Results, width: int = 80) -> str:
    stream = io.StringIO()
    print_summary(results, Console(width=width, file=stream))
    return stream.getvalue()


def test_several_scores_of_one_environment_stand_in_one_table(score_results: Make) -> None:
    results = two_scores(score_results({"a": [1.0, 3.0], "b": [4.0, 6.0], "c": [8.0, 8.0]}, []), arms=["!b"])
    levels = {"reward": {"optimum": 9.0, "reference": 0.5}}
    arms = tuple(replace(arm, references=levels) for arm in results.arms)
    (overview,) = overviews(score_tables(replace(results, arms=arms)))
    means = {name: [row and row.summary.mean.value for row in rows] for name, rows in overview.rows}
    assert means == {"c": [8.0, 8.0], "b": [5.0, None], "a": [2.0, 2.0]} and list(means) == ["c", "b", "a"]
    assert overview.levels == [("optimum", [9.0, 9.0]), ("reference policy", [0.5, 0.5])]


def test_one_score_needs_no_table_of_all(score_results: Make) -> None:
    assert overviews(score_tables(score_results({"a": [1.0, 3.0]}, []))) == []


def test_a_level_that_arms_do_not_share_is_not_shown(score_results: Make) -> None:
    results = two_scores(score_results({"a": [1.0, 3.0], "b": [4.0, 6.0]}, []))
    arms = [replace(arm, references={"reward": {"optimum": 9.0 + i}}) for i, arm in enumerate(results.arms)]
    assert overviews(score_tables(replace(results, arms=tuple(arms))))[0].levels == []


def test_the_page_has_the_table_of_all_scores_and_below_it_each(score_results: Make) -> None:
    page = report_html(two_scores(score_results({"a": [1.0, 3.0], "b": [4.0, 6.0]}, []), better="lower"))
    assert page.count('class="overview"') == 1 and page.count('class="scores"') == 2
    assert '<th class="n">reward ↑</th><th class="n">other ↓</th>' in page


def test_the_terminal_shows_all_arms_under_all_scores(score_results: Make) -> None:
    shown = printed(two_scores(score_results({f"arm {i}": [i, i + 1.0] for i in range(30)}, []), better="lower"))
    assert all(re.search(rf"arm {i} +{i}.50* +{i}.50*\s", shown) for i in range(30))
    assert "reward ↑" in shown and "other ↓" in shown and "95 %" not in shown.partition("warning")[0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_of_all_scores_fits_and_folds_no_number(score_results: Make, width: int) -> None:
    results = score_results({"an arm": [-0.00123, -0.00125]}, [])
    score = Score(metric="reward", label="something that is told in many words")
    scores = {f"score {i}": score for i in range(12)}
    shown = printed(replace(results, study=results.study.model_copy(update={"scores": scores})), width)
    lines = shown.partition("warning")[0].splitlines()
    assert max(map(len, lines)) <= width and "in the report: something" in shown
    assert sum("-0.001240" in line for line in lines) == 1


def test_a_gap_is_not_shown_twice(score_results: Make) -> None:
    results = score_results({"a": [1.0, 3.0]}, [])
    for optimum in (0.0, 5.0):
        arms = (replace(results.arms[0], references={"reward": {"optimum": optimum}}),)
        same = replace(results, arms=arms)
        assert ("to optimum" in printed(same)) == ("gap to optimum" in report_html(same)) == bool(optimum)


def test_stages_keep_their_order_and_may_differ_in_length(learning_results: Make) -> None:
    results = replace(learning_results(), chain=True)
    longer = replace(results.arms[0], x={"steps": 2 * results.arms[0].x["steps"]})
    shorter = [replace(arm, x={"steps": arm.x["steps"]}) for arm in results.arms[1:]]
    results = results_from_json(results_to_json(replace(results, arms=(longer, *shorter))))
    table = score_tables(results)[0]
    assert [row.arm.name for row in table.rows] == [arm.name for arm in results.arms]
    assert "unequal budgets" not in "\n".join(warnings_of(results, []))


def test_without_a_score_it_is_said_what_was_recorded(score_results: Make) -> None:
    results = score_results({"a": [1.0, 3.0]}, [])
    results = replace(results, study=results.study.model_copy(update={"scores": {}}))
    assert any("Recorded: reward; name one under `scores`" in found for found in warnings_of(results, []))


def test_tables_are_per_environment(score_results: Make) -> None:
    results = score_results({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}, [])
    environments = [{"name": "walk", "states": 5}, {"name": "walk", "states": 19}, {"name": "bandit"}]
    arms = [replace(arm, spec={"environment": spec}) for arm, spec in zip(results.arms, environments, strict=True)]
    titles = [table.environment for table in score_tables(replace(results, arms=tuple(arms)))]
    assert titles == ["walk(states=5)", "walk(states=19)", "bandit"]


def test_few_arms_are_compared_in_all_pairs_and_many_with_the_first(score_results: Make) -> None:
    noise = np.random.default_rng(0).normal(size=10)
    for count, pairs in ((3, 3), (6, 15), (7, 6)):
        results = score_results({f"arm {i}": noise + i for i in range(count)}, [])
        found = comparisons(score_tables(results)[0], [arm.name for arm in results.arms])
        assert len(found) == pairs
    assert {comparison.second for comparison in found} == {"arm 0"}
    assert all(comparison.separated for comparison in found)


def test_differences_show_only_what_differs(learning_results: Make) -> None:
    paths, rows = differences(learning_results().arms)
    assert paths == ["advantage.lam"]  # `advantage` and `arm` say no more than the name of the arm
    assert rows[2] == ("gae", ["0.95"])


def test_warnings_name_failures_few_seeds_and_unequal_budgets(learning_results: Make) -> None:
    results = learning_results(seeds=4, failed=1)
    longer = replace(results.arms[0], x={"steps": 2 * results.arms[0].x["steps"]})
    shorter = [replace(arm, x={"steps": arm.x["steps"]}) for arm in results.arms[1:]]
    found = "\n".join(warnings_of(replace(results, arms=(longer, *shorter)), []))
    assert "td: 1 of 4 seeds failed" in found
    assert "4 seeds: a 95 % bootstrap interval covers less than 89 %" in found
    assert "unequal budgets" in found
    assert "unequal budgets" not in "\n".join(warnings_of(results, []))  # equal episodes


def test_a_score_that_never_varies_is_pointed_out(score_results: Make) -> None:
    results = score_results({"a": [500.0] * 20}, [])
    assert warnings_of(results, score_tables(results)) == ["reward is the same on every seed: 500 (a)"]


def test_scores_that_never_vary_share_a_line(score_results: Make) -> None:
    arms = {"a": 500.0, "b": 0.0, "c": 500.0, **{f"d{i}": 1.0 for i in range(5)}}
    results = score_results({name: [value] * 20 for name, value in arms.items()}, [])
    (found,) = warnings_of(results, score_tables(results))
    assert found.startswith("reward is the same on every seed: ")
    assert set(found.partition(": ")[2].split("; ")) == {"500 (a, c)", "0 (b)", "1 (5 arms)"}


@pytest.mark.parametrize(("published", "warned"), [(0.0, False), (0.05, False), (0.2, True)])
def test_a_constant_that_a_conclusion_expects_is_no_warning(
    score_results: Make, published: float, warned: bool
) -> None:
    level = {"kind": "level", "statement": "s", "arm": "a", "published": published, "tolerance": 0.1}
    results = score_results({"a": [0.0] * 20, "b": [0.0] * 20}, [level])
    assert bool(warnings_of(results, score_tables(results))) == warned


def test_sweep_lines_are_told_apart_by_series_and_sorted_by_the_parameter(trade_off_results: Make) -> None:
    results = trade_off_results()
    figure = Figure(kind="sweep", x="advantage.n", y="mse", series="critic.error")
    lines = lines_of(results, figure)
    assert [line.label for line in lines] == ["error 0.25", "error 0.5", "error 1", "error 2"]
    assert lines[0].x.tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert lines[3].y[0] == results.arm("n_step error=2.0, n=1").exact["mse"]


def test_frontier_joins_points_along_the_swept_parameter(trade_off_results: Make) -> None:
    lines = lines_of(trade_off_results(), Figure(kind="frontier", x="bias", y="variance"))
    assert len(lines) == 8  # two estimators x four critics
    gae = next(line for line in lines if line.label == "gae, error 2")
    assert gae.marks[0] == "lam 0" and gae.marks[-1] == "lam 1" and (np.diff(gae.x) < 0).all()


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"kind": "curve", "y": "exact_retrun"}, "Did you mean 'exact_return'"),
        ({"kind": "curve", "y": "exact_return", "x": "step"}, "Did you mean 'steps'"),
        ({"kind": "sweep", "y": "final", "x": "advantage.lm"}, "Did you mean 'advantage.lam'"),
        ({"kind": "sweep", "y": "finale", "x": "advantage.lam"}, "Did you mean 'final'"),
        ({"kind": "frontier", "y": "final", "x": "bias"}, "neither a score nor an exact quantity"),
    ],
)
def test_figures_that_name_nothing_are_refused(learning_results: Make, figure: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        report_html(with_figures(learning_results(), figure))


def test_a_study_that_leaves_figures_out_gets_a_learning_curve(learning_results: Make) -> None:
    results = learning_results()
    study = Study.model_validate(results.study.model_dump(exclude={"figures"}))
    results = replace(results, study=study)
    for same in (results, results_from_json(results_to_json(results))):
        page = report_html(same)
        assert page.count("<svg") == 1 and "Exact return over steps" in page


def test_a_curve_of_seeds_that_all_failed_says_so(learning_results: Make) -> None:
    results = learning_results(seeds=2)
    nowhere = {"exact_return": np.full((60, 2), nan)}
    arms = tuple(replace(arm, curves=nowhere, failed=np.ones(2, dtype=bool)) for arm in results.arms)
    results = with_figures(replace(results, arms=arms), {"kind": "curve", "y": "exact_return", "x": "episodes"})
    assert "There is no line: every seed failed before a value was recorded." in report_html(results)


def test_a_study_with_an_empty_list_of_figures_gets_none(learning_results: Make) -> None:
    results = with_figures(learning_results())
    for same in (results, results_from_json(results_to_json(results))):
        page = report_html(same)
        assert "<svg" not in page and "figures: []" in page


def test_a_curve_of_one_point_has_a_marker(score_results: Make) -> None:
    one = with_figures(score_results({"a": [1.0, 2.0]}, []), {"kind": "curve", "y": "reward"})
    twice = {"reward": np.repeat(one.arms[0].curves["reward"], 2, axis=0)}
    two = replace(one, arms=(replace(one.arms[0], x={"steps": np.array([1.0, 2.0])}, curves=twice),))
    marked = [
        re.findall(r"<use [^>]*fill: var\(--s0\); stroke: var\(--paper\)", report_html(results))
        for results in (one, two)
    ]
    assert [len(found) for found in marked] == [1, 0]


def test_a_share_is_called_a_share(score_results: Make) -> None:
    share = {"kind": "share", "statement": "s", "arm": "a", "threshold": 475, "share": 0.8}
    page = report_html(score_results({"a": [500.0, 400.0, 500.0, 500.0, 500.0]}, [share]))
    assert "<small>share of seeds with reward ≥ 475: a</small>" in page


def test_the_side_of_a_bound_is_shown(score_results: Make) -> None:
    bounds = [{"kind": "bound", "statement": "s", "arm": "a", side: 3.0} for side in ("at_least", "at_most")]
    page = report_html(score_results({"a": [1.0, 2.0, 3.0, 4.0, 5.0]}, bounds))
    assert '<td class="n">≥ 3</td>' in page and '<td class="n">≤ 3</td>' in page


def test_an_unfinished_study_has_a_report(learning_results: Make, tmp_path: Path) -> None:
    whole = learning_results()
    only_td = {"kind": "curve", "y": "exact_return", "x": "episodes", "arms": ["td"], "title": "Only td"}
    everything = {"kind": "curve", "y": "exact_return", "x": "episodes", "title": "Everything"}
    results = replace(with_figures(whole, only_td, everything), arms=whole.arms[:2])
    page = write_report(results, tmp_path).read_text()
    assert "arm &#39;td&#39; is not finished" in page
    assert "<h3>Everything</h3>" in page and "<h3>Only td</h3>" not in page


def test_a_study_without_a_finished_arm_has_a_report(learning_results: Make, tmp_path: Path) -> None:
    results = replace(learning_results(), arms=())
    assert "5 undecided" in write_report(results, tmp_path).read_text()
    print_summary(results, Console(file=io.StringIO()))


def test_provenance_shows_plugins_and_what_differed_later(learning_results: Make) -> None:
    results = learning_results()
    plugins = [{"name": "my.py", "distribution": "local", "sha256": "abc"}]
    later = {**results.provenance, "plugins": plugins, "versions": {"torch": "2.14.0"}}
    about = {**results.provenance, "plugins": plugins, "resumed": [later]}
    page = report_html(replace(results, provenance=about))
    assert "<dd>my.py(distribution=local, sha256=abc)</dd>" in page
    assert "<dt>resumed</dt><dd>versions: torch 2.14.0</dd>" in page


def test_many_curves_are_coloured_along_a_parameter(score_results: Make) -> None:
    results = score_results({f"a{i}": [float(i), i + 1.0] for i in range(14)}, [])
    arms = [replace(arm, parameters={"arm": "a", "step_size": i / 10}) for i, arm in enumerate(results.arms)]
    lines = lines_of(replace(results, arms=tuple(arms)), Figure(kind="curve", y="reward"))
    assert [line.label for line in lines][:2] == ["step_size 0", "step_size 0.1"]


def test_log_axes_take_zero(trade_off_results: Make) -> None:
    # the bias of the Monte Carlo return is 0, which a plain logarithmic axis would drop
    figure = {"kind": "frontier", "x": "bias", "y": "variance", "x_log": True, "y_log": True}
    assert "<svg" in report_html(with_figures(trade_off_results(), figure))


def test_terminal_shows_arms_verdicts_and_exact_quantities(learning_results: Make, trade_off_results: Make) -> None:
    shown = []
    for results in (learning_results(), trade_off_results()):
        console = Console(width=140, file=io.StringIO())
        print_summary(results, console)
        shown.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert "exact return ↑" in shown[0] and "on short_corridor" in shown[0]
    assert "not reproduced" in shown[0] and "2 of 20 seeds" in shown[0]
    assert "Exact quantities" in shown[1] and "in the report: 48 arms" in shown[1]


def test_notebook_shows_title_conclusions_and_scores(learning_results: Make) -> None:
    fragment = notebook_html(learning_results())
    assert "Which estimator" in fragment and "not reproduced" in fragment and 'scope="row">gae' in fragment
    assert "<html" not in fragment


def test_an_unwritable_folder_is_a_clear_error(learning_results: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot write"):
        write_report(learning_results(points=3), tmp_path / "file" / "inside")


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        (0.0, "0"),
        (20.0, "20"),
        (-12.004, "-12.00"),
        (0.5, "0.5000"),
        (1234.56, "1235"),
        (99999.6, "100000"),
        (1.5e-7, "1.500e-7"),
        (2.0e9, "2.000e9"),
        (nan, "—"),
        (-inf, "-∞"),
    ],
)
def test_numbers(x: float, shown: str) -> None:
    assert text.number(x) == shown


@pytest.mark.parametrize(("x", "shown"), [(0.5, "0.5"), (100.0, "100"), (1e-12, "1e-12"), (1.5e7, "1.5e7")])
def test_short_numbers(x: float, shown: str) -> None:
    assert text.short(x) == shown


@pytest.mark.parametrize(
    ("x", "shown"),
    [
        ({"name": "gae", "lam": 0.9}, "gae(lam=0.9)"),
        ({"name": "td"}, "td"),
        (None, "none"),
        (True, "true"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_parameter_values(x: Any, shown: str) -> None:
    assert text.value(x) == shown


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        if os.environ.get("RLHF_LAB_REQUIRE_BROWSER") == "1":
            pytest.fail(
                "RLHF_LAB_REQUIRE_BROWSER=1, but chromium or chromedriver is missing: apt-get install chromium-driver"
            )
        pytest.skip("needs Debian's chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1100,900",
    ):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.mark.parametrize("name", ["learning_results", "trade_off_results"])
def test_the_page_opens_in_a_browser(browser: Any, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    results: Results = request.getfixturevalue(name)()
    address = write_report(results, tmp_path).as_uri()
    browser.get_log("performance")  # forget what an earlier page did
    browser.get(address)

    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []

    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(svg => {"
        "const box = svg.getBoundingClientRect(), lines = svg.querySelectorAll('[id*=line2d] path');"
        "return [box.width, box.height, lines.length, svg.querySelector('title').textContent.length]})"
    )
    assert len(sizes) == len(results.study.figures)
    assert all(width > 500 and height > 200 and lines > 3 and title > 0 for width, height, lines, title in sizes)

    verdicts = browser.execute_script(
        "return [...document.querySelectorAll('.conclusions .verdict')].map(mark => mark.textContent)"
    )
    assert verdicts == [finding.verdict for finding in evaluate(results)]
    table = "#scores .scores" if results.study.scores else "#exact details .exact"
    rows = browser.execute_script(f"return document.querySelector('{table}').querySelectorAll('tbody tr').length")
    assert rows == len(results.arms)
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0


def test_a_pattern_with_an_exclamation_mark_leaves_arms_out(learning_results: Make) -> None:
    results = learning_results()
    names = [arm.name for arm in results.arms]
    assert [arm.name for arm in results.matching([f"!{names[0]}"])] == names[1:]
    assert results.matching([names[0], f"!{names[0]}"]) == []
