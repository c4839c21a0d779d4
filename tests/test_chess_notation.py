"""FEN and UCI: there and back, against python-chess on 8 x 8, and what is said of what cannot be read."""

from __future__ import annotations

import random

import pytest

from rlhf_lab.data.errors import BadRowError
from rlhf_lab.errors import LabError
from rlhf_lab_chess.geometry import BISHOP, KING, KNIGHT, QUEEN, ROOK, Board
from rlhf_lab_chess.notation import read_fen, read_uci, write_fen, write_uci
from rlhf_lab_chess.placement import Position, attackers, mirrored, refuse_impossible

START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"


def random_boards(games=12, plies=80):
    """Positions of random games, with python-chess."""
    chess = pytest.importorskip("chess")
    rng = random.Random(11)
    for _ in range(games):
        board = chess.Board()
        for _ in range(plies):
            moves = list(board.legal_moves)
            if not moves:
                break
            yield board
            board.push(rng.choice(moves))


def test_random_positions_come_back():
    passed = 0
    for board in random_boards():
        fen = board.fen(en_passant="fen")  # the square behind every double step
        position = read_fen(fen)
        assert write_fen(position) == fen
        for square in range(64):
            piece = board.piece_at(square)
            sign = 0 if piece is None else 1 if piece.color else -1
            assert position.men[square] == (piece.piece_type * sign if piece else 0)
        assert position.white_to_move == board.turn
        assert position.en_passant == board.ep_square
        passed += board.ep_square is not None
    assert passed > 10


def test_attackers_are_python_chess_s():
    for board in random_boards(games=3):
        position = read_fen(board.fen(en_passant="fen"))
        for square in range(64):
            for white in (True, False):
                assert attackers(position, square, white) == sorted(board.attackers(white, square))


def test_mirrored_exchanges_colours():
    for board in random_boards(games=3):
        position = read_fen(board.fen(en_passant="fen"))
        there = mirrored(position)
        # python-chess counts moves alike and writes rights in the order KQkq
        assert write_fen(there) == board.mirror().fen(en_passant="fen")
        assert mirrored(there) == position


@pytest.mark.parametrize(
    ("fen", "men"),
    [
        ("3k/4/4/KR2 w - - 0 1", {"d4": -KING, "a1": KING, "b1": ROOK}),
        ("k4/5/2Q2/5/4K b - - 3 9", {"a5": -KING, "c3": QUEEN, "e1": KING}),
        ("5k/6/6/6/6/K5 w - - 0 1", {"f6": -KING, "a1": KING}),
        ("k6/7/7/7/7/7/5NK w - - 0 1", {"a7": -KING, "f1": KNIGHT, "g1": KING}),
    ],
)
def test_fen_of_small_boards(fen, men):
    position = read_fen(fen)
    found = {position.board.name(s): man for s, man in enumerate(position.men) if man}
    assert found == men
    assert write_fen(position) == fen


def test_fields_of_a_fen():
    position = read_fen("4k3/8/8/8/3Pp3/8/8/R3K2R b QK d3 0 31")
    assert not position.white_to_move
    assert position.castling == "KQ"  # in the usual order
    assert position.en_passant == 16 + 3
    assert (position.halfmove, position.fullmove) == (0, 31)


def test_clocks_may_be_left_out():
    assert write_fen(read_fen("3k/4/4/KR2  b - -")) == "3k/4/4/KR2 b - - 0 1"


