"""One logit per prompt, prefix and next token."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import StackedActor
from rlhf_lab_policies.tabular_softmax import TabularActor
from rlhf_lab_policies.token_policy import TokenPolicy

__all__ = ["TabularAutoregressive"]


class TabularAutoregressive(TokenPolicy):
    """Softmax over one logit per prompt, prefix and token: π(y|x) = Π_t exp(θ_{x,y_<t,y_t}) / Σ_v exp(θ_{x,y_<t,v}).

    Every distribution over the responses to a prompt is of this form, so that no response's probability is tied to
    another's. Weights: ``logits [runs, states, tokens]``, normal with standard deviation ``scale`` at first, and with a
    critic ``critic [runs, states]`` = V(s), 0 at first. As a reward model it expresses every reward r(x, y).

    Source: the chain rule of probability; Sutton and Barto 2018, equation 13.2, at each prefix.
    """

    name = "tabular_autoregressive"
    reference = "Sutton and Barto 2018, eq. 13.2, with prompt and prefix as state"
    scale: float = Field(default=0.0, ge=0, description="standard deviation of the first logits; 0: uniform")

    def _make(self, spaces: Spaces, tokens: Tensor, streams: Streams) -> StackedActor:
        states = tokens.shape[0]
        weights = {"logits": self.scale * streams["logits"].normals(0, states, spaces.actions)}
        if self.critic:
            weights["critic"] = torch.zeros(streams.runs, states)
        return TabularActor(weights, spaces)
