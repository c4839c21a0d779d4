"""What sampled and population data have in common: who answered, and which answers occur."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import PreferenceData
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Actor, BuiltEnvironment
from rlhf_lab_sequences.environment import BuiltSequences

__all__ = ["Form", "WorldData", "typical_rewards"]

Form = Literal["rankings", "unpaired", "scored"]


class WorldData(PreferenceData):
    """Base of the data that is made from the true reward of the environment ``sequences``.

    Answers come from the behaviour distribution b(y|x), in proportion to base(y|x) exp(strength · r(x,y)) over the
    responses that are covered; several strengths are players whose answers are mixed in equal shares.
    """

    form: Form = Field(
        default="rankings", description="rankings, unpaired (one answer, desirable or not) or scored (a number each)"
    )
    candidates: int | None = Field(
        default=None, ge=1, description="answers per row; None: 2, or 1 where the data is unpaired"
    )
    strength: float | tuple[float, ...] = Field(
        default=0.0, description="how much better than the base the players answer; below 0 = worse; several are mixed"
    )
    behaviour: Literal["reference", "uniform"] = Field(
        default="reference", description="base of the answers: the policy before training, or all responses alike"
    )
    coverage: float = Field(default=1.0, gt=0, le=1, description="share of each prompt's responses that can occur")
    uncovered: Literal["random", "best", "worst"] = Field(
        default="random", description="which responses never occur: random ones, drawn per seed, or the best or worst"
    )
    temperature: float = Field(default=1.0, ge=0, description="of the labels; 0 = the better one always wins")
    ties: float = Field(
        default=1.0, ge=1, description="Rao and Kupper's threshold for a difference to be seen; 1 = no ties"
    )

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.form == "rankings" and self.width < 2:
            raise ValueError("candidates: a ranking needs 2 or more; for single answers use form: unpaired or scored")
        if self.form == "unpaired" and self.candidates not in (None, 1):
            raise ValueError("candidates: unpaired data has one answer per row; leave it out")
        if self.form != "rankings" and self.ties > 1:
            raise ValueError(f"ties: only rankings have ties, and form is {self.form!r}; leave it out")
        if self.form == "scored" and self.temperature != 1:
            raise ValueError("temperature: scores are not drawn with one; leave it out")
        if self.ties > 1 and self.temperature == 0:
            raise ValueError("ties: at temperature 0 there is no threshold for a difference; give a temperature")
        if self.uncovered != "random" and self.coverage == 1:
            raise ValueError("uncovered: coverage is 1, so that nothing is left out; lower coverage")
        if self.strength == ():
            raise ValueError("strength: give at least one number")
        return self

    def gives(self) -> frozenset[str]:
        """Return the label fields that the data fills."""
        labels = {"rankings": {"ranks"} if self.ties > 1 else set(), "unpaired": {"desirable"}, "scored": {"targets"}}
        return frozenset({"lengths"} | labels[self.form])

    @property
    def width(self) -> int:
        """How many answers a row has."""
        if self.candidates is not None:
            return self.candidates
        return 1 if self.form == "unpaired" else 2

    @torch.no_grad()
    def build(self, environment: BuiltEnvironment, reference: Actor, streams: Streams) -> Candidates:
        """Return the data of all runs ``[runs, rows, k]``."""
        if not isinstance(environment, BuiltSequences):
            raise LabError(
                f"data: {self.name!r} is made from the rewards of the environment 'sequences'; for other environments "
                "give a file of preferences"
            )
        return self.make(environment, self._behaviour(environment, reference, streams), streams)

    @abstractmethod
    def make(self, environment: BuiltSequences, behaviour: Tensor, streams: Streams) -> Candidates:
        """Return the data for log b(y|x) ``[runs, x, y]``, -inf where a response does not occur."""

    def _behaviour(self, environment: BuiltSequences, reference: Actor, streams: Streams) -> Tensor:
        world, rewards = environment.exact(), environment.true_rewards
        runs, _, responses = rewards.shape
        base = torch.zeros_like(rewards)
        if self.behaviour == "reference":
            states = torch.arange(len(world.terminal)).expand(runs, -1)
            base = world.response_log_probs(reference.action_log_probs(states).double().exp())
        if self.uncovered == "random":
            keys = streams["coverage"].uniforms(0, *rewards.shape[1:])
        else:
            keys = rewards if self.uncovered == "best" else -rewards
        hidden = (torch.arange(responses) >= self.covered(responses)).expand_as(rewards)
        order = keys.argsort(dim=-1, stable=True)  # those at the end are left out
        base = base.masked_fill(torch.zeros_like(hidden).scatter(-1, order, hidden), -math.inf)
        strengths = self.strength if isinstance(self.strength, tuple) else (self.strength,)
        players = torch.stack([(base + strength * rewards).log_softmax(-1) for strength in strengths])
        return players.logsumexp(0) - math.log(len(strengths))

    def covered(self, responses: int) -> int:
        """Return how many of a prompt's responses can occur."""
        return max(1, round(self.coverage * responses))

    def demand_different(self, behaviour: Tensor, count: int) -> None:
        """Raise ``LabError`` unless ``count`` responses or more to every prompt have a probability."""
        occurring = int(behaviour.isfinite().sum(-1).min())
        if occurring < count:
            raise LabError(
                f"data.candidates: {count} different responses to a prompt are needed, but only {occurring} can occur; "
                "lower candidates, or raise coverage"
            )


def typical_rewards(behaviour: Tensor, rewards: Tensor) -> Tensor:
    """Return E_b r ``[runs, x]`` for log b(y|x) and r(x,y) ``[runs, x, y]``."""
    return (behaviour.exp() * rewards).sum(-1)
