"""The environment of token strings: tokens are steps, and a response is paid at its last token.

Requirements this file meets:
- the whole actor is asked once per collect, for all prefixes, and the compiled walk plays all responses;
- what is true and what is paid are two tables, so that a policy can be trained on a proxy and judged by the truth;
- a reward that an earlier stage learned is asked for when it is first needed, because stages are built before they
  learn from each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.batch import unchecked
from rlhf_lab.components import Environment, RewardFunction, Slot
from rlhf_lab.data.ranking import Ranking
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.finite import BuiltFinite
from rlhf_lab.training.protocols import Actor, Size
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import clean
from rlhf_lab.worlds.sequences import SequenceWorld
from rlhf_lab.worlds.token_tree import TokenTree
from rlhf_lab_sequences.responses import side_by_side
from rlhf_lab_sequences.rewards import RandomReward, ResponseReward, RewardTask
from rlhf_lab_sequences.words import ALPHABET, encode

__all__ = ["BuiltSequences", "Sequences"]

_LEARNED: Final = "reward."  # what the names of a reward model's weights begin with, among those of an earlier stage


class BuiltSequences:
    """``runs x envs`` responses in progress; see ``BuiltEnvironment`` and ``RankedEnvironment``.

    ``inputs``: ``observations`` (states of the ``SequenceWorld``) and ``actions`` (tokens), ``[runs, rows, t]`` int64.
    """

    resumable = True

    def __init__(self, component: Sequences, runs: int, envs: int, streams: Streams) -> None:
        self.component = component
        self.tree = TokenTree(component.vocabulary, component.length, component.eos)
        self._streams = streams
        self._learned: dict[str, Tensor] = {}
        self._tables: dict[str, Tensor] = {}
        self._world: SequenceWorld | None = None
        blank = self._world_of(torch.zeros(1, component.prompts, self.tree.responses))
        self._rollouts = BuiltFinite(blank, runs, envs, streams, limit=self.tree.length, siblings=component.responses)
        self._paying = False
        states, prompts = len(blank.terminal), torch.arange(component.prompts)
        tokens = torch.full((states, 1 + self.tree.length), -1)
        tokens[:-1, 0] = (self.tree.vocabulary + prompts).repeat_interleave(self.tree.prefixes)
        tokens[:-1, 1:] = self.tree.read.repeat(component.prompts, 1)
        self.spaces = replace(self._rollouts.spaces, prefixes=self.tree.prefixes, tokens=tokens)

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return self._streams.runs

    @property
    def beta(self) -> float:
        """The price of the KL to the reference in the exact objective."""
        return self.component.beta

    @property
    def true_rewards(self) -> Tensor:
        """The reward that the policy is judged by, ``[runs, x, y]`` float64."""
        if "true" not in self._tables:
            self._tables["true"] = self._table(self.component.reward, None)
        return self._tables["true"]

    @property
    def paid_rewards(self) -> Tensor:
        """The reward that ``collect`` pays, ``[runs, x, y]`` float64: the proxy's where there is one."""
        if self.component.proxy is None:
            return self.true_rewards
        if "paid" not in self._tables:
            self._tables["paid"] = self._table(self.component.proxy, self.true_rewards)
        return self._tables["paid"]

    def exact(self) -> SequenceWorld:
        """Return the world of the true reward, one per run."""
        if self._world is None:
            self._world = self._world_of(self.true_rewards)
        return self._world

    def paid(self) -> SequenceWorld:
        """Return the world of the reward that is paid in training, one per run."""
        return self._world_of(self.paid_rewards)

    def all_responses(self) -> Candidates:
        """Return every response of every prompt: a row per prompt, ``[runs, x, y]``."""
        prompts = torch.arange(self.component.prompts)[None]
        numbers = torch.arange(self.tree.responses).expand(1, self.component.prompts, -1)
        return side_by_side(self.tree, prompts, numbers, self.runs)

    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories; see ``BuiltEnvironment``. Rows that share a prompt follow each other."""
        together = self.component.responses
        if together > 1 and size.unit == "steps":
            raise LabError(
                f"environment.responses: {together} responses share a prompt only where whole episodes are collected; "
                "set trainer.episodes instead of trainer.steps, or responses: 1"
            )
        if not self._paying:
            self._rollouts.move_to(self.paid())
            self._paying = True
        samples = self._rollouts.collect(actor, size)
        if together == 1:
            return samples
        rows = samples.trajectories.rewards.shape[1]
        if rows % together:
            raise LabError(
                f"environment.responses: {rows} episodes per collect (envs x episodes) are no multiple of {together}, "
                "the responses that share a prompt"
            )
        group_ids = (torch.arange(rows) // together).expand(self.runs, -1)
        return replace(samples, trajectories=unchecked(samples.trajectories, {"group_ids": group_ids}))

    def candidates(self, samples: Samples) -> Candidates:
        """Return whole episodes of one prompt side by side, paid rewards as ``targets``; see ``RankedEnvironment``."""
        batch, together = samples.trajectories, self.component.responses
        states, tokens = samples.inputs["observations"], samples.inputs["actions"]
        last = (batch.valid.sum(-1) - 1).clamp(min=0)[..., None]
        state, token = states.gather(2, last)[..., 0], tokens.gather(2, last)[..., 0]
        numbers = self.tree.response_of[state % self.tree.prefixes * self.tree.vocabulary + token]
        prompts = state // self.tree.prefixes
        whole = (batch.terminated.sum(-1) == 1) & batch.terminated.gather(2, last)[..., 0]
        if not bool((whole & (states[..., 0] % self.tree.prefixes == 0)).all()):
            raise LabError("candidates: every row must be one whole response; collect episodes, not steps")
        rows = numbers.shape[1]
        grouped = (rows % together == 0) and _constant(prompts.view(-1, rows // together, together))
        if batch.group_ids is not None:
            grouped = grouped and _constant(batch.group_ids.reshape(-1, rows // together, together))
        if not grouped:
            raise LabError(
                f"candidates: expected the {together} responses to a prompt (environment.responses) in consecutive "
                "rows, as they were collected"
            )
        shape = (self.runs, rows // together, together)
        scores = clean(batch.rewards, batch.valid).sum(-1)
        return side_by_side(self.tree, prompts.view(shape)[..., 0], numbers.view(shape), targets=scores.view(shape))

    def encode(self, rankings: Sequence[Ranking]) -> Candidates:
        """Return rankings in words as candidates ``[1, rows, k]``; see ``encode`` in ``words``."""
        return encode(rankings, self.tree, self.component.prompts, self.component.alphabet)

    def adopt(self, parameters: Mapping[str, Tensor]) -> None:
        """Take over the reward model of an earlier stage, from the weights whose names begin with ``reward.``."""
        learned = {name.removeprefix(_LEARNED): x for name, x in parameters.items() if name.startswith(_LEARNED)}
        if learned:
            self._learned, self._tables, self._world, self._paying = learned, {}, None, False

    def state_dict(self) -> dict[str, Tensor]:
        """Return where every row stands, and the counters of the random numbers."""
        return self._rollouts.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._rollouts.load_state_dict(state)

    def _world_of(self, rewards: Tensor) -> SequenceWorld:
        return SequenceWorld(self.tree.vocabulary, self.tree.length, rewards, eos=self.tree.eos)

    def _table(self, reward: RewardFunction, truth: Tensor | None) -> Tensor:
        assert isinstance(reward, ResponseReward)  # the component was refused otherwise
        task = RewardTask(self.tree, self.component.prompts, self.spaces, self.all_responses(), self._learned, truth)
        return reward.table(task, self._streams["reward"])


class Sequences(Environment):
    """Prompts, and all token strings up to a length as responses, with a reward per response: RLHF in small.

    A step is a token and pays nothing, except the last one, which pays r(x,y). A response ends with the token ``eos``
    or at its full length. The world is known exactly: every response's probability, the KL to a reference, and the
    KL-regularised optimum π_ref exp(r/β)/Z at the price ``beta``. With ``proxy`` that reward is paid in training, while
    the exact world still tells the true one. Nothing is discounted, and gamma is 1 where a spec leaves it out.

    Rewards are drawn per run from the run's own stream, so that every seed has its own problem. What is drawn in
    ``reward`` is drawn alike in ``proxy``: the same component there means the same numbers.
    """

    name = "sequences"
    provides = frozenset({"log_probs"})
    training_only = frozenset({"proxy", "responses"})
    undiscounted = True
    vocabulary: int = Field(default=4, ge=2, description="number of tokens")
    length: int = Field(default=4, ge=1, description="most tokens of a response")
    prompts: int = Field(default=1, ge=1, description="number of prompts, equally frequent")
    eos: int | None = Field(default=None, ge=0, description="token that ends a response; None: all have full length")
    responses: int = Field(default=1, ge=1, description="consecutive episodes that answer the same prompt")
    reward: Annotated[RewardFunction, Slot("reward")] = Field(default=RandomReward(), description="the true reward")
    proxy: Annotated[RewardFunction, Slot("reward")] | None = Field(
        default=None, description="reward that is paid in training instead; None: the true one"
    )
    beta: float = Field(default=0.1, gt=0, description="price of the KL to the reference in the exact objective")
    alphabet: str | None = Field(
        default=None, description="how tokens are written in data files, one character each; None: abc..."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        TokenTree(self.vocabulary, self.length, self.eos)
        for name in ("reward", "proxy"):
            found = getattr(self, name)
            if found is not None and not isinstance(found, ResponseReward):
                raise ValueError(f"{name}: {found.name!r} does not pay whole responses of token strings")
        letters = self.alphabet if self.alphabet is not None else ALPHABET[: self.vocabulary]
        if self.alphabet is not None and (len(letters) != self.vocabulary or len(set(letters)) != len(letters)):
            raise ValueError(
                f"alphabet: expected {self.vocabulary} different characters, one per token, found {letters!r}"
            )
        return self

    def gives(self) -> frozenset[str]:
        """Return the batch fields that trajectories carry: groups where several responses share a prompt."""
        return self.provides | {"group_ids"} if self.responses > 1 else self.provides

    def build(self, runs: int, envs: int, streams: Streams) -> BuiltSequences:
        """Return ``runs x envs`` responses in progress."""
        return BuiltSequences(self, runs, envs, streams)


def _constant(groups: Tensor) -> bool:
    return bool((groups == groups[..., :1]).all())
