"""What the policies for worlds of token sequences have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import StackedActor, StackedPolicy

__all__ = ["TokenPolicy"]


class TokenPolicy(StackedPolicy):
    """Base of the policies that answer a prompt token by token: π(y|x) = Π_t π(y_t | x, y_<t).

    A state is a prompt and the tokens so far, an action is a token. Subclasses give ``_make``.
    """

    critic: bool = Field(default=False, description="also learn state values V(s)")
    shared: bool = Field(default=False, description="all runs draw the random numbers of seed 0, not their own")
    precision: Literal["float32", "float64"] = Field(default="float32", description="of weights and probabilities")

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> StackedActor:
        """Return the actor; raises ``LabError`` unless the world is one of token sequences."""
        if spaces.tokens is None:
            raise LabError(
                f"{self.name} needs a world of token sequences, whose states are prompts and the tokens so far; "
                "use an environment of that kind, or a policy for any world: tabular_softmax, linear_softmax, mlp"
            )
        actor = self._make(spaces, spaces.tokens, Streams([0] * runs, streams.path) if self.shared else streams)
        return actor.to(getattr(torch, self.precision))

    @abstractmethod
    def _make(self, spaces: Spaces, tokens: Tensor, streams: Streams) -> StackedActor:
        """Return the actor of ``streams.runs`` runs; ``tokens`` are those of ``spaces``."""
