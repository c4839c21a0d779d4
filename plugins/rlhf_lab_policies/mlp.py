"""Fully connected actor and critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import Distribution, StackedActor, StackedPolicy, Weights
from rlhf_lab_policies.distributions import Categorical, DiagonalGaussian
from rlhf_lab_policies.encoding import encode, encoding
from rlhf_lab_policies.stacked import BLOCK, affine, orthogonal

__all__ = ["MLP"]

Activation = Literal["tanh", "relu"]
Layers = tuple[str, ...]  # names of a network's layers; the last one is its head

_ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = {"tanh": torch.tanh_, "relu": torch.relu_}
_HEAD_GAINS: Final = {"actor_head": 0.01, "critic_head": 1.0}
_HIDDEN_GAIN: Final = math.sqrt(2)


class MLP(StackedPolicy):
    """Fully connected policy and critic, h_l = f(h_{l-1} W_l + b_l), with separate networks or one shared trunk.

    Discrete actions: softmax of the policy head. Continuous ones: a diagonal Gaussian whose mean is the policy head and
    whose log standard deviation is a weight of its own, the same in every state and 0 at first; log-densities are those
    of the raw, unclipped actions. A finite world's states enter as their features, one-hot without any.

    Initial weights are orthogonal with gain √2 in hidden layers, 0.01 in the policy head (so that the first policy is
    nearly uniform) and 1 in the critic's; biases are 0. ``W [runs, in, out]``, ``b [runs, 1, out]``.

    Source: Schulman et al. 2017, section 6.1 (two hidden layers of 64 units, tanh); the initialisation and the
    state-independent deviation are those of the PPO implementation in OpenAI Baselines.
    """

    name = "mlp"
    reference = "Schulman et al. 2017, section 6.1"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(64, 64), description="units of each hidden layer")
    activation: Activation = Field(default="tanh", description="f, after every hidden layer")
    shared: bool = Field(default=False, description="policy and critic share the hidden layers")

    @model_validator(mode="after")
    def _something_to_share(self) -> MLP:
        if self.shared and not (self.critic and self.hidden):
            raise ValueError("shared needs a critic and hidden layers; set critic: true and hidden, or shared: false")
        return self

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> StackedActor:
        """Return the actor; the weights of layer ``x`` come from ``streams["x"]``."""
        features = encoding(spaces)
        inputs = math.prod(spaces.observation) if features is None else features.shape[1]
        actor, critic = self._layers("actor"), self._layers("critic") if self.critic else ()
        shapes = dict(zip(actor, pairwise((inputs, *self.hidden, spaces.actions or spaces.action_size)), strict=True))
        if critic:  # a shared trunk has one name, so it is made once
            shapes |= dict(zip(critic, pairwise((inputs, *self.hidden, 1)), strict=True))
        weights: dict[str, Tensor] = {}
        for layer, (before, after) in shapes.items():
            gain = _HEAD_GAINS.get(layer, _HIDDEN_GAIN)
            weights[f"{layer}_weight"] = orthogonal(streams[layer], before, after, gain)
            weights[f"{layer}_bias"] = torch.zeros(runs, 1, after)
        if spaces.actions == 0:
            weights["actor_log_std"] = torch.zeros(runs, 1, spaces.action_size)
        dtype = torch.get_default_dtype()
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        return _MLPActor(weights, spaces, features, actor, critic, self.activation)

    def _layers(self, network: str) -> Layers:
        """Return the names of a network's layers; those of a shared trunk are the same for both networks."""
        trunk = "trunk" if self.shared else network
        return (*(f"{trunk}_{i}" for i in range(len(self.hidden))), f"{network}_head")


class _MLPActor(StackedActor):
    block = BLOCK
    features: Tensor | None  # [states, d] of a finite world

    def __init__(
        self,
        weights: Weights,
        spaces: Spaces,
        features: Tensor | None,
        actor: Layers,
        critic: Layers,
        activation: Activation,
    ) -> None:
        super().__init__(weights, spaces)
        self.register_buffer("features", features, persistent=False)
        self._actor = actor
        self._critic = critic
        self._shared = len(set(actor) & set(critic))  # how many layers both networks begin with
        self._activation = _ACTIVATIONS[activation]

    def _encode(self, weights: Weights, observations: Tensor) -> Tensor:
        return encode(observations, self.features, weights["actor_head_weight"].dtype)

    def _layers(
        self, weights: Weights, layers: Layers, x: Tensor, probes: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Return the input of each layer, and after them the output of the last; ``probes`` are added before f."""
        states = [x]
        for i, layer in enumerate(layers):
            y = affine(states[-1], weights[f"{layer}_weight"], weights[f"{layer}_bias"])
            y = y if probes is None else y + probes[i]
            states.append(y if layer in _HEAD_GAINS else self._activation(y))
        return states

    def _from_head(self, weights: Weights, outputs: Tensor, mask: Tensor | None) -> Distribution:
        if "actor_log_std" in weights:
            return DiagonalGaussian(outputs, weights["actor_log_std"])
        return Categorical.from_logits(outputs, mask)

    def _distribution(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> Distribution:
        outputs = self._layers(weights, self._actor, self._encode(weights, observations))[-1]
        return self._from_head(weights, outputs, mask)

    def _values(self, weights: Weights, observations: Tensor) -> Tensor | None:
        if not self._critic:
            return None
        return self._layers(weights, self._critic, self._encode(weights, observations))[-1][..., 0]

    def _both(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> tuple[Distribution, Tensor | None]:
        states = self._layers(weights, self._actor, self._encode(weights, observations))
        distribution = self._from_head(weights, states[-1], mask)
        if not self._critic:
            return distribution, None
        values = self._layers(weights, self._critic[self._shared :], states[self._shared])[-1]
        return distribution, values[..., 0]

    @torch.enable_grad()
    def _score_norms(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        """Return the norms from one backward pass: a layer's gradient at one sample is hᵀδ for W and δ for b.

        Hence its squared norm is ‖δ‖² (‖h‖² + 1), with h the layer's input and δ = ∂ log π / ∂ (hW + b).
        Source: Goodfellow 2015, "Efficient per-example gradient computations".
        """
        weights = {name: value.detach() for name, value in self.weights.items()}
        probes = [  # zeros added to each hW + b, whose gradient is δ
            (weights[f"{layer}_bias"] * 0).repeat(1, observations.shape[1], 1).requires_grad_() for layer in self._actor
        ]
        states = self._layers(weights, self._actor, self._encode(weights, observations), probes)
        distribution = self._from_head(weights, states[-1], mask)
        deltas = torch.autograd.grad(distribution.log_prob(actions).sum(), probes)
        norms = torch.zeros_like(deltas[0][..., 0])
        for delta, state in zip(deltas, states[:-1], strict=True):
            norms += delta.square().sum(dim=-1) * (state.square().sum(dim=-1) + 1)
        if isinstance(distribution, DiagonalGaussian):  # ∂ log π / ∂ log std_i = z_i² - 1
            norms += (distribution.standardise(actions).square() - 1).square().sum(dim=-1)
        return norms
