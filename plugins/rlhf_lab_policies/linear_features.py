"""Preferences for tokens that are linear in features, which responses share."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import StackedActor, Weights
from rlhf_lab_policies.linear_softmax import feature_norms
from rlhf_lab_policies.per_state import PerStateActor
from rlhf_lab_policies.stacked import affine, take
from rlhf_lab_policies.token_policy import TokenPolicy

__all__ = ["LinearFeatures"]


class LinearFeatures(TokenPolicy):
    """π(v | x, y_<t) = softmax over tokens v of θᵀφ(x, y_<t, v), so that responses with like features move together.

    φ by ``features``: ``token`` (one-hot of v), ``position`` (one-hot of t and v), ``bigram`` (one-hot of y_{t-1} and
    v, with a mark for the start), ``table`` (row v of ``table``), ``random`` (``size`` standard normal numbers for each
    x, y_<t and v, drawn once). With ``per_prompt`` every prompt has a θ of its own and φ does not depend on x.
    As a reward model: r(x, y) = θᵀ Σ_t φ(x, y_<t, y_t). ‖∇_θ log π(v|s)‖² = ‖φ(s,v) - Σ_u π(u|s) φ(s,u)‖².

    Weights: ``theta [runs, 1 or prompts, d]``, normal with standard deviation ``scale`` at first, and with a critic
    ``critic [runs, states]`` = V(s), 0 at first. With responses of one token it is the log-linear class, on which DPO
    and a reward model with RL can have different optima.

    Source: Sutton and Barto 2018, equation 13.2; Shi et al. 2025 (arXiv 2505.19770), constructions with log-linear
    policies.
    """

    name = "linear_features"
    reference = "Sutton and Barto 2018, eq. 13.2; Shi et al. 2025 (arXiv 2505.19770)"
    features: Literal["token", "position", "bigram", "table", "random"] = Field(
        default="bigram", description="φ, of prompt, prefix and token"
    )
    table: tuple[tuple[float, ...], ...] | None = Field(default=None, description="a row of numbers per token")
    size: int | None = Field(default=None, ge=1, description="how many random features")
    per_prompt: bool = Field(default=False, description="weights of its own for every prompt")
    scale: float = Field(default=0.0, ge=0, description="standard deviation of the first weights; 0: uniform")

    @model_validator(mode="after")
    def _kind_is_complete(self) -> LinearFeatures:
        for option, kind in (("table", "table"), ("size", "random")):
            if (self.features == kind) != (getattr(self, option) is not None):
                raise ValueError(f"{option}: belongs to features: {kind}; give both or neither")
        if self.table is not None and (not self.table or not self.table[0] or len({*map(len, self.table)}) > 1):
            raise ValueError("table: needs one row per token, and as many numbers in each, one or more")
        return self

    def _make(self, spaces: Spaces, tokens: Tensor, streams: Streams) -> StackedActor:
        states = tokens.shape[0]
        prompts = (states - 1) // spaces.prefixes
        features = self._features(prompts, spaces.actions, tokens[: spaces.prefixes, 1:], streams["features"])
        shape = (prompts if self.per_prompt else 1, features.shape[2])
        weights = {"theta": self.scale * streams["theta"].normals(0, *shape)}
        if self.critic:
            weights["critic"] = torch.zeros(streams.runs, states)
        return _FeaturesActor(weights, prompts, spaces, features)

    def _features(self, prompts: int, vocabulary: int, prefixes: Tensor, streams: Streams) -> Tensor:
        """Return φ ``[1 or runs, m, d]`` of all prefixes and tokens, where it depends on the prompt of all prompts'."""
        if self.features == "random":
            count = (1 if self.per_prompt else prompts) * prefixes.shape[0] * vocabulary
            return streams.normals(0, count, self.size or 0)
        by_token = torch.eye(vocabulary) if self.table is None else torch.tensor(self.table, dtype=torch.float64)
        if len(by_token) != vocabulary:
            raise LabError(f"linear_features.table: expected {vocabulary} rows, one per token, found {len(by_token)}")
        length = (prefixes >= 0).sum(dim=1)
        context = torch.zeros_like(length)  # what φ knows of a prefix: nothing, with ``token`` and ``table``
        if self.features == "position":
            context = length
        elif self.features == "bigram":
            last = prefixes.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]
            context = last + 1  # -1 stands behind the tokens, so that the empty prefix is number 0
        by_context = functional.one_hot(context).to(by_token)
        return torch.einsum("pc,vd->pvcd", by_context, by_token).flatten(2).flatten(0, 1)[None]


class _FeaturesActor(PerStateActor):
    run_buffers: ClassVar[frozenset[str]] = frozenset({"features"})
    features: Tensor  # [1 or runs, m, d]

    def __init__(self, weights: Weights, prompts: int, spaces: Spaces, features: Tensor) -> None:
        super().__init__(weights, spaces)
        self.register_buffer("features", features, persistent=False)
        self._prompts = prompts
        self._prefixes = spaces.prefixes
        self._vocabulary = spaces.actions

    def _logits(self, weights: Weights) -> Tensor:
        theta = weights["theta"]
        runs = theta.shape[0]
        products = affine(theta, self.features.mT.expand(runs, -1, -1))  # [runs, 1 or prompts, m]
        by_prompt = products.view(runs, -1, self._prefixes * self._vocabulary).expand(-1, self._prompts, -1)
        logits = by_prompt.reshape(runs, -1, self._vocabulary)
        return functional.pad(logits, (0, 0, 0, 1))  # the terminal state, where no token is chosen any more

    def _squared_norms(self, scores: Tensor, states: Tensor) -> Tensor:
        runs, size = states.shape[0], self.features.shape[2]
        by_state = self.features.view(self.features.shape[0], -1, self._vocabulary * size).expand(runs, -1, -1)
        rows = take(by_state, states % by_state.shape[1])
        return feature_norms(scores, rows.view(*states.shape, self._vocabulary, size))
