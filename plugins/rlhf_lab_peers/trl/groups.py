"""TRL's group advantages, which its trainers compute while they score completions.

A completion is a row with a valid step, its reward the sum of the row's valid rewards. TRL has one ``num_generations``
for all prompts, at least 2; groups of several sizes are scored one at a time where they do not influence each other.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator, Scope
from rlhf_lab.types import Advantages, Refused, Trajectories
from rlhf_lab_peers.limits import blocks, given, responses
from rlhf_lab_peers.trl.trainer import advantages, peer, scoring_trainer

__all__ = ["GRPO", "RLOO", "BatchScaledGRPO", "UnscaledGRPO"]


class _Groups(AdvantageEstimator):
    requires = frozenset({"group_ids"})
    scope: ClassVar[Scope] = "group"

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: Trajectories) -> Advantages:
        shape = batch.rewards.shape
        rewards, valid = batch.rewards.view(-1, shape[-1]), batch.valid.view(-1, shape[-1])
        rows = responses(valid, (batch.terminated | batch.truncated).view(-1, shape[-1]))
        scores = rewards.masked_fill(~valid, 0).sum(-1)
        found = torch.zeros_like(rewards)
        for block in self._together(blocks(given(batch.group_ids, "group_ids").flatten(), rows)):
            order = [row for group in block for row in group]
            found[order] = self._score(scores[order], len(block[0]))[:, None] * valid[order]
        return Advantages(found.view(shape))

    def _together(self, groups: list[list[int]]) -> list[list[list[int]]]:
        """Return which groups are scored in one call."""
        return [[group] for group in groups]

    @abstractmethod
    def _score(self, scores: Tensor, num_generations: int) -> Tensor:
        """Return the advantages of completions whose groups are consecutive blocks."""


class _GRPO(_Groups):
    scale_rewards: ClassVar[str]

    def _score(self, scores: Tensor, num_generations: int) -> Tensor:
        count = len(scores)
        trained = scoring_trainer(
            scores,
            num_generations,
            scale_rewards=self.scale_rewards,
            multi_objective_aggregation="sum_then_normalize",
            _generate=lambda prompts: ([[1]] * count, [[1]] * count, None, prompts, None, {}, None, None),
        )
        return advantages(peer().GRPOTrainer, scores, trained)


class GRPO(_GRPO):
    """Group-relative advantages of TRL: (reward − mean) / (std + 1e-4), with the sample deviation of the group.

    Calls ``GRPOTrainer._generate_and_score_completions`` with ``scale_rewards="group"``, the default.

    Source: trl/trainer/grpo_trainer.py; Shao et al. 2024, section 4.1.2.
    """

    name = "grpo@trl"
    reference = "TRL, GRPOTrainer; Shao et al. 2024, section 4.1.2"
    implements = "grpo"
    conventions = {"ddof": 1, "eps": 1e-4}

    scale_rewards = "group"


class BatchScaledGRPO(_GRPO):
    """Group-relative advantages of TRL, scaled by the deviation of all rewards of the batch.

    Calls ``GRPOTrainer._generate_and_score_completions`` with ``scale_rewards="batch"``. Groups of several sizes are
    refused, as the batch must be scored in one call.

    Source: trl/trainer/grpo_trainer.py.
    """

    name = "grpo_batch@trl"
    reference = "TRL, GRPOTrainer"
    scope = "batch"

    scale_rewards = "batch"

    def _together(self, groups: list[list[int]]) -> list[list[list[int]]]:
        if len({len(group) for group in groups}) > 1:
            raise Refused("groups of several sizes; TRL has one num_generations")
        return [groups]


class UnscaledGRPO(_GRPO):
    """Group-relative advantages of TRL without the division, as in Dr. GRPO.

    Calls ``GRPOTrainer._generate_and_score_completions`` with ``scale_rewards="none"``.

    Source: trl/trainer/grpo_trainer.py; Liu et al. 2025, section 3.
    """

    name = "grpo_mean@trl"
    reference = "TRL, GRPOTrainer; Liu et al. 2025"
    implements = "grpo_mean"

    scale_rewards = "none"


class RLOO(_Groups):
    """Leave-one-out advantages of TRL: the reward minus the mean reward of the other completions.

    Calls ``RLOOTrainer._generate_and_score_completions`` with ``beta=0``: the KL penalty that TRL subtracts from
    rewards by default is a matter of the rewards here. Advantages are not normalised, which is the default.

    Source: trl/trainer/rloo_trainer.py; Ahmadian et al. 2024.
    """

    name = "rloo@trl"
    reference = "TRL, RLOOTrainer; Ahmadian et al. 2024"
    implements = "rloo"

    def _score(self, scores: Tensor, num_generations: int) -> Tensor:
        count = len(scores)
        zeros = torch.zeros(count, 1, dtype=scores.dtype)
        trained = scoring_trainer(
            scores,
            num_generations,
            reward_clip_range=None,
            normalize_advantages=False,
            _generate=lambda prompts: ([[1]] * count, [[1]] * count, prompts),
            _get_per_token_logps_and_entropies=lambda *_, **__: (zeros, None, None),
        )
        return advantages(peer().RLOOTrainer, scores, trained)
