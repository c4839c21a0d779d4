"""What endings pay, move by move against the rules in plain Python, and what that makes of the optimal policy."""

from __future__ import annotations

from functools import cache

import numpy as np
import plain_endings
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_lab.worlds import TurnWorld
from rlhf_lab_chess import KPK, KQK, KRK, Coach, MaterialReward, OptimalDefence, Outcome, PotentialMaterial, StepCost
from rlhf_lab_chess.ending import Ending, ending
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.opponents import RandomReplies, SoftmaxDefence
from rlhf_lab_chess.rewards import EndingReward, Payments, RewardTask
from rlhf_lab_chess.states import read_move, read_state
from rlhf_lab_chess.successors import NONE

GAMMA = 0.9
WORTH = {"P": 1, "R": 5, "Q": 9}


def payments(found: Ending, reward: EndingReward) -> Payments:
    """What a reward that needs no table says."""

    def solve(payments: Payments) -> TurnWorld:
        raise AssertionError("no table is needed")

    return reward(RewardTask(found, GAMMA, solve))


def plain_payments(name: str, reward: str) -> tuple[dict, dict]:
    """What moves and answers pay on 4 x 4 by the squares before and behind, each rule written out."""
    rules, worth = plain_endings.Ending(4, name[1]), WORTH[name[1]]

    def over(position) -> str:
        king, man, bare = position
        if rules.black_moves(position):
            return ""
        return "mate" if bare in rules.attacked(man, {king}) else "stalemate"

    referee = {"mate": 1.0, "stalemate": -0.5, "": 0.0}
    whites, blacks = rules.positions()
    moves, answers = {}, {}
    for position in whites:
        for behind in rules.white_moves(position).values():
            extra = {"step_cost": -0.25, "potential_material": -2.0 * worth}.get(reward, 0.0)
            moves[position, behind] = referee[over(behind)] + extra
    for position in blacks:
        for behind in rules.black_moves(position).values():
            if behind is None:  # white's man is taken: a draw, and its worth is gone
                answers[position, None] = -0.5 + {"material": -2.0 * worth}.get(reward, 0.0)
            else:
                answers[position, behind] = {"potential_material": GAMMA * 2.0 * worth}.get(reward, 0.0)
    return moves, answers


