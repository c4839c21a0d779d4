"""Chess endings with the interface of Gymnasium, registered under the namespace ``rlhf_lab``; ids name small boards.

``rlhf_lab/KQK-v0``, ``rlhf_lab/KRK-v0`` and ``rlhf_lab/KPK-v0`` are played on 8 x 8, ``rlhf_lab/KQK4-v0`` and so on to
``rlhf_lab/KRK6-v0`` on 4 x 4 to 6 x 6.
"""

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rlhf_lab_chess.boards import RENDER_MODES, TERMINATIONS, Boards
from rlhf_lab_chess.observation import PLANES, Planes

__all__ = ["EndingEnv", "register"]

_FIRST: Final = np.zeros(1, dtype=np.int64)  # the only board


class EndingEnv(gymnasium.Env[Planes, np.int64]):
    """A king and one man against a bare king; the learner has the man, the opponent answers inside ``step``.

    Actions are the board's ids of moves (``Board``), 4,672 on 8 x 8; observations the planes of ``observation``. Both
    are relative to the learner, whose view is kept at the end, too. The clock's plane stays 0: like the exact world the
    game knows neither clock nor repetition.

    Keyword arguments: ``opponent``, ``reward`` (components, names or mappings as in a spec), ``max_steps``, ``start``,
    ``mate_in`` and ``gamma`` (1 unless given; ``coach`` and ``potential_material`` are made with it, and a coach at 1
    does not mind delay) of the environment component ``krk``, ``kqk`` or ``kpk``.
    ``color`` "white" or "black" is the learner's, and changes FEN and drawing only. An action that is not legal raises
    ``ValueError``; with ``illegal="lose"`` it ends the game with reward -1, whatever ``reward`` is: where a game may
    cost more than that, losing so pays. Gymnasium's ``check_env`` plays actions without regard to the mask, so give it
    an environment that loses.

    ``reset(options={"fen": ...})`` begins at a position. ``info``, the same keys and types at every step:

    - ``action_mask`` int8 ``[actions]``: 1 for what is legal. At a terminal position, where nobody acts, every action
      is open, so that no distribution over them is empty; a truncated game's mask is the position's own.
    - ``termination``: "" while the game goes on, then checkmate, stalemate, insufficient, illegal, or max_steps where
      it was truncated.
    - ``fen``: the position, with clocks 0 and 1.

    Raises ``LabError`` for arguments and positions that make no sense, ``ResetNeeded`` for a step where no game is on.
    """

    metadata: Final = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # type: ignore[misc]

    def __init__(
        self,
        ending: str = "KRK",
        board: int = 8,
        *,
        color: str = "white",
        illegal: str = "raise",
        render_mode: str | None = None,
        **fields: Any,
    ) -> None:
        self.render_mode = render_mode
        self._boards = Boards(1, ending, board, color, illegal, render_mode, **fields)
        side = self._boards.side
        self.observation_space = Box(0, 255, (PLANES, side, side), np.uint8)
        self.action_space = Discrete(self._boards.board.actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Planes, dict[str, Any]]:
        super().reset(seed=seed)
        fen = self._boards.read_options(options)
        if fen is None:
            self._boards.begin(_FIRST, self.np_random.random(1))
        else:
            self._boards.place(_FIRST, fen)
        return self._boards.planes()[0], self._info()

    def step(self, action: Any) -> tuple[Planes, float, bool, bool, dict[str, Any]]:
        moved = self._boards.move(np.asarray(action)[None], self.np_random.random(1))
        rewards, terminated, truncated = (found[0].item() for found in moved)
        return self._boards.planes()[0], rewards, terminated, truncated, self._info()

    def render(self) -> str | None:
        return self._boards.draw(0)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return the mask ``[actions]`` of ``info`` as bools, for sb3-contrib's MaskablePPO."""
        masks: NDArray[np.bool_] = self._boards.masks()[0].view(np.bool_)
        return masks

    def _info(self) -> dict[str, Any]:
        boards = self._boards
        return {"action_mask": boards.masks()[0], "termination": TERMINATIONS[boards.why[0]], "fen": boards.fen(0)}


def register() -> None:
    """Register every ending on every board."""
    played = [("KQK", 8), ("KRK", 8), ("KPK", 8), *((name, side) for name in ("KQK", "KRK") for side in (4, 5, 6))]
    for name, side in played:
        gymnasium.register(
            f"rlhf_lab/{name}{'' if side == 8 else side}-v0",
            entry_point=f"{__name__}:EndingEnv",
            vector_entry_point="rlhf_lab_chess.vector_env:EndingVectorEnv",
            kwargs={"ending": name, "board": side},
        )
