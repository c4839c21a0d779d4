"""Distributions over actions, one per run and row: sampling from given uniforms, log-probabilities and entropies."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from rlhf_lab.types import BatchError
from rlhf_lab_policies.stacked import BLOCK, take

__all__ = ["Categorical", "DiagonalGaussian", "TabulatedCategorical"]

_LOG_2PI: Final = math.log(2 * math.pi)


class Categorical:
    """π(a) = exp(z_a) / Σ_b exp(z_b) over the legal actions b; an illegal action has probability exactly 0.

    Shapes: log-probabilities and ``mask`` ``[runs, n, actions]``, actions and uniforms ``[runs, n]``.
    """

    def __init__(self, log_probs: Tensor, mask: Tensor | None = None, logits: Tensor | None = None) -> None:
        self._log_probs = log_probs  # normalised; -inf where not ``mask``
        self._mask = mask
        self._logits = logits

    @property
    def logits(self) -> Tensor | None:
        """The preferences z of all actions ``[runs, n, actions]`` as they were given; None where none were."""
        return self._logits

    @property
    def action_log_probs(self) -> Tensor:
        """Log-probabilities of all actions ``[runs, n, actions]``."""
        return self._log_probs

    @classmethod
    def from_logits(cls, logits: Tensor, mask: Tensor | None = None) -> Categorical:
        """Return the softmax of ``logits`` over the actions that are legal by ``mask``, all without one.

        Raises ``BatchError`` for a mask of another shape and for a row without a legal action.
        """
        if mask is None:
            return cls(_log_softmax(logits), logits=logits)
        if mask.shape != logits.shape or mask.dtype != torch.bool:
            raise BatchError(f"mask: expected bool {list(logits.shape)}, found {mask.dtype} {list(mask.shape)}")
        stuck = ~mask.any(dim=-1)
        if bool(stuck.any()):
            run, row = stuck.nonzero()[0].tolist()
            raise BatchError(f"mask: run {run}, row {row} has no legal action; one action at least must be True")
        return cls(torch.log_softmax(logits.masked_fill(~mask, -math.inf), dim=-1), mask, logits)

    @classmethod
    def from_table(cls, logits: Tensor) -> Categorical:
        """Return the softmax of ``logits [runs, states, actions]`` in every state of a world, no action illegal."""
        return cls(_log_softmax_table(logits).mT, logits=logits)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return the first action whose cumulative probability exceeds ``uniforms`` in [0, 1).

        The sum of all probabilities may fall short of 1 by rounding, so the uniform is scaled to it, which keeps it
        strictly below; an action of probability 0 adds nothing to the sum and so is never the first to exceed it.
        """
        # softmax, because exp of -inf takes forty times as long
        probs = self.action_log_probs.exp() if self._mask is None else self.action_log_probs.softmax(dim=-1)
        cumulative = probs.cumsum(dim=-1, dtype=uniforms.dtype)
        threshold = uniforms * cumulative[..., -1]
        return torch.searchsorted(cumulative, threshold[..., None], right=True)[..., 0]

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(a) ``[runs, n]``."""
        return self.action_log_probs.gather(-1, actions[..., None])[..., 0]

    def entropy(self) -> Tensor:
        """Return -Σ_a π(a) log π(a) ``[runs, n]``, with 0 log 0 = 0."""
        log_probs = self.action_log_probs
        if self._mask is not None:
            # before the product, because 0 * -inf is NaN and so is its gradient; 1 * 0 is as good
            log_probs = log_probs.masked_fill(~self._mask, 0)
        return -(log_probs.exp() * log_probs).sum(dim=-1)

    def score(self, actions: Tensor) -> Tensor:
        """Return the gradient of log π(a) with respect to the logits, e_a - π, ``[runs, n, actions]``."""
        probs = self.action_log_probs.exp()
        chosen: Tensor = functional.one_hot(actions, probs.shape[-1])
        return chosen - probs


class TabulatedCategorical(Categorical):
    """One distribution per state, normalised once however often the state is visited; no action is illegal.

    Shapes: ``logits [runs, states, actions]``, ``states`` and actions ``[runs, n]``.
    """

    def __init__(self, logits: Tensor, states: Tensor) -> None:
        self._table = _log_softmax_table(logits)
        self._of_states = logits
        self._states = states
        self._mask = None

    @property
    def logits(self) -> Tensor:
        """The preferences z of all actions ``[runs, n, actions]``."""
        return take(self._of_states, self._states)

    @property
    def action_log_probs(self) -> Tensor:
        """Log-probabilities of all actions ``[runs, n, actions]``."""
        actions = self._table.shape[1]
        return self._table.gather(2, self._states[:, None].expand(-1, actions, -1)).mT

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log π(a) ``[runs, n]``."""
        place = torch.add(self._states, actions, alpha=self._table.shape[2])
        return self._table.flatten(1).gather(1, place)

    def entropy(self) -> Tensor:
        """Return -Σ_a π(a) log π(a) ``[runs, n]``."""
        return -(self._table.exp() * self._table).sum(dim=1).gather(1, self._states)


def _log_softmax_table(logits: Tensor) -> Tensor:
    """Return the log-softmax of ``[runs, states, actions]`` over the actions as ``[runs, actions, states]``.

    With the states last it is faster (see ``_log_softmax``), and how many states there are never changes.
    """
    return torch.log_softmax(logits.mT, dim=1)


def _log_softmax(logits: Tensor) -> Tensor:
    """Return the log-softmax over the last axis.

    Torch vectorises along a long axis: over few actions it is up to six times faster with the rows last. It computes
    the rows that do not fill a vector differently, so that this way is taken for full blocks of rows only, and a row's
    number does not depend on how many rows there are.
    """
    if logits.shape[-1] < 16 and logits.shape[-2] % BLOCK == 0:
        return torch.log_softmax(logits.mT, dim=-2).mT.contiguous()
    return torch.log_softmax(logits, dim=-1)


class DiagonalGaussian:
    """Independent normal distributions; log-density and entropy are summed over the dimensions of the action.

    Shapes: ``mean``, actions and uniforms ``[runs, n, size]``, ``log_std [runs, 1, size]``.
    """

    action_log_probs: None = None  # no finite set of actions, so no preferences for each of them either
    logits: None = None

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std

    def standardise(self, actions: Tensor) -> Tensor:
        """Return (a - mean) / std."""
        return (actions.to(self.mean.dtype) - self.mean) * torch.exp(-self.log_std)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return mean + std Φ⁻¹(u); actions are not clipped."""
        normals: Tensor = torch.special.ndtri(uniforms)
        return self.mean + torch.exp(self.log_std) * normals.to(self.mean.dtype)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density Σ_i -((a_i - mean_i) / std_i)² / 2 - log std_i - log(2π) / 2, ``[runs, n]``."""
        return (-0.5 * self.standardise(actions).square() - self.log_std - 0.5 * _LOG_2PI).sum(dim=-1)

    def entropy(self) -> Tensor:
        """Return Σ_i log std_i + log(2πe) / 2, ``[runs, n]``."""
        return (self.log_std + 0.5 * (1 + _LOG_2PI)).sum(dim=-1).expand(self.mean.shape[:-1])
