"""Endings as exact worlds: known means, the plain rules solved as a dense system, distances to mate, differences."""

from __future__ import annotations

import numpy as np
import plain_endings
import pytest
import torch
from torch import Tensor

from rlhf_lab.worlds import TurnWorld
from rlhf_lab_chess import KPK, KQK, KRK, OptimalDefence
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.games import Games
from rlhf_lab_chess.states import write_state

GAMMA = 0.99


@pytest.mark.parametrize(
    ("environment", "mean"),
    [(KQK(board=4), 0.0903), (KRK(board=4), 0.0673), (KRK(board=5), 0.0332), (KRK(board=6), 0.0190)],
    ids=["KQK 4", "KRK 4", "KRK 5", "KRK 6"],
)
def test_what_random_play_is_worth(environment, mean):
    # measured before this code was written, by sparse sweeps and by dense solves
    world = environment.model_copy(update={"gamma": GAMMA}).world()
    assert float(world.expected_return(world.uniform_policy())) == pytest.approx(mean, abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "mean"), [(KQK(board=8, gamma=GAMMA), 0.964), (KRK(board=8, gamma=GAMMA), 0.954)]
)
def test_what_best_play_is_worth_against_a_random_king(environment, mean):
    assert float(environment.world().optimal_return()) == pytest.approx(mean, abs=5e-4)


@pytest.mark.slow
def test_what_random_play_is_worth_on_a_whole_board():
    world = KRK(board=8, gamma=GAMMA).world()
    assert float(world.expected_return(world.uniform_policy())) == pytest.approx(0.0079, abs=5e-5)


