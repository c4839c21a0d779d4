"""The solved endings: published counts, and an oracle that knows only how the pieces move."""

from __future__ import annotations

import numpy as np
import plain_endings
import pytest

from rlhf_lab.errors import LabError
from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.retrograde import DRAW
from rlhf_lab_chess.successors import DEAD, NONE
from rlhf_lab_chess.tables import solved

ENDINGS = {"KQK": "Q", "KRK": "R", "KPK": "P"}

KRK_HISTOGRAM = [27, 78, 246, 81, 198, 471, 592, 683, 1433, 1712, 1985, 2854, 3597, 4194, 4553, 2166, 390]
"""Classes of KRK with black to move by white's moves to mate, 2796 draws beside them.

Source: UCI Machine Learning Repository, Chess (King-Rook vs. King), Bain and Hoff 1994: 28056 instances.
"""


def classes(squares, side, pawn):
    """Return the number of each position's class under the board's symmetries; with a pawn only files may flip."""
    ranks, files = squares // side, squares % side
    flipped = side - 1 - files
    images = [(ranks, files), (ranks, flipped)]
    if not pawn:
        images += [(side - 1 - ranks, x) for x in (files, flipped)]
        images += [(y, x) for x, y in images]
    weights = side ** (2 * np.arange(3))
    return np.min([(y * side + x) @ weights for y, x in images], axis=0)


@pytest.fixture(params=ENDINGS)
def name(request):
    return request.param


@pytest.fixture
def tables(name):
    return solved(Board(8), ENDINGS[name])


def published(name, **numbers):
    return numbers[name]


def test_number_of_legal_positions(name, tables):
    due = published(name, KQK=(144_508, 223_944), KRK=(175_168, 223_944), KPK=(163_328, 168_024))
    assert (len(tables.positions.white), len(tables.positions.black)) == due


def test_number_of_won_and_of_lost_positions(name, tables):
    due = published(name, KQK=(144_508, 200_896), KRK=(175_168, 201_700), KPK=(124_960, 97_604))
    assert ((tables.won != DRAW).sum(), (tables.lost != DRAW).sum()) == due


def test_drawn_positions_of_the_queen_with_black_to_move():
    assert (solved(Board(8), "Q").lost == DRAW).sum() == 23_048


def test_won_positions_of_the_pawn_on_half_a_board():
    # bitbases keep the pawn on files a to d: 62,480 with white and 48,802 with black to move
    tables = solved(Board(8), "P")
    white, black = (tables.positions.white[:, 1] % 8 < 4, tables.positions.black[:, 1] % 8 < 4)
    won, lost = ((tables.won != DRAW) & white).sum(), ((tables.lost != DRAW) & black).sum()
    assert (won, lost, won + lost) == (62_480, 48_802, 111_282)


@pytest.mark.parametrize(("man", "mates", "stalemates"), [("Q", 364, 872), ("R", 216, 68)])
def test_number_of_mates_and_of_stalemates(man, mates, stalemates):
    tables = solved(Board(8), man)
    stuck = (tables.replies.numbers == NONE).all(1)
    assert (stuck & tables.replies.checked).sum() == mates
    assert (stuck & ~tables.replies.checked).sum() == stalemates


def test_a_mate_is_lost_in_0(name, tables):
    stuck = (tables.replies.numbers == NONE).all(1)
    assert np.array_equal(tables.lost == 0, stuck & tables.replies.checked)


def test_longest_mates_in_plies(name, tables):
    due = published(name, KQK=(19, 20), KRK=(31, 32), KPK=(55, 56))
    assert (tables.won.max(), tables.lost.max()) == due


def test_number_of_longest_mates_up_to_symmetry(name, tables):
    found = []
    for squares, plies in ((tables.positions.white, tables.won), (tables.positions.black, tables.lost)):
        found.append(len(np.unique(classes(squares[plies == plies.max()], 8, name == "KPK"))))
    assert tuple(found) == published(name, KQK=(1, 8), KRK=(121, 390), KPK=(3, 2))


