"""Controllers by hand: where the coefficient moves, by how much, and that runs never mix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rlhf_lab_objectives import AdaptiveKL, Fixed, ProportionalKL

ALL = [Fixed(), AdaptiveKL(target=1.0), ProportionalKL(target=1.0)]


def test_fixed_ignores_what_was_observed() -> None:
    coefficient = torch.tensor([0.5, 2.0])
    assert torch.equal(Fixed()(coefficient, torch.tensor([100.0, 0.0])), coefficient)


def test_adaptive_kl_by_hand() -> None:
    # Target 1, so the band is [2/3, 3/2]: below halves, inside keeps (edges included), above doubles.
    observed = torch.tensor([0.0, 0.66, 0.67, 1.0, 1.5, 1.51, 1e9])
    found = AdaptiveKL(target=1.0)(torch.full((7,), 0.5), observed)
    assert found.tolist() == [0.25, 0.25, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_adaptive_kl_with_other_parameters() -> None:
    # target 2, tolerance 4, factor 3: band [1/2, 8].
    controller = AdaptiveKL(target=2.0, tolerance=4.0, factor=3.0)
    assert controller(torch.full((4,), 6.0), torch.tensor([0.4, 0.6, 7.0, 9.0])).tolist() == [2.0, 6.0, 6.0, 18.0]


def test_proportional_kl_by_hand() -> None:
    # target 2, rate 1/2, clip 1/4. Relative errors -1, -1/4, -1/8, 0, 1/8, 1/4, 9 are held in [-1/4, 1/4], times 1/2.
    controller = ProportionalKL(target=2.0, rate=0.5, clip=0.25)
    observed = torch.tensor([0.0, 1.5, 1.75, 2.0, 2.25, 2.5, 20.0])
    found = controller(torch.full((7,), 16.0), observed)
    assert found.tolist() == [14.0, 14.0, 15.0, 16.0, 17.0, 18.0, 18.0]


def test_defaults_are_those_of_the_papers() -> None:
    # PPO: twice at 1.5 times the target. Ziegler: at most 2 % a step.
    assert AdaptiveKL()(torch.tensor(1.0), torch.tensor(0.0151)).item() == 2
    assert ProportionalKL()(torch.tensor(1.0), torch.tensor(1e3)).item() == pytest.approx(1.02)
    assert ProportionalKL()(torch.tensor(1.0), torch.tensor(6.0)).item() == 1  # at the target


@pytest.mark.parametrize("controller", ALL, ids=lambda c: c.name)
def test_at_the_target_nothing_changes(controller: Any) -> None:
    assert controller(torch.tensor(0.3), torch.tensor(1.0)).item() == torch.tensor(0.3).item()


@pytest.mark.parametrize("controller", ALL[1:], ids=lambda c: c.name)
def test_the_coefficient_moves_with_the_divergence(controller: Any) -> None:
    low, high = controller(torch.full((2,), 0.3), torch.tensor([0.1, 9.0])).tolist()
    assert 0 < low < 0.3 < high


@pytest.mark.parametrize("controller", ALL, ids=lambda c: c.name)
def test_runs_never_mix(controller: Any) -> None:
    coefficients, observed = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.1, 9.0, math.nan])
    found = controller(coefficients, observed)
    for run in range(2):
        assert found[run] == controller(coefficients[run], observed[run])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AdaptiveKL(target=0),
        lambda: AdaptiveKL(tolerance=0.5),
        lambda: AdaptiveKL(factor=1),
        lambda: ProportionalKL(rate=0),
        lambda: ProportionalKL(clip=1),
    ],
)
def test_parameters_that_would_turn_the_sign_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        wrong()
