"""Moves, checks and ends of the 8 x 8 endings, with python-chess as referee."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.geometry import KING
from rlhf_lab_chess.placement import LETTERS
from rlhf_lab_chess.states import read_move, write_move, write_state
from rlhf_lab_chess.successors import DEAD, NONE

chess = pytest.importorskip("chess")

SAMPLE = 150


@pytest.fixture(scope="module", params=["KQK", "KRK", "KPK"])
def found(request):
    return ending(request.param)


def chess_board(found, squares, kind, white_to_move):
    """Return the position of python-chess with white's king, the man and black's king on these squares."""
    board = chess.Board(None)
    king, man, bare = squares.tolist()
    board.set_piece_at(king, chess.Piece(KING, chess.WHITE))
    board.set_piece_at(man, chess.Piece(LETTERS.index(found.men[kind]), chess.WHITE))
    board.set_piece_at(bare, chess.Piece(KING, chess.BLACK))
    board.turn = white_to_move
    return board


def states(found):
    """Return random positions with white to move; a third of KPK's have a pawn, as many a queen and a rook."""
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(found.white_man == kind) for kind in range(len(found.men))]
    return np.concatenate([rng.choice(each, SAMPLE, replace=False) for each in kinds]).tolist()


def legal(found, state):
    return np.flatnonzero(found.moves[state] != NONE).tolist()


def test_white_s_moves_are_python_chess_s(found):
    seen = set()
    for state in states(found):
        board = chess_board(found, found.white[state], found.white_man[state], white_to_move=True)
        ours = [write_move(found, state, slot) for slot in legal(found, state)]
        assert sorted(ours) == sorted(move.uci() for move in board.legal_moves)
        assert board.fen() == write_state(found, state)
        seen |= {uci[4:] for uci in ours if len(uci) == 5}
        pawns = {chess.square_name(square) for square in board.pieces(chess.PAWN, chess.WHITE)}
        seen |= {"double" for uci in ours if uci[:2] in pawns and (uci[1], uci[3]) == ("2", "4")}
    assert seen == ({"q", "r", "b", "n", "double"} if found.name == "KPK" else set())


def test_a_move_leads_to_python_chess_s_position(found):
    for state in states(found):
        board = chess_board(found, found.white[state], found.white_man[state], white_to_move=True)
        for slot in legal(found, state):
            after = board.copy(stack=False)
            after.push_uci(write_move(found, state, slot))
            number = found.moves[state, slot]
            if number == DEAD:  # a knight or bishop
                assert after.is_insufficient_material()
            else:
                behind = chess_board(found, found.black[number], found.black_man[number], white_to_move=False)
                assert after.board_fen() == behind.board_fen()


def test_black_s_mirror_has_mirrored_moves(found):
    for state in states(found):
        board = chess_board(found, found.white[state], found.white_man[state], white_to_move=True).mirror()
        assert board.fen() == write_state(found, state, white=False)
        ours = [write_move(found, state, slot, white=False) for slot in legal(found, state)]
        assert sorted(ours) == sorted(move.uci() for move in board.legal_moves)


@pytest.mark.parametrize("white", [True, False])
def test_written_moves_are_read_back(found, white):
    for state in states(found):
        for slot in legal(found, state):
            assert read_move(found, state, write_move(found, state, slot, white=white), white=white) == slot


def test_black_s_answers_and_ends_are_python_chess_s(found):
    rng = np.random.default_rng(1)
    ends = np.flatnonzero(found.stuck)
    sample = np.concatenate([rng.choice(len(found.black), 2 * SAMPLE), rng.choice(ends, SAMPLE)])
    seen = {"mate": 0, "stalemate": 0, "taken": 0}
    for position in sample.tolist():
        board = chess_board(found, found.black[position], found.black_man[position], white_to_move=False)
        stalemate = bool(found.stuck[position] and not found.mated[position])
        assert board.is_check() == found.checked[position]
        assert board.is_checkmate() == found.mated[position]
        assert board.is_stalemate() == stalemate
        man = int(found.black[position, 1])
        ours = [
            (man if number == DEAD else int(found.white[number, 2]), number == DEAD)
            for number in found.replies[position].tolist()
            if number != NONE
        ]
        assert sorted(ours) == sorted((move.to_square, board.is_capture(move)) for move in board.legal_moves)
        seen["mate"] += bool(found.mated[position])
        seen["stalemate"] += stalemate
        seen["taken"] += any(takes for _, takes in ours)
    assert min(seen.values()) > 0
