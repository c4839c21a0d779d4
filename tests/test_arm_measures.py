"""Arms that are measured in their own way beside others: one that is known exactly only has no curve and no score."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from rlhf_lab import compare
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.schema import json_schema
from rlhf_lab.study.api import make_study
from rlhf_lab.study.conclusions import evaluate
from rlhf_lab.study.edit import edit_study, study_yaml
from rlhf_lab.study.plan import Plan, make_plan
from rlhf_lab.study.report.page import report_html
from rlhf_lab.study.report.tables import comparisons, overviews, score_tables, warnings_of
from rlhf_lab.study.report.terminal import print_summary
from rlhf_lab.study.results_json import results_from_json, results_to_json
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store

REGISTRY = load_plugins()
BANDIT: dict[str, Any] = {
    "environment": {"name": "bandit", "arms": 3},
    "policy": {"name": "tabular_softmax", "critic": False},
    "trainer": {"name": "online", "envs": 4, "steps": 1},
    "advantage": "monte_carlo",
    "objective": "reinforce",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "budget": {"iterations": 3},
}
BIG = {"environment": {"name": "bandit", "arms": 30}, "budget.iterations": 10**9, "measure": ["exact_values"]}
ARMS: dict[str, Any] = {"big": BIG, "slow": {"optimizer.lr": 0.1}, "fast": {}}
ORDER = {"kind": "order", "statement": "s", "better": "fast", "worse": "slow"}
SCORES = {"final": {"metric": "exact_return"}, "reward": {"metric": "episode_return"}}


def study(**changes: Any) -> dict[str, Any]:
    return {"title": "t", "spec": BANDIT, "arms": ARMS, "seeds": 5} | changes


def plan(**changes: Any) -> Plan:
    return make_plan(make_study(study(**changes), {}), REGISTRY)


def refusal(**changes: Any) -> str:
    """Return why a study is refused before anything runs."""
    with pytest.raises(LabError) as refused:
        plan(**changes)
    return str(refused.value)


def test_an_arm_s_own_measures_stand_in_place_of_the_study_s() -> None:
    results = compare(study())
    big, slow, fast = results.arms
    assert big.exact["states"] == 1 and not big.curves and not big.weights
    assert not slow.exact and not fast.exact
    alone = compare(study(arms={"fast": {}})).arms[0]
    assert fast.curves.keys() == alone.curves.keys()
    np.testing.assert_array_equal(fast.curve("exact_return"), alone.curve("exact_return"))
    assert "measure" not in {**big.parameters, **big.spec}


def test_an_arm_may_measure_more_than_the_study() -> None:
    found = compare(study(arms={"both": {"measure": ["learning_curve", "regret", "exact_values"]}, "fast": {}}))
    both, fast = found.arms
    assert both.exact and "regret" in both.curves
    assert not fast.exact and "regret" not in fast.curves


def test_scores_tables_and_comparisons_are_those_of_the_arms_with_curves() -> None:
    results = compare(study(scores=SCORES))
    tables = score_tables(results)
    assert [(table.name, [row.arm.name for row in table.rows]) for table in tables] == [
        ("final", ["fast", "slow"]),
        ("reward", ["fast", "slow"]),
    ]
    assert [name for name, _ in overviews(tables)[0].rows] == ["fast", "slow"]
    assert [(pair.first, pair.second) for pair in comparisons(tables[0], ["big", "slow", "fast"])] == [("slow", "fast")]
    assert set(results.to_pandas().query("arm == 'big'")["metric"]) == set(results.arm("big").exact)


def test_the_usual_scores_are_those_of_the_arms_with_curves() -> None:
    assert "exact_return" in compare(study()).study.scores


def test_pages_and_terminal_show_both_kinds_of_arms() -> None:
    conclusions = [
        ORDER,
        {"kind": "level", "statement": "s", "arm": "big", "quantity": "states", "published": 1, "tolerance": 0.1},
        {"kind": "best", "statement": "s", "among": ["!big"], "expected": "fast"},
    ]
    figures = [{"kind": "curve", "y": "exact_return"}, {"kind": "sweep", "y": "final", "x": "optimizer.lr"}]
    results = compare(study(scores=SCORES, conclusions=conclusions, figures=figures))
    assert [finding.n for finding in evaluate(results)] == [5, "exact", 5]
    page = report_html(results)
    assert page.count("<figure") == 2 and "initial value" in page
    with io.StringIO() as text:
        print_summary(results, Console(file=text, width=150))
        assert "big" in text.getvalue()
    text = results_to_json(results)
    assert results_to_json(results_from_json(text)) == text
    assert not any("big" in warning for warning in warnings_of(results, score_tables(results)))


@pytest.mark.parametrize(("iterations", "warned"), [(3, False), (6, True)])
def test_budgets_are_those_of_the_arms_that_train(iterations: int, warned: bool) -> None:
    results = compare(study(arms={"fast": {}, "big": BIG, "long": {"budget.iterations": iterations}}))
    found = warnings_of(results, score_tables(results))
    assert any("unequal budgets: arms used between" in warning for warning in found) == warned


def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = compare(study(scores=SCORES), out=tmp_path)
    for name in ("fast", "big"):
        (tmp_path / "arms" / f"{name}.safetensors").unlink()
        assert name in Store(tmp_path).results().unfinished
        report_html(Store(tmp_path).results())
        again = compare(study(scores=SCORES), out=tmp_path)
        assert again.arm("big").exact == whole.arm("big").exact
        np.testing.assert_array_equal(again.arm("fast").curve("exact_return"), whole.arm("fast").curve("exact_return"))
    other = study(scores=SCORES, arms=ARMS | {"big": BIG | {"measure": ["estimator_error"]}})
    with pytest.raises(LabError, match=r"holds another study \(study.arms.big.measure differs\)"):
        compare(other, out=tmp_path)


def test_a_saved_study_measures_the_same() -> None:
    before = make_study(study(), {})
    after = make_plan(Study.model_validate_json(before.model_dump_json()), REGISTRY)
    assert [arm.measure for arm in after.arms] == [{"exact_values"}, {"learning_curve"}, {"learning_curve"}]


def test_a_grid_crosses_arms_with_their_own_measures() -> None:
    found = plan(grid={"gamma": [0.5, 0.9]}).arms
    assert [(arm.name, *arm.measure) for arm in found][:3] == [
        ("big gamma=0.5", "exact_values"),
        ("big gamma=0.9", "exact_values"),
        ("slow gamma=0.5", "learning_curve"),
    ]


def edited(*settings: str, added: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    return edit_study(study(**changes), REGISTRY, arms=list(added), settings=list(settings), seeds=None)


def test_the_command_line_changes_what_arms_measure() -> None:
    found = edited("measure=[regret]", "arms.slow.measure=[exact_values]", added=("total_return",))
    arms = make_plan(make_study(found, {}), REGISTRY).arms
    assert [set(arm.measure) for arm in arms] == [{"exact_values"}, {"exact_values"}, {"regret"}, {"regret"}]
    assert yaml.safe_load(study_yaml(found)) == found


def test_a_setting_of_measures_that_no_arm_takes_is_refused() -> None:
    with pytest.raises(LabError, match="changes nothing, because every arm has its own measure"):
        edited("measure=[regret]", arms={"big": BIG})


def test_the_schema_of_a_study_knows_an_arm_s_measures() -> None:
    arm = json_schema(REGISTRY, "study")["properties"]["arms"]["additionalProperties"]["properties"]
    assert arm["measure"]["type"] == "array" and arm["measure"]["minItems"] == 1


# ---- what is refused, before anything runs


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (["regrets"], "arms.x.measure: 'regrets' is unknown. Possible: learning_curve, "),
        ([["regret"]], "arms.x.measure: ['regret'] is unknown. Possible: "),
        ([], "arms.x.measure: expected a list of measures, found []"),
        ("regret", "arms.x.measure: expected a list of measures, found 'regret'"),
        (None, "arms.x.measure: expected a list of measures, found None"),
    ],
)
def test_what_is_no_list_of_measures_is_refused(measure: Any, says: str) -> None:
    assert refusal(arms={"x": {"measure": measure}}).startswith(says)


def test_a_wrong_measure_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(study(arms={"x": {"measure": ["regrets"]}}), sort_keys=False), encoding="utf-8")
    line = path.read_text(encoding="utf-8").splitlines().index("    measure:") + 1
    with pytest.raises(LabError, match=rf"mine.yaml:{line}:\d+: arms.x.measure: 'regrets' is unknown"):
        compare(path)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ({"stages": {"a": {}, "b": {}}}, "stages: nothing that is measured here looks at a trained policy"),
        ({"exact.horizon": 3}, "exact: nothing here is measured exactly"),
    ],
)
def test_what_an_arm_s_measures_do_not_read_is_refused(arm: dict[str, Any], says: str) -> None:
    assert refusal(arms={"big": BIG | arm, "fast": {}}).startswith(f"arm 'big': {says}")


def test_an_arm_that_measures_a_curve_needs_a_trainer() -> None:
    spec = {name: part for name, part in BANDIT.items() if name in ("environment", "policy")}
    more = {"spec": spec, "measure": ["exact_values"]}
    assert plan(**more, arms={"big": {}}).arms
    says = refusal(**more, arms={"big": {}, "x": {"measure": ["regret"]}})
    assert says == "arm 'x': spec.trainer: what the study measures needs one; add `trainer: NAME`"


def test_common_exact_settings_are_read_by_some_arm() -> None:
    spec = BANDIT | {"exact": {"horizon": 1}}
    assert plan(spec=spec, arms={"big": BIG, "judged": {"measure": ["gradient_along"]}}).arms
    assert "exact: nothing here is measured exactly" in refusal(spec=spec)


ASKED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "order", "statement": "s", "better": "fast", "worse": "big"}, "'final' of arm 'big'"),
    ({"kind": "best", "statement": "s", "expected": "fast", "quantity": "reward"}, "'reward' of arm 'big'"),
    ({"kind": "level", "statement": "s", "arm": "big", "published": 0, "tolerance": 1}, "'final' of arm 'big'"),
    (
        {"kind": "form", "statement": "s", "arm": "big", "y": "loss", "x": "regret", "form": "d (a - b d)"},
        "'loss' of arm 'big'",
    ),
]


@pytest.mark.parametrize(("conclusion", "asks"), ASKED)
def test_a_conclusion_that_asks_an_arm_without_curves_for_a_score_is_refused(
    conclusion: dict[str, Any], asks: str
) -> None:
    assert refusal(scores=SCORES, conclusions=[ORDER, conclusion]) == (
        f"conclusion 2 asks for {asks}, which has no curve: of it only exact quantities are measured. Name one, or let "
        "the arm `measure` more"
    )


@pytest.mark.parametrize("quantity", [None, "exact_return"])
def test_so_is_one_that_asks_it_for_a_usual_score(quantity: str | None) -> None:
    level = {"kind": "level", "statement": "s", "arm": "big", "published": 0, "tolerance": 1, "quantity": quantity}
    assert "conclusion 1 asks for 'exact_return' of arm 'big', which has no curve" in refusal(conclusions=[level])


@pytest.mark.parametrize(
    "figure",
    [
        {"kind": "curve", "y": "exact_return"},
        {"kind": "sweep", "y": "final", "x": "optimizer.lr"},
        {"kind": "frontier", "y": "states", "x": "final"},
    ],
)
def test_a_figure_of_scores_needs_an_arm_with_curves(figure: dict[str, Any]) -> None:
    assert plan(scores=SCORES, figures=[figure]).arms
    says = refusal(scores=SCORES, figures=[figure | {"arms": ["big"]}])
    assert "of arm 'big', which has no curve" in says


def test_a_quantity_that_an_arm_lacks_is_refused_when_such_an_arm_has_run() -> None:
    level = {"kind": "level", "statement": "s", "published": 0, "tolerance": 1}
    asked = [level | {"arm": "fast", "quantity": "states"}]
    with pytest.raises(LabError, match="asks for 'states', which is neither a score nor an exact quantity"):
        compare(study(scores=SCORES, conclusions=asked))
    asked = [level | {"arm": "big", "quantity": "statse"}]
    with pytest.raises(LabError, match=r"asks for 'statse'.*Did you mean 'states'"):
        compare(study(scores=SCORES, conclusions=asked))
    with pytest.raises(LabError, match="figure 1 shows 'exact_retrun', which arm 'slow' does not record"):
        compare(study(figures=[{"kind": "curve", "y": "exact_retrun"}]))
