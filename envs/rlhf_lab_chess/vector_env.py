"""Many games of an ending as one vector environment of Gymnasium's: arrays in and out, no loop over games."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlhf_lab.errors import LabError
from rlhf_lab_chess.boards import RENDER_MODES, TERMINATIONS, Boards
from rlhf_lab_chess.observation import PLANES, Planes

__all__ = ["EndingVectorEnv"]

_NAMES: Final = np.array(TERMINATIONS, dtype=object)


class EndingVectorEnv(VectorEnv[Planes, NDArray[np.int64], NDArray[Any]]):
    """``num_envs`` games of ``EndingEnv``, which see for the arguments, actions, observations and options.

    Autoreset is SAME_STEP: where a game ends, observation and ``info`` belong to the next one already, and
    ``info["final_obs"]`` and ``info["final_info"]`` to the end, laid out as ``SyncVectorEnv`` does. ``info`` has
    ``action_mask`` and ``termination``, which speaks in ``final_info`` only; ``fens()`` gives the positions. All games
    draw from the one generator that ``reset(seed=...)`` seeds: the answers of all games in each step, then the first
    positions of those that begin. With ``illegal="raise"`` no game has moved when an action is refused.
    """

    metadata: Final = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        ending: str = "KRK",
        board: int = 8,
        *,
        color: str = "white",
        illegal: str = "raise",
        render_mode: str | None = None,
        **fields: Any,
    ) -> None:
        if num_envs < 1:
            raise LabError(f"num_envs: expected at least one game, found {num_envs}")
        self.num_envs, self.render_mode = num_envs, render_mode
        self._boards = Boards(num_envs, ending, board, color, illegal, render_mode, **fields)
        side = self._boards.side
        self.single_observation_space = Box(0, 255, (PLANES, side, side), np.uint8)
        self.single_action_space = Discrete(self._boards.board.actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Planes, dict[str, Any]]:
        super().reset(seed=seed)
        fen, rows = self._boards.read_options(options), np.arange(self.num_envs)
        if fen is None:
            self._boards.begin(rows, self.np_random.random(self.num_envs))
        else:
            self._boards.place(rows, fen)
        return self._boards.planes(), self._info()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Planes, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        moved = self._boards.move(actions, self.np_random.random(self.num_envs))
        ended = np.flatnonzero(moved.terminated | moved.truncated)
        final = self._final(ended) if ended.size else {}
        if ended.size:
            self._boards.begin(ended, self.np_random.random(len(ended)))
        return self._boards.planes(), *moved, {**final, **self._info()}

    def render(self) -> tuple[str | None, ...]:  # type: ignore[override]
        return tuple(self._boards.draw(row) for row in range(self.num_envs))

    def fens(self) -> list[str]:
        """Return the position of every game."""
        return [self._boards.fen(row) for row in range(self.num_envs)]

    def legal_ids(self) -> NDArray[np.int16]:
        """Return the ids of the legal actions ``[num_envs, slots]``, -1 in the places of those that are not."""
        return self._boards.legal_ids()

    def _info(self) -> dict[str, Any]:
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        return {
            "action_mask": self._boards.masks(),
            "_action_mask": everywhere,
            "termination": np.full(self.num_envs, "", dtype=object),
            "_termination": everywhere.copy(),
        }

    def _final(self, ended: NDArray[np.int64]) -> dict[str, Any]:
        """Return what Gymnasium tells of the games that ended, before new ones begin in their places."""
        there = np.zeros(self.num_envs, dtype=np.bool_)
        there[ended] = True
        observations = np.full(self.num_envs, None, dtype=object)
        for row, planes in zip(ended.tolist(), self._boards.planes(ended), strict=True):
            observations[row] = planes
        masks = np.zeros((self.num_envs, self._boards.board.actions), dtype=np.int8)
        masks[ended] = self._boards.masks(ended)
        why = np.full(self.num_envs, None, dtype=object)
        why[ended] = _NAMES[self._boards.why[ended]]
        info = {"action_mask": masks, "_action_mask": there, "termination": why, "_termination": there.copy()}
        return {"final_obs": observations, "_final_obs": there.copy(), "final_info": info, "_final_info": there.copy()}
