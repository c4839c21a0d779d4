"""Rewards of whole responses: the truth of a world of token strings, drawn or given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import RewardFunction
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Spaces
from rlhf_lab.worlds.token_tree import TokenTree

__all__ = ["RandomReward", "ResponseReward", "RewardTask", "TableReward", "TokenReward"]


@dataclass(frozen=True, eq=False)
class RewardTask:
    """What a reward is asked about: every response in ``tree`` to each of so many ``prompts``.

    ``everything`` shows the same responses to an actor, ``[runs, x, y]``. ``learned`` are the weights of the reward
    model of an earlier stage by name, empty where there was none. ``truth [runs, x, y]`` is the environment's own
    reward, None while that one itself is asked for.
    """

    tree: TokenTree
    prompts: int
    spaces: Spaces
    everything: Candidates
    learned: Mapping[str, Tensor]
    truth: Tensor | None = None


class ResponseReward(RewardFunction):
    """Base of the rewards of whole responses."""

    @abstractmethod
    def table(self, task: RewardTask, streams: Streams) -> Tensor:
        """Return the reward of every response ``[runs, x, y]``, float64."""


class RandomReward(ResponseReward):
    """Independent normal rewards r(x,y) ~ N(0, scale²), one per prompt and response.

    No feature explains them: only a policy with a parameter per prefix can represent the optimum.
    """

    name = "random_reward"
    scale: float = Field(default=1.0, ge=0, description="standard deviation of the rewards")
    per_run: bool = Field(default=True, description="whether each seed has rewards of its own, or all have the same")

    def table(self, task: RewardTask, streams: Streams) -> Tensor:
        return self.scale * _normals(streams, self.per_run, task.prompts, task.tree.responses)


class TokenReward(ResponseReward):
    """r(x,y) = Σ_t v(y_t), or Σ_t v(t, y_t) with ``by_position``: the same for every prompt.

    Additive, hence realisable by policies and reward models with a weight per token (and position).
    """

    name = "token_reward"
    values: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="v per token, or a row per position; None: normal numbers"
    )
    scale: float = Field(default=1.0, ge=0, description="standard deviation of v where it is drawn")
    by_position: bool = Field(default=False, description="whether v is drawn for each position")
    per_run: bool = Field(default=True, description="whether v is drawn for each seed, or once for all")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        for name in ("scale", "by_position", "per_run"):
            if self.values is not None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: nothing is drawn where values are given; leave it out")
        return self

    def table(self, task: RewardTask, streams: Streams) -> Tensor:
        tree = task.tree
        if self.values is None:
            values = self.scale * _normals(
                streams, self.per_run, tree.length if self.by_position else 1, tree.vocabulary
            )
        else:
            values = torch.tensor(_rectangle("token_reward.values", self.values), dtype=torch.float64)
            values = values.reshape(1, -1, values.shape[-1]).expand(streams.runs, -1, -1)
        if values.shape[1:] not in ((1, tree.vocabulary), (tree.length, tree.vocabulary)):
            raise LabError(
                f"token_reward.values: expected {tree.vocabulary} numbers, one per token, or {tree.length} rows of so "
                f"many, one per position; found {list(values.shape[1:])}"
            )
        positions = torch.arange(tree.length).clamp(max=values.shape[1] - 1)
        paid = values[:, positions, tree.tokens].masked_fill(~tree.valid, 0)  # [runs, y, t]
        return paid.sum(-1)[:, None].expand(-1, task.prompts, -1)


class TableReward(ResponseReward):
    """Given rewards, the same in every run: one number per response in lexicographic order, for each prompt."""

    name = "table_reward"
    values: tuple[float, ...] | tuple[tuple[float, ...], ...] = Field(
        default=(), description="number per response of the only prompt, or rows of them, one per prompt"
    )

    def table(self, task: RewardTask, streams: Streams) -> Tensor:
        values = torch.tensor(_rectangle("table_reward.values", self.values), dtype=torch.float64)
        values = values.reshape(-1, values.shape[-1])
        due = (task.prompts, task.tree.responses)
        if values.shape != due:
            raise LabError(
                f"table_reward.values: expected {due[0]} rows (one per prompt) of {due[1]} numbers (one per response), "
                f"found {values.shape[0]} of {values.shape[1]}"
            )
        return values.expand(streams.runs, -1, -1)


def _normals(streams: Streams, per_run: bool, *shape: int) -> Tensor:
    """Return ``[runs, *shape]`` standard normal numbers, the same ones in every run unless ``per_run``."""
    if per_run:
        return streams.normals(0, *shape)
    return Streams([0], streams.path).normals(0, *shape).expand(streams.runs, *shape)


def _rectangle(name: str, rows: tuple[float, ...] | tuple[tuple[float, ...], ...]) -> object:
    """Return the rows; raises ``LabError`` where there is no number, or rows differ in length."""
    widths = {len(row) for row in rows if isinstance(row, tuple)}
    if not rows or 0 in widths or len(widths) > 1:
        raise LabError(f"{name}: expected numbers, or rows of equally many numbers, found {rows!r}")
    return rows
