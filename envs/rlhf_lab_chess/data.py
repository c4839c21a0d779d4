"""Records to learn from: positions of games that players of known strength have played, and what an annotator says.

The annotator's utility is known, so that the distribution of every label is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import PreferenceData
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Actor, BuiltEnvironment
from rlhf_lab_chess.environment import BuiltEnding
from rlhf_lab_chess.moves import side_by_side
from rlhf_lab_chess.play import visited
from rlhf_lab_chess.players import move_worths, player
from rlhf_lab_chess.records import read_games

__all__ = ["ChessRecords"]


class ChessRecords(PreferenceData):
    """Positions from games of an ending, and moves in them that an annotator has ranked, or just those played.

    White is played by π(a|s) in proportion to exp(strength · u(s,a)) with u = - moves to mate (see ``move_worths``),
    black by the environment's opponent; a game ends after the environment's ``max_steps``. With ``path`` the games
    stand in a file (see ``records``) and are the same for all runs, where a run's own games are drawn from its stream
    otherwise. Several strengths are players of equal shares.

    ``form: played`` gives the move that was played, to be imitated. ``form: rankings`` puts it beside other legal
    moves, drawn without replacement with equal probabilities, ``candidates`` in all (fewer where there are fewer). The
    annotator sorts them by u / temperature + g, g standard Gumbel: a Plackett-Luce ranking with utility u(s,a), or with
    Q*(s,a) against the opponent, whose differences are far below 1, so that ``temperature`` 1 makes it a lottery.
    Equally good moves are as likely in either order; at ``temperature`` 0 they are tied (equal ``ranks``). With
    ``distinct`` no two moves of a row are equally good; where all moves are, the row holds the one that was played, and
    says nothing.
    """

    name = "chess_records"
    reference = "Plackett 1975; Bradley and Terry 1952"
    provides = frozenset({"lengths", "ranks"})
    rows: int = Field(default=1000, ge=1, description="labelled positions per seed")
    path: str = Field(default="", description="file of games to read instead of playing them")
    strength: float | tuple[float, ...] = Field(default=1.0, description="of who plays white; 0 = at random")
    form: Literal["rankings", "played"] = Field(default="rankings", description="ranked moves, or the move played")
    candidates: int = Field(default=2, ge=2, description="moves in a ranking")
    utility: Literal["moves_to_mate", "value"] = Field(default="moves_to_mate", description="what the annotator sees")
    temperature: float = Field(default=1.0, ge=0, description="of the rankings, in units of u; 0 = always right")
    distinct: bool = Field(default=False, description="whether moves that are equally good never stand together")

    @model_validator(mode="after")
    def _used(self) -> Self:
        own = {"candidates", "utility", "temperature", "distinct"} & self.model_fields_set
        if self.form == "played" and own:
            raise ValueError(f"{min(own)}: form: played has no ranking; leave it out")
        if self.path and "strength" in self.model_fields_set:
            raise ValueError("strength: the games stand in a file; leave it out")
        if self.strength == ():
            raise ValueError("strength: give at least one number")
        return self

    def gives(self) -> frozenset[str]:
        """Return the label fields that the data fills."""
        tied = self.form == "rankings" and self.temperature == 0
        return frozenset({"lengths", "ranks"} if tied else {"lengths"})

    def files(self) -> Sequence[Path]:
        """Return the file of games, where one is read."""
        return [Path(self.path)] if self.path else []

    @torch.no_grad()
    def build(self, environment: BuiltEnvironment, reference: Actor, streams: Streams) -> Candidates:
        """Return the data of all runs ``[runs, rows, k]``."""
        if not isinstance(environment, BuiltEnding):
            raise LabError(f"data: {self.name!r} are records of chess endings; use environment krk, kqk or kpk")
        states, slots = self._read(environment, streams) if self.path else self._play(environment, streams)
        if self.form == "played":
            return side_by_side(states, slots[..., None])
        return self._ranked(environment, states, slots, streams)

    def _play(self, environment: BuiltEnding, streams: Streams) -> tuple[Tensor, Tensor]:
        strengths = self.strength if isinstance(self.strength, tuple) else (self.strength,)
        each = -(-self.rows // len(strengths))
        parts = [
            visited(environment, player(environment.ending, strength), each, streams[f"games {number}"])
            for number, strength in enumerate(strengths)
        ]
        # one of each player in turn, so that the first rows are shared fairly
        states, slots = (torch.stack(column, dim=-1).flatten(1)[:, : self.rows] for column in zip(*parts, strict=True))
        return states, slots

    def _read(self, environment: BuiltEnding, streams: Streams) -> tuple[Tensor, Tensor]:
        games = list(read_games(self.path, environment.ending))
        states = torch.tensor([state for game in games for state in game.states])[: self.rows]
        slots = torch.tensor([slot for game in games for slot in game.slots])[: self.rows]
        if len(states) < self.rows:
            raise LabError(
                f"data.rows: {self.rows:,} positions are asked for, and {self.path} holds {len(states):,}; lower rows, "
                "or add games"
            )
        return states.expand(streams.runs, -1), slots.expand(streams.runs, -1)

    def _ranked(self, environment: BuiltEnding, states: Tensor, slots: Tensor, streams: Streams) -> Candidates:
        utilities = self._utilities(environment)
        shape = (self.rows, utilities.shape[1])
        chosen, valid = self._choose(utilities[states], slots, streams["others"].uniforms(0, *shape))
        seen = utilities[states].gather(-1, chosen).masked_fill(~valid, -torch.inf)
        if self.temperature == 0:
            luck = streams["labels"].uniforms(0, *seen.shape[1:])
            order = luck.argsort(dim=-1, stable=True)
            order = order.gather(-1, seen.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
            worse = seen.gather(-1, order).diff(dim=-1) < 0
            ranks = torch.nn.functional.pad(worse.cumsum(-1), (1, 0))
        else:
            luck = -(-streams["labels"].uniforms(0, *seen.shape[1:]).log()).log()  # standard Gumbel numbers
            order = (seen / self.temperature + luck).argsort(dim=-1, descending=True, stable=True)
            ranks = None
        ragged = None if bool(valid.all()) else valid.gather(-1, order)
        return side_by_side(states, chosen.gather(-1, order), ranks=ranks, valid=ragged)

    def _utilities(self, environment: BuiltEnding) -> Tensor:
        """Return what the annotator thinks of every move ``[states, slots]``, -inf where it is not legal."""
        if self.utility == "value":
            # to twelve places, so that moves that mirror each other are equally good however their values round
            return environment.exact().optimal_action_values().round(decimals=12)
        worths = torch.from_numpy(move_worths(environment.ending))
        ends = torch.full((environment.ending.states - len(worths), worths.shape[1]), -torch.inf, dtype=torch.float64)
        return torch.cat([worths, ends])

    def _choose(self, worth: Tensor, slots: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moves to be ranked, the one played first, and which of them there are ``[runs, rows, k]``."""
        keys = keys.masked_fill(worth == -torch.inf, -1).scatter(-1, slots[..., None], 2.0)
        if self.distinct:
            keys = keys.masked_fill(~_first_of_equals(worth, keys), -1)
        best, chosen = keys.topk(min(self.candidates, keys.shape[-1]), dim=-1)
        there = best >= 0
        return torch.where(there, chosen, slots[..., None]), there  # a legal move stands where there is none


def _first_of_equals(worth: Tensor, keys: Tensor) -> Tensor:
    """Return which moves have the largest key among those of equal worth, bool as ``worth [..., slots]``."""
    order = keys.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, worth.gather(-1, order).argsort(dim=-1, stable=True))  # equals together, by their keys
    sorted_worth = worth.gather(-1, order)
    first = torch.ones_like(order, dtype=torch.bool)
    first[..., 1:] = sorted_worth[..., 1:] != sorted_worth[..., :-1]
    return torch.zeros_like(first).scatter(-1, order, first)
