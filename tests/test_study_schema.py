"""What the schema of a study refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_lab.errors import LabError
from rlhf_lab.study.api import make_study
from rlhf_lab.study.schema import Study

INF, NAN = float("inf"), float("nan")


def refusal(**changes: Any) -> str:
    with pytest.raises(LabError) as refused:
        make_study({"title": "t", "spec": {}, **changes}, {})
    return str(refused.value)


@pytest.mark.parametrize("window", [[0.5, 0.5], [0.9, 0.1], [-0.1, 0.5], [0.5, 1.1]])
def test_a_window_is_a_part_of_the_curve(window: list[float]) -> None:
    message = refusal(scores={"final": {"metric": "m", "at": "window", "window": window}})
    low, high = window
    assert message == f"scores.final: window: expected fractions 0 <= low < high <= 1, found [{low:g}, {high:g}]"


@pytest.mark.parametrize("at", ["last", "first", "mean"])
def test_a_window_that_nothing_reads_is_refused(at: str) -> None:
    message = refusal(scores={"final": {"metric": "m", "at": at, "window": [0.0, 0.5]}})
    assert message == f"scores.final: window: at: {at} does not read it; write at: window, or leave window out"


def test_a_saved_study_is_a_study() -> None:
    # saved with every default, also the window of a score that does not read it
    study = make_study({"title": "t", "spec": {}, "scores": {"final": {"metric": "m"}}}, {})
    assert Study.model_validate_json(study.model_dump_json()) == study


@pytest.mark.parametrize("seeds", [True, 1.0, 0, 100_001, "5", None, [True], [1.0], [-1], [2**32], [0, "1"]])
def test_seeds_are_a_count_or_a_list_of_whole_numbers(seeds: Any) -> None:
    expected = "expected how many (1 to 100000) or a list of seeds from 0 to 2^32 - 1"
    assert refusal(seeds=seeds) == f"seeds: {expected}, found {seeds!r}"


@pytest.mark.parametrize("seeds", [[], [3, 3]])
def test_a_list_of_seeds_names_each_once(seeds: list[int]) -> None:
    assert refusal(seeds=seeds) == "seeds: the list must name each seed once and at least one"


@pytest.mark.parametrize("number", [INF, -INF, NAN])
@pytest.mark.parametrize(
    ("conclusion", "key"),
    [
        ({"kind": "level", "arm": "base", "tolerance": 1.0}, "published"),
        ({"kind": "level", "arm": "base", "published": 1.0}, "tolerance"),
        ({"kind": "share", "arm": "base", "share": 0.5}, "threshold"),
        ({"kind": "share", "arm": "base", "threshold": 1.0}, "share"),
    ],
)
def test_published_figures_are_finite(conclusion: dict[str, Any], key: str, number: float) -> None:
    message = refusal(conclusions=[{"statement": "s", **conclusion, key: number}])
    assert message.startswith(f"conclusions.0.{conclusion['kind']}.{key}: Input should be ")
    assert message.endswith(f"found {number!r}")


@pytest.mark.parametrize("bounds", [{}, {"at_least": 0.0, "at_most": 1.0}])
def test_a_bound_is_on_one_side(bounds: dict[str, float]) -> None:
    message = refusal(conclusions=[{"kind": "bound", "statement": "s", "arm": "base", **bounds}])
    assert message == "conclusions.0.bound: give exactly one of at_least and at_most"


def test_a_known_level_is_finite() -> None:
    message = refusal(references={"exact_return": {"optimum": NAN}})
    assert message == "references.exact_return.optimum: Input should be a finite number, found nan"


def test_an_order_is_of_two_arms() -> None:
    message = refusal(conclusions=[{"kind": "order", "statement": "s", "better": "a", "worse": "a"}])
    assert message == "conclusions.0.order: better and worse are the same arm, 'a'; name two"