def test_number_of_symmetry_classes(name, tables):
    found = tuple(
        len(np.unique(classes(x, 8, name == "KPK"))) for x in (tables.positions.white, tables.positions.black)
    )
    assert found == published(name, KQK=(18_081, 28_056), KRK=(21_959, 28_056), KPK=(81_664, 84_012))


def test_symmetric_positions_are_equally_far_from_mate(name, tables):
    for squares, plies in ((tables.positions.white, tables.won), (tables.positions.black, tables.lost)):
        _, first, number = np.unique(classes(squares, 8, name == "KPK"), return_index=True, return_inverse=True)
        assert np.array_equal(plies[first][number], plies)


def test_most_legal_moves(name, tables):
    white = sum((moves != NONE).sum(1) for moves in tables.moves.values())
    black = (tables.replies.numbers != NONE).sum(1)
    assert (white.max(), black.max()) == published(name, KQK=(35, 8), KRK=(22, 8), KPK=(12, 8))


def test_the_histogram_of_the_uci_data_set():
    tables = solved(Board(8), "R")
    _, first = np.unique(classes(tables.positions.black, 8, pawn=False), return_index=True)
    plies = tables.lost[first]
    assert (plies == DRAW).sum() == 2796
    assert np.bincount(plies[plies != DRAW] // 2).tolist() == KRK_HISTOGRAM
    assert (plies[plies != DRAW] % 2 == 0).all()


@pytest.mark.parametrize(
    ("man", "side", "white", "black", "longest"),
    [("Q", 4, 812, 2_184, 4), ("R", 4, 1_312, 2_184, 7), ("R", 5, 7_040, 10_488, 10), ("R", 6, 25_440, 35_360, 12)],
)
def test_small_boards(man, side, white, black, longest):
    tables = solved(Board(side), man)
    assert (len(tables.won), len(tables.lost)) == (white, black)
    assert (tables.won.max() + 1) // 2 == longest


@pytest.fixture(scope="module", params=[("KQK", 4), ("KRK", 4), ("KQK", 5), ("KRK", 5)], ids=str)
def both(request):
    """An ending, and the same one in plain Python."""
    name, side = request.param
    return ending(name, side), plain_endings.Ending(side, ENDINGS[name])


def plain(found, squares):
    """Return rows of square numbers as positions of the oracle."""
    return [tuple((s % found.board.side, s // found.board.side) for s in row) for row in squares.tolist()]


def test_distances_are_those_of_the_oracle(both):
    found, oracle = both
    won, lost = oracle.distances()
    white, black = oracle.positions()
    ours = dict(zip(plain(found, found.white), found.won.tolist(), strict=True))
    assert ours == {position: won.get(position, DRAW) for position in white}
    ours = dict(zip(plain(found, found.black), found.lost.tolist(), strict=True))
    assert ours == {position: lost.get(position, DRAW) for position in black}


def test_moves_are_those_of_the_oracle(both):
    found, oracle = both
    white, black = plain(found, found.white), plain(found, found.black)
    for position, moves in zip(white, found.moves.tolist(), strict=True):
        behind = [black[number] for number in moves if number != NONE]
        assert sorted(behind) == sorted(oracle.white_moves(position).values())
    for position, answers in zip(black, found.replies.tolist(), strict=True):
        # a king that takes the man stands where it stood
        kings = [position[1] if number == DEAD else white[number][2] for number in answers if number != NONE]
        expected = oracle.black_moves(position)
        assert sorted(kings) == sorted(expected)
        assert (DEAD in answers) == (None in expected.values())
        assert all(white[number][:2] == position[:2] for number in answers if number >= 0)


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("KBK", 8, "ending 'KBK' is unknown. Possible: KQK, KRK, KPK"),
        ("KRK", 3, "board: KRK is played on 4 x 4 to 8 x 8, found 3 x 3; choose a side from 4 to 8"),
        ("KQK", 9, "board: KQK is played on 4 x 4 to 8 x 8, found 9 x 9"),
        ("KPK", 6, "board: a pawn needs 8 ranks for its double step and promotion, found 6 x 6; take board 8, or KQK"),
    ],
)
def test_an_ending_that_is_not_there_is_refused(name, side, said):
    with pytest.raises(LabError) as caught:
        ending(name, side)
    assert str(caught.value).startswith(said)
