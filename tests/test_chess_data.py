"""Records to learn from: labels of the known distribution, ties, ragged rows, and who played."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab_chess import KRK, ChessRecords, OptimalDefence
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.players import move_worths
from rlhf_lab_chess.states import read_move, read_state

# K b1, R a1, k d4 on 4 x 4: seven moves, of which best play mates in 2, 3, 4, 5 and three times in 6
FEN = "3k/4/4/RK2 w - - 0 1"
POSITION = KRK(board=4, gamma=0.9, start=(FEN,), max_steps=1)
SMALL = KRK(board=4, gamma=0.9)


def records(environment: EndingEnvironment, seeds: tuple[int, ...] = (0,), **options: Any) -> Candidates:
    streams = Streams(seeds)
    built = environment.build(len(seeds), 1, streams["environment"])
    return ChessRecords(**options).build(built, None, streams["data"])  # type: ignore[arg-type]


def worth(candidates: Candidates, environment: EndingEnvironment) -> Tensor:
    """u of each move, [runs, rows, k]."""
    table = torch.from_numpy(move_worths(environment.ending()))
    return table[candidates.inputs["prompts"][..., None], candidates.inputs["tokens"][..., 0]]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- the distribution of labels


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_pairs_are_of_bradley_and_terry(temperature):
    # i above j with probability σ((u_i - u_j) / T), in each pair of the seven moves
    found = records(POSITION, (0, 1), rows=20_000, strength=0.0, temperature=temperature)
    first, second = found.inputs["tokens"][..., 0].flatten(0, 1).unbind(-1)
    state = int(found.inputs["prompts"][0, 0])
    u = move_worths(POSITION.ending())[state]
    moves = sorted(set(first.tolist()))
    assert len(moves) == 7
    chi = 0.0
    for i, j in itertools.combinations(moves, 2):
        above, below = (int(((first == a) & (second == b)).sum()) for a, b in ((i, j), (j, i)))
        p = 1 / (1 + math.exp(-(u[i] - u[j]) / temperature))
        n = above + below
        assert n > 1500  # each of the 21 pairs stands in 1,905 of 40,000 rows on the mean
        chi += (above - n * p) ** 2 / (n * p * (1 - p))
    assert chi < 44  # of 21 degrees of freedom: one in 400 is above


@pytest.mark.parametrize("utility", ["moves_to_mate", "value"])
def test_rankings_are_of_plackett_and_luce(utility):
    # P(a, b, c) = w_a / (w_a + w_b + w_c) · w_b / (w_b + w_c) with w = exp(u / T)
    temperature = 2.0 if utility == "moves_to_mate" else 0.2
    found = records(POSITION, rows=40_000, strength=0.0, candidates=3, temperature=temperature, utility=utility)
    state = int(found.inputs["prompts"][0, 0])
    mates = torch.from_numpy(move_worths(POSITION.ending()))
    u = mates if utility == "moves_to_mate" else POSITION.world().optimal_action_values()
    weights = (u[state] / temperature).exp()
    seen: dict[tuple[int, ...], int] = {}
    for row in found.inputs["tokens"][0, ..., 0].tolist():
        seen[tuple(row)] = seen.get(tuple(row), 0) + 1
    moves = sorted({move for row in seen for move in row})
    assert len(moves) == 7
    chi, cells = 0.0, 0
    for chosen in itertools.combinations(moves, 3):
        n = sum(seen.get(order, 0) for order in itertools.permutations(chosen))
        for a, b, c in itertools.permutations(chosen):
            wa, wb, wc = (float(weights[move]) for move in (a, b, c))
            due = n * wa / (wa + wb + wc) * wb / (wb + wc)
            if due > 5:
                chi += (seen.get((a, b, c), 0) - due) ** 2 / due
                cells += 1
    assert cells > 100
    assert chi < cells + 3 * math.sqrt(2 * cells)


def test_the_move_that_was_played_stands_beside_others_of_equal_probability():
    # a strong player plays Kc2, mate in 2; each of the other six is beside it in a sixth of the rows
    found = records(POSITION, rows=12_000, strength=50.0)
    u = worth(found, POSITION)
    played = u == -2
    assert played.any(-1).all()
    others = found.inputs["tokens"][..., 0][~played]
    counts = others.unique(return_counts=True)[1]
    assert len(counts) == 6
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 16.7  # of 5 degrees of freedom: one in 200 is above


@pytest.mark.parametrize("utility", ["moves_to_mate", "value"])
def test_at_temperature_zero_equally_good_moves_are_tied(utility):
    found = records(SMALL, (0, 1), rows=500, candidates=4, temperature=0, utility=utility)
    seen = worth(found, SMALL)
    if utility == "value":
        table = SMALL.world().optimal_action_values()
        seen = table[found.inputs["prompts"][..., None], found.inputs["tokens"][..., 0]]
    assert found.ranks is not None
    assert not found.ranks[..., 0].any()
    steps = seen.diff(dim=-1)
    assert (steps < 1e-12).all()
    assert torch.equal(found.ranks.diff(dim=-1), (steps < -1e-12).long())
    assert (found.ranks.diff(dim=-1) == 0).any()


def test_tied_moves_stand_in_any_order():
    # Ka2 was played, mate in 6 as behind Ra2 and Ra4: beside one of these it comes first in half of the rows
    Path("games.txt").write_text(f"{FEN}; b1a2; *\n" * 3000, encoding="utf-8")
    found = records(POSITION, rows=3000, path="games.txt", temperature=0)
    tied = (worth(found, POSITION) == -6).all(-1)[0]
    ending = POSITION.ending()
    played = read_move(ending, read_state(ending, FEN)[0], "b1a2")
    first = found.inputs["tokens"][0, tied, 0, 0] == played
    assert 900 < len(first) < 1100  # two of six others
    assert abs(float(first.double().mean()) - 0.5) < 3 * 0.5 / math.sqrt(len(first))


@pytest.mark.parametrize("utility", ["moves_to_mate", "value"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_distinct_moves_are_never_equally_good(utility, temperature):
    found = records(SMALL, rows=500, candidates=5, temperature=temperature, utility=utility, distinct=True)
    table = SMALL.world().optimal_action_values() if utility == "value" else None
    seen = worth(found, SMALL)
    if table is not None:
        seen = table[found.inputs["prompts"][..., None], found.inputs["tokens"][..., 0]]
    valid = torch.ones_like(found.lengths, dtype=torch.bool) if found.valid is None else found.valid
    apart = (seen[..., :, None] - seen[..., None, :]).abs() > 1e-12
    both = valid[..., :, None] & valid[..., None, :]
    assert (apart | ~both | torch.eye(5, dtype=torch.bool)).all()
    # as many as there are, and the one that was played among them: at least one is valid
    assert valid[..., 0].all()
    world = torch.from_numpy(move_worths(SMALL.ending())) if table is None else table.round(decimals=12)
    for row, state in enumerate(found.inputs["prompts"][0].tolist()):
        there = world[state][world[state].isfinite()].unique()
        assert int(valid[0, row].sum()) == min(5, len(there))


def test_of_equally_good_moves_the_one_that_was_played_stays():
    # with the random player each of the three that mate in 6 is played as often; a row holds at most one of them
    found = records(POSITION, rows=3000, strength=0.0, candidates=7, distinct=True)
    assert found.valid is not None
    sixes = (worth(found, POSITION) == -6) & found.valid
    assert (sixes.sum(-1) == 1).all()
    assert (found.valid.sum(-1) == 5).all()
    counts = found.inputs["tokens"][..., 0][sixes].unique(return_counts=True)[1]
    assert len(counts) == 3
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 10.6  # of 2 degrees of freedom: one in 200 is above


def test_positions_with_fewer_moves_give_shorter_rows():
    found = records(SMALL, (0, 1), rows=300, candidates=9)
    legal = SMALL.world().legal
    states, slots = found.inputs["prompts"], found.inputs["tokens"][..., 0]
    assert found.valid is not None
    assert torch.equal(found.valid.sum(-1), legal[states].sum(-1).clamp(max=9))
    assert legal[states[..., None], slots].all()  # a legal move stands where there is none, so that nothing is infinite
    assert torch.equal(found.valid, found.valid.sort(-1, descending=True)[0])
    for row, valid in zip(slots.flatten(0, 1).tolist(), found.valid.flatten(0, 1).tolist(), strict=True):
        real = [slot for slot, there in zip(row, valid, strict=True) if there]
        assert len(set(real)) == len(real)


def test_no_more_moves_are_ranked_than_an_ending_has():
    found = records(SMALL, rows=50, candidates=100)
    assert found.lengths.shape == (1, 50, SMALL.ending().moves.shape[1])


# ---- players and runs


def test_a_seed_s_records_are_the_same_whatever_stands_beside_them():
    options = {"rows": 100, "candidates": 3, "strength": (0.0, 2.0)}
    together, alone = records(SMALL, (1, 2, 3), **options), records(SMALL, (2,), **options)
    for name, x in together.inputs.items():
        assert torch.equal(x[1], alone.inputs[name][0])
    assert not torch.equal(together.inputs["prompts"][0], together.inputs["prompts"][1])


def test_records_of_stronger_players_hold_better_moves():
    against = SMALL.model_copy(update={"opponent": OptimalDefence()})
    table = torch.from_numpy(move_worths(SMALL.ending()))
    losses = []
    for strength in (-1.0, 0.0, 1.0, 4.0, 20.0):
        found = records(against, rows=1000, form="played", strength=strength)
        best = table[found.inputs["prompts"]].amax(-1)
        losses.append(float((best - worth(found, against)[..., 0]).mean()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


def test_players_of_several_strengths_have_equal_shares():
    against = SMALL.model_copy(update={"opponent": OptimalDefence()})
    found = records(against, rows=999, form="played", strength=(20.0, 0.0))
    table = torch.from_numpy(move_worths(SMALL.ending()))
    lost = table[found.inputs["prompts"]].amax(-1) - worth(found, against)[..., 0]
    assert float(lost[:, ::2].max()) < 1e-6  # the strong one's rows come first and then every other
    assert float(lost[:, 1::2].mean()) > 0.5
    assert found.lengths.shape == (1, 999, 1)
    assert found.ranks is None
