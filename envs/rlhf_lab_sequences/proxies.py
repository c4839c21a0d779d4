"""Rewards that miss the truth: another reward with an error, and what a reward model has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import Policy, RewardFunction, Slot
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import RankingActor
from rlhf_lab_sequences.rewards import ResponseReward, RewardTask

__all__ = ["LearnedReward", "RewardError"]


class RewardError(ResponseReward):
    """Another reward with an independent error on each response: the imperfect proxy of over-optimisation.

    - ``normal``: scale · N(0, 1). Light tails: however far the proxy is pushed, the truth goes along.
    - ``student_t``: scale · t with ``df`` degrees of freedom. Heavy tails: the largest proxy rewards are mostly error.
    - ``biased``: + scale on a random ``share`` of the responses, which a learner finds and exploits.

    Drawn per run. Errors of one kind have the same numbers wherever they are drawn in a run.

    Source: Gao et al. 2023, "Scaling laws for reward model overoptimization"; heavy tails: Kwa et al. 2024,
    "Catastrophic Goodhart".
    """

    name = "reward_error"
    reference = "Gao et al. 2023"
    reward: Annotated[RewardFunction, Slot("reward")] | None = Field(
        default=None, description="what the error is added to; None: the environment's true reward"
    )
    error: Literal["normal", "student_t", "biased"] = Field(default="normal", description="kind of the error")
    scale: float = Field(default=1.0, ge=0, description="size of the error")
    df: int = Field(default=2, ge=1, description="degrees of freedom of student_t; fewer = heavier tails")
    share: float = Field(default=0.05, gt=0, lt=1, description="share of the responses that biased overestimates")

    @model_validator(mode="after")
    def _used(self) -> Self:
        for name, kind in (("df", "student_t"), ("share", "biased")):
            if getattr(self, name) != type(self).model_fields[name].default and self.error != kind:
                raise ValueError(f"{name}: belongs to error: {kind}, and error is {self.error!r}; leave it out")
        if self.reward is not None and not isinstance(self.reward, ResponseReward):
            raise ValueError(f"reward: {self.reward.name!r} does not pay whole responses of token strings")
        return self

    def table(self, task: RewardTask, streams: Streams) -> Tensor:
        if self.reward is not None:
            assert isinstance(self.reward, ResponseReward)
            reward = self.reward.table(task, streams)
        elif task.truth is not None:
            reward = task.truth
        else:
            raise LabError(
                "environment.reward: 'reward_error' without a reward of its own adds an error to the true reward, and "
                "cannot be that itself; give it a reward, or use it as environment.proxy"
            )
        return reward + self.scale * self._errors(streams[self.error], *reward.shape[1:])

    def _errors(self, streams: Streams, *shape: int) -> Tensor:
        if self.error == "biased":
            return (streams.uniforms(0, *shape) < self.share).double()
        if self.error == "normal":
            return streams.normals(0, *shape)
        normals = streams.normals(0, *shape, self.df + 1)
        return normals[..., 0] / normals[..., 1:].square().mean(-1).sqrt()


class LearnedReward(ResponseReward):
    """The scores of the reward model that an earlier stage of the run has trained.

    The model is the policy ``policy`` with the weights that the stage left, those whose names begin with ``reward.``.

    Raises ``LabError`` where no stage has left such weights, and where they do not fit ``policy``.
    """

    name = "learned_reward"
    reference = "Ouyang et al. 2022, section 3.5"
    policy: Annotated[Policy, Slot("policy")] | None = Field(
        default=None, description="the policy whose weights the earlier stage trained as a reward model"
    )

    def table(self, task: RewardTask, streams: Streams) -> Tensor:
        if self.policy is None:
            raise LabError("learned_reward.policy: name the policy that the earlier stage trained as its reward model")
        if not task.learned:
            raise LabError(
                "learned_reward: no reward model has been trained yet; put a stage with the trainer 'reward_model' "
                "before this one, or pay another reward"
            )
        actor = self.policy.build(task.spaces, streams.runs, streams)
        if not isinstance(actor, RankingActor):
            raise LabError(f"learned_reward.policy: {self.policy.name!r} cannot score responses; use another policy")
        try:
            actor.load_state_dict(task.learned)
        except RuntimeError:
            raise LabError(
                f"learned_reward.policy: expected a reward model of policy {self.policy.name!r}, with the weights "
                f"{_described(actor.state_dict())} per seed; the earlier stage's has {_described(task.learned)}; name "
                "the policy of that stage, with its parameters"
            ) from None
        with torch.no_grad():
            return actor.rewards(task.everything).double()


def _described(weights: Mapping[str, Tensor]) -> str:
    """Return names and shapes of one seed's weights in words."""
    return ", ".join(f"{name} {list(x.shape[1:])}" for name, x in weights.items()) or "none"
