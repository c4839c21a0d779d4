"""What a user reads from results in Python: a table for pandas and a fragment for a notebook."""

import numpy as np
import pandas as pd
import pytest

from rlhf_lab.study.results import USUAL_SCORES, ArmResult, Results, scored, selected, shared_scores, study_to_plain
from rlhf_lab.study.schema import Study

CURVES = ArmResult(
    name="learns",
    spec={"environment": {"name": "bandit"}},
    parameters={"arm": "learns"},
    seeds=(3, 5),
    x={"iteration": np.array([1.0, 2.0]), "steps": np.array([10.0, 20.0])},
    curves={"reward": np.array([[0.0, 1.0], [2.0, np.nan]])},  # [points, seeds]
)
EXACT = ArmResult(
    name="exact",
    spec={"environment": {"name": "bandit"}},
    parameters={"arm": "exact"},
    seeds=(0,),
    exact={"bias": 0.25},
)
STUDY = Study.model_validate(
    {
        "title": "Two <arms>",
        "spec": {"environment": "bandit"},
        "arms": {"learns": {}, "exact": {}},
        "scores": {"last": {"metric": "reward"}},
        "conclusions": [
            {
                "kind": "level",
                "statement": "The bias is a quarter",
                "arm": "exact",
                "quantity": "bias",
                "published": 0.25,
                "tolerance": 0.01,
            }
        ],
    }
)
RESULTS = Results("two", STUDY, (CURVES, EXACT), {})


def test_pandas_has_a_row_per_seed_and_point_and_one_per_exact_quantity() -> None:
    found = RESULTS.to_pandas()
    due = pd.DataFrame(
        {
            "arm": ["learns"] * 4 + ["exact"],
            "seed": pd.array([3, 5, 3, 5, None], dtype="Int64"),
            "metric": ["reward"] * 4 + ["bias"],
            "iteration": [1.0, 1.0, 2.0, 2.0, np.nan],
            "steps": [10.0, 10.0, 20.0, 20.0, np.nan],
            "value": [0.0, 1.0, 2.0, np.nan, 0.25],
        }
    )
    pd.testing.assert_frame_equal(found, due)


def test_pandas_groups_by_seed() -> None:
    frame = RESULTS.to_pandas().query("metric == 'reward'")
    assert frame.groupby("seed")["value"].mean().to_dict() == {3: 1.0, 5: 1.0}  # (0 + 2) / 2; the NaN does not count


@pytest.mark.parametrize("arms", [(), (ArmResult("none", {}, {}, (0,)),)])
def test_pandas_of_nothing_has_the_columns(arms: tuple[ArmResult, ...]) -> None:
    found = Results("none", STUDY, arms, {}).to_pandas()
    assert list(found.columns) == ["arm", "seed", "metric", "value"] and len(found) == 0


def test_a_notebook_shows_title_verdict_and_scores() -> None:
    shown = RESULTS._repr_html_()
    assert "<h3>Two &lt;arms&gt;</h3>" in shown and "<html" not in shown
    assert '<span class="verdict reproduced">reproduced</span>' in shown and "The bias is a quarter" in shown
    assert '<th scope="row">learns</th>' in shown and '<th scope="row">exact</th>' not in shown  # which has no score


def test_scores_are_paired_by_seed_whatever_the_order() -> None:
    first = ArmResult("first", {}, {}, (0, 1, 2))
    second = ArmResult("second", {}, {}, (2, 0, 7))
    scores = {"first": np.array([10.0, 11.0, 12.0]), "second": np.array([22.0, 20.0, 27.0])}
    found = shared_scores((first, second), lambda arm: scores[arm.name])
    assert [paired.tolist() for paired in found] == [[10.0, 12.0], [20.0, 22.0]]  # seeds 0 and 2


def test_arms_without_a_shared_seed_have_no_pair() -> None:
    arms = ArmResult("first", {}, {}, (0,)), ArmResult("second", {}, {}, (1,))
    assert [len(paired) for paired in shared_scores(arms, lambda arm: np.array([1.0]))] == [0, 0]


def test_names_are_selected_by_patterns_in_their_own_order() -> None:
    names = ["td lr=1", "gae lr=1", "gae lr=2"]
    assert selected(names, ["*lr=1"]) == ["td lr=1", "gae lr=1"]
    assert selected(names, ["!gae*"]) == ["td lr=1"] == selected(names, ["*", "!gae*"])


@pytest.mark.parametrize("metric", ["objective_gap", "true_gain", "chosen_gain", "accuracy", "regret"])
def test_a_study_without_scores_has_the_usual_ones_of_what_it_measures(metric: str) -> None:
    arm = ArmResult("a", {}, {}, (0,), curves={metric: np.zeros((1, 1)), "loss": np.zeros((1, 1))})
    found = scored(Study(title="t", spec={}), [arm]).scores
    assert {name: score.better for name, score in found.items()} == {metric: USUAL_SCORES[metric]}


def test_an_interrupted_study_knows_which_arms_it_lacks() -> None:
    results = Results("two", STUDY, (EXACT,), {"arms": ["learns", "exact"]})
    assert results.names == ["learns", "exact"] and results.unfinished == ["learns"]
    assert RESULTS.names == ["learns", "exact"] and RESULTS.unfinished == []


@pytest.mark.parametrize("figures", [{}, {"figures": []}])
def test_a_study_is_read_back_with_its_figures_left_out_or_empty(figures: dict[str, list[str]]) -> None:
    study = Study.model_validate({"title": "t", "spec": {}, **figures})
    back = Study.model_validate(study_to_plain(study))
    assert back == study and ("figures" in back.model_fields_set) == bool("figures" in figures)
