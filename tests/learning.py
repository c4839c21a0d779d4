"""Learners of specs, for the tests of loops, and what holds for every loop: a seed's bits depend on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start

REGISTRY = load_plugins()


def learner(data: Mapping[str, Any], seeds: tuple[int, ...] = (0, 1), parameters: Any = None) -> Any:
    """Return a learner of the spec."""
    return start(make_spec(data, REGISTRY)[0], list(seeds), parameters)


def trained(
    data: Mapping[str, Any], iterations: int, seeds: tuple[int, ...] = (0, 1)
) -> tuple[Any, list[dict[str, Tensor]]]:
    """Return a learner after so many iterations, and its metrics."""
    found = learner(data, seeds)
    return found, [found.step(i / iterations) for i in range(iterations)]


def check_bits(data: Mapping[str, Any]) -> None:
    """A run that was stopped and resumed ends with the same bits, and a seed has them whatever runs beside it."""
    whole, metrics = trained(data, 4, (3, 7, 11))
    begun, resumed, alone = learner(data, (3, 7, 11)), learner(data, (3, 7, 11)), learner(data, (7,))
    for i in range(2):
        begun.step(i / 4)
    resumed.load_state_dict({name: x.clone() for name, x in begun.state_dict().items()})
    later = [resumed.step(i / 4) for i in range(2, 4)]
    assert all(torch.equal(x, resumed.state_dict()[name]) for name, x in whole.state_dict().items())
    for told, expected in zip(later, metrics[2:], strict=True):
        assert all(torch.equal(x.nan_to_num(), expected[name].nan_to_num()) for name, x in told.items())
    for i, among in enumerate(metrics):
        told = alone.step(i / 4)
        assert all(torch.equal(x[0].nan_to_num(), among[name][1].nan_to_num()) for name, x in told.items())
    for name, x in alone.actor.state_dict().items():
        assert torch.equal(x[0], whole.actor.state_dict()[name][1])
