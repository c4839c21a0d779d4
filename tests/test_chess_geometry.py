"""Squares, lines and numbers of moves, against rank and file arithmetic and against python-chess."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from rlhf_lab.errors import LabError
from rlhf_lab_chess.geometry import BISHOP, DIRECTIONS, KNIGHT, QUEEN, ROOK, Board

SIDES = [4, 5, 6, 7, 8]
POSITIONS = [
    "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1",
    "r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1",  # castling on both sides
    "r3k2r/Pppp1ppp/1b3nbN/nPP5/BB2P3/q4N2/Pp1P2PP/R2Q1RK1 b kq - 0 1",  # black promotes on three squares
    "1n1n3k/P1P4P/8/3pP3/8/8/8/4K3 w - d6 0 2",  # promotions straight and by capture; en passant
    "4k3/8/8/8/3Pp3/8/8/4K3 b - d3 0 1",  # en passant by black
]


def off(board, rank, file):
    return not (0 <= rank < board.side and 0 <= file < board.side)


@pytest.mark.parametrize("side", SIDES)
def test_a_step_adds_its_rank_and_file(side):
    board = Board(side)
    for square, (d, (up, right)), k in itertools.product(range(side**2), enumerate(DIRECTIONS), range(1, side)):
        rank, file = square // side + k * up, square % side + k * right
        assert board.rays[square, d, k - 1] == (-1 if off(board, rank, file) else rank * side + file)
    assert np.array_equal(board.steps, board.rays[:, :, 0])


@pytest.mark.parametrize("side", SIDES)
def test_a_knight_goes_to_squares_at_distance_root_five(side):
    board = Board(side)
    for square in range(side**2):
        far = (board.ranks - board.ranks[square]) ** 2 + (board.files - board.files[square]) ** 2
        found = board.knight_steps[square]
        assert sorted(found[found >= 0]) == np.flatnonzero(far == 5).tolist()


@pytest.mark.parametrize("side", SIDES)
def test_between_are_the_squares_that_cut_a_line_in_two(side):
    # c lies on the segment ab iff |ac| + |cb| = |ab|; with a line of the board ab, c is on a line with both
    board = Board(side)
    at = board.ranks + 1j * board.files
    apart = np.abs(at[:, None] - at)
    cut = np.isclose(apart[:, None, :] + apart.T[None, :, :], apart[:, :, None])
    gap = at[:, None] - at
    line = (gap.real == 0) | (gap.imag == 0) | (np.abs(gap.real) == np.abs(gap.imag))
    itself = np.eye(side**2, dtype=bool)
    expected = cut & line[:, :, None] & ~itself[:, None, :] & ~itself[None, :, :]
    assert np.array_equal(board.between, expected)


def test_distance_is_the_number_of_moves_of_a_king():
    board = Board(5)
    reached = np.where(np.eye(25, dtype=bool), 0, 99)
    for moves in range(1, 5):  # breadth first
        for square in range(25):
            near = [t for t in board.steps[square] if t >= 0]
            reached[:, near] = np.minimum(reached[:, near], np.where(reached[:, [square]] == moves - 1, moves, 99))
    assert np.array_equal(board.distance, reached)


def test_direction_tells_on_which_line_two_squares_lie():
    board = Board(8)
    d4 = board.square("d4")
    # clockwise from north, and a knight's step away
    names = ["d8", "h8", "h4", "g1", "d1", "a1", "a4", "a7", "e6"]
    assert [board.direction[d4, board.square(name)] for name in names] == [0, 1, 2, 3, 4, 5, 6, 7, -1]
    assert board.direction[d4, d4] == -1


@pytest.mark.parametrize(("side", "actions"), [(4, 16 * 41), (5, 1225), (6, 36 * 57), (7, 49 * 65), (8, 4672)])
def test_number_of_ids(side, actions):
    assert Board(side).actions == actions


@pytest.mark.parametrize("side", SIDES)
def test_every_id_that_stays_on_the_board_comes_back(side):
    board = Board(side)
    ids = np.arange(board.actions)
    origin, target, promotion = board.decode(ids)
    real = target >= 0
    assert np.array_equal(board.encode(origin[real], target[real], promotion[real]), ids[real])
    # one by one the same, as numbers of Python
    for i in range(0, board.actions, 7):
        assert board.decode(i) == (origin[i], target[i], promotion[i])
        assert type(board.decode(i)[1]) is int


@pytest.mark.parametrize("side", SIDES)
def test_count_of_ids_that_stay_on_the_board(side):
    # Ordered pairs of squares on a line: ranks and files 2 n² (n-1); both kinds of diagonal 4 Σ_{k<n} (n-k)².
    # Knight: 8 (n-1) (n-2). Underpromotions: 3 pieces x (n straight + 2 (n-1) aside). On 8 x 8:
    # 896 + 560 + 336 + 66 = 1858, the number of moves that Leela Chess Zero's networks know.
    n = side
    expected = 2 * n**2 * (n - 1) + 4 * sum((n - k) ** 2 for k in range(1, n)) + 8 * (n - 1) * (n - 2) + 3 * (3 * n - 2)
    targets = Board(side).decode(np.arange(Board(side).actions))[1]
    assert (targets >= 0).sum() == expected
    assert n < 8 or expected == 1858


def test_ids_by_hand():
    # 8 x 8: from · 73 + plane; north 1 is plane 0, east 3 is 2·7 + 2 = 16, the knight's (2, 1) is 56,
    # a bishop by capture to the left is 64 + 3·1 + 0 = 67
    board = Board(8)
    a7 = board.square("a7")
    assert board.encode(board.square("e2"), board.square("e3")) == 12 * 73
    assert board.encode(board.square("a1"), board.square("d1")) == 16
    assert board.encode(board.square("b1"), board.square("c3")) == 73 + 56
    assert board.encode(board.square("b7"), board.square("a8"), BISHOP) == 49 * 73 + 67
    assert board.decode(a7 * 73 + 64 + 3 * 2 + 1) == (a7, board.square("a8"), ROOK)
    assert board.encode(a7, board.square("a8"), QUEEN) == a7 * 73  # the plain step


def test_what_is_no_move_has_no_id():
    board = Board(8)
    a1, a6, a7, a8, b4, c8 = (board.square(x) for x in ("a1", "a6", "a7", "a8", "b4", "c8"))
    assert board.encode(a1, b4) == -1  # on no line
    assert board.encode(a1, a1) == -1
    assert board.encode(a6, a7, KNIGHT) == -1  # not to the last rank
    assert board.encode(a7, c8, KNIGHT) == -1  # a knight's step is no promotion
    assert board.decode(a7 * 73 + 64) == (a7, -1, KNIGHT)  # a7 has nothing to the left
    assert board.decode(0 * 73 + 64 + 1) == (a1, -1, KNIGHT)
    assert board.decode(a8 * 73) == (a8, -1, 0)


@pytest.mark.parametrize("number", [-1, 4672])
def test_a_number_that_is_no_id_is_refused(number):
    with pytest.raises(IndexError, match="has actions 0 to 4671"):
        Board(8).decode(np.array([0, number]))
    with pytest.raises(IndexError, match="has squares 0 to 63"):
        Board(8).encode(-1, 3)


def test_small_integers_do_not_overflow():
    board = Board(8)
    origin, target = np.array([63], dtype=np.int8), np.array([62], dtype=np.int8)
    assert board.encode(origin, target) == 63 * 73 + 6 * 7  # west by one
    assert board.mirror(target) == 6


@pytest.mark.parametrize("side", SIDES)
def test_mirror_flips_ranks_and_keeps_files(side):
    board = Board(side)
    squares = np.arange(side**2)
    there = board.mirror(squares)
    assert np.array_equal(there % side, squares % side)
    assert np.array_equal(there // side + squares // side, np.full(side**2, side - 1))
    assert board.mirror(0) == side * (side - 1)


def test_names_come_back():
    board = Board(5)
    names = [board.name(square) for square in range(25)]
    assert names[0] == "a1" and names[4] == "e1" and names[5] == "a2" and names[24] == "e5"
    assert [board.square(name) for name in names] == list(range(25))


@pytest.mark.parametrize("name", ["f1", "a6", "A1", "a", "", "a10", "a²"])
def test_a_name_that_is_no_square_is_refused(name):
    with pytest.raises(LabError, match=r"this board has a1 to e5"):
        Board(5).square(name)


@pytest.mark.parametrize("side", [3, 9])
def test_a_side_out_of_range_is_refused(side):
    with pytest.raises(LabError, match=f"side: a board has 4 to 8 ranks and as many files, found {side}"):
        Board(side)


def test_tables_cannot_be_written():
    board = Board(4)
    for table in (board.rays, board.steps, board.knight_steps, board.between, board.targets, board.distance):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


def legal_moves_of_many_positions():
    """Positions of POSITIONS and of random games from each, with python-chess."""
    chess = pytest.importorskip("chess")
    rng = random.Random(5)
    for fen in POSITIONS:
        board = chess.Board(fen)
        for _ in range(60):
            moves = list(board.legal_moves)
            if not moves:
                break
            yield board, moves
            board.push(rng.choice(moves))


def test_full_chess_fits_the_encoding():
    board = Board(8)
    castled = en_passant = promoted = 0
    for position, moves in legal_moves_of_many_positions():
        ids = []
        for move in moves:
            flip = (lambda square: square) if position.turn else board.mirror
            promotion = move.promotion or 0  # python-chess numbers men from pawn 1 to king 6, as we do
            found = board.encode(flip(move.from_square), flip(move.to_square), promotion)
            origin, target, lesser = board.decode(found)
            assert (flip(origin), flip(target)) == (move.from_square, move.to_square)
            assert lesser == (promotion if promotion in (KNIGHT, BISHOP, ROOK) else 0)
            ids.append(found)
            castled += position.is_castling(move)
            en_passant += position.is_en_passant(move)
            promoted += promotion > 0
        assert len(set(ids)) == len(moves)  # no two legal moves share an id
    assert min(castled, en_passant, promoted) > 0
