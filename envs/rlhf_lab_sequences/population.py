"""The distribution that sampled data comes from, exactly: every row that can occur, with its probability as weight."""

from __future__ import annotations

import itertools
import math
from typing import Final, Self

import torch
from pydantic import model_validator
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.worlds.preferences import bradley_terry, plackett_luce, rao_kupper
from rlhf_lab_sequences.environment import BuiltSequences
from rlhf_lab_sequences.responses import side_by_side
from rlhf_lab_sequences.world_data import WorldData, typical_rewards

__all__ = ["MAX_ROWS", "Population"]

MAX_ROWS: Final = 300_000


class Population(WorldData):
    """All rows that ``sampled`` can draw without noise and with distinct answers, weighted with their probabilities.

    Weights sum to one per run: p(x) Π_i b(y_i|x) / e_k(b(.|x)) times the probability of the label, where e_k is the sum
    of Π b over all sets of k answers, and b(y|x) is in proportion to base(y|x) exp(strength · r(x,y)). Rankings: every
    order of every k answers, each with its Plackett-Luce probability, so that any loss on pairs sees soft labels. Ties
    (pairs only) and "desirable" have a row for each outcome. Scores: every set of k answers once.

    Raises ``LabError`` where there are more than 300,000 rows.
    """

    name = "population"
    reference = "Plackett 1975; Bradley and Terry 1952; Rao and Kupper 1967"
    provides = frozenset({"lengths", "weights", "ranks", "desirable", "targets"})

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.ties > 1 and self.width > 2:
            raise ValueError("ties: exact probabilities of ties are known for pairs only; set candidates: 2")
        return self

    def gives(self) -> frozenset[str]:
        """Return the label fields that the data fills, and ``weights``."""
        return super().gives() | {"weights"}

    def make(self, environment: BuiltSequences, behaviour: Tensor, streams: Streams) -> Candidates:
        runs, count, responses = behaviour.shape
        self.demand_different(behaviour, self.width)
        occurring = self.covered(responses)
        places = self._places(occurring, count)  # [m,k] among the responses that occur
        if occurring == responses:
            numbers = places.expand(1, count, -1, -1)
        else:
            kept = behaviour.isfinite().byte().argsort(dim=-1, descending=True, stable=True)[..., :occurring]
            numbers = kept[..., places]
        run, prompt = torch.arange(runs)[:, None, None, None], torch.arange(count)[:, None, None]
        rewards = environment.true_rewards[run, prompt, numbers]  # [runs, x, m, k]
        typical = typical_rewards(behaviour, environment.true_rewards)[..., None]
        chances, labels = self._outcomes(rewards, typical)  # [runs, x, outcomes, m], [outcomes, k]
        answers = behaviour[run, prompt, numbers].sum(-1)
        weights = (answers[..., None, :] + chances.log()).flatten(-2).softmax(-1) / count
        found = {
            name: x.repeat_interleave(len(places), 0).repeat(count, 1).expand(runs, -1, -1)
            for name, x in labels.items()
        }
        if self.form == "scored":
            found["targets"] = rewards.flatten(1, 2)
        return side_by_side(
            environment.tree,
            torch.arange(count).repeat_interleave(weights.shape[-1]).expand(len(numbers), -1),
            numbers.repeat(1, 1, chances.shape[2], 1).flatten(1, 2),
            runs,
            weights=weights.flatten(1),
            **found,
        )

    def _places(self, occurring: int, prompts: int) -> Tensor:
        """Return the rows of one prompt ``[m,k]`` as places among its responses."""
        total = math.perm if self.form == "rankings" else math.comb
        outcomes = 2 if self.ties > 1 or self.form == "unpaired" else 1
        rows = prompts * outcomes * total(occurring, self.width)
        if rows > MAX_ROWS:
            raise LabError(
                f"data.population: {rows:,} rows of {self.width} answers are more than {MAX_ROWS:,}; lower candidates, "
                "coverage or the world's size, or draw rows with 'sampled'"
            )
        choose = itertools.permutations if self.form == "rankings" else itertools.combinations
        return torch.tensor(list(choose(range(occurring), self.width)))

    def _outcomes(self, rewards: Tensor, typical: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the probability of each label of answers ``[runs, x, m, k]``, ``[runs, x, outcomes, m]``, and labels.

        Labels are ``[outcomes, k]``, the same ones for all answers.
        """
        if self.form == "unpaired":
            liked = bradley_terry(rewards[..., 0], typical, self.temperature)
            return torch.stack([liked, 1 - liked], -2), {"desirable": torch.tensor([[True], [False]])}
        if self.form == "scored":
            return torch.ones_like(rewards[..., 0])[..., None, :], {}
        if self.ties == 1:
            return plackett_luce(rewards, self.temperature).exp()[..., None, :], {}
        win, tie, _ = rao_kupper(rewards[..., 0], rewards[..., 1], self.ties, self.temperature)
        # every two answers stand here in both orders, each of which has half of the tie
        return torch.stack([win, tie / 2], -2), {"ranks": torch.tensor([[0, 1], [0, 0]])}
