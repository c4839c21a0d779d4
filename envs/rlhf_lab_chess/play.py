"""Games played by a known policy against the environment's opponent, for records."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.environment import BuiltEnding
from rlhf_lab_chess.games import Games
from rlhf_lab_chess.records import Game
from rlhf_lab_chess.successors import DEAD

__all__ = ["play", "visited"]

_TABLES: Final = 64  # games side by side


def visited(environment: BuiltEnding, policy: Tensor, rows: int, streams: Streams) -> tuple[Tensor, Tensor]:
    """Return positions and the moves played in them, ``[runs, rows]`` each, from games side by side.

    ``policy [states, slots]``. Where a game ends, or has gone on for ``max_steps``, the next one begins.
    """
    tables = min(rows, _TABLES)
    playing = _Play(environment, policy, tables, streams)
    steps = [playing.step(step) for step in range(-(-rows // tables))]
    # table by table, so that rows that follow each other are stretches of games
    states, slots = (torch.stack(column, dim=-1).flatten(1)[:, :rows] for column in zip(*steps, strict=True))
    return states.contiguous(), slots.contiguous()


def play(environment: BuiltEnding, policy: Tensor, games: int, streams: Streams) -> list[Game]:
    """Return whole games of the first run; one that reaches ``max_steps`` stops there."""
    playing = _Play(environment, policy, games, streams)
    moves: list[list[tuple[int, int, int]]] = [[] for _ in range(games)]
    lasting = torch.ones(games, dtype=torch.bool)
    for step in range(environment.component.max_steps):
        states, slots = playing.step(step)
        for number in lasting.nonzero()[:, 0].tolist():
            moves[number].append(tuple(int(x[0, number]) for x in (states, slots, playing.answers)))
        lasting &= ~playing.ended[0]
    return [_game(environment.ending, found) for found in moves]


class _Play:
    """Games side by side ``[runs, tables]``; ``ended`` and ``answers`` tell of the last step."""

    def __init__(self, environment: BuiltEnding, policy: Tensor, tables: int, streams: Streams) -> None:
        self._games = Games(environment.exact(), (streams.runs, tables), environment.component.max_steps)
        self._cumulative = policy.cumsum(-1)
        self._streams = streams
        self._games.begin(streams["starts"].uniforms(0, tables))
        self.ended = torch.zeros(streams.runs, tables, dtype=torch.bool)
        self.answers = torch.zeros(streams.runs, tables, dtype=torch.int64)

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Play one move everywhere and return positions and slots; games that end are followed by new ones."""
        numbers = self._streams["steps"].uniforms(step, self.ended.shape[1], 3)
        states = self._games.state
        cumulative = self._cumulative[states]
        # scaled to the sum, which rounding may leave below 1, so that no slot without a share is taken
        slots = (cumulative <= numbers[..., :1] * cumulative[..., -1:]).sum(-1)
        played = self._games.step(slots, numbers[..., 1])
        self.ended, self.answers = played.terminated | played.truncated, played.answers
        self._games.begin(numbers[..., 2].contiguous(), self.ended)
        return states, slots


def _game(ending: Ending, moves: list[tuple[int, int, int]]) -> Game:
    """Return the game of positions, moves and answers, without an answer to a move that ended it."""
    states, slots, answers = zip(*moves, strict=True)
    position = int(ending.moves[states[-1], slots[-1]])
    over = position == DEAD or bool(ending.stuck[position])
    return Game(states, slots, answers[:-1] if over else answers)
