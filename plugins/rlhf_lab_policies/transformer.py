"""A tiny causal transformer."""

from __future__ import annotations

import math
from typing import Final

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab_policies.actor import StackedActor, StackedPolicy, Weights
from rlhf_lab_policies.distributions import Categorical, TabulatedCategorical
from rlhf_lab_policies.prefixes import Nodes, chains, tree
from rlhf_lab_policies.scoring import FEW_STATES
from rlhf_lab_policies.stacked import BLOCK, affine, orthogonal, take
from rlhf_lab_policies.token_policy import TokenPolicy

__all__ = ["Transformer"]

_WIDER: Final = 4  # hidden units of the fully connected part per unit of width


class Transformer(TokenPolicy):
    """Causal transformer over the prompt's own token and the tokens so far, whose logits are a linear head's.

    With x_t = E[y_{t-1}] + P[t], y_{-1} the prompt's token, each of the layers does

        x_t += W_o · heads_h Σ_{u<=t} softmax_u(q_t·k_u / √d_h) v_u,   q, k, v = W N(x) + b
        x_t += W_2 GELU(W_1 N(x_t) + b_1) + b_2

    and z_t = W_z N(x_t) + b_z, V(s) = W_v N(x_t) + b_v. N subtracts the mean and divides by the standard deviation;
    unlike in the papers it has no gain and offset of its own, since a linear layer follows wherever it stands. Matrices
    are orthogonal at first, those before an addition times 1 / √(2 layers), the head times ``scale``, so that the first
    policy is nearly uniform; biases are 0, and embeddings normal with variance 1/2.

    States are the nodes of a tree of prefixes: one forward computes each of them once, for all prompts and runs.
    ‖∇_θ log π(a|s)‖² is not provided.

    Source: Vaswani et al. 2017, sections 3.2 and 3.3; normalisation before each part, GELU and the factor
    1 / √(2 layers) as in Radford et al. 2019 (GPT-2).
    """

    name = "transformer"
    reference = "Vaswani et al. 2017; Radford et al. 2019"
    provides = StackedPolicy.provides - {"score_norms"}
    layers: int = Field(default=1, ge=1, description="blocks of attention and fully connected layers")
    heads: int = Field(default=2, ge=1, description="attention heads of each layer")
    width: int = Field(default=32, ge=1, description="numbers per token, split among the heads")
    scale: float = Field(default=0.01, ge=0, description="gain of the head at first; 0: uniform")

    @model_validator(mode="after")
    def _heads_fit(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be split among {self.heads} heads; give a multiple of heads")
        return self

    def _make(self, spaces: Spaces, tokens: Tensor, streams: Streams) -> StackedActor:
        width, runs = self.width, streams.runs
        added = 1 / math.sqrt(2 * self.layers)
        shapes = {"head": (width, spaces.actions, self.scale)}
        for i in range(self.layers):
            shapes |= {
                **{f"{part}_{i}": (width, width, 1.0) for part in ("query", "key", "value")},
                f"mixed_{i}": (width, width, added),
                f"wide_{i}": (width, _WIDER * width, 1.0),
                f"narrow_{i}": (_WIDER * width, width, added),
            }
        if self.critic:
            shapes["critic"] = (width, 1, 1.0)
        weights = {
            "tokens": math.sqrt(0.5) * streams["tokens"].normals(0, int(tokens.max()) + 1, width),
            "positions": math.sqrt(0.5) * streams["positions"].normals(0, tokens.shape[1] - 1, width),
        }
        for name, (inputs, outputs, gain) in shapes.items():
            weights[f"{name}_weight"] = orthogonal(streams[name], inputs, outputs, gain)
            weights[f"{name}_bias"] = torch.zeros(runs, 1, outputs, dtype=torch.float64)
        return _TransformerActor(weights, spaces, tokens, self.layers, self.heads)


class _TransformerActor(StackedActor):
    block = BLOCK
    strings: Tensor  # [states, t] tokens that a state has read

    def __init__(self, weights: Weights, spaces: Spaces, tokens: Tensor, layers: int, heads: int) -> None:
        states = tokens.shape[0]
        super().__init__(weights, spaces)
        self._layers = layers
        self._heads = heads
        self._few = states <= FEW_STATES  # then every state is computed, whichever are asked for
        self.register_buffer("strings", tokens[:, :-1], persistent=False)
        for name, x in zip(Nodes._fields, tree(tokens) if self._few else (), strict=False):
            self.register_buffer(f"tree_{name}", x, persistent=False)

    def _nodes(self, states: Tensor) -> tuple[Nodes, Tensor]:
        """Return the nodes to compute and at which of them ``states [runs, n]`` stand."""
        return (self._tree(), states) if self._few else chains(self.strings[states])

    def _tree(self) -> Nodes:
        return Nodes(*(self.get_buffer(f"tree_{name}") for name in Nodes._fields))

    def _hidden(self, weights: Weights, nodes: Nodes) -> Tensor:
        """Return what the heads read, ``[runs, n, width]``."""
        by_token, tokens = weights["tokens"], nodes.tokens
        x = by_token.index_select(1, tokens) if tokens.ndim == 1 else take(by_token, tokens)
        x = x + weights["positions"].index_select(1, nodes.positions)
        for i in range(self._layers):
            x = x + self._attend(weights, i, _normal(x), nodes)
            x = x + _linear(weights, f"narrow_{i}", functional.gelu(_linear(weights, f"wide_{i}", _normal(x))))
        return _normal(x)

    def _attend(self, weights: Weights, layer: int, x: Tensor, nodes: Nodes) -> Tensor:
        """Return the layer's attention ``[runs, n, width]``; products of so few numbers are no task for BLAS."""
        runs, n, width = x.shape
        heads = (self._heads, width // self._heads)
        queries = _linear(weights, f"query_{layer}", x).view(runs, 1, n, *heads)
        keys = nodes.seen_by_each(_linear(weights, f"key_{layer}", x)).view(runs, -1, n, *heads)
        values = nodes.seen_by_each(_linear(weights, f"value_{layer}", x)).view(runs, -1, n, *heads)
        scores = (queries * keys).sum(dim=-1) / math.sqrt(heads[1])  # [runs, t, n, heads]
        attention = scores.masked_fill(~nodes.seen[..., None], -math.inf).softmax(dim=1)
        return _linear(weights, f"mixed_{layer}", (attention[..., None] * values).sum(dim=1).flatten(2))

    def _chosen(self, weights: Weights, hidden: Tensor, at: Tensor, mask: Tensor | None) -> Categorical:
        logits = _linear(weights, "head", hidden)
        if self._few and mask is None:
            return TabulatedCategorical(logits, at)
        return Categorical.from_logits(take(logits, at), mask)

    def _valued(self, weights: Weights, hidden: Tensor, at: Tensor) -> Tensor | None:
        return _linear(weights, "critic", hidden)[..., 0].gather(1, at) if "critic_weight" in weights else None

    def _distribution(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> Categorical:
        nodes, at = self._nodes(observations)
        return self._chosen(weights, self._hidden(weights, nodes), at, mask)

    def _values(self, weights: Weights, observations: Tensor) -> Tensor | None:
        nodes, at = self._nodes(observations)
        return self._valued(weights, self._hidden(weights, nodes), at)

    def _both(self, weights: Weights, observations: Tensor, mask: Tensor | None) -> tuple[Categorical, Tensor | None]:
        nodes, at = self._nodes(observations)
        hidden = self._hidden(weights, nodes)
        return self._chosen(weights, hidden, at, mask), self._valued(weights, hidden, at)

    def _every_state(self, weights: Weights) -> Categorical:
        logits = _linear(weights, "head", self._hidden(weights, self._tree()))
        return Categorical.from_table(logits[:, : self.strings.shape[0]])

    def _score_norms(self, observations: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
        raise LabError("transformer: does not provide score_norms; use tabular_autoregressive or linear_features")


def _normal(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return affine(x, weights[f"{name}_weight"], weights[f"{name}_bias"])
