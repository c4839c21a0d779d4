"""Responses to prompts, as preference and reward-model losses read them.

A loop knows no prompt and no response: an actor scores ``Candidates``, whose inputs the loop does not read, and the
loop puts scores and labels together into ``Rankings`` or ``Scores``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.samples import taker
from rlhf_lab.types import Rankings, Scores

__all__ = ["Candidates", "Scored", "best_and_worst", "rankings", "scores"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """``k`` responses to each row's prompt, best first, and what is known of them: ``[runs, rows, k]``.

    ``inputs`` are tensors ``[runs, rows, ...]`` for the actor; those whose names begin with ``prompt`` tell a row's
    prompt, all others are ``[runs, rows, k, ...]`` and tell its responses. The labels are those of ``Rankings``;
    ``weights`` say how much a row counts.
    """

    inputs: Mapping[str, Tensor]
    lengths: Tensor  # [runs, rows, k] int64, tokens of each response
    valid: Tensor | None = None
    desirable: Tensor | None = None
    targets: Tensor | None = None
    gains: Tensor | None = None
    ranks: Tensor | None = None
    preference_prob: Tensor | None = None  # [runs, rows]
    margins: Tensor | None = None  # [runs, rows]
    weights: Tensor | None = None  # [runs, rows]

    @property
    def rows(self) -> int:
        """How many rows each run has."""
        return self.lengths.shape[1]

    def select(self, index: Tensor) -> Candidates:
        """Return the rows ``index [runs, m]``, each run from its own rows."""
        take = taker(index, self.rows)
        return self._map(lambda name, x: take(x))

    def mismatched(self) -> Candidates:
        """Return each row's prompt with the responses of the next row; the last one's are the first row's.

        Raises ``LabError`` where there is one row only, whose responses cannot be anybody else's.
        """
        if self.rows < 2:
            raise LabError("mismatched responses need two rows or more in a minibatch; give a larger one")
        return self._map(lambda name, x: x if name.startswith("prompt") else x.roll(-1, dims=1))

    def expand(self, runs: int) -> Candidates:
        """Return the candidates of one run ``[1, rows, ...]`` as those of every run, which share their memory."""
        return self._map(lambda name, x: x.expand(runs, *x.shape[1:]))

    def changed(self, change: Callable[[Tensor], Tensor]) -> Candidates:
        """Return the candidates with ``change`` applied to every input and label."""
        return self._map(lambda name, x: change(x))

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Candidates:
        labels = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "inputs"}
        found: dict[str, Any] = {name: change(name, x) for name, x in labels.items() if x is not None}
        return replace(self, inputs={name: change(name, x) for name, x in self.inputs.items()}, **found)


def best_and_worst(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Return which responses of each row are its best and its worst, bool ``[runs, rows, k]`` each.

    By ``desirable`` where that is given, else by ``ranks``, by ``targets``, or by their order. Equals share a place; a
    row whose responses are all equal has best ones only.
    """
    valid = torch.ones_like(candidates.lengths, dtype=torch.bool) if candidates.valid is None else candidates.valid
    if candidates.desirable is not None:
        return valid & candidates.desirable, valid & ~candidates.desirable
    if candidates.ranks is not None:
        place = candidates.ranks.double()
    elif candidates.targets is not None:
        place = -candidates.targets.double()
    else:
        place = torch.arange(valid.shape[-1], dtype=torch.float64).expand(valid.shape)
    first = place.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    last = place.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    return valid & (place == first), valid & (place == last) & (last > first)


@dataclass(frozen=True)
class Scored:
    """What the actor says of candidates under its current weights, gradients flow, and what its reference says."""

    log_probs: Tensor  # [runs, rows, k] summed over the response
    ref_log_probs: Tensor | None = None
    token_log_probs: Tensor | None = None  # [runs, rows, k, t]
    token_ref_log_probs: Tensor | None = None
    token_valid: Tensor | None = None
    token_kl: Tensor | None = None  # [runs, rows, k] sum over the response's steps of KL(reference || policy)


_LABELS = ("valid", "desirable", "targets", "gains", "ranks", "preference_prob", "margins", "weights")
_OF_SCORES = frozenset(f.name for f in fields(Scores))


def rankings(candidates: Candidates, scored: Scored, mismatched: Scored | None = None, **given: Any) -> Rankings:
    """Return the batch of a preference objective; labels take the dtype of the log-probabilities.

    ``given`` are the fields that only a loop can fill: ``uniforms`` and ``state``.
    """
    said = {f.name: getattr(scored, f.name) for f in fields(scored)}
    if mismatched is not None:
        said["mismatched_log_probs"] = mismatched.log_probs
        said["mismatched_ref_log_probs"] = mismatched.ref_log_probs
    return Rankings(**said, lengths=candidates.lengths, **_labels(candidates, scored.log_probs.dtype), **given)


def scores(candidates: Candidates, said: Tensor, **given: Any) -> Scores:
    """Return the batch of a reward-model objective for the scores ``said [runs, rows, k]``; ``given`` as above."""
    labels = _labels(candidates, said.dtype)
    return Scores(said, **{name: x for name, x in labels.items() if name in _OF_SCORES}, **given)


def _labels(candidates: Candidates, dtype: torch.dtype) -> dict[str, Any]:
    found = {name: getattr(candidates, name) for name in _LABELS}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in found.items() if x is not None}
