"""Games on paper: a first position in FEN and moves in UCI, one game a line.

    8/8/8/8/3k4/8/8/KR6 w - - 0 1; b1b4 d4c3 b4h4; *

Three parts, parted by semicolons; what stands behind ``#`` is a remark. The result is ``1-0`` or ``0-1`` for mate by
white or by black, ``1/2-1/2`` for a draw, ``*`` where the record stops before the game is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final

import numpy as np

from rlhf_lab.cache import keep
from rlhf_lab.data.errors import BadDataError, BadRowError, shown
from rlhf_lab.errors import LabError
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.notation import read_uci, write_uci
from rlhf_lab_chess.states import read_move, read_state, write_move, write_state
from rlhf_lab_chess.successors import DEAD, NONE

__all__ = ["Game", "read_games", "write_games", "write_lines"]

_UNFINISHED: Final = "*"
_DRAWN: Final = "1/2-1/2"


@dataclass(frozen=True)
class Game:
    """A game of an ending: the states with white to move, white's slots, and black's answers by direction.

    There is an answer to every move but perhaps the last, which may end the game, or the record. ``white`` is False
    where the side with the man is black in writing.
    """

    states: tuple[int, ...]
    slots: tuple[int, ...]
    answers: tuple[int, ...]
    white: bool = True


def write_games(path: str | Path, ending: Ending, games: Iterable[Game]) -> None:
    """Write games, a line each; the file is whole or not there. Raises ``LabError`` where it cannot be written."""
    write_lines(path, (_line(ending, game) for game in games))


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines of text; the file is whole or not there. Raises ``LabError`` where it cannot be written."""
    try:
        keep(Path(path), "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from None


def read_games(path: str | Path, ending: Ending) -> Iterator[Game]:
    """Yield the games of a file, each checked move by move.

    Raises ``BadRowError`` with file, line and move for what is illegal or cannot be read, and ``LabError`` for a file
    that cannot be opened, is no UTF-8 text or holds no game.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]
        place = f"{path}:{before.count(10) + 1}"
        raise LabError(f"{place}: is no UTF-8 text, found byte {byte:#04x}; save the file as UTF-8") from None
    found = 0
    for number, line in enumerate(StringIO(text, newline=None), 1):
        said = line.partition("#")[0].strip()
        if said:
            try:
                yield _game(ending, said)
            except BadRowError as error:
                error.place = f"{path}:{number}"
                raise
            found += 1
    if not found:
        raise BadDataError(f"{path} holds no game; write `FEN; moves; result`, one game a line")


def _line(ending: Ending, game: Game) -> str:
    moves = []
    for i, (state, slot) in enumerate(zip(game.states, game.slots, strict=True)):
        moves.append(write_move(ending, state, slot, white=game.white))
        if i < len(game.answers):
            bare = int(ending.white[state][2])
            moves.append(_write_answer(ending, bare, game.answers[i], game.white))
    return f"{write_state(ending, game.states[0], white=game.white)}; {' '.join(moves)}; {_result(ending, game)}"


def _write_answer(ending: Ending, bare: int, direction: int, white: bool) -> str:
    board, target = ending.board, int(ending.board.steps[bare, direction])
    return write_uci(board, bare, target) if white else write_uci(board, board.mirror(bare), board.mirror(target))


def _game(ending: Ending, line: str) -> Game:
    """Return the game of a line; raises ``BadRowError`` for the first thing that is wrong with it."""
    parts = [part.strip() for part in line.split(";")]
    if len(parts) != 3:
        due = "write `FEN; moves; result`"
        raise BadRowError("game", "is cut off, or has too many parts", found=f"{len(parts)} of 3 parts", due=due)
    fen, moves, result = parts
    state, white = read_state(ending, fen)
    states, slots, answers = [], [], list[int]()
    following: int | None = state
    for number, pair in enumerate(_pairs(moves.split()), 1):
        try:
            if following is None:
                raise BadRowError("move", "is played when the game is over", found=repr(pair[0]), due="remove it")
            slot = read_move(ending, following, pair[0], white=white)
            states.append(following)
            slots.append(slot)
            position = int(ending.moves[following, slot])
            over = position == DEAD or bool(ending.stuck[position])
            if over and len(pair) > 1:
                raise BadRowError("move", "is played when the game is over", found=repr(pair[1]), due="remove it")
            if len(pair) > 1:
                answers.append(_answer(ending, position, pair[1], white))
                following = _behind(ending, position, answers[-1])
            else:
                following = None
        except BadRowError as error:
            error.field = f"move {number}"
            raise
    if not states:
        raise BadRowError("moves", "there is none", due="write at least one move")
    game = Game(tuple(states), tuple(slots), tuple(answers), white)
    true = _result(ending, game)
    if result != true:
        due = f"the moves say {true}"
        raise BadRowError("result", "is not that of the moves", found=shown(result), due=due)
    return game


def _pairs(moves: list[str]) -> list[list[str]]:
    return [moves[i : i + 2] for i in range(0, len(moves), 2)]


def _answer(ending: Ending, position: int, uci: str, white: bool) -> int:
    """Return the direction of black's answer in writing."""
    board, bare = ending.board, int(ending.black[position][2])
    origin, target, promotion = read_uci(uci, board)
    if not white:
        origin, target = board.mirror(origin), board.mirror(target)
    possible = np.flatnonzero(ending.replies[position] != NONE).tolist()
    for direction in possible:
        if (origin, target, promotion) == (bare, int(board.steps[bare, direction]), 0):
            return int(direction)
    legal = ", ".join(_write_answer(ending, bare, direction, white) for direction in possible)
    raise BadRowError("move", "is an illegal answer", found=repr(uci), due=f"legal: {legal}")


def _behind(ending: Ending, position: int, direction: int) -> int | None:
    """Return the state behind an answer, or None where the game is over."""
    state = int(ending.replies[position, direction])
    return None if state == DEAD or not (ending.moves[state] != NONE).any() else state


def _result(ending: Ending, game: Game) -> str:
    position = int(ending.moves[game.states[-1], game.slots[-1]])
    if len(game.answers) < len(game.slots):
        if position == DEAD or (ending.stuck[position] and not ending.checked[position]):
            return _DRAWN
        if ending.stuck[position]:
            return "1-0" if game.white else "0-1"
        return _UNFINISHED
    return _DRAWN if _behind(ending, position, game.answers[-1]) is None else _UNFINISHED
