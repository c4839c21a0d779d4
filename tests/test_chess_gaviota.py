"""Distances to mate of the 8 x 8 endings against Gaviota's tables, read by python-chess.

The tables come with Debian's package gaviotatb. Where ``RLHF_LAB_REQUIRE_GAVIOTA`` is 1 they have to be there.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.retrograde import DRAW
from rlhf_lab_chess.tables import solved

FOLDER = Path("/usr/share/gaviotatb/gtb4")  # compressed by LZMA, which is what python-chess reads
SAMPLE = 2500


@pytest.fixture(scope="module")
def gaviota():
    required = os.environ.get("RLHF_LAB_REQUIRE_GAVIOTA") == "1"
    if not required:
        pytest.importorskip("chess")
    import chess.gaviota

    with chess.gaviota.PythonTablebase() as tables:
        if FOLDER.is_dir():
            tables.add_directory(str(FOLDER))
        if not {"kqk", "krk", "kpk"} <= set(tables.available_tables):
            if required:
                pytest.fail(f"RLHF_LAB_REQUIRE_GAVIOTA=1, but no tables in {FOLDER}: apt-get install gaviotatb")
            pytest.skip("needs Debian's package gaviotatb: apt-get install gaviotatb")
        yield tables


def differences(gaviota, man, white_to_move, numbers):
    """Return the positions, as FEN, of which ours and Gaviota's distance in plies differ."""
    import chess

    tables = solved(Board(8), man)
    squares, plies = (tables.positions.white, tables.won) if white_to_move else (tables.positions.black, tables.lost)
    pieces = [chess.Piece.from_symbol(symbol) for symbol in ("K", man, "k")]
    board, found = chess.Board(None), []
    for row, ours in zip(squares[numbers].tolist(), plies[numbers].tolist(), strict=True):
        board.clear_board()
        for square, piece in zip(row, pieces, strict=True):
            board.set_piece_at(square, piece)
        board.turn = white_to_move
        # plies with the sign of the mover, 0 for mates and draws; mates are told from draws by the rules
        due = gaviota.probe_dtm(board) * (1 if white_to_move else -1)
        if due == 0 and not board.is_checkmate():
            due = DRAW
        if ours != due:
            found.append(board.fen())
    return found


def count(man, white_to_move):
    found = solved(Board(8), man).positions
    return len(found.white if white_to_move else found.black)


ENDINGS = [(man, white_to_move) for man in "QRP" for white_to_move in (True, False)]


def test_gaviota_counts_plies(gaviota):
    # white: Rh1 mates. Black: Kh7 is forced, as the king on f7 takes g7 and g8, and Rh1 mates: one move, but two plies.
    import chess

    assert gaviota.probe_dtm(chess.Board("7k/5K2/8/8/8/8/8/R7 w - - 0 1")) == 1
    assert gaviota.probe_dtm(chess.Board("7k/5K2/8/8/8/8/8/R7 b - - 0 1")) == -2


@pytest.mark.parametrize(("man", "white_to_move"), ENDINGS)
def test_random_positions_are_as_far_from_mate(gaviota, man, white_to_move):
    sample = np.random.default_rng(0).choice(count(man, white_to_move), SAMPLE, replace=False)
    assert differences(gaviota, man, white_to_move, sample) == []


@pytest.mark.slow
@pytest.mark.parametrize(("man", "white_to_move"), ENDINGS)
def test_every_position_is_as_far_from_mate(gaviota, man, white_to_move):
    assert differences(gaviota, man, white_to_move, np.arange(count(man, white_to_move))) == []