@pytest.mark.parametrize("environment", [KQK(board=4, gamma=GAMMA), KRK(board=4, gamma=GAMMA)], ids=["KQK", "KRK"])
def test_random_play_solved_from_the_plain_rules(environment):
    # V = r + γ P V with all moves and answers equally likely, as one dense system
    rules = plain_endings.Ending(4, environment.ending_name[1])
    whites = sorted(rules.positions()[0])
    number = {position: i for i, position in enumerate(whites)}
    chain, reward = np.eye(len(whites)), np.zeros(len(whites))
    for position, i in number.items():
        moves = list(rules.white_moves(position).values())
        for king, man, bare in moves:
            answers = rules.black_moves((king, man, bare))
            if not answers:
                reward[i] += (bare in rules.attacked(man, {king})) / len(moves)
            for behind in answers.values():
                if behind is not None:
                    chain[i, number[behind]] -= GAMMA / len(moves) / len(answers)
    due = dict(zip(whites, np.linalg.solve(chain, reward), strict=True))
    found, world = environment.ending(), environment.world()
    values = world.state_values(world.uniform_policy())
    for state, squares in enumerate(found.white.tolist()):
        king, man, bare = ((square % 4, square // 4) for square in squares)
        assert float(values[state]) == pytest.approx(due[king, man, bare], abs=1e-12)


@pytest.mark.parametrize("environment", [KQK(board=4), KRK(board=4), KRK(board=5)], ids=["KQK 4", "KRK 4", "KRK 5"])
def test_best_play_mates_in_the_distance_to_mate(environment):
    # against the longest defence, one game from every position
    environment = environment.model_copy(update={"gamma": 0.9, "opponent": OptimalDefence()})
    found, world = environment.ending(), environment.world()
    moves = torch.tensor([found.moves_to_mate(state) for state in range(len(found.white))])
    values = world.optimal_values()[: len(moves)]
    assert torch.allclose(values, 0.9 ** (moves.double() - 1), rtol=0, atol=1e-12)
    best = world.optimal_action_values().argmax(-1)
    games = Games(world, (len(moves),), limit=100)
    games.state = torch.arange(len(moves))
    generator = torch.Generator().manual_seed(1)
    mated = torch.zeros_like(moves)
    for move in range(1, int(moves.max()) + 1):
        going = mated == 0
        games.state = games.state.where(going, 0)  # a game that is over is played no further
        played = games.step(best[games.state], torch.rand(len(moves), generator=generator, dtype=torch.float64))
        assert torch.equal(played.rewards[going] == 1, played.terminated[going])
        mated[going & played.terminated] = move
    assert torch.equal(mated, moves)


def softmax(world: TurnWorld, logits: Tensor) -> Tensor:
    policy = logits.masked_fill(~world.legal, -torch.inf).softmax(-1)
    return torch.where(world.terminal[:, None], 1 / logits.shape[1], policy)


@pytest.mark.parametrize(
    ("environment", "fen"),
    [
        (KRK(board=4, gamma=GAMMA), "2k1/4/1K2/R3 w - - 0 1"),
        (KQK(board=6, gamma=GAMMA), "2k3/6/1K4/6/6/4Q1 w - - 0 1"),
        (KRK(board=6, gamma=1.0), "2k3/6/1K4/6/6/4R1 w - - 0 1"),
    ],
    ids=["KRK 4", "KQK 6", "KRK 6"],
)
def test_the_gradient_by_central_differences(environment, fen):
    # from one position, so that the components are far above rounding: J is known to 1e-14
    world = environment.model_copy(update={"start": (fen,)}).world()
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(world.moves.shape, generator=generator, dtype=torch.float64)
    gradient = world.policy_gradient(softmax(world, logits))
    step = 1e-4
    largest = gradient.abs().flatten().argsort(descending=True)
    assert float(gradient.abs().max()) > 1e-3
    for place in largest[[0, 1, 5, 20]].tolist():
        state, slot = divmod(place, logits.shape[1])
        ends = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[state, slot] += sign * step
            ends.append(float(world.expected_return(softmax(world, moved))))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(gradient[state, slot]), rel=1e-6, abs=1e-9)


def test_how_games_end():
    world = KRK(board=4).world()
    ending = world.ending(world.uniform_policy())
    assert list(ending.probability) == ["checkmate", "stalemate", "insufficient"]
    assert sum(float(x) for x in ending.probability.values()) == pytest.approx(1, abs=1e-12)
    # γ = 1 and 1 for mate: the value is the probability of mate
    assert float(ending.probability["checkmate"]) == pytest.approx(float(world.expected_return(world.uniform_policy())))


@pytest.mark.slow
def test_the_three_last_states_are_ends_and_white_s_stalemate_is_one():
    found, world = KPK().ending(), KPK().world()
    first = len(found.white)
    ends = {name: mask.nonzero()[:, 0].tolist() for name, mask in world.ends.items()}
    assert ends["checkmate"] == [first]
    assert ends["insufficient"] == [first + 2]
    *stalemates, last = ends["stalemate"]
    assert last == first + 1
    # K a8, P a7 and k c7 or c8, and the same on the h-file: white cannot move
    assert {write_state(found, state) for state in stalemates} == {
        f"{king} w - - 0 1"
        for king in ("K1k5/P7/8/8/8/8/8/8", "K7/P1k5/8/8/8/8/8/8", "5k1K/7P/8/8/8/8/8/8", "7K/5k1P/8/8/8/8/8/8")
    }
    assert not world.start[world.terminal].any()


def every(environment: EndingEnvironment) -> Tensor:
    return environment.starts().nonzero()[:, 0]


def test_a_pawn_s_games_begin_with_a_pawn():
    # 163,328 positions with white to move less the 4 in which it cannot
    found = KPK().ending()
    states = every(KPK())
    assert len(states) == 163_324
    assert not found.white_man[states.numpy()].any()


def test_games_begin_where_best_play_mates_in_so_many_moves():
    found = KRK(board=4).ending()
    states = every(KRK(board=4, mate_in=(2, 3))).tolist()
    assert states == [s for s in range(len(found.white)) if found.moves_to_mate(s) in (2, 3)]


def test_games_begin_in_the_positions_that_are_named():
    # the second is the first with colours exchanged: the same state, so that it is twice as likely as the third
    fens = ("3k/4/4/KR2 w - - 0 1", "kr2/4/4/3K b - - 0 1", "k3/4/4/2KR w - - 0 1")
    start = KRK(board=4, start=fens).starts()
    assert sorted(start[start > 0].tolist()) == pytest.approx([1 / 3, 2 / 3])
