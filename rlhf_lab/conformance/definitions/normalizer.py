"""Definitions of record of role normalizer: exact fractions over a list of what counts, unit by unit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.inputs import Estimated, Segment, segments

__all__ = ["DEFINITIONS"]


def _answer(inputs: Estimated, advantages: Tensor) -> Mapping[str, Tensor]:
    """Return normalised advantages and the value targets as they were."""
    return {"A": advantages} | ({} if inputs.returns is None else {"returns": inputs.returns})


def _none(inputs: Estimated) -> Mapping[str, Tensor]:
    assert inputs.advantages is not None
    return _answer(inputs, inputs.advantages)


def _standardised(
    inputs: Estimated, units: Iterable[list[Segment]], over: str, ddof: int, eps: float
) -> Mapping[str, Tensor]:
    """Return (A − mean) / (std + eps) within each unit, a list of episodes."""
    assert inputs.advantages is not None
    raw = inputs.advantages.tolist()
    found = torch.zeros(inputs.valid.shape, dtype=torch.float64)
    for episodes in units:
        counted = [  # (value, weight) of each step; an episode weighs one in all, or as many as it has steps
            (Fraction(raw[e.row][t]), Fraction(1) if over == "steps" else Fraction(1, len(e.steps)))
            for e in episodes
            for t in e.steps
        ]
        size = sum(weight for _, weight in counted)
        mean = sum(value * weight for value, weight in counted) / size
        squares = sum(weight * (value - mean) ** 2 for value, weight in counted)
        if size <= ddof or squares == 0:
            continue
        scale = math.sqrt(squares / (size - ddof)) + eps
        for e in episodes:
            for t in e.steps:
                found[e.row, t] = float(Fraction(raw[e.row][t]) - mean) / scale
    return _answer(inputs, found)


def _batch(inputs: Estimated, over: str, ddof: int, eps: float) -> Mapping[str, Tensor]:
    episodes = segments(inputs)
    return _standardised(inputs, [episodes] if episodes else [], over, ddof, eps)


def _group(inputs: Estimated, over: str, ddof: int, eps: float) -> Mapping[str, Tensor]:
    assert inputs.group_ids is not None
    labels = inputs.group_ids.tolist()
    groups: dict[int, list[Segment]] = {}
    for episode in segments(inputs):
        groups.setdefault(labels[episode.row], []).append(episode)
    return _standardised(inputs, groups.values(), over, ddof, eps)


_PARAMETERS = {"over": "steps", "ddof": 1, "eps": 1e-8}
_FORMULA = "A ← (A − mean) / (std + eps), 0 where constant or too few for a std; `returns` stay"

DEFINITIONS: list[Definition] = [
    Definition("normalizer", "none", "A ← A", "none; the policy gradient theorem asks for no normalisation", {}, _none),
    Definition(
        "normalizer",
        "batch",
        f"{_FORMULA}; mean and std are over all valid steps (over = steps) or all episodes (over = episodes)",
        "Andrychowicz et al. 2021",
        _PARAMETERS,
        _batch,
    ),
    Definition(
        "normalizer",
        "group",
        f"{_FORMULA}; mean and std are over the steps or episodes of the rows with equal group_ids",
        "Shao et al. 2024, section 4.1.2",
        _PARAMETERS,
        _group,
        reads=frozenset({"group_ids"}),
    ),
]
