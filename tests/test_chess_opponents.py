"""Black's players: answers derived by hand, the limits of their parameters, and what a random game is worth."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.opponents import EpsilonOptimal, OptimalDefence, RandomReplies, SoftmaxDefence
from rlhf_lab_chess.successors import DEAD, NONE

N, NE, E, SE, S, SW, W, NW = range(8)
ENDINGS = pytest.mark.parametrize(("name", "side"), [("KQK", 4), ("KRK", 5), ("KPK", 8)])
PLAYERS = [RandomReplies(), OptimalDefence(), EpsilonOptimal(epsilon=0.3), SoftmaxDefence(temperature=0.7)]


def number(found, king, man, bare, kind=0):
    """Return the number of a position with black to move, by the names of its squares."""
    squares = [found.board.square(name) for name in (king, man, bare)]
    ((position,),) = np.nonzero((found.black == squares).all(1) & (found.black_man == kind))
    return position


def answers(player, found, position):
    """Return the chances above zero by direction."""
    return {slot: share for slot, share in enumerate(player(found)[position].tolist()) if share}


@ENDINGS
@pytest.mark.parametrize("player", PLAYERS, ids=lambda player: player.name)
def test_chances_are_a_distribution_over_legal_answers(player, name, side):
    found = ending(name, side)
    chances = player(found)
    assert chances.shape == found.replies.shape
    assert (chances >= 0).all()
    assert not chances[found.replies == NONE].any()
    assert np.allclose(chances.sum(1), ~found.stuck, rtol=0, atol=1e-15 * 8)


def test_a_random_player_answers_evenly():
    # K f7, R a1, k h7: g6, g7 and g8 are next to white's king; left are h8 and h6
    found = ending("KRK")
    assert answers(RandomReplies(), found, number(found, "f7", "a1", "h7")) == {N: 0.5, S: 0.5}


def test_the_longest_defence():
    # the same: after Kh8 Rh1 mates; after Kh6 Rh1 is answered by Kg5, so that mate takes longer
    found = ending("KRK")
    assert answers(OptimalDefence(), found, number(found, "f7", "a1", "h7")) == {S: 1}


def test_a_man_is_taken():
    # K a1, R d2, k c2 on 4 x 4: bare kings draw, any other answer is mated
    found = ending("KRK", 4)
    assert answers(OptimalDefence(), found, number(found, "a1", "d2", "c2")) == {E: 1}


def test_a_draw_is_preferred_to_any_delay():
    # K f6, P e6, k e8: after Kf8 e7+ Ke8 the pawn is lost or black stalemated; after Kd8 Kf7 it queens
    found = ending("KPK")
    position = number(found, "f6", "e6", "e8")
    assert answers(RandomReplies(), found, position) == {E: 0.5, W: 0.5}
    assert answers(OptimalDefence(), found, position) == {E: 1}


def test_equally_good_answers_are_equally_likely():
    # K c3, R c1, k c5 on 5 x 5: Kb5 and Kd5 are each other's mirror images, b4, c4 and d4 next to white's king
    found = ending("KRK", 5)
    assert answers(OptimalDefence(), found, number(found, "c3", "c1", "c5")) == {E: 0.5, W: 0.5}


@ENDINGS
def test_the_optimal_answer_keeps_the_distance(name, side):
    # retrograde analysis: a position lost in n plies has an answer that white wins in n - 1, and none slower
    found = ending(name, side)
    chances = OptimalDefence()(found)
    behind = np.append(found.won, [-1, -1])[found.replies].astype(int)  # DEAD and NONE take the last places
    lost = ~found.stuck & (found.lost > 0)
    assert (behind[lost] + 1)[chances[lost] > 0].tolist() == np.repeat(found.lost, (chances > 0).sum(1) * lost).tolist()
    drawn = ~found.stuck & (found.lost < 0)
    assert (behind[drawn][chances[drawn] > 0] == -1).all()


def test_epsilon_mixes_the_two():
    # K f7, R a1, k h7: 0.8 + 0.2 / 2 for Kh6, 0.2 / 2 for Kh8
    found = ending("KRK")
    seen = answers(EpsilonOptimal(epsilon=0.2), found, number(found, "f7", "a1", "h7"))
    assert seen == pytest.approx({N: 0.1, S: 0.9}, abs=1e-15)


def test_softmax_by_hand():
    # K a1, R d2, k c2 on 4 x 4: the longest mate takes 7 moves, so that taking the rook counts 8; the others lead to
    # mates in the moves that the tables tell
    found, temperature = ending("KRK", 4), 1.7
    position = number(found, "a1", "d2", "c2")
    moves = {slot: found.moves_to_mate(found.replies[position, slot]) for slot in (N, S, NW)}
    assert found.replies[position, E] == DEAD
    weights = {slot: np.exp(u / temperature) for slot, u in {**moves, E: 8}.items()}
    expected = {slot: weight / sum(weights.values()) for slot, weight in weights.items()}
    assert answers(SoftmaxDefence(temperature=temperature), found, position) == pytest.approx(expected, abs=1e-14)


@ENDINGS
def test_limits_of_softmax(name, side):
    found = ending(name, side)
    # moves to mate are whole: another answer has exp(-1 / 0.01) = 4e-44 at most; 8 answers of 29 at most differ by 3e-8
    assert np.allclose(SoftmaxDefence(temperature=0.01)(found), OptimalDefence()(found), rtol=0, atol=1e-15)
    assert np.allclose(SoftmaxDefence(temperature=1e9)(found), RandomReplies()(found), rtol=0, atol=3e-8)


def test_limits_of_epsilon():
    found = ending("KRK", 5)
    assert np.array_equal(EpsilonOptimal(epsilon=0)(found), OptimalDefence()(found))
    assert np.array_equal(EpsilonOptimal(epsilon=1)(found), RandomReplies()(found))


@pytest.mark.parametrize(
    ("name", "side", "mean"),
    [
        ("KQK", 4, 0.0903),
        ("KRK", 4, 0.0673),
        ("KRK", 5, 0.0332),
        pytest.param("KRK", 6, 0.0190, marks=pytest.mark.slow),
        pytest.param("KRK", 8, 0.0079, marks=pytest.mark.slow),
    ],
)
def test_random_play_is_worth(name, side, mean):
    # V(s) = mean over moves of [1 if it mates, else gamma · sum over answers of p V(s')], 0 after draws; gamma 0.99.
    # Each sweep shrinks the error by gamma at least; 1e-6 is far below the four figures that are known.
    found, gamma = ending(name, side), 0.99
    chances, legal = RandomReplies()(found), found.moves != NONE
    values = np.zeros(len(found.white))
    change = 1.0
    while change > 1e-6 * (1 - gamma):
        ahead = np.append(values, [0.0, 0.0])[found.replies]
        behind = np.where(found.mated, 1.0, gamma * (chances * ahead).sum(1))
        new = (behind[found.moves] * legal).sum(1) / legal.sum(1)
        change = np.abs(new - values).max()
        values = new
    assert values.mean() == pytest.approx(mean, abs=5e-5)
