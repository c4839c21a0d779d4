"""Cases are drawn independently of each other, the plainest first."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import strategies as st

from rlhf_lab.conformance.search import draw
from rlhf_lab.conformance.strategies import estimated


@pytest.mark.parametrize("start", range(3))
def test_every_kind_of_case_is_among_a_hundred(start: int) -> None:
    # Each is due in one of five: fewer than 8 of 100 has a chance below 0.1 %.
    spreads = [x[0] for case in draw(estimated(), 100, start) if (x := _spread(case))]
    assert sum(spread == 0 for spread in spreads) >= 8
    assert sum(0 < spread < 0.01 for spread in spreads) >= 8


def _spread(case: object) -> list[float]:
    kept = case.advantages[case.valid]  # type: ignore[attr-defined]
    return [float(kept.max() - kept.min())] if len(kept) else []


def test_the_plainest_comes_first_and_the_same_start_gives_the_same() -> None:
    numbers = st.integers(0, 10**6)
    found = draw(numbers, 30, 0)
    draw.cache_clear()
    assert found == draw(numbers, 30, 0) != draw(numbers, 30, 1)
    assert found[0] == 0 and len(set(found)) > 20


def test_cases_too_large_to_be_drawn_together_are_drawn_alone() -> None:
    # 3000 bytes are allowed, ten times as many are not
    assert len(set(draw(st.binary(min_size=3000, max_size=3000), 12, 0))) == 12


def test_a_strategy_of_one_value_gives_it_each_time() -> None:
    assert draw(st.just(3), 12, 0) == [3] * 12


def test_cases_do_not_depend_on_what_else_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Hypothesis draws one number in twenty from the constants of local modules
    strategy = st.integers(0, 10**6)
    before = draw.__wrapped__(strategy, 100, 0)
    (tmp_path / "full_of_numbers.py").write_text(f"NUMBERS = {list(range(1000, 1999))}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("full_of_numbers")
    assert draw.__wrapped__(strategy, 100, 0) == before
