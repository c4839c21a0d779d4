"""Action preferences that are linear in features."""

from __future__ import annotations

import math
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import StackedActor, StackedPolicy, Weights
from rlhf_lab_policies.distributions import Categorical
from rlhf_lab_policies.encoding import encode, encoding
from rlhf_lab_policies.stacked import BLOCK, affine, fill

__all__ = ["LinearSoftmax", "feature_norms"]

_FEW_ROWS: Final = 4096  # of shared action features; by the world's size alone, since the two ways round differently


class LinearSoftmax(StackedPolicy):
    """Softmax over linear preferences: π(a|s) = exp(θᵀx(s,a)) / Σ_b exp(θᵀx(s,b)), with the critic V(s) = wᵀx(s).

    x(s,a) are the environment's action features; where it has none, x(s,a) = x(s) ⊗ e_a, a block of weights per action.
    x(s) are its state features, one-hot without any, or the observation itself where that is a vector.
    Weights, 0 at first: ``theta [runs, d]`` (without action features ``[runs, d, actions]``) and ``critic [runs, d]``.
    ‖∇_θ log π(a|s)‖² = ‖x(s,a) - Σ_b π(b|s) x(s,b)‖².

    Source: Sutton and Barto 2018, equations 13.2, 13.3 and 13.9.
    """

    name = "linear_softmax"
    reference = "Sutton and Barto 2018, eq. 13.2 and 13.3"
    initial: tuple[float, ...] | None = Field(
        default=None,
        description="first θ, one number per action feature (without any: per feature and action, row by row)",
    )

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> StackedActor:
        """Return the actor; raises ``LabError`` where actions are continuous or ``initial`` has another length."""
        if spaces.actions == 0:
            raise LabError("linear_softmax needs finitely many actions, and this environment's are continuous; use mlp")
        features = encoding(spaces)
        size = math.prod(spaces.observation) if features is None else features.shape[1]
        by_action = spaces.action_features
        shape = (size, spaces.actions) if by_action is None else (by_action.shape[-1],)
        theta = torch.zeros(runs, *shape)
        if self.initial is not None:
            if len(self.initial) != math.prod(shape):
                raise LabError(
                    f"linear_softmax.initial: expected {math.prod(shape)} numbers, one per action feature, "
                    f"found {len(self.initial)}"
                )
            theta += torch.tensor(self.initial).view(shape)
        critic = {"critic": torch.zeros(runs, size)} if self.critic else {}
        return _LinearActor({"theta": theta, **critic}, spaces, features)


class _LinearActor(StackedActor):
    block = BLOCK
    features: Tensor | None  # [states, d]
    action_features: Tensor | None  # [states, actions, d], or [m, d]
    action_rows: Tensor | None  # [states, actions], with the latter

    def __init__(self, weights: Weights, spaces: Spaces, features: Tensor | None) -> None:
        super().__init__(weights, spaces)
        by_action = spaces.action_features
        self.register_buffer("features", features, persistent=False)
        self.register_buffer(
            "action_features", None if by_action is None else by_action.to(weights["theta"].dtype), persistent=False
        )
        self.register_buffer("action_rows", spaces.action_rows, persistent=False)

    def _encode(self, weights: Weights, observations: Tensor) -> Tensor:
        return encode(observations, self.features, weights["theta"].dtype)

    def _distribution(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> Categorical:
        theta = weights["theta"]
        if self.action_features is None:
            return Categorical.from_logits(affine(self._encode(weights, observations), theta), mask)
        return Categorical.from_logits(self._preferences(theta, observations), mask)

    def _preferences(self, theta: Tensor, observations: Tensor) -> Tensor:
        """Return θᵀx(s,a) ``[runs, n, actions]`` in states ``[runs, n]``."""
        assert self.action_features is not None
        if self.action_rows is None or len(self.action_features) > _FEW_ROWS:
            features = self._action_features(observations)
            return affine(features.flatten(1, 2), theta[..., None]).view(features.shape[:-1])
        # pairs share rows, so that all rows are fewer products than the pairs that are asked about
        all_rows = fill(self.action_features.expand(len(theta), -1, -1), self.block)
        preferences = affine(all_rows, theta[..., None])[..., 0]
        rows = self.action_rows[observations]
        return preferences.gather(1, rows.flatten(1)).view(rows.shape)

    def _action_features(self, observations: Tensor) -> Tensor:
        """Return x(s,a) ``[runs, n, actions, d]`` of states ``[runs, n]``."""
        assert self.action_features is not None
        places = observations if self.action_rows is None else self.action_rows[observations]
        return self.action_features[places]

    def _values(self, weights: Weights, observations: Tensor) -> Tensor | None:
        if "critic" not in weights:
            return None
        return affine(self._encode(weights, observations), weights["critic"][..., None])[..., 0]

    def _score_norms(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        score = self._distribution(self.weights, observations, mask).score(actions)  # e_a - π
        if self.action_features is None:
            return score.square().sum(dim=-1) * self._encode(self.weights, observations).square().sum(dim=-1)
        return feature_norms(score, self._action_features(observations))


def feature_norms(scores: Tensor, features: Tensor) -> Tensor:
    """Return ‖Σ_b score_b x(s,b)‖² ``[runs, n]``, the squared norm of ∇_θ log π where preferences are θᵀx(s,b).

    ``scores [runs, n, actions]`` are the gradients with respect to the preferences, ``features [runs, n, actions, d]``.
    """
    return (scores[..., None] * features).sum(dim=-2).square().sum(dim=-1)
