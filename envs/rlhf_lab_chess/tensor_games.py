"""Steps of many games as gathers of whole tensors, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab_chess.game_tables import GameTables

__all__ = ["TensorGames"]


class TensorGames:
    """See ``Rules`` in ``games``; nothing waits for the device."""

    def __init__(self, tables: GameTables, device: torch.device | str) -> None:
        tensors = (torch.from_numpy(table).to(device) for table in tables)
        self._moves, self._replies, self._own, self._legal, self._terminal, self._starts, self._start_bounds = tensors

    def begin(self, state: Tensor, age: Tensor, uniforms: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        drawn = self._starts[torch.searchsorted(self._start_bounds, uniforms.contiguous(), right=True)]
        return torch.where(where, drawn, state), age.masked_fill(where, 0)

    def legal(self, state: Tensor) -> Tensor:
        legal: Tensor = self._legal[state]
        return legal

    def step(self, state: Tensor, age: Tensor, limit: int, actions: Tensor, uniforms: Tensor) -> tuple[Tensor, ...]:
        replies = self._replies[self._moves[state, actions]]
        answer = (replies[..., 0, :] <= uniforms[..., None]).sum(-1)
        after, rewards = (column.gather(-1, answer[..., None])[..., 0] for column in replies[..., 1:, :].unbind(-2))
        if len(self._own):
            rewards = self._own[state, actions] + rewards
        age, after = age + 1, after.long()
        terminated = self._terminal[after]
        truncated = ~terminated & (age >= limit)
        return rewards, terminated, truncated, after, answer, age
