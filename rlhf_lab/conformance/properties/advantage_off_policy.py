"""Claims of advantage estimators about the episodes of another policy, checked by enumerating them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.properties.advantage_expectations import expect_same, expectation
from rlhf_lab.conformance.property import Property, about
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.conformance.tiny_worlds import World, mdp_of

__all__ = ["OFF_POLICY"]


def _enumerated(
    subject: Subject, world: World, critic: Tensor, gamma: float
) -> tuple[Tensor, Mapping[str, Tensor], Any]:
    """Return probabilities, answers and outcomes of all episodes of the behaviour policy."""
    outcomes = mdp_of(world, gamma).enumerate(world["behaviour"], len(critic) - 1).with_values(critic)
    steps = outcomes.trajectories
    policy = world["policy"][outcomes.states[:, :-1], outcomes.actions].log().masked_fill(~steps.valid, 0)
    return outcomes.probabilities, subject(replace(steps, target_log_probs=policy)), outcomes


def _by_state(outcomes: Any, weights: Tensor, x: Tensor, states: int) -> tuple[Tensor, Tensor]:
    """Return the mean of ``x [n,t]`` in each state, and how often the state is visited."""
    counted = outcomes.trajectories.valid * weights[:, None]
    where = outcomes.states[:, :-1]
    visits = torch.zeros(states, dtype=torch.float64).index_add_(0, where.flatten(), counted.flatten())
    total = torch.zeros(states, dtype=torch.float64).index_add_(0, where.flatten(), (counted * x).flatten())
    return total / visits.clamp(min=1e-300), visits


def _fixed_point(subject: Subject, world: World) -> None:
    """The critic of the policy ∝ min(ρ̄ μ, π) is what the targets average to, so that no update moves it."""
    gamma, rho_bar = float(subject.parameter("gamma", 1.0)), float(subject.parameter("rho_bar", 1.0))
    judge = subject if not math.isinf(rho_bar) else subject.of(rho_bar=8.0)
    bar = min(rho_bar, 8.0)
    capped = torch.minimum(bar * world["behaviour"], world["policy"])
    target = capped / capped.sum(-1, keepdim=True)
    values = mdp_of(world, gamma).state_values(target)
    weights, answer, outcomes = _enumerated(judge, world, values, gamma)
    mean, visits = _by_state(outcomes, weights, answer["returns"], len(values))
    expect_same(torch.where(visits > 0, mean, values), values, "E[returns|s] with V of the policy ∝ min(ρ̄ μ, π)")


def _off_policy(subject: Subject, world: World) -> None:
    gamma = float(subject.parameter("gamma", 1.0))
    mdp = mdp_of(world, gamma)
    values, judge = mdp.state_values(world["policy"]), subject.of(rho_bar=math.inf)
    weights, answer, outcomes = _enumerated(judge, world, values, gamma)
    ratio = world["policy"] / world["behaviour"]
    due = (ratio * mdp.advantages(world["policy"]))[outcomes.states[:, :-1], outcomes.actions]
    cell = outcomes.states[:, :-1] * 2 + outcomes.actions
    counted = outcomes.trajectories.valid * weights[:, None]
    total, true = (
        torch.zeros(2 * len(values), dtype=torch.float64).index_add_(0, cell.flatten(), (counted * x).flatten())
        for x in (answer["A"], due)
    )
    expect_same(total, true, "P(s,a) E[A|s,a] under the behaviour, at ρ̄ = inf")


OFF_POLICY: Final[list[Property]] = [
    expectation(
        "v-trace-fixed-point",
        "the value of the policy ∝ min(ρ̄ μ, π) is the mean of its targets",
        "Espeholt et al. 2018, appendix A, theorem 1",
        _fixed_point,
        applies=about("rho_bar"),
    ),
    expectation(
        "unbiased-off-policy",
        "with the exact critic and ρ̄ = inf, E_μ[A|s,a] = π/μ A^π(s,a)",
        "Espeholt et al. 2018, section 4.2",
        _off_policy,
        applies=about("rho_bar"),
    ),
]