P = "placement: "
BAD = [
    ("3k/4/4/KR2", "FEN: has not four or six fields, found 1 in '3k/4/4/KR2'; write placement, side to move, castling"),
    ("3k/4/4/KR2 w - - 0", "FEN: has not four or six fields, found 5"),
    ("", "FEN: has not four or six fields, found 0"),
    ("3k/4/KR2 w - -", P + "has a wrong number of ranks, found 3 in '3k/4/KR2'; a board has 4 to 8"),
    ("8/8/8/8/8/8/8/8/K6k w - -", P + "has a wrong number of ranks, found 9"),
    ("3k/5/4/KR2 w - -", P + "rank 3 has an unknown sign '5', found '5'; men are PpNnBbRrQqKk; 1 to 4 count"),
    ("3k/4/3/KR2 w - -", P + "rank 2 is too short, found 3 squares in '3'; it has 4"),
    ("3k/4/4/KR3 w - -", P + "rank 1 is too long, found 5 squares in 'KR3'; it has 4"),
    ("3k//4/KR2 w - -", P + "rank 3 is too short, found 0 squares in ''"),
    ("3k/4/4/KX2 w - -", P + "rank 1 has an unknown sign 'X', found 'KX2'"),
    ("3k/4/0R3/K3 w - -", P + "rank 2 has an unknown sign '0'"),
    ("3k/22/4/K3 w - -", P + "rank 3 has two numbers in a row, found '22'; write their sum"),
    ("4/4/4/KR2 w - -", P + "black has not one king, found none; write one k"),
    ("3k/4/4/KRK1 w - -", P + "white has not one king, found 2 (a1, c1); write one K"),
    ("3k/4/4/KP2 w - -", P + "a white pawn is on a last rank, found b1; pawns stand on ranks 2 to 3"),
    ("p2k/4/4/K3 w - -", P + "a black pawn is on a last rank, found a4"),
    ("k7/8/8/8/8/P7/PPPPPPPP/K7 w - -", P + "white has too many pawns, found 9; 8 at most"),
    ("k7/8/8/8/8/N7/NNNNNNNN/KNNNNNNN w - -", P + "white has too many men, found 17; 16 at most"),
    ("4/4/1k2/KR2 w - -", P + "the kings are adjacent, found a1 and b2"),
    ("k3/4/4/R2K w - -", "side to move: white could take the king on a4, found a1; the side that is not to move is"),
    ("r2k/4/4/K3 b - -", "side to move: black could take the king on a1, found a4"),
    ("k7/8/8/8/2n5/1r6/1K6/q7 w - -", P + "more than two men give check to b2, found 3 (a1, b3, c4)"),
    ("3k/4/4/KR2 white - -", "side to move: is neither w nor b, found 'white'"),
    ("3k/4/4/KR2 w x -", "castling: cannot be read, found 'x'; write -, or of KQkq each at most once"),
    ("4k3/8/8/8/8/8/8/4K2R w KK -", "castling: cannot be read, found 'KK'"),
    ("3k/4/4/KR2 w K -", "castling: is a right of 8 x 8 alone, found K; write -; there is no castling on 4 x 4"),
    ("4k3/8/8/8/8/8/8/R3K3 w K -", "castling: K needs R on h1, found nothing; leave the right out"),
    ("3k4/r7/8/8/8/8/8/4K3 b q -", "castling: q needs k on e8, found nothing"),
    ("3k/4/4/KR2 w - e3", "en passant: is no square, found 'e3'; write -, or the square that a pawn has just passed"),
    ("4k3/8/8/8/3Pp3/8/8/4K3 w - d3", "en passant: is on a rank that no pawn has just passed, found d3; with white"),
    ("4k3/8/8/8/4p3/8/8/4K3 b - d3", "en passant: no pawn has just passed there, found d3; it needs P on d4, d3 and"),
    ("4k3/8/8/8/3P4/3N4/8/4K3 b - d3", "en passant: no pawn has just passed there"),
    ("4k3/8/8/8/3P4/8/3N4/4K3 b - d3", "en passant: no pawn has just passed there"),
    ("3k/4/4/KR2 w - - -1 1", "halfmove clock: is no number of moves, found '-1'; write a whole number from 0"),
    ("3k/4/4/KR2 w - - 0 0", "fullmove number: is no number of moves, found '0'; write a whole number from 1"),
    ("3k/4/4/KR2 w - - 0 1.5", "fullmove number: is no number of moves, found '1.5'"),
    ("3k/4/4/KR2 w - - ² 1", "halfmove clock: is no number of moves, found '²'"),
]


@pytest.mark.parametrize(("fen", "said"), BAD, ids=[fen for fen, _ in BAD])
def test_a_bad_fen_is_refused_with_field_and_reason(fen, said):
    with pytest.raises(LabError) as caught:
        read_fen(fen)
    assert str(caught.value).startswith(said)


def test_a_fen_of_another_board_is_refused():
    with pytest.raises(LabError, match="wrong number of ranks, found 4 in '3k/4/4/KR2'; this board has 8"):
        read_fen("3k/4/4/KR2 w - -", side=8)


def test_the_place_goes_before_what_is_wrong():
    with pytest.raises(BadRowError) as caught:
        read_fen("3k/4/4/KR2 x - -")
    caught.value.place = "games.fen:7"
    assert str(caught.value) == "games.fen:7: side to move: is neither w nor b, found 'x'"


def test_what_random_games_reach_is_possible():
    for board in random_boards(games=4):
        refuse_impossible(read_fen(board.fen(en_passant="fen")))


def test_a_written_position_is_the_readers():
    men = [0] * 16
    men[0], men[15], men[5] = KING, -KING, -BISHOP
    assert write_fen(Position(4, tuple(men))) == "3k/4/1b2/K3 w - - 0 1"


@pytest.mark.parametrize(
    ("text", "move"),
    [("a1b2", (0, 9, 0)), ("e1g1", (4, 6, 0)), ("a7a8q", (48, 56, QUEEN)), ("h2g1n", (15, 6, KNIGHT))],
)
def test_moves_in_writing(text, move):
    board = Board(8)
    assert read_uci(text, board) == move
    assert write_uci(board, *move) == text


def test_moves_are_written_as_python_chess_writes_them():
    for board in random_boards(games=3):
        for move in board.legal_moves:
            written = read_uci(move.uci(), Board(8))
            assert written == (move.from_square, move.to_square, move.promotion or 0)
            assert write_uci(Board(8), *written) == move.uci()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a1", "move: is not written as two squares, found 'a1'; write two squares of a1 to d4, and behind them q, r"),
        ("Ra1-a3", "move: is not written as two squares"),
        ("A1B2", "move: is not written as two squares"),
        ("a1b2qq", "move: is not written as two squares"),
        ("a1e1", "move: leaves the board, found 'a1e1'"),
        ("a5a4", "move: leaves the board"),
        ("a0a1", "move: leaves the board"),
        ("a1a1", "move: stays where it is"),
        ("a3a4k", "move: promotes to what no pawn becomes, found 'a3a4k'"),
        ("a3a4p", "move: promotes to what no pawn becomes"),
    ],
)
def test_a_bad_move_is_refused(text, said):
    with pytest.raises(LabError) as caught:
        read_uci(text, Board(4))
    assert str(caught.value).startswith(said)
