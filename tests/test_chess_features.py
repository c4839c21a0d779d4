"""Features of positions and moves: facts read off the board by hand, and the position behind each move."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.features import move_features, position_features
from rlhf_lab_chess.states import read_move, read_state
from rlhf_lab_chess.successors import DEAD, KING_SLOTS, NONE

ENDINGS = pytest.mark.parametrize(("name", "side"), [("KQK", 4), ("KRK", 5), ("KPK", 8)])


@functools.cache
def seen(name, side):
    """Return an ending, features of its positions, features behind its moves, and their rows."""
    found = ending(name, side)
    return found, position_features(found), *move_features(found)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Let go of KPK's features, which are large."""
    yield
    seen.cache_clear()


def one(place, count):
    return [float(i == place) for i in range(count)]


def test_position_features_by_hand_on_a_small_board():
    # K a1, R b2, k d4: kings 3 apart; d4 is on the edge and in the corner; the rook is 2 from black's king, which
    # cannot take it, and next to its own
    found, positions, _, _ = seen("KRK", 4)
    state, _ = read_state(found, "3k/4/1R2/K3 w - - 0 1")
    facts = [1.0, *one(3, 4), *one(0, 2), *one(0, 4), *one(2, 4), 0.0, 1.0, *one(0, 1), 0.0, 0.0, 0.0]
    assert positions[state].tolist() == facts


def test_position_features_by_hand_of_a_pawn():
    # K c1, P e7, k f6: kings 5 apart; f6 is 2 files and ranks from the edge, 4 steps along it from the corner h8;
    # the pawn is next to black's king, which can take it, and not to its own; it stands on the seventh rank
    found, positions, _, _ = seen("KPK", 8)
    state, _ = read_state(found, "8/4P3/5k2/8/8/8/8/2K5 w - - 0 1")
    facts = [1.0, *one(5, 8), *one(2, 4), *one(4, 8), *one(1, 8), 1.0, 0.0, *one(0, 3), *one(5, 7)]
    assert positions[state].tolist() == facts


def test_move_features_by_hand():
    # K a1, R b2, k d4; Rb4 gives check: black has c3 and d3, as c4 is on the rook's rank; the rook is 2 away from
    # black's king, and 3 from its own
    found, _, features, rows = seen("KRK", 4)
    state, _ = read_state(found, "3k/4/1R2/K3 w - - 0 1")
    facts = [*one(9 + 2, 18), *one(3, 4), *one(0, 2), *one(0, 4), *one(2, 4), 0.0, 0.0, *one(0, 1), 0.0, 0.0, 0.0, 0.0]
    assert features[rows[state, read_move(found, state, "b2b4")]].tolist() == facts


def test_a_promotion_that_cannot_mate_is_told_by_a_column_of_its_own():
    found, _, features, rows = seen("KPK", 8)
    state, _ = read_state(found, "8/4P3/8/8/8/8/8/k1K5 w - - 0 1")
    became = {
        uci[4]: features[rows[state, read_move(found, state, uci)]] for uci in ("e7e8n", "e7e8b", "e7e8r", "e7e8q")
    }
    last = torch.eye(features.shape[1])[-1]
    assert torch.equal(became["n"], last)
    assert torch.equal(became["b"], last)
    # men P, Q, R, and then 7 ranks of pawns, before the last column
    assert became["q"][-11:].tolist() == [0, 1, 0, *[0] * 8]
    assert became["r"][-11:].tolist() == [0, 0, 1, *[0] * 8]


@ENDINGS
def test_rows_are_the_positions_behind_the_moves(name, side):
    found, _, features, rows = seen(name, side)
    assert len(features) == len(found.black) + 1
    legal = found.moves >= 0
    assert np.array_equal(rows[: len(found.white)].numpy()[legal], found.moves[legal])
    assert (rows[: len(found.white)].numpy()[found.moves == DEAD] == len(found.black)).all()


@ENDINGS
def test_mate_and_stalemate_are_told_from_all_else(name, side):
    found, _, features, _ = seen(name, side)
    mobility = features[:-1, :18].numpy()
    assert (mobility.sum(1) == 1).all()
    assert np.array_equal(mobility[:, 9] == 1, found.mated)
    assert np.array_equal(mobility[:, 0] == 1, found.stuck & ~found.checked)


@ENDINGS
def test_a_man_that_can_be_taken_is_told(name, side):
    # with black to move: exactly where one of its answers takes the man
    found, _, features, _ = seen(name, side)
    width = [18, side, (side + 1) // 2, side, side]
    taken = features[:-1, sum(width)].numpy()
    assert np.array_equal(taken == 1, (found.replies == DEAD).any(1))


@ENDINGS
def test_shapes_and_what_is_over(name, side):
    found, positions, _, rows = seen(name, side)
    assert positions.dtype == torch.float32
    assert len(positions) == len(rows) == found.states == len(found.white) + 3
    assert not positions[-3:].any()
    assert rows.shape[1] == found.moves.shape[1] >= KING_SLOTS
    assert not rows[-3:].any()
    assert not rows[: len(found.white)].numpy()[found.moves == NONE].any()
