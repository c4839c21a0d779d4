"""Games of an ending side by side, as Gymnasium's environments play them: ids of moves in, masks and planes out.

Requirements this file meets:
- the environment component validates the arguments and makes the exact world, so that both say and play the same;
- single and vector environments are the same games.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from rlhf_lab.data.errors import BadRowError
from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.training.adapter import from_arguments
from rlhf_lab_chess.board_tables import BoardTables, as_masks
from rlhf_lab_chess.drawing import draw_svg, draw_text
from rlhf_lab_chess.ending import OVER
from rlhf_lab_chess.environment import KPK, KQK, KRK
from rlhf_lab_chess.notation import write_fen, write_uci
from rlhf_lab_chess.observation import Planes
from rlhf_lab_chess.states import read_state
from rlhf_lab_chess.successors import NONE
from rlhf_lab_chess.views import at_the_end, of_states

__all__ = ["RENDER_MODES", "TERMINATIONS", "Boards", "Moved"]

TERMINATIONS: Final = ("", *OVER, "illegal", "max_steps")
"""What ``info["termination"]`` may say: "" while a game goes on, ``max_steps`` where it was truncated."""
RENDER_MODES: Final = ("ansi", "svg")
ILLEGAL, LIMIT = TERMINATIONS.index("illegal"), TERMINATIONS.index("max_steps")

_COMPONENTS: Final = {component.ending_name: component for component in (KQK, KRK, KPK)}
_COLORS: Final = ("white", "black")
_ILLEGAL: Final = ("raise", "lose")

Numbers = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


class Moved(NamedTuple):
    """What one move everywhere gave, ``[n]`` each."""

    rewards: NDArray[np.float64]
    terminated: Bools
    truncated: Bools


class Boards:
    """``count`` games of an ending.

    ``states``, ``ages`` (the learner's moves so far), ``why`` (the game is over, in ``TERMINATIONS``) and ``views``
    have a place for each game. ``fields`` are those of the environment component; ``proxy`` is none of them, since an
    environment pays one reward.

    Raises ``LabError`` for arguments that make no sense, with the texts of a spec.
    """

    def __init__(
        self, count: int, ending: str, board: int, color: str, illegal: str, render_mode: str | None, **fields: Any
    ) -> None:
        _one_of("ending", ending, _COMPONENTS)
        _one_of("color", color, _COLORS)
        _one_of("illegal", illegal, _ILLEGAL)
        if render_mode is not None:
            _one_of("render_mode", render_mode, RENDER_MODES)
        if "proxy" in fields:
            raise LabError("proxy: an environment pays one reward; give it as reward")
        self.white, self._lose, self._render_mode = color == "white", illegal == "lose", render_mode
        self.component = from_arguments(_COMPONENTS[ending], {"board": board, **fields})
        for number, fen in enumerate(self.component.start):
            self._read(fen, f"environment.start[{number}]")
        self._tables = BoardTables.of(self.component)
        self.ending = self._tables.ending
        self.board, self.side = self.ending.board, self.ending.board.side
        self.states: Numbers = np.zeros(count, dtype=np.int64)
        self.ages = np.zeros(count, dtype=np.int64)
        self.why = np.full(count, LIMIT)  # no game is on before the first one begins
        self.views = of_states(self.ending, self.states)

    def begin(self, rows: Numbers, uniforms: NDArray[np.float64]) -> None:
        """Begin new games in ``rows`` at positions that ``uniforms [rows]`` in [0, 1) choose."""
        self._put(rows, self._tables.draw_starts(uniforms))

    def place(self, rows: Numbers, fen: str) -> None:
        """Begin new games in ``rows`` at a position; raises ``LabError`` for what is none, or over."""
        self._put(rows, np.full(len(rows), self._read(fen, "options['fen']")))

    def move(self, actions: Any, uniforms: NDArray[np.float64]) -> Moved:
        """Play ``actions [n]`` everywhere, and the answers that ``uniforms [n]`` in [0, 1) choose.

        Games that end stay where they ended. Raises ``ValueError`` for what is no action, and for an illegal one unless
        it loses, and ``ResetNeeded`` where a game is over; nothing has moved then.
        """
        if self.why.any():
            raise ResetNeeded("no game is on: call reset before the first step, and when a game is over")
        ids = np.asarray(actions)
        if ids.shape != self.states.shape or ids.dtype.kind not in "iu":
            found = f"{ids.dtype} of shape {list(ids.shape)}"
            raise ValueError(f"actions: expected whole numbers of shape {list(self.states.shape)}, found {found}")
        if ids.size and not (ids.min() >= 0 and ids.max() < self.board.actions):
            wrong = ids[(ids < 0) | (ids >= self.board.actions)][0]
            raise ValueError(f"action {wrong} is none of 0 to {self.board.actions - 1}")
        tables, before = self._tables, self.states
        slots = tables.slots(before, ids)
        legal = slots >= 0
        if not (self._lose or legal.all()):
            raise ValueError(self._complaint(int(np.flatnonzero(~legal)[0]), ids))
        after, rewards = tables.step(before, slots, uniforms)
        if not legal.all():  # what the tables gave there means nothing
            after, rewards = np.where(legal, after, before), np.where(legal, rewards, -1.0)
        self.states, self.ages = after, self.ages + 1
        terminated = tables.terminal[after] | ~legal
        truncated = ~terminated & (self.ages >= self.component.max_steps)
        self.why = np.where(legal, tables.why[after], ILLEGAL) + np.where(truncated, LIMIT, 0)
        self.views = of_states(self.ending, np.minimum(after, len(self.ending.white) - 1))
        ended = np.flatnonzero(terminated & legal)
        if ended.size:
            self.views[ended] = at_the_end(self.ending, before[ended], slots[ended], after[ended])
        return Moved(rewards, terminated, truncated)

    def legal_ids(self, rows: Any = slice(None)) -> NDArray[np.int16]:
        """Return the ids of the legal moves ``[rows, slots]``, -1 in the other places, and everywhere at the end."""
        first, states = len(self.ending.white), self.states[rows]
        ids: NDArray[np.int16] = self._tables.ids.take(
            np.minimum(states, first - 1), axis=0
        )  # which copies rows, as indexing does not
        ids[states >= first] = -1
        return ids

    def masks(self, rows: Any = slice(None)) -> NDArray[np.int8]:
        """Return 1 for the legal actions ``[rows, actions]``, and for all of them where a game has terminated."""
        masks, why = as_masks(self.legal_ids(rows), self.board.actions), self.why[rows]
        masks[(why > 0) & (why < LIMIT)] = 1
        return masks

    def planes(self, rows: Any = slice(None)) -> Planes:
        """Return the observations ``[rows, 18, side, side]``."""
        return self.views[rows].planes(self.side)

    def fen(self, row: int) -> str:
        """Return the position of one game; ended ones are shown at their end."""
        return write_fen(self.views.position(row, self.side, self.white))

    def draw(self, row: int) -> str | None:
        """Return one game's position as the render mode has it, the learner's first rank below."""
        if self._render_mode is None:
            return None
        position = self.views.position(row, self.side, self.white)
        drawn = draw_text if self._render_mode == "ansi" else draw_svg
        return drawn(position, black_below=not self.white)

    def read_options(self, options: Mapping[str, Any] | None) -> str | None:
        """Return the FEN of ``reset``'s options; raises ``LabError`` for other options."""
        for name in options or {}:
            _one_of("options", name, ("fen",))
        return (options or {}).get("fen")

    def _put(self, rows: Numbers, states: Numbers) -> None:
        self.states[rows], self.ages[rows], self.why[rows] = states, 0, 0
        self.views[rows] = of_states(self.ending, states)

    def _read(self, fen: Any, place: str) -> int:
        if not isinstance(fen, str):
            raise LabError(f"{place}: expected a FEN, found {fen!r}")
        try:
            state, white = read_state(self.component.ending(), fen)
        except BadRowError as error:
            error.place = place
            raise
        if white != self.white:
            mover = _COLORS[not white]
            raise LabError(f"{place}: {mover} has the man and is to move in {fen}; make it with color={mover!r}")
        if bool((self.component.ending().moves[state] == NONE).all()):
            mover = _COLORS[not self.white]
            raise LabError(f"{place}: {mover} has no legal move in {fen}; give a position where it has one")
        return state

    def _complaint(self, row: int, ids: Numbers) -> str:
        """Return what is wrong with an illegal action."""
        origin, target, promotion = self.board.decode(int(ids[row]))
        if not self.white:
            origin, target = self.board.mirror(origin), target if target < 0 else self.board.mirror(target)
        name = self.board.name(origin)
        move = f"off the board from {name}" if target < 0 else write_uci(self.board, origin, target, promotion)
        board = f" on board {row}" if len(ids) > 1 else ""
        return (
            f"action {ids[row]} ({move}) is illegal in {self.fen(row)}{board}; legal ones are 1 in "
            "info['action_mask'], or make the environment with illegal='lose'"
        )


def _one_of(what: str, asked: Any, possible: Iterable[str]) -> None:
    if asked not in tuple(possible):
        raise LabError(f"{what}: {asked!r} is not possible. {did_you_mean(str(asked), possible)}")
