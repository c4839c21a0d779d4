"""From samples to rows to learn from: other orders, other responses, other company. Axes: [runs, rows, k]."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.training.candidates import Candidates

__all__ = ["one_by_one", "side_by_side", "taken"]


def taken(candidates: Candidates, places: Tensor) -> Candidates:
    """Return of each row the responses at ``places [runs, rows, m]``, with their targets; no other label is kept."""

    def take(x: Tensor) -> Tensor:
        index = places.view(*places.shape, *[1] * (x.ndim - 3)).expand(*places.shape, *x.shape[3:])
        return x.gather(2, index)

    inputs = {name: x if _of_prompt(name) else take(x) for name, x in candidates.inputs.items()}
    targets = None if candidates.targets is None else take(candidates.targets)
    return Candidates(inputs, take(candidates.lengths), targets=targets)


def one_by_one(candidates: Candidates) -> Candidates:
    """Return each response as a row of its own ``[runs, rows * k, 1]``, with its target; no other label is kept."""
    k = candidates.lengths.shape[-1]

    def split(x: Tensor) -> Tensor:
        return x.flatten(1, 2)[:, :, None]

    inputs = {
        name: x.repeat_interleave(k, dim=1) if _of_prompt(name) else split(x) for name, x in candidates.inputs.items()
    }
    targets = None if candidates.targets is None else split(candidates.targets)
    return Candidates(inputs, split(candidates.lengths), targets=targets)


def side_by_side(first: Candidates, second: Candidates) -> Candidates:
    """Return rows that hold the responses of both, those of ``first`` first; no label is kept."""
    inputs = {
        name: x if _of_prompt(name) else torch.cat([x, second.inputs[name]], dim=2) for name, x in first.inputs.items()
    }
    return Candidates(inputs, torch.cat([first.lengths, second.lengths], dim=2))


def _of_prompt(name: str) -> bool:
    """Return whether an input tells of a row's prompt, not of its responses; see ``Candidates``."""
    return name.startswith("prompt")
