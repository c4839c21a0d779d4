"""Markov chains with an end: expected totals and visits, exact also where nothing is discounted and the end is remote.

Undiscounted totals are limits of partial sums. From a state that may enter a loop without end they are +inf or -inf, by
the sign of the loop's mean pay, and finite where that is exactly 0. A nearly endless chain (a policy that saturates) is
solved without subtractions, hence to rounding however rare its end is; this shows endless loops as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["MarkovChain", "expect"]

_LONG: Final = 1e5  # a lifetime in steps; LU loses about as many digits as it has


def expect(probabilities: Tensor, values: Tensor) -> Tensor:
    """Return ``probabilities [*b,m,s] @ values [*b,s]`` with 0 · inf = 0, as an expectation has it: ``[*b,m]``."""
    if bool(values.isfinite().all()):
        return (probabilities @ values[..., None])[..., 0]
    return _weighted(probabilities, values[..., None, :]).sum(-1)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    return torch.where(weights == 0, 0, weights * values)


def _per(x: Tensor, rate: Tensor) -> Tensor:
    """Return ``x / rate`` with 0 / 0 = 0: what never comes does not matter, even where it would stay for ever."""
    return torch.where(x == 0, 0, x / rate)


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """A policy at work in a world: ``step [*b,s,s']`` probabilities, with zero rows at ``terminal [s]`` states."""

    step: Tensor
    terminal: Tensor
    gamma: float

    def totals(self, rewards: Tensor) -> Tensor:
        """Return E Σ_t γ^t r(s_t) ``[*b,s]`` from each state, for expected rewards ``[*b,s]``, 0 at terminal states."""
        return self._solve(rewards, transposed=False)

    def visits(self, start: Tensor) -> Tensor:
        """Return E Σ_t γ^t 1[s_t = s] ``[*b,s]`` for a start distribution ``[s]``; 0 at terminal states."""
        return self._solve(start, transposed=True).masked_fill(self.terminal, 0)

    @cached_property
    def _flow(self) -> tuple[Tensor, Tensor]:
        """Return the rates of going on to another state ``[*b,s,s']`` and of ending ``[*b,s]``; discounting is ending.

        Staying is left out: 1 - γ p(s|s) is the sum of the other rates, without that difference's cancellation.
        """
        inner = self.step.masked_fill(self.terminal, 0)
        ending = (1 - self.gamma) * self.step.sum(-1) + self.gamma * (self.step - inner).sum(-1)
        on = self.gamma * (inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)))
        return on, ending.masked_fill(self.terminal, 1)

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return LU factors and pivots of I - γ P, and where they can be relied on ``[*b]``."""
        on, ending = self._flow
        factors, pivots, info = torch.linalg.lu_factor_ex(torch.diag_embed(on.sum(-1) + ending) - on)
        lifetime = torch.linalg.lu_solve(factors, pivots, torch.ones_like(ending)[..., None])[..., 0]
        sound = ((lifetime > 0) & (lifetime < _LONG)).all(-1)  # False for NaN
        return factors, pivots, sound & (info == 0)

    def _solve(self, x: Tensor, transposed: bool) -> Tensor:
        factors, pivots, sound = self._factors
        batch = np.broadcast_shapes(sound.shape, x.shape[:-1])  # torch's own takes half a second to import
        x = x.expand(*batch, x.shape[-1])
        solution: Tensor = torch.linalg.lu_solve(factors, pivots, x[..., None], adjoint=transposed)[..., 0]
        remote = ~sound.expand(batch)
        if bool(remote.any()):
            on, ending = (rates.expand(*batch, *rates.shape[sound.ndim :])[remote] for rates in self._flow)
            solution[remote] = _solve_by_censoring(on, ending, x[remote], transposed)
        return solution


def _solve_by_censoring(on: Tensor, ending: Tensor, x: Tensor, transposed: bool) -> Tensor:
    """Return the totals, or visits where ``transposed``, of chains ``on [m,s,s']``, ``ending [m,s]``, for ``x [m,s]``.

    States leave one by one, the last first, and what passed through them becomes a rate between the others. All terms
    are sums and products of rates. A state whose rate of leaving is 0 by then is visited for ever; to enter it ends.

    Source: Grassmann, Taksar and Heyman 1985, "Regenerative analysis and steady state distributions for Markov chains".
    """
    on, ending, x = on.clone(), ending.clone(), x.clone()
    states = x.shape[-1]
    leaving = torch.empty_like(ending)
    for k in reversed(range(states)):
        leaving[:, k] = ending[:, k] + on[:, k, :k].sum(-1)
        into, out, endless = on[:, :k, k], on[:, k, :k], leaving[:, k, None] == 0
        passing = torch.where(endless, 0, into / leaving[:, k, None])
        on[:, :k, :k] += passing[:, :, None] * out[:, None, :]
        ending[:, :k] += torch.where(endless, into, passing * ending[:, k, None])
        x[:, :k] += _weighted(out if transposed else into, _per(x[:, k, None], leaving[:, k, None]))
    solution = torch.zeros_like(x)
    for k in range(states):
        rates = on[:, :k, k] if transposed else on[:, k, :k]
        solution[:, k] = _per(x[:, k] + _weighted(rates, solution[:, :k]).sum(-1), leaving[:, k])
    return solution
