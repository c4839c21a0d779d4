"""What an estimator sees of an enumeration, and sums over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rlhf_lab.calling import Called, Estimator, apply, restrict
from rlhf_lab.types import Advantages, PolicyBatch, Trajectories, clean
from rlhf_lab.worlds.protocol import Enumeration, ExactWorld, WorldError
from rlhf_lab.worlds.scores import ScoreFunction

__all__ = [
    "Beyond",
    "cells",
    "enumerated",
    "estimate",
    "log_probs",
    "probabilities",
    "require",
    "step_weights",
    "sum_by",
    "visited_cells",
]


Beyond = Literal["critic", "value"]
"""What stands for the steps beyond the horizon: the critic's value, or the exact value of the policy that acts."""


def enumerated(
    world: ExactWorld,
    policy: Tensor,
    horizon: int,
    samples: int = 1,
    start: Tensor | None = None,
    beyond: Beyond = "critic",
) -> Enumeration:
    """Return every outcome of acting by ``policy [s,a]``, with a sample axis also where ``samples`` is 1.

    With ``beyond`` "value" an episode that the horizon cuts ends there, its last step paid r + γ V^π(s').
    """
    outcomes = _with_samples(world.enumerate(policy, horizon, samples, start), samples)
    cut = outcomes.trajectories.truncated
    if beyond == "critic" or not bool(cut.any()):
        return outcomes
    steps, following = outcomes.trajectories, world.state_values(policy)[outcomes.states[..., 1:]]
    paid = steps.rewards + (world.gamma * following).where(cut, 0)  # a state where none is cut may be worth infinity
    ended = replace(steps, rewards=paid, terminated=steps.terminated | cut, truncated=torch.zeros_like(cut))
    return replace(outcomes, trajectories=ended)


def estimate(
    outcomes: Enumeration,
    policy: Tensor,
    estimator: Estimator,
    critic: Tensor | None,
    ref_policy: Tensor | None,
    scores: ScoreFunction | None,
) -> tuple[Enumeration, Advantages]:
    """Let the estimator judge every outcome; the trajectories ``[n,samples,t]`` that are returned keep all fields.

    ``scores`` may be None where nobody needs ``score_norms``.
    """
    if critic is not None:
        outcomes = outcomes.with_values(critic)
    norms = None
    if scores is not None and "score_norms" in estimator.needs():
        norms = clean(scores.norms(cells(outcomes, policy.shape, timeless=True)), outcomes.trajectories.valid)
    steps = replace(
        outcomes.trajectories,
        target_log_probs=log_probs(policy, outcomes),
        ref_log_probs=None if ref_policy is None else log_probs(ref_policy, outcomes),
        score_norms=norms,
    )
    require(estimator, steps)
    return replace(outcomes, trajectories=steps), apply(estimator, restrict(steps, estimator))


def _with_samples(outcomes: Enumeration, samples: int) -> Enumeration:
    """Return the outcomes with a sample axis also where ``samples`` is 1, so that axis 0 is a run to a component."""
    if samples > 1:
        return outcomes
    steps = outcomes.trajectories
    given = {f.name: getattr(steps, f.name) for f in fields(steps)}
    grouped: dict[str, Any] = {name: x if x is None else x[:, None] for name, x in given.items()}
    steps = replace(steps, **grouped)
    return replace(outcomes, trajectories=steps, states=outcomes.states[:, None], actions=outcomes.actions[:, None])


def require(component: Called, batch: Trajectories | PolicyBatch) -> None:
    """Raise ``WorldError`` where a component needs a field that the batch does not have."""
    missing = sorted(name for name in component.needs() if getattr(batch, name, None) is None)
    if missing:
        known = {"values": "give a critic", "next_values": "give a critic", "ref_log_probs": "give a ref_policy"}
        how = known.get(missing[0], "which an enumeration does not have")
        raise WorldError(f"{type(component).__name__} needs {missing[0]}: {how}")


def probabilities(policy: Tensor) -> Tensor:
    """Return a policy's table in float64 with rows that sum to one, as the world sees it; rows of zeros stay."""
    policy = policy.to(torch.float64)
    return policy / policy.sum(-1, keepdim=True).clamp(min=torch.finfo(policy.dtype).tiny)


def log_probs(policy: Tensor, outcomes: Enumeration) -> Tensor:
    """Return log π(a_t|s_t) ``[n,samples,t]``.

    An action that ``policy`` never takes has the logarithm of the smallest float64, so that ratios are 0 and not NaN.
    """
    table = probabilities(policy).clamp(min=torch.finfo(torch.float64).tiny).log()
    return clean(table[outcomes.states[..., :-1], outcomes.actions], outcomes.trajectories.valid)


def cells(outcomes: Enumeration, shape: torch.Size, timeless: bool = False) -> Tensor:
    """Return the number of each step's cell in a table ``[t,s,a]``, or ``[s,a]`` where ``timeless``."""
    states, actions = shape
    time = torch.arange(outcomes.actions.shape[-1], device=outcomes.actions.device)
    base = 0 if timeless else time * states
    return (base + outcomes.states[..., :-1]) * actions + outcomes.actions


def visited_cells(outcomes: Enumeration, shape: torch.Size) -> Tensor:
    """Return the cells ``[m]`` in a table ``[s,a]`` of all steps that are valid."""
    return cells(outcomes, shape, timeless=True)[outcomes.trajectories.valid]


def step_weights(outcomes: Enumeration) -> Tensor:
    """Return the probability with which each step counts ``[n,samples,t]``; samples share their outcome's."""
    valid = outcomes.trajectories.valid
    return valid * (outcomes.probabilities / valid.shape[1])[:, None, None]


def sum_by(cell: Tensor, amounts: Tensor, table: Sequence[int]) -> Tensor:
    """Return a ``table`` of the ``amounts`` summed over the steps of each cell."""
    total = amounts.new_zeros(math.prod(table))
    return total.index_add_(0, cell.flatten(), amounts.flatten()).view(table)
