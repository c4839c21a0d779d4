"""Compiled code and gathers of whole tensors play the same games, bit for bit, and as the tables of the world say."""

from __future__ import annotations

import pytest
import torch

from rlhf_lab_chess import KPK, KRK, Coach, EpsilonOptimal, StepCost
from rlhf_lab_chess.games import Games

ENDINGS = [
    pytest.param(KRK(), id="any position, random answers"),
    pytest.param(KRK(reward=Coach(), gamma=0.9), id="own moves are paid"),
    pytest.param(KRK(board=5, opponent=EpsilonOptimal(epsilon=0.3), mate_in=(1, 4)), id="unlike answers"),
    pytest.param(KPK(), id="promotions", marks=pytest.mark.slow),
]


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(component, shape, limit):
    world = component.world()
    return [Games(world, shape, limit, compiled=compiled) for compiled in (True, False)]


@pytest.mark.parametrize("component", ENDINGS)
def test_compiled_games_are_the_gathered_ones(component):
    compiled, gathered = both(component, (2, 50), limit=6)
    drawn = numbers(30, 2, 50, 3)
    for games in (compiled, gathered):
        games.begin(drawn[0, ..., 2])
    ends = 0
    for step in drawn:
        assert torch.equal(compiled.state, gathered.state)
        assert torch.equal(compiled.age, gathered.age)
        legal = compiled.legal()
        assert torch.equal(legal, gathered.legal())
        actions = (numbers(*legal.shape, seed=1) * legal).argmax(-1)
        played, same = (games.step(actions, step[..., 1]) for games in (compiled, gathered))
        for found, expected in zip(played, same, strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
        ended = played.terminated | played.truncated
        ends += int(ended.sum())
        for games in (compiled, gathered):
            games.begin(step[..., 2], ended)
    assert ends > 100  # every game is cut short after six steps at the latest, 30 / 6 times in 100 places


def test_a_first_position_is_the_first_whose_bound_exceeds_the_number():
    # at the bounds themselves, and at the numbers next to them, where rounding could choose a neighbour
    component = KRK(board=5)
    bounds = component.starts().cumsum(0)
    bounds = bounds[component.starts() > 0][:-1]
    below = torch.nextafter(bounds, bounds.new_zeros(()))
    for games in both(component, tuple(bounds.shape), limit=1):
        games.begin(below)
        before = games.state
        games.begin(bounds)
        possible = component.starts().nonzero()[:, 0]
        assert torch.equal(before, possible[:-1])
        assert torch.equal(games.state, possible[1:])


def test_unlike_chances_of_first_positions_are_kept():
    # the first of two stands three times in four, so that half of [0, 1) is not where the second one begins
    mate, other = "1k2/3R/1K2/4 w - - 0 1", "3k/4/4/KR2 w - - 0 1"
    component = KRK(start=(mate, mate, mate, other))
    states = component.starts().nonzero()[:, 0].tolist()
    chances = component.starts()[states].tolist()
    assert sorted(chances) == [0.25, 0.75]
    due = [states[0] if u < chances[0] else states[1] for u in (0.1, 0.3, 0.6, 0.7, 0.8, 0.99)]
    for games in both(component, (6,), limit=1):
        games.begin(torch.tensor([0.1, 0.3, 0.6, 0.7, 0.8, 0.99], dtype=torch.float64))
        assert games.state.tolist() == due


@pytest.mark.parametrize("compiled", [True, False])
def test_what_a_step_returned_is_not_written_over(compiled):
    games = Games(KRK(reward=StepCost()).world(), (40,), 50, compiled=compiled)
    games.begin(numbers(40))
    first = games.state
    kept = first.clone()
    played = games.step(games.legal().byte().argmax(-1), numbers(40, seed=1))
    behind = played.states.clone()
    games.begin(numbers(40, seed=2))
    assert torch.equal(first, kept)
    assert torch.equal(played.states, behind)


@pytest.mark.parametrize("compiled", [True, False])
def test_games_beside_share_the_tables_and_nothing_else(compiled):
    games = Games(KRK().world(), (3,), 50, compiled=compiled)
    games.begin(numbers(3))
    kept = games.state.clone()
    other = games.beside((2, 4))
    other.begin(numbers(2, 4))
    assert other.state.shape == (2, 4)
    assert torch.equal(games.state, kept)
