"""Grid worlds."""

from __future__ import annotations

from typing import Final, Self

import torch
from pydantic import Field, model_validator

from rlhf_lab.training.finite import FiniteWorld
from rlhf_lab.worlds.tabular import TabularMDP

__all__ = ["GridWorld"]

_MOVES: Final = ((-1, 0), (0, 1), (1, 0), (0, -1))


class GridWorld(FiniteWorld):
    """A grid on which each action moves one cell; moving against the edge or a wall leaves the walker where it is.

    Actions: 0 up, 1 right, 2 down, 3 left. Cells are numbered row by row from 0 at the top left. With probability
    ``slip`` the walker goes in one of the four directions at random instead. From the first cell of a jump (from, to,
    reward) every action leads to the second and pays the jump's reward alone.

    The defaults are the 4 x 4 grid of Sutton and Barto 2018, example 4.1; their 5 x 5 grid of example 3.5 is
    ``height=5, width=5, goals=(), step_reward=0, bump_reward=-1, jumps=((1, 21, 10), (3, 13, 5))`` with γ = 0.9.
    """

    name = "grid_world"
    reference = "Sutton and Barto 2018, examples 3.5 and 4.1"
    height: int = Field(default=4, ge=1, description="rows")
    width: int = Field(default=4, ge=1, description="columns")
    start: int | None = Field(default=None, ge=0, description="cell of the start; None: any but goals and walls")
    goals: tuple[int, ...] = Field(default=(0, 15), description="cells that end an episode; none: it never ends")
    walls: tuple[int, ...] = Field(default=(), description="cells that cannot be entered")
    jumps: tuple[tuple[int, int, float], ...] = Field(default=(), description="(from, to, reward) triples")
    step_reward: float = Field(default=-1.0, description="reward of every step")
    goal_reward: float = Field(default=0.0, description="added when a goal is entered")
    bump_reward: float = Field(default=0.0, description="added when the edge or a wall stops the walker")
    slip: float = Field(default=0.0, ge=0, le=1, description="probability of a random direction")

    @model_validator(mode="after")
    def _cells_exist(self) -> Self:
        cells = self.height * self.width
        named = {"goals": self.goals, "walls": self.walls, "jumps": [c for jump in self.jumps for c in jump[:2]]}
        named["start"] = () if self.start is None else (self.start,)
        for field, numbers in named.items():
            for cell in numbers:
                if not 0 <= cell < cells:
                    raise ValueError(f"{field}: cell {cell} is outside the {self.height} x {self.width} grid")
                if field != "walls" and cell in self.walls:
                    raise ValueError(f"{field}: cell {cell} is a wall")
        if self.start in self.goals or not set(range(cells)) - {*self.goals, *self.walls}:
            raise ValueError("start: no episode can start on a goal; leave a cell that is neither goal nor wall")
        return self

    def world(self) -> TabularMDP:
        """Return the grid; a wall is a state that is never entered."""
        cells = self.height * self.width
        transition = torch.zeros(cells, 4, cells, dtype=torch.float64)
        reward = torch.full_like(transition, self.step_reward)
        reward[:, :, list(self.goals)] += self.goal_reward
        leaps = {origin: (target, paid) for origin, target, paid in self.jumps}
        for cell in range(cells):
            if cell in self.goals or cell in self.walls:
                transition[cell, :, cell] = 1
                reward[cell] = 0
            elif cell in leaps:
                target, paid = leaps[cell]
                transition[cell, :, target] = 1
                reward[cell, :, target] = paid
            else:
                targets = [self._after(cell, move) for move in range(4)]
                reward[cell, :, cell] += self.bump_reward
                for action in range(4):
                    transition[cell, action, targets[action]] += 1 - self.slip
                    for target in targets:
                        transition[cell, action, target] += self.slip / 4
        start = torch.zeros(cells, dtype=torch.float64)
        possible = [c for c in range(cells) if c not in self.goals and c not in self.walls]
        start[possible if self.start is None else self.start] = 1
        terminal = torch.zeros(cells, dtype=torch.bool)
        terminal[list(self.goals)] = True
        return TabularMDP(transition, reward, start / start.sum(), terminal, self.gamma)

    def _after(self, cell: int, move: int) -> int:
        row, column = cell // self.width + _MOVES[move][0], cell % self.width + _MOVES[move][1]
        target = row * self.width + column
        free = 0 <= row < self.height and 0 <= column < self.width and target not in self.walls
        return target if free else cell

    def text(self, state: int) -> str:
        """Return the map: walker ``o``, goal ``G``, wall ``#``, free cell ``.``."""
        marks = ["o" if c == state else "G" if c in self.goals else "#" if c in self.walls else "."
                 for c in range(self.height * self.width)]  # fmt: skip
        return "\n".join("".join(marks[r * self.width : (r + 1) * self.width]) for r in range(self.height))
