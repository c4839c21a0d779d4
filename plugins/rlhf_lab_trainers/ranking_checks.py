"""What makes data unfit to learn from, told with the row's number before the first optimiser step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.components import Component, PreferenceData
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates

__all__ = ["check_data", "unread_labels"]

_LABELS = ("valid", "desirable", "targets", "gains", "ranks", "preference_prob", "margins", "weights")
_UNORDERED = {"desirable": "says which responses are desirable", "targets": "scores responses"}


def unread_labels(components: Mapping[str, Component], role: str) -> list[str]:
    """Return a problem for labels without an order, where the objective of ``role`` reads nothing but the order."""
    data, objective = components.get("data"), components.get(role)
    if not isinstance(data, PreferenceData) or objective is None:
        return []
    given = sorted(data.gives() & _UNORDERED.keys())
    if not given or objective.needs() & _UNORDERED.keys():
        return []
    return [
        f"{role}: data {data.name!r} {_UNORDERED[given[0]]} and puts them in no order, but {objective.name!r} reads "
        f"their order; choose an objective that needs {given[0]}, or other data"
    ]


def check_data(candidates: Candidates, objective: Any, seeds: tuple[int, ...]) -> None:
    """Raise ``LabError`` for data that the objective cannot learn from; it names the seed and the row, from 0.

    That is: no row, more responses than the objective takes, a row without a response, a response without a token, a
    label or weight that is not finite, a negative weight, no weight at all, labels of one class only, rows of ties that
    the objective does not read, and weights or rows of several lengths where a row is compared with another row's
    responses.
    """
    who = f"{objective.role} {objective.name!r}"
    _, rows, k = candidates.lengths.shape
    if not rows or not k:
        raise LabError("data: there is no row to learn from; give some")
    most = objective.most_candidates()
    if most is not None and k > most:
        raise LabError(
            f"data: has {k} responses to a prompt, but {who} takes {most}; choose an objective for rankings, such as "
            "one with likelihood: plackett_luce, or data with fewer responses"
        )
    valid = torch.ones_like(candidates.lengths, dtype=torch.bool) if candidates.valid is None else candidates.valid
    _refuse(~valid.any(-1), seeds, "has no response; remove it")
    _refuse(valid & (candidates.lengths < 1), seeds, "has a response without a token; remove it")
    for name in _LABELS:
        label = getattr(candidates, name)
        if label is not None and label.is_floating_point():
            counted = valid if label.ndim == valid.ndim else valid.any(-1)
            _refuse(counted & ~label.isfinite(), seeds, f"has {name} that are not finite; mend or remove it")
    if candidates.weights is not None:
        _refuse(candidates.weights < 0, seeds, "has a negative weight; weights say how much a row counts")
        _refuse((candidates.weights.sum(1) <= 0)[:, None], seeds, "and all others have weight 0; nothing counts")
    if candidates.ranks is not None and not objective.needs() & {"ranks", "desirable", "targets"}:
        first = candidates.ranks.masked_fill(~valid, torch.iinfo(torch.int64).max).amin(-1, keepdim=True)
        tied = ((candidates.ranks == first) | ~valid).all(-1) & (valid.sum(-1) > 1)
        if candidates.weights is not None:
            tied &= candidates.weights > 0
        others = int(tied[tied.any(1)][:1].sum()) - 1  # of the seed that is named
        _refuse(
            tied,
            seeds,
            f"holds nothing but a tie, and so do {others} others; {who} would learn the order in which "
            "responses stand. Leave ties out, or take rao_kupper or davidson, which read them, as reward_model or as "
            "dpo's likelihood",
        )
    if any(name.startswith("mismatched") for name in objective.needs()):
        if candidates.weights is not None:
            raise LabError(
                f"data: has rows with weights, but {who} reads the responses of other rows, and a weight says nothing "
                "of a pair of rows; take rows that count equally, such as data: sampled"
            )
        _refuse(
            ~valid, seeds, f"has fewer responses than others; {who} reads those of other rows, so give equally many"
        )
    if candidates.desirable is not None and "desirable" in objective.needs():
        for kind, label in (("desirable", candidates.desirable), ("undesirable", ~candidates.desirable)):
            lacking = ~(valid & label).flatten(1).any(1)
            if bool(lacking.any()):
                other = "undesirable" if kind == "desirable" else "desirable"
                raise LabError(
                    f"data: every response of seed {_first(lacking, seeds)} is {other}; {who} weighs desirable "
                    f"against undesirable ones, so give some that are {kind}"
                )


def _refuse(bad: Tensor, seeds: tuple[int, ...], says: str) -> None:
    """Raise where any of ``bad [runs, rows]`` or ``[runs, rows, k]`` is True."""
    if bool(bad.any()):
        run, row = (int(i) for i in bad.nonzero()[0, :2])
        raise LabError(f"data: row {row} (counted from 0) of seed {seeds[run]} {says}")


def _first(runs: Tensor, seeds: tuple[int, ...]) -> int:
    return seeds[int(runs.nonzero()[0])]
