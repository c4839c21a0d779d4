"""The Bradley-Terry loss, summed over the games of a season, has its minimum at the published strengths (F18)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def baseball(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("baseball")


def test_every_two_teams_met_13_times(baseball: ModuleType) -> None:
    games = torch.zeros(7, 7, dtype=torch.float64)
    for winner, loser, _, count in baseball.season().tolist():
        games[int(winner), int(loser)] += count
    met = games + games.T
    assert met[~torch.eye(7, dtype=torch.bool)].tolist() == [13.0] * 42


@pytest.mark.parametrize("home", [False, True])
def test_strengths_are_the_published_ones(baseball: ModuleType, home: bool) -> None:
    published = baseball.PUBLISHED_HOME if home else baseball.PUBLISHED
    assert [round(x, 4) for x in baseball.fit(home=home).tolist()] == list(published)


def test_expected_wins_are_the_wins(baseball: ModuleType) -> None:
    # At the maximum of the likelihood each team is expected to win as many games as it did.
    strengths, games = baseball.fit(), baseball.season()
    won, expected = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for winner, loser, _, count in games.tolist():
        first, second = int(winner), int(loser)
        chance = float(torch.sigmoid(strengths[first] - strengths[second]))
        won[first] += count
        expected[first] += count * chance
        expected[second] += count * (1 - chance)
    torch.testing.assert_close(expected, won, atol=1e-9, rtol=0)
