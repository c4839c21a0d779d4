"""One logit per state and action."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import StackedActor, StackedPolicy, Weights
from rlhf_lab_policies.per_state import PerStateActor

__all__ = ["TabularActor", "TabularSoftmax"]


class TabularSoftmax(StackedPolicy):
    """Softmax over one logit per state and action, π(a|s) = exp(θ_sa) / Σ_b exp(θ_sb), for finitely many states.

    Weights: ``logits [runs, states, actions]`` and, with a critic, ``critic [runs, states]`` = V(s), which begin at 0.
    ‖∇_θ log π(a|s)‖² = ‖e_a - π(·|s)‖². On a bandit (one state) it is the gradient bandit's policy.

    Source: Sutton and Barto 2018, equations 2.11 and 13.2 with h(s, a, θ) = θ_sa.
    """

    name = "tabular_softmax"
    reference = "Sutton and Barto 2018, eq. 13.2"
    initial: tuple[float, ...] | None = Field(
        default=None, description="first logit of each action, the same in every state; default 0"
    )

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> StackedActor:
        """Return the actor; raises ``LabError`` unless states and actions are finite."""
        if spaces.states is None or spaces.actions == 0:
            raise LabError(
                "tabular_softmax needs finitely many states and actions, and this environment has "
                f"{'observation vectors' if spaces.states is None else 'continuous actions'}; use linear_softmax or mlp"
            )
        logits = torch.zeros(runs, spaces.states, spaces.actions)
        if self.initial is not None:
            if len(self.initial) != spaces.actions:
                raise LabError(
                    f"tabular_softmax.initial: expected {spaces.actions} numbers, one per action, "
                    f"found {len(self.initial)}"
                )
            logits += torch.tensor(self.initial)
        critic = {"critic": torch.zeros(runs, spaces.states)} if self.critic else {}
        return TabularActor({"logits": logits, **critic}, spaces)


class TabularActor(PerStateActor):
    """One logit per state and action, and one value per state: weights ``logits`` and perhaps ``critic``."""

    logit_table: ClassVar[bool] = True

    def _logits(self, weights: Weights) -> Tensor:
        return weights["logits"]

    def _squared_norms(self, scores: Tensor, states: Tensor) -> Tensor:
        return scores.square().sum(dim=-1)
