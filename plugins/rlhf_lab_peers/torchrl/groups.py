"""TorchRL's group advantages: the replay-buffer transform ``MCAdvantage``."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_peers.limits import blocks, given, responses

__all__ = ["GroupAdvantage"]


class GroupAdvantage(AdvantageEstimator):
    """Group-relative advantages of TorchRL: (R − mean) / max(std, 1e-6), with the sample deviation.

    Calls ``MCAdvantage(trajectory_return="sum").inv`` with one trajectory per row, its valid steps. ``grpo_size`` is
    the size of each group, at least 2. The deviation is bounded below, nothing is added to it.

    Source: torchrl/objectives/llm/grpo.py; Shao et al. 2024, section 4.1.2.
    """

    name = "grpo@torchrl"
    reference = "TorchRL, MCAdvantage; Shao et al. 2024, section 4.1.2"
    requires = frozenset({"group_ids"})
    scope = "group"
    implements = "grpo"
    conventions = {"ddof": 1, "eps": 0.0}

    def model_post_init(self, context: Any) -> None:
        _classes()

    def __call__(self, batch: Trajectories) -> Advantages:
        MCAdvantage, TensorDict = _classes()
        shape = batch.rewards.shape
        rewards, valid = batch.rewards.view(-1, shape[-1]), batch.valid.view(-1, shape[-1])
        ends = (batch.terminated | batch.truncated).view(-1, shape[-1])
        rows = responses(valid, ends)
        found = rewards.new_zeros(rewards.shape)
        for block in blocks(given(batch.group_ids, "group_ids").flatten(), rows):
            transform = MCAdvantage(len(block), prompt_key="group", trajectory_return="sum")
            for row in block:
                steps = rewards[row][valid[row]].unsqueeze(-1)  # [t, 1]
                done = torch.zeros(steps.shape, dtype=torch.bool)
                done[-1] = True
                trajectory = TensorDict(
                    {
                        "group": torch.zeros(len(steps), dtype=torch.long),
                        "row": torch.full((len(steps),), row),
                        "next": TensorDict({"reward": steps, "done": done}, [len(steps)]),
                    },
                    [len(steps)],
                )
                answer = transform.inv(trajectory)
            for row in block:
                found[row, valid[row]] = answer["advantage"][answer["row"] == row, 0]
        return Advantages(found.view(shape))


@cache
def _classes() -> tuple[Any, Any]:
    from tensordict import TensorDict
    from torchrl.objectives.llm import MCAdvantage

    return MCAdvantage, TensorDict