def by_squares(found: Ending, paid: Payments) -> tuple[dict, dict]:
    """The same of the ending's tables."""

    def plain(squares: NDArray[np.int64]):
        return tuple((int(square) % 4, int(square) // 4) for square in squares)

    moves = {
        (plain(found.white[state]), plain(found.black[found.moves[state, slot]])): float(paid.moves[state, slot])
        for state, slot in np.argwhere(found.moves != NONE)
    }
    answers = {}
    for position, direction in np.argwhere(found.replies != NONE):
        behind = found.replies[position, direction]
        key = plain(found.black[position]), None if behind < 0 else plain(found.white[behind])
        answers[key] = float(paid.replies[position, direction])
    return moves, answers


@pytest.mark.parametrize(
    "reward",
    [
        Outcome(draw=-0.5),
        StepCost(draw=-0.5, cost=0.25),
        MaterialReward(draw=-0.5, weight=2.0),
        PotentialMaterial(draw=-0.5, weight=2.0),
    ],
    ids=lambda reward: reward.name,
)
@pytest.mark.parametrize("name", ["KQK", "KRK"])
def test_what_every_move_and_answer_pays(name, reward):
    found = ending(name, 4)
    paid = payments(found, reward)
    assert by_squares(found, paid) == plain_payments(name, reward.name)
    assert not paid.moves[found.moves == NONE].any()
    assert not paid.replies[found.replies == NONE].any()


PROMOTING = "8/4P3/8/8/8/8/8/k1K5 w - - 0 1"


@cache
def of_a_pawn(reward: EndingReward) -> Payments:
    return payments(ending("KPK"), reward)


@pytest.mark.parametrize(
    ("move", "material", "potential"),
    [
        # a pawn is worth 1, knight and bishop 3, a rook 5, a queen 9
        ("e7e8q", 8, -1),
        ("e7e8r", 4, -1),
        ("e7e8b", 2 - 0.5, -1 - 0.5),  # the man that cannot mate ends the game, drawn
        ("e7e8n", 2 - 0.5, -1 - 0.5),
        ("c1c2", 0, -1),
    ],
)
def test_a_promotion_pays_the_difference_to_a_pawn(move, material, potential):
    found = ending("KPK")
    state, _ = read_state(found, PROMOTING)
    slot = read_move(found, state, move)
    assert of_a_pawn(MaterialReward(draw=-0.5)).moves[state, slot] == material
    assert of_a_pawn(PotentialMaterial(draw=-0.5)).moves[state, slot] == potential


def test_what_black_takes_is_lost():
    # K h8, k a1, the man on b1, or a pawn on b2, beside it
    found = ending("KPK")
    lost, shaped = (of_a_pawn(reward(draw=-0.5)).replies for reward in (MaterialReward, PotentialMaterial))
    for kind, square, worth in ((0, "b2", 1), (1, "b1", 9), (2, "b1", 5)):
        squares = [found.board.square(each) for each in ("h8", square, "a1")]
        ((position,),) = np.nonzero((found.black == squares).all(1) & (found.black_man == kind))
        takes = found.board.steps[0] == found.board.square(square)
        assert lost[position, takes] == -0.5 - worth
        assert shaped[position, takes] == -0.5  # the end of a game has no potential


def test_white_s_stalemate_is_a_draw_without_potential():
    # K a8, P a7, k c8: black goes to c7, and b7, b8 are next to it
    found = ending("KPK")
    squares = [found.board.square(each) for each in ("a8", "a7", "c8")]
    ((position,),) = np.nonzero((found.black == squares).all(1) & (found.black_man == 0))
    south = 4
    assert of_a_pawn(PotentialMaterial(draw=-0.5)).replies[position, south] == -0.5


# ---- what the rewards make of the optimum


def potential(found: Ending, weight: float = 1.0) -> Tensor:
    """φ(s): the worth of the man, 0 where the game is over, white's stalemate included."""
    worth = torch.zeros(found.states, dtype=torch.float64)
    for state, kind in enumerate(found.white_man.tolist()):
        worth[state] = weight * WORTH[found.men[kind]] * bool((found.moves[state] != NONE).any())
    return worth


def best(values: Tensor, legal: Tensor) -> Tensor:
    return legal & (values >= values.amax(-1, keepdim=True) - 1e-9)


def check_shaping(environment: EndingEnvironment, weight: float) -> None:
    """Q*_paid = Q*_true - φ(s), Ng, Harada and Russell 1999, corollary 2."""
    found = environment.ending()
    true, paid = environment.world(), environment.world(PotentialMaterial(weight=weight))
    values, shaped = true.optimal_action_values(), paid.optimal_action_values()
    due = values - potential(found, weight)[:, None]
    assert torch.allclose(shaped[true.legal], due[true.legal], rtol=0, atol=1e-9)
    assert torch.equal(best(shaped, true.legal), best(values, true.legal))


@pytest.mark.parametrize("opponent", [RandomReplies(), OptimalDefence(), SoftmaxDefence()], ids=lambda each: each.name)
def test_the_potential_keeps_the_optimal_policy(opponent):
    check_shaping(KRK(board=4, gamma=0.99, opponent=opponent), 1.0)
    check_shaping(KQK(board=4, gamma=0.9, opponent=opponent), 0.3)


def test_the_potential_shifts_every_policy_s_values():
    environment = KRK(board=4, gamma=0.99)
    true, paid = environment.world(), environment.world(PotentialMaterial())
    weights = torch.rand(true.moves.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights = weights * true.legal + true.terminal[:, None]
    policy = weights / weights.sum(-1, keepdim=True)
    due = true.state_values(policy) - potential(environment.ending())
    assert torch.allclose(paid.state_values(policy), due, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_potential_keeps_the_optimal_policy_of_a_pawn():
    check_shaping(KPK(gamma=0.9), 1.0)


@pytest.mark.parametrize("gamma", [0.9, 0.99])
@pytest.mark.parametrize("opponent", [RandomReplies(), OptimalDefence()], ids=lambda each: each.name)
def test_a_coach_s_best_policy_is_the_true_one(opponent, gamma):
    environment = KRK(board=4, gamma=gamma, opponent=opponent)
    true, paid = environment.world(), environment.world(Coach(weight=2.0))
    values = true.optimal_action_values()
    # the best move costs nothing, now and later, so that V* is 0, and Q* what the coach says: 2 (Q* - V*)
    assert torch.allclose(paid.optimal_values(), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-12)
    due = 2 * (values - values.amax(-1, keepdim=True))
    told = paid.optimal_action_values()
    assert torch.allclose(told[true.legal], due[true.legal], rtol=0, atol=1e-12)
    assert torch.equal(best(told, true.legal), best(values, true.legal))


def test_a_coach_says_the_same_whatever_the_referee_pays():
    environment = KRK(board=4, gamma=0.9)
    alone, beside = environment.world(Coach()), environment.world(Coach(win=3.0, draw=-1.0))
    referee = environment.world(Outcome(win=3.0, draw=-1.0))
    for name in ("own_rewards", "reply_rewards"):
        due = getattr(alone, name) + getattr(referee, name)
        assert torch.allclose(getattr(beside, name), due, rtol=0, atol=1e-14)


@pytest.mark.parametrize("cost", [0.0, 0.05])
def test_a_step_costs(cost):
    # against the longest defence mate in m is paid γ^(m-1), and costs 1 + γ + ... + γ^(m-1)
    environment = KRK(board=4, gamma=GAMMA, opponent=OptimalDefence())
    found = environment.ending()
    values = environment.world(StepCost(cost=cost)).optimal_values()
    won = [state for state in range(len(found.white)) if found.moves_to_mate(state) is not None]
    assert len(won) == 1312  # all
    for state in won:
        m = found.moves_to_mate(state)
        assert m is not None
        assert float(values[state]) == pytest.approx(GAMMA ** (m - 1) - cost * sum(GAMMA**k for k in range(m)))


@pytest.mark.slow
@pytest.mark.parametrize("opponent", [RandomReplies(), OptimalDefence()], ids=lambda each: each.name)
def test_material_prefers_a_queen_and_stalemate_to_a_rook_and_mate(opponent):
    # K h4, P g7, k h6. g8=Q leaves black no move and no check: g5 and h5 are next to white's king, g6, g7 and h7 are
    # the queen's. It pays 9 - 1 = 8, and the game is drawn. g8=R leaves h7, and wins: 5 - 1 = 4, and at most 1 for
    # mate, which takes 7 moves. Any other move lets black take the pawn: at best four of five answers lead to 8 + 1,
    # the fifth to -1.
    environment = KPK(gamma=GAMMA, opponent=opponent)
    found = environment.ending()
    state, _ = read_state(found, "8/6P1/7k/8/7K/8/8/8 w - - 0 1")
    queen, rook = (read_move(found, state, move) for move in ("g7g8q", "g7g8r"))
    true = environment.world().optimal_action_values()[state]
    paid = environment.world(MaterialReward()).optimal_action_values()[state]
    assert int(true.argmax()) == rook
    assert int(paid.argmax()) == queen
    assert float(true[queen]) == 0
    assert float(paid[queen]) == 8
    assert float(true[rook]) >= GAMMA**6 - 1e-12
    assert float(paid[rook]) == pytest.approx(4 + float(true[rook]))
    shaped = environment.world(PotentialMaterial()).optimal_action_values()[state]
    assert int(shaped.argmax()) == rook
    assert float(shaped[rook]) == pytest.approx(float(true[rook]) - 1)


def test_without_a_promotion_material_keeps_the_optimum():
    # against a bare king a rook can be lost but nothing won, and no position is such that it must be lost
    environment = KRK(board=4, gamma=0.99)
    true, paid = environment.world(), environment.world(MaterialReward())
    assert torch.allclose(true.optimal_values(), paid.optimal_values(), rtol=0, atol=1e-12)
