"""Preference data drawn from the true reward, as people would have given it."""

from __future__ import annotations

import math
from typing import Final, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.preferences import bradley_terry
from rlhf_lab_sequences.draws import draw_responses
from rlhf_lab_sequences.environment import BuiltSequences
from rlhf_lab_sequences.responses import side_by_side
from rlhf_lab_sequences.world_data import WorldData, typical_rewards

__all__ = ["MAX_BYTES", "Sampled"]

MAX_BYTES: Final = 4 * 10**9


class Sampled(WorldData):
    """Labelled answers, drawn once per run: ``rows`` prompts, and ``candidates`` answers to each.

    Answers are drawn from b(y|x), in proportion to base(y|x) exp(strength · r(x,y)) over the covered responses; several
    strengths are players whose answers are mixed in equal shares. With ``distinct``, rows with equal answers are thrown
    away: a set of answers has a probability in proportion to Π b.

    A ranking sorts the answers by r / temperature + g with independent standard Gumbel numbers g, which makes it a
    Plackett-Luce ranking (Bradley-Terry where there are two). Where two neighbours of it lie closer than log(ties) they
    are tied (equal ``ranks``, listed in random order); with two answers that is the model of Rao and Kupper. An
    unpaired answer is "desirable" with probability σ((r - E_b r) / temperature). A score is r with a normal error.

    A share ``noise`` of the rows has its label turned round: a ranking is reversed, ties included, and "desirable"
    becomes "undesirable".

    Raises ``LabError`` where the rows of all seeds would take more than about 4 GB.
    """

    name = "sampled"
    reference = "Plackett 1975; Bradley and Terry 1952; Rao and Kupper 1967"
    provides = frozenset({"lengths", "ranks", "desirable", "targets"})
    rows: int = Field(
        default=1000, ge=1, description="the label budget: rankings, or single labelled answers, per seed"
    )
    noise: float = Field(default=0.0, ge=0, le=1, description="share of labels that are turned round; not of scores")
    score_noise: float = Field(default=0.0, ge=0, description="standard deviation of a score's error")
    distinct: bool = Field(default=True, description="whether the answers of a row differ")

    @model_validator(mode="after")
    def _matching(self) -> Self:
        if self.form == "scored" and self.noise > 0:
            raise ValueError("noise: scores have no label to turn round; use score_noise")
        if self.form != "scored" and self.score_noise > 0:
            raise ValueError(f"score_noise: form {self.form!r} has no scores; use noise")
        return self

    def make(self, environment: BuiltSequences, behaviour: Tensor, streams: Streams) -> Candidates:
        tree, count = environment.tree, behaviour.shape[1]
        self._demand_memory(environment.runs, tree.length)
        self.demand_different(behaviour, self.width if self.distinct else 1)
        prompts = (streams["prompts"].uniforms(0, self.rows) * count).long()
        uniforms = streams["answers"].uniforms(0, self.rows, self.width)
        numbers = draw_responses(behaviour, prompts, uniforms, self.distinct)
        run = torch.arange(environment.runs)[:, None, None]
        rewards = environment.true_rewards[run, prompts[..., None], numbers]
        if self.form == "scored":
            errors = streams["scores"].normals(0, self.rows, self.width)
            return side_by_side(tree, prompts, numbers, targets=rewards + self.score_noise * errors)
        turned = streams["noise"].uniforms(0, self.rows)[..., None] < self.noise
        if self.form == "unpaired":
            typical = typical_rewards(behaviour, environment.true_rewards).gather(1, prompts)[..., None]
            liked = streams["labels"].uniforms(0, self.rows, 1) < bradley_terry(rewards, typical, self.temperature)
            return side_by_side(tree, prompts, numbers, desirable=liked ^ turned)
        order, ranks = self._ranked(rewards, turned, streams)
        return side_by_side(tree, prompts, numbers.gather(-1, order), ranks=ranks)

    def _demand_memory(self, runs: int, length: int) -> None:
        """Raise ``LabError`` where the rows take too much memory, before they do."""
        # measured while they are made, rounded up: some 16 bytes of a token, twice, and six numbers per answer
        needed = runs * self.rows * self.width * (32 * length + 48)
        if needed > MAX_BYTES:
            raise LabError(
                f"data.rows: {self.rows:,} rows (seeds at once: {runs}, answers per row: {self.width}, tokens per "
                f"answer: {length}) would take about {needed / 1e9:,.1f} GB, and sampled data may take "
                f"{MAX_BYTES / 1e9:g} GB; lower rows or candidates, or run fewer seeds"
            )

    def _ranked(self, rewards: Tensor, turned: Tensor, streams: Streams) -> tuple[Tensor, Tensor | None]:
        """Return the order of the answers ``[runs, rows, k]``, best first, and their ranks where there may be ties."""
        luck = -(-streams["labels"].uniforms(0, *rewards.shape[1:]).log()).log()  # standard Gumbel numbers
        if self.temperature == 0:
            by_luck = luck.argsort(dim=-1, stable=True)
            order = by_luck.gather(-1, rewards.gather(-1, by_luck).argsort(dim=-1, descending=True, stable=True))
            return torch.where(turned, order.flip(-1), order), None
        seen = rewards / self.temperature + luck
        seen, order = torch.where(turned, -seen, seen).sort(dim=-1, descending=True, stable=True)
        if self.ties == 1:
            return order, None
        clear = (seen[..., :-1] - seen[..., 1:]) > math.log(self.ties)
        ranks = torch.nn.functional.pad(clear.cumsum(-1), (1, 0))
        shuffled = (ranks + streams["ties"].uniforms(0, *rewards.shape[1:])).argsort(dim=-1, stable=True)
        return order.gather(-1, shuffled), ranks
