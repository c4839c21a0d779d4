"""Observations: planes derived by hand, and the way back from them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rlhf_lab_chess.notation import read_fen
from rlhf_lab_chess.observation import PLANES, observe, observe_all, position_of
from rlhf_lab_chess.placement import CASTLING, mirrored


def random_positions(games=6, plies=120):
    """Positions of random games, with python-chess."""
    chess = pytest.importorskip("chess")
    rng = random.Random(2)
    for _ in range(games):
        board = chess.Board()
        for _ in range(plies):
            moves = list(board.legal_moves)
            if not moves:
                break
            yield read_fen(board.fen(en_passant="fen"))
            board.push(rng.choice(moves))


def test_planes_by_hand():
    # Black to move, so ranks are flipped: black's king on e8 stands on rank 0 of file 4, its rook on a8 on rank 0 of
    # file 0, its pawn on e4 on rank 8 - 4 = 4. White's king on e1 is on rank 7, its rook on h1 there too, its pawn on
    # d4 on rank 4. The square that it passed, d3, is on rank 8 - 3 = 5 of file 3.
    planes = observe(read_fen("r3k3/8/8/8/3Pp3/8/8/4K2R b Kq d3 0 9"))
    expected = np.zeros((18, 8, 8), dtype=np.uint8)
    expected[0, 4, 4] = expected[3, 0, 0] = expected[5, 0, 4] = 1  # mover: pawn, rook, king
    expected[6, 4, 3] = expected[9, 7, 7] = expected[11, 7, 4] = 1  # opponent: pawn, rook, king
    expected[13] = 1  # the mover may castle on the queen's side
    expected[14] = 1  # the opponent on the king's side
    expected[16, 5, 3] = 1
    assert planes.dtype == np.uint8
    np.testing.assert_array_equal(planes, expected)


def test_planes_of_a_small_board_by_hand():
    planes = observe(read_fen("3k/4/2Q1/K3 w - - 7 9"))
    expected = np.zeros((18, 4, 4), dtype=np.uint8)
    expected[4, 1, 2] = expected[5, 0, 0] = expected[11, 3, 3] = 1  # the mover's queen and king, the other king
    expected[17] = 7
    np.testing.assert_array_equal(planes, expected)


def test_positions_come_back():
    colours, passed, rights = set(), 0, set()
    for position in random_positions():
        assert position_of(observe(position), position.white_to_move, position.fullmove) == position
        colours.add(position.white_to_move)
        passed += position.en_passant is not None
        rights.add(position.castling)
    assert colours == {True, False} and passed and len(rights) > 2


def test_both_colours_see_the_same():
    for position in random_positions(games=2):
        np.testing.assert_array_equal(observe(position), observe(mirrored(position)))


def test_many_are_seen_as_each():
    positions = list(random_positions(games=1))
    seen = observe_all(
        np.array([p.men for p in positions], dtype=np.int8),
        np.array([p.white_to_move for p in positions]),
        np.array([[right in p.castling for right in CASTLING] for p in positions]),
        np.array([-1 if p.en_passant is None else p.en_passant for p in positions]),
        np.array([p.halfmove for p in positions]),
    )
    assert seen.shape == (len(positions), PLANES, 8, 8)
    np.testing.assert_array_equal(seen, np.stack([observe(p) for p in positions]))


def test_a_long_clock_ends_at_255():
    assert observe(read_fen("3k/4/2Q1/K3 w - - 300 200"))[17].tolist() == [[255] * 4] * 4
