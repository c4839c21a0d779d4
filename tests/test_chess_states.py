"""States of endings and their moves in writing: there and back, in both colours, and what is said of bad ones."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lab.data.errors import BadRowError
from rlhf_lab_chess.ending import ending
from rlhf_lab_chess.geometry import KNIGHT
from rlhf_lab_chess.notation import read_fen, read_uci
from rlhf_lab_chess.states import action_ids, position_of, read_move, read_state, state_of, write_move, write_state
from rlhf_lab_chess.successors import NONE

WHITE = pytest.mark.parametrize("white", [True, False], ids=["white", "black"])


def some_states(found, count=100):
    """Return random states; of KPK as many with a pawn as with a queen or a rook."""
    rng = np.random.default_rng(2)
    kinds = [np.flatnonzero(found.white_man == kind) for kind in range(len(found.men))]
    return np.concatenate([rng.choice(each, count, replace=False) for each in kinds]).tolist()


@WHITE
def test_every_state_comes_back(white):
    found = ending("KRK", 4)
    for state in range(len(found.white)):
        assert read_state(found, write_state(found, state, white=white)) == (state, white)


@WHITE
@pytest.mark.parametrize(("name", "side"), [("KQK", 5), ("KRK", 7), ("KQK", 8), ("KPK", 8)])
def test_states_come_back(name, side, white):
    found = ending(name, side)
    for state in some_states(found):
        position = position_of(found, state, white=white)
        assert state_of(found, position) == state
        assert read_fen(write_state(found, state, white=white)) == position


def test_every_legal_fen_of_two_kings_and_the_man_is_a_state():
    # 16 · 15 · 14 placements of three different men; those that FEN's rules refuse are no states
    found = ending("KRK", 4)
    seen = set()
    for king, man, bare in np.ndindex(16, 16, 16):
        if len({king, man, bare}) < 3:
            continue
        signs = {king: "K", man: "R", bare: "k"}
        ranks = ["".join(signs.get(4 * rank + file, "1") for file in range(4)) for rank in (3, 2, 1, 0)]
        for ones in ("1111", "111", "11"):
            ranks = [rank.replace(ones, str(len(ones))) for rank in ranks]
        try:
            state, _ = read_state(found, f"{'/'.join(ranks)} w - - 0 1")
        except BadRowError:
            assert found.state(king, "R", man, bare) is None
        else:
            assert found.white[state].tolist() == [king, man, bare]
            seen.add(state)
    assert len(seen) == len(found.white) == 1312


def test_black_s_men_stand_on_flipped_ranks():
    found = ending("KRK", 4)
    state, white = read_state(found, "3k/4/4/KR2 w - - 0 1")
    assert white
    assert found.white[state].tolist() == [0, 1, 15]
    assert read_state(found, "kr2/4/4/3K b - - 7 30") == (state, False)  # clocks do not count
    assert write_state(found, state, white=False) == "kr2/4/4/3K b - - 0 1"


@pytest.mark.parametrize("man", ["P", "Q", "R"])
def test_a_promoted_man_is_of_the_pawn_s_ending(man):
    found = ending("KPK")
    state, _ = read_state(found, f"8/8/8/8/7{man}/8/8/k1K5 w - - 0 1")
    assert found.white[state].tolist() == [2, 31, 0]
    assert found.men[found.white_man[state]] == man


P = "placement: is no position of this ending, found "
REFUSED = [
    ("KRK", 4, "3k/4/4/K3 w - -", P + "bare kings; KRK has two kings and one of R"),
    ("KRK", 4, "3k/4/4/KQ2 w - -", P + "Q; KRK has two kings and one of R"),
    ("KRK", 4, "3K/4/4/kq2 b - -", P + "q; KRK has two kings and one of R"),
    ("KRK", 4, "3k/4/R3/KR2 w - -", P + "RR; KRK has two kings and one of R"),
    ("KRK", 5, "k3r/5/5/5/1KR2 w - -", P + "Rr; KRK"),
    ("KPK", 8, "8/8/8/8/8/8/4B3/k1K5 w - -", P + "B; KPK has two kings and one of P, Q, R"),
    ("KRK", 4, "3k/4/4/KR2 b - -", "side to move: has a bare king, found R; the side with the man is to move"),
    ("KRK", 4, "3K/4/4/kr2 w - -", "side to move: has a bare king, found r; the side with the man is to move"),
    ("KRK", 8, "4k3/8/8/8/8/8/8/4K2R w K - 0 1", "castling: is no right in this ending, found K; write -; in KRK the"),
    (
        "KRK",
        4,
        "7k/8/8/8/8/8/8/KR6 w - -",
        "placement: has a wrong number of ranks, found 8 in '7k/8/8/8/8/8/8/KR6'; this",
    ),
    ("KRK", 4, "1k2/4/4/KR2 w - -", "side to move: white could take the king on b4, found b1"),
    ("KRK", 4, "4/4/1k2/KR2 w - -", "placement: the kings are adjacent"),
]


@pytest.mark.parametrize(("name", "side", "fen", "said"), REFUSED)
def test_a_position_of_no_state_is_refused(name, side, fen, said):
    with pytest.raises(BadRowError) as caught:
        read_state(ending(name, side), fen)
    assert str(caught.value).startswith(said)


# K a1, R b1, k d4: the king has a2 and b2, as its own rook stands on b1
RIGHTS = "legal: a1a2, a1b2, b1b2, b1b3, b1b4, b1c1, b1d1"
# the same with colours exchanged: ranks flipped, so that a1 is a4
BLACKS = "legal: a4a3, a4b3, b4b3, b4b2, b4b1, b4c4, b4d4"
ILLEGAL = "move: is illegal in "
PAWN = "8/4P3/8/8/8/8/8/k1K5 w - - 0 1"
STALEMATE = "K7/P1k5/8/8/8/8/8/8 w - - 0 1"


@pytest.mark.parametrize(
    ("name", "fen", "move", "said"),
    [
        ("KRK", "3k/4/4/KR2 w - - 0 1", "a1a4", f"{ILLEGAL}3k/4/4/KR2 w - - 0 1, found 'a1a4'; {RIGHTS}"),
        ("KRK", "3k/4/4/KR2 w - - 0 1", "a1b1", f"{ILLEGAL}3k/4/4/KR2 w - - 0 1, found 'a1b1'; {RIGHTS}"),
        ("KRK", "3k/4/4/KR2 w - - 0 1", "a1a2q", f"{ILLEGAL}3k/4/4/KR2 w - - 0 1, found 'a1a2q'; {RIGHTS}"),
        ("KRK", "3k/4/4/KR2 w - - 0 1", "d4d3", f"{ILLEGAL}3k/4/4/KR2 w - - 0 1, found 'd4d3'; {RIGHTS}"),
        ("KRK", "kr2/4/4/3K b - - 0 1", "b1b4", f"{ILLEGAL}kr2/4/4/3K b - - 0 1, found 'b1b4'; {BLACKS}"),
        ("KRK", "3k/4/4/KR2 w - - 0 1", "e1e2", "move: leaves the board, found 'e1e2'"),
        ("KRK", "3k/4/4/KR2 w - - 0 1", "Rb4", "move: is not written as two squares, found 'Rb4'"),
        # the king on c1 has no b1 or b2, next to black's
        ("KPK", PAWN, "e7e8", f"{ILLEGAL}{PAWN}, found 'e7e8'; legal: c1c2, c1d2, c1d1, e7e8q, e7e8n, e7e8b, e7e8r"),
        ("KPK", PAWN, "e7f8q", f"{ILLEGAL}{PAWN}, found 'e7f8q'"),
        # white is stalemated: its king stands before its pawn, and black's king takes b7 and b8
        ("KPK", STALEMATE, "a7a8q", f"{ILLEGAL}{STALEMATE}, found 'a7a8q'; legal: none"),
    ],
)  # fmt: skip
def test_an_illegal_move_is_refused(name, fen, move, said):
    found = ending(name, fen.count("/") + 1)
    state, white = read_state(found, fen)
    with pytest.raises(BadRowError) as caught:
        read_move(found, state, move, white=white)
    assert str(caught.value).startswith(said)


def test_moves_by_hand():
    found = ending("KPK")
    state, white = read_state(found, PAWN)
    # king: north, north-east, north-west ...; then push (to a queen), double push, knight, bishop, rook
    slots = {"c1c2": 0, "c1d2": 1, "c1d1": 2, "e7e8q": 8, "e7e8n": 10, "e7e8b": 11, "e7e8r": 12}
    for uci, slot in slots.items():
        assert read_move(found, state, uci, white=white) == slot
        assert write_move(found, state, slot) == uci
    double, _ = read_state(found, "8/8/8/8/8/8/4P3/k1K5 w - - 0 1")
    assert read_move(found, double, "e2e4") == 9


@pytest.mark.parametrize(("name", "side"), [("KQK", 4), ("KRK", 5), ("KPK", 8)])
def test_ids_decode_to_the_mover_s_squares(name, side):
    found = ending(name, side)
    ids, board = action_ids(found), found.board
    assert np.array_equal(ids >= 0, found.moves != NONE)
    for state in some_states(found):
        for slot in np.flatnonzero(found.moves[state] != NONE).tolist():
            origin, target, promotion = board.decode(int(ids[state, slot]))
            for white in (True, False):
                start, end, becomes = read_uci(write_move(found, state, slot, white=white), board)
                if not white:  # black's squares are seen from its own side
                    start, end = board.mirror(start), board.mirror(end)
                assert (origin, target) == (start, end)
                # a queen is the plain move
                assert promotion == (becomes if promotion else 0)
                assert promotion or becomes in (0, 5)


@pytest.mark.parametrize(("name", "side"), [("KQK", 4), ("KRK", 5), ("KPK", 8)])
def test_ids_of_a_state_are_unique(name, side):
    ids = np.sort(action_ids(ending(name, side)), axis=1)
    assert not ((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)).any()


def test_ids_by_hand():
    # id = from · 73 + plane; e7 is 52, north by one plane 0, a knight straight on plane 64 + 1; c1 is 2, north-west
    # plane 7 · 7
    found = ending("KPK")
    state, _ = read_state(found, PAWN)
    ids = action_ids(found)[state]
    assert (ids[8], ids[10], ids[0], ids[1]) == (52 * 73, 52 * 73 + 65, 2 * 73, 2 * 73 + 7)
    assert found.board.decode(int(ids[10]))[2] == KNIGHT
