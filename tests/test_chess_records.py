"""Games on paper: there and back, and every malformed line by file, line and move."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhf_lab.data.errors import BadDataError, BadRowError
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab_chess import KPK, KQK, KRK, OptimalDefence
from rlhf_lab_chess.ending import Ending, ending
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.play import play
from rlhf_lab_chess.players import player
from rlhf_lab_chess.records import Game, read_games, write_games
from rlhf_lab_chess.states import read_move, read_state

# K c2, R d3, k a1 on 4 x 4: Rd4 leaves a2 alone, where Ra4 mates
MATE = "4/3R/2K1/k3 w - - 0 1; d3d4 a1a2 d4a4; 1-0"


def games_of(environment: EndingEnvironment, strength: float, count: int) -> list[Game]:
    built = environment.build(1, 1, Streams([5]))
    return play(built, player(built.ending, strength), count, Streams([5]))


def read(ending: Ending, *lines: str) -> list[Game]:
    Path("games.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(read_games("games.txt", ending))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- there and back


@pytest.mark.parametrize("white", [True, False], ids=["white", "black"])
@pytest.mark.parametrize("strength", [-1.0, 0.0, 1.0, 20.0])
@pytest.mark.parametrize("name", [KQK, KRK])
def test_games_come_back(name, strength, white):
    environment = name(board=4, max_steps=12)
    found = environment.ending()
    games = [Game(g.states, g.slots, g.answers, white) for g in games_of(environment, strength, 60)]
    write_games("games.txt", found, games)
    assert list(read_games("games.txt", found)) == games
    results = {line.rpartition(" ")[2] for line in Path("games.txt").read_text().splitlines()}
    win = "1-0" if white else "0-1"
    assert results <= {win, "1/2-1/2", "*"}
    assert strength != 20 or results == {win}
    assert strength != 0 or results == {win, "1/2-1/2", "*"}


@pytest.mark.slow
def test_a_pawn_s_games_come_back():
    environment = KPK(mate_in=(2, 12), opponent=OptimalDefence(), max_steps=40)
    found = environment.ending()
    played = games_of(environment, 0.0, 200)
    for white, last in ((True, "8"), (False, "1")):
        games = [Game(g.states, g.slots, g.answers, white) for g in played]
        write_games("games.txt", found, games)
        assert list(read_games("games.txt", found)) == games
        lines = Path("games.txt").read_text().splitlines()
        promotions = {move[3:] for line in lines for move in line.split(";")[1].split() if len(move) == 5}
        assert promotions == {last + man for man in "qrbn"}


def test_a_game_by_hand():
    found = ending("KRK", 4)
    (game,) = read(found, MATE)
    first, second = (read_state(found, f"{rows} w - - 0 1")[0] for rows in ("4/3R/2K1/k3", "3R/4/k1K1/4"))
    north = 0
    assert game.states == (first, second)
    assert game.slots == (read_move(found, first, "d3d4"), read_move(found, second, "d4a4"))
    assert game.answers == (north,)
    assert game.white
    # the same with colours exchanged: ranks flipped, files kept, black mates
    (mirrored,) = read(found, "K3/2k1/3r/4 b - - 0 1; d2d1 a4a3 d1a1; 0-1")
    assert mirrored == Game(game.states, game.slots, game.answers, white=False)


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (MATE, "1-0"),
        ("4/3R/2K1/k3 w - - 0 1; d3d4; *", "*"),  # black has yet to answer
        ("4/3R/2K1/k3 w - - 0 1; d3d4 a1a2; *", "*"),
        ("3K/4/3R/k3 w - - 0 1; d2b2 a1b2; 1/2-1/2", "1/2-1/2"),  # nothing guards the rook
    ],
)
def test_how_a_record_ends(line, result):
    found = ending("KRK", 4)
    write_games("again.txt", found, read(found, line))
    assert Path("again.txt").read_text() == line + "\n"


def test_stalemate_is_a_draw():
    # K c1, Q b3 on 4 x 4 leaves k a1 no move: a2, b1 and b2 are attacked
    line = "4/3Q/4/k1K1 w - - 0 1; d3b3; 1/2-1/2"
    assert len(read(ending("KQK", 4), line)) == 1
    # K a8, P a7 and k c7: black shuts white in
    assert len(read(ending("KPK"), "2k5/K7/P7/8/8/8/8/8 w - - 0 1; a7a8 c8c7 a6a7 c7c8; 1/2-1/2")) == 1


def test_remarks_blank_lines_windows_lines_and_a_byte_order_mark():
    found = ending("KRK", 4)
    text = f"# strong players;  all of them\r\n\r\n{MATE}  # a remark\r\n   \r\n{MATE}"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.replace("\r\n", "\r").encode()):
        Path("games.txt").write_bytes(content)
        assert len(list(read_games("games.txt", found))) == 2


def test_a_page_break_in_a_remark_is_no_end_of_a_line():
    assert len(read(ending("KRK", 4), f"{MATE} # page\x0c2\u2028 and more")) == 1


# ---- what is refused

PLACE = "games.txt:3: "
FEN = "4/3R/2K1/k3 w - - 0 1"
BAD = [
    # the line's parts
    (
        f"{FEN}; d3d4 a1a2 d4a4",
        "game: is cut off, or has too many parts, found 2 of 3 parts; write `FEN; moves; result`",
    ),
    (FEN, "game: is cut off, or has too many parts, found 1 of 3 parts"),
    (f"{MATE}; 40", "game: is cut off, or has too many parts, found 4 of 3 parts"),
    ("; d3d4; *", "FEN: has not four or six fields, found 0 in ''"),
    (f"{FEN}; ; *", "moves: there is none; write at least one move"),
    # fields of the FEN
    ("4/3X/2K1/k3 w - - 0 1; d3d4; *", "placement: rank 3 has an unknown sign 'X'"),
    ("4/3R/2K1/k3/4 w - - 0 1; d3d4; *", "placement: has a wrong number of ranks, found 5"),
    ("4/3R/2K1/k4 w - - 0 1; d3d4; *", "placement: rank 1 is too long, found 5 squares"),
    ("4/3Q/2K1/k3 w - - 0 1; d3d4; *", "placement: is no position of this ending, found Q; KRK has two kings"),
    ("4/3R/4/kK2 w - - 0 1; d3d4; *", "placement: the kings are adjacent"),
    ("4/3R/2K1/k3 ww - - 0 1; d3d4; *", "side to move: is neither w nor b, found 'ww'"),
    ("4/3R/2K1/k3 b - - 0 1; a1a2; *", "side to move: has a bare king"),
    ("4/3R/2K1/k3 w Q - 0 1; d3d4; *", "castling: "),
    ("4/3R/2K1/k3 w - d3 0 1; d3d4; *", "en passant: "),
    ("4/3R/2K1/k3 w - - -1 1; d3d4; *", "halfmove clock: is no number of moves, found '-1'"),
    ("4/3R/2K1/k3 w - - 0 0; d3d4; *", "fullmove number: is no number of moves, found '0'"),
    # moves
    (f"{FEN}; d3e2; *", "move 1: leaves the board, found 'd3e2'"),
    (f"{FEN}; d3-d4; *", "move 1: is not written as two squares, found 'd3-d4'"),
    (f"{FEN}; d3d4k; *", "move 1: promotes to what no pawn becomes, found 'd3d4k'"),
    (f"{FEN}; d3d4q; *", "move 1: is illegal in 4/3R/2K1/k3 w - - 0 1, found 'd3d4q'; legal: "),
    (f"{FEN}; c2b2; *", "move 1: is illegal in 4/3R/2K1/k3 w - - 0 1, found 'c2b2'; legal: "),
    (f"{FEN}; d3d4 a1b2; *", "move 1: is an illegal answer, found 'a1b2'; legal: a1a2"),
    (f"{FEN}; d3d4 a1a2 d4d4; *", "move 2: stays where it is, found 'd4d4'"),
    (f"{FEN}; d3d4 a1a2 d4c3; *", "move 2: is illegal in 3R/4/k1K1/4 w - - 0 1, found 'd4c3'; legal: "),
    (f"{FEN}; d3d4 a1a2 d4d; *", "move 2: is not written as two squares, found 'd4d'"),  # cut off within a move
    # the end of the game
    (f"{FEN}; d3d4 a1a2 d4a4 a2a1; 1-0", "move 2: is played when the game is over, found 'a2a1'; remove it"),
    ("3K/4/3R/k3 w - - 0 1; d2b2 a1b2 d4d3; *", "move 2: is played when the game is over, found 'd4d3'; remove it"),
    (f"{FEN}; d3d4 a1a2 d4a4; *", "result: is not that of the moves, found '*'; the moves say 1-0"),
    (f"{FEN}; d3d4 a1a2 d4a4; 0-1", "result: is not that of the moves, found '0-1'; the moves say 1-0"),
    (f"{FEN}; d3d4 a1a2 d4a4; 1-", "result: is not that of the moves, found '1-'; the moves say 1-0"),
    (f"{FEN}; d3d4 a1a2 d4a4;", "result: is not that of the moves, found ''; the moves say 1-0"),
    (f"{FEN}; d3d4 a1a2; 1-0", "result: is not that of the moves, found '1-0'; the moves say *"),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_a_bad_line_is_told_by_line_move_and_field(line, said):
    with pytest.raises(BadRowError) as caught:
        read(ending("KRK", 4), "# a remark", MATE, line, MATE)
    assert str(caught.value).startswith(PLACE + said)


def test_black_s_moves_are_told_as_they_are_written():
    found = ending("KRK", 4)
    with pytest.raises(BadRowError, match=r"move 1: is illegal in K3/2k1/3r/4 b - - 0 1, found 'd2c1'; legal: .*d2d1"):
        read(found, "K3/2k1/3r/4 b - - 0 1; d2c1; *")
    with pytest.raises(BadRowError, match=r"move 1: is an illegal answer, found 'a4b4'; legal: a4a3$"):
        read(found, "K3/2k1/3r/4 b - - 0 1; d2d1 a4b4; *")


def test_games_before_a_bad_line_are_read():
    Path("games.txt").write_text(f"{MATE}\n{MATE[:-9]}", encoding="utf-8")  # cut off: the last line is not whole
    games = read_games("games.txt", ending("KRK", 4))
    assert len(next(games).slots) == 2
    with pytest.raises(BadRowError, match=r"^games\.txt:2: game: is cut off"):
        next(games)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "games.txt holds no game; write `FEN; moves; result`, one game a line"),
        (b"\n # nothing\n", "games.txt holds no game"),
        (
            f"{MATE}\n# Bl\u00fccher".encode("latin-1"),
            "games.txt:2: is no UTF-8 text, found byte 0xfc; save the file as",
        ),
        (MATE.encode("utf-16"), "games.txt:1: is no UTF-8 text, found byte 0xff"),
        (MATE.encode("utf-16-le"), "games.txt:1: placement: rank 4 has an unknown sign '\\x00'"),
        (b"\x1f\x8b\x08 packed", "games.txt:1: is no UTF-8 text, found byte 0x8b"),
    ],
)
def test_what_is_no_text_of_games(content, said):
    Path("games.txt").write_bytes(content)
    with pytest.raises(LabError) as caught:
        list(read_games("games.txt", ending("KRK", 4)))
    assert said in str(caught.value)


def test_a_file_that_cannot_be_opened():
    found = ending("KRK", 4)
    Path("folder").mkdir()
    for path, why in (("none.txt", "No such file or directory"), ("folder", "Is a directory")):
        with pytest.raises(LabError, match=f"^cannot read {path}: {why}"):
            list(read_games(path, found))
    assert issubclass(BadDataError, LabError)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read and write everything")
def test_a_file_without_permission():
    found = ending("KRK", 4)
    (game,) = read(found, MATE)
    Path("games.txt").chmod(0)
    with pytest.raises(LabError, match=r"^cannot read games\.txt: Permission denied"):
        list(read_games("games.txt", found))
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(LabError, match=r"^cannot write locked/games\.txt: Permission denied"):
        write_games("locked/games.txt", found, [game])


def test_nothing_is_lost_when_writing_fails(monkeypatch):
    found = ending("KRK", 4)
    (game,) = read(found, MATE)
    before = Path("games.txt").read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(LabError, match=r"^cannot write games\.txt: No space left"):
        broken.setattr(Path, "replace", full)
        write_games("games.txt", found, [game, game])
    assert Path("games.txt").read_bytes() == before
    assert list(Path().iterdir()) == [Path("games.txt")]  # and no half of a file lies about

    def broken_off():
        yield game
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_games("games.txt", found, broken_off())
    assert Path("games.txt").read_bytes() == before
    Path("folder").mkdir()
    with pytest.raises(LabError, match=r"^cannot write folder: Is a directory"):
        write_games("folder", found, [game])


def test_a_written_file_may_be_read_by_whom_new_files_may_be_read():
    found = ending("KRK", 4)
    Path("plain.txt").touch()
    write_games("games.txt", found, read(found, MATE))
    assert Path("games.txt").stat().st_mode == Path("plain.txt").stat().st_mode
