"""∇_θ log π(a|s), which statistics calls the score, in the two forms that exact errors are computed from.

Neither form holds a gradient per outcome and parameter: a table of logits has as many parameters as the world has
pairs (s,a), and enumerations have tens of thousands of outcomes. A pair is told by its cell, the number s · |A| + a.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import torch
from torch import Tensor

__all__ = ["GivenScores", "Jacobian", "ScoreFunction", "SoftmaxScores", "score_function"]

Jacobian = Tensor | Callable[[Tensor, Tensor], Tensor]
"""∂ log π(a|s) / ∂θ ``[s,a,p]``, or a function that gives it for states and actions ``[m]`` as ``[m,p]``."""

_CHUNK: Final = 500_000  # numbers held at once, as many as a cache takes


class ScoreFunction(Protocol):
    """The gradients z(s,a) = ∇_θ log π(a|s) in R^p of one policy."""

    def norms(self, cell: Tensor) -> Tensor:
        """Return ‖z‖² at every ``cell``, of any shape."""
        ...

    def total(self, weights: Tensor) -> Tensor:
        """Return Σ_{s,a} w(s,a) z(s,a) ``[p]`` of ``weights [s,a]``."""
        ...

    def squares(self, cell: Tensor, weights: Tensor) -> Tensor:
        """Return ‖Σ_t w_t z_t‖² ``[n]`` of ``weights [n,t]`` at every ``cell [n,t]``."""
        ...


class SoftmaxScores:
    """The scores of tabular softmax logits, θ = logits and p = s · a, by what is known of them.

    z(s,a) = e_sa - Σ_b π(b|s) e_sb, hence Σ w z = w(s,a) - π(a|s) Σ_b w(s,b) and
    z_t · z_u = 1[s_t = s_u] (1[a_t = a_u] - π(a_t|s) - π(a_u|s) + ‖π(·|s)‖²).
    """

    def __init__(self, policy: Tensor) -> None:
        self._policy = policy  # [s,a] float64
        self._lengths = policy.square().sum(-1)  # ‖π(·|s)‖²

    def norms(self, cell: Tensor) -> Tensor:
        """See ``ScoreFunction``: 1 - 2 π(a|s) + ‖π(·|s)‖²."""
        return 1 - 2 * self._policy.flatten()[cell] + self._lengths[cell // self._policy.shape[1]]

    def total(self, weights: Tensor) -> Tensor:
        """See ``ScoreFunction``."""
        return (weights - self._policy * weights.sum(-1, keepdim=True)).flatten()

    def squares(self, cell: Tensor, weights: Tensor) -> Tensor:
        """See ``ScoreFunction``: wᵀ K w with K_tu = z_t · z_u, in time and memory of n · t²."""
        found = []
        for part in _parts(len(cell), cell.shape[1] ** 2):
            here, state = cell[part], cell[part] // self._policy.shape[1]
            taken = self._policy.flatten()[here]
            same = here[:, :, None] == here[:, None, :]
            products = same.to(taken) - taken[:, :, None] - taken[:, None, :] + self._lengths[state][:, :, None]
            products *= state[:, :, None] == state[:, None, :]
            push = weights[part]
            found.append(((products @ push[:, :, None])[:, :, 0] * push).sum(-1))
        return torch.cat(found)


class GivenScores:
    """Scores ``rows [m,p]`` of the pairs with the sorted ``cells [m]``; any other pair must have weight 0."""

    def __init__(self, rows: Tensor, cells: Tensor) -> None:
        self._rows, self._cells = rows, cells

    def norms(self, cell: Tensor) -> Tensor:
        """See ``ScoreFunction``."""
        return self._rows.square().sum(-1)[self._place(cell)]

    def total(self, weights: Tensor) -> Tensor:
        """See ``ScoreFunction``."""
        return weights.flatten()[self._cells] @ self._rows

    def squares(self, cell: Tensor, weights: Tensor) -> Tensor:
        """See ``ScoreFunction``: from the sums themselves, in time n · t · p."""
        found = []
        for part in _parts(len(cell), self._rows.shape[1]):
            sums = torch.nn.functional.embedding_bag(
                self._place(cell[part]), self._rows, per_sample_weights=weights[part], mode="sum"
            )
            found.append(sums.square().sum(-1))
        return torch.cat(found)

    def _place(self, cell: Tensor) -> Tensor:
        return torch.searchsorted(self._cells, cell).clamp(max=len(self._cells) - 1)


def score_function(policy: Tensor, jacobian: Jacobian | None, visited: Iterable[Tensor]) -> ScoreFunction:
    """Return the scores of ``policy [s,a]`` by its ``jacobian``; None means tabular softmax logits.

    A function is asked once, for the cells in ``visited``.
    """
    if jacobian is None:
        return SoftmaxScores(policy)
    if isinstance(jacobian, Tensor):
        rows = jacobian.to(torch.float64).flatten(0, 1)
        return GivenScores(rows, torch.arange(len(rows), device=rows.device))
    cells: Tensor = torch.unique(torch.cat(list(visited)))
    actions = policy.shape[1]
    return GivenScores(jacobian(cells // actions, cells % actions).to(torch.float64), cells)


def _parts(rows: int, width: int) -> Iterator[slice]:
    """Cut ``rows`` of ``width`` numbers each into parts that fit."""
    step = max(1, _CHUNK // width)
    return (slice(first, first + step) for first in range(0, rows, step))
