"""What is measured of policies that answer prompts: the KL-regularised objective, and likelihoods of the data.

Each function is called once, at the start of a run, and returns what measures a policy ``[runs, states, actions]``
later on, and reference levels by metric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates, best_and_worst
from rlhf_lab.training.protocols import KnownEnvironment, Learner
from rlhf_lab.training.response_numbers import response_numbers
from rlhf_lab.training.step import shares
from rlhf_lab.worlds.protocol import ExactWorld
from rlhf_lab.worlds.sequences import SequenceWorld

__all__ = ["likelihood", "overoptimisation", "regularised"]

Measured = Callable[[Tensor], dict[str, Tensor]]
References = dict[str, dict[str, float]]


def regularised(learner: Learner, world: ExactWorld, reference: Tensor) -> tuple[Measured, References]:
    """Measure J(π) = E r - β KL(π || π_ref), with the environment's true reward and β, and π_ref the untrained policy.

    ``objective`` J(π); ``objective_gap`` J(π*) - J(π) = β KL(π || π*), never negative; ``kl_reference`` KL(π || π_ref);
    ``kl_optimum`` KL(π || π*); ``total_variation`` and ``largest_difference`` of the responses' probabilities to those
    of π*, the former averaged over prompts.
    """
    world = _token_world("regularised", world)
    beta = cast("KnownEnvironment", learner.environment).beta
    optimum = world.optimum(reference, beta)
    best = optimum.response_probs

    def measured(policy: Tensor) -> dict[str, Tensor]:
        gap = world.objective_gap(policy, reference, beta).clamp(min=0)  # rounding may leave less
        divergence = world.kl(policy, reference)
        apart = (world.response_probs(policy) - best).abs()
        return {
            "objective": world.expected_return(policy) - beta * divergence,
            "objective_gap": gap,
            "kl_reference": divergence,
            "kl_optimum": gap / beta,
            "total_variation": 0.5 * (world.prompt_probs * apart.sum(-1)).sum(-1),
            "largest_difference": apart.flatten(-2).amax(-1),
        }

    levels: References = {}
    for level, policy in (("optimum", optimum.policy), ("reference", reference)):
        for name, value in measured(policy).items():
            levels.setdefault(name, {})[level] = float(value.mean())
    for name in ("objective_gap", "kl_optimum", "total_variation", "largest_difference"):
        levels[name]["optimum"] = 0.0  # whatever rounding says: on a logarithmic axis 1e-17 is far from 0
    return measured, levels


def likelihood(learner: Learner, world: ExactWorld, reference: Tensor) -> tuple[Measured, References]:
    """Measure what the policy says of the data that it learns from, and of what they never show; nothing without data.

    ``chosen_log_likelihood`` and ``rejected_log_likelihood``: weighted mean over rows of log π of the best and of the
    worst responses; ``unseen_probability``: of the responses that no row of positive weight shows, averaged over
    prompts.
    ``chosen_gain``, ``rejected_gain`` and ``unseen_gain`` are their changes since before any training.
    """
    world = _token_world("likelihood", world)
    data: Candidates | None = getattr(learner, "data", None)
    if data is None:
        return lambda policy: {}, {}
    parts, unseen = _shown(data, world)

    def levels(policy: Tensor) -> dict[str, Tensor]:
        log_probs = world.response_log_probs(policy)
        # a response that the part does not weigh may have probability 0
        sums = [(part * log_probs.masked_fill(part == 0, 0)).flatten(1).sum(1) for part in parts]
        mass = (log_probs.exp() * unseen).sum(-1)
        return {"chosen": sums[0], "rejected": sums[1], "unseen": (world.prompt_probs * mass).sum(-1)}

    first = levels(reference)
    names = {"chosen": "chosen_log_likelihood", "rejected": "rejected_log_likelihood", "unseen": "unseen_probability"}

    def measured(policy: Tensor) -> dict[str, Tensor]:
        now = levels(policy)
        return {names[k]: x for k, x in now.items()} | {f"{k}_gain": x - first[k] for k, x in now.items()}

    return measured, {name: {"reference": float(first[k].mean())} for k, name in names.items()}


def overoptimisation(learner: Learner, world: ExactWorld, reference: Tensor) -> tuple[Measured, References]:
    """Measure what the policy has gained of the true reward, and of the one that is paid, and how far it has gone.

    ``true_gain`` and ``paid_gain``: E r less that of the untrained policy; ``sqrt_kl``: the square root of
    KL(π || π_ref).

    Source: Gao et al. 2022 (2210.10760), section 3.
    """
    world = _token_world("overoptimisation", world)
    known = cast("KnownEnvironment", learner.environment)
    rewards = {"true_gain": known.true_rewards, "paid_gain": known.paid_rewards}
    base = world.response_probs(reference)

    def measured(policy: Tensor) -> dict[str, Tensor]:
        moved = world.prompt_probs[:, None] * (world.response_probs(policy) - base)
        gains = {name: (moved * reward).flatten(-2).sum(-1) for name, reward in rewards.items()}
        return {**gains, "sqrt_kl": world.kl(policy, reference).clamp(min=0).sqrt()}  # rounding may leave less

    return measured, {}


def _shown(data: Candidates, world: SequenceWorld) -> tuple[list[Tensor], Tensor]:
    """Return how much each response ``[runs, x, y]`` weighs among the best and the worst ones, and which are unseen."""
    prompts, numbers = response_numbers(data, world.tree)
    runs, rows, _ = numbers.shape
    x, y = world.reward.shape[-2:]
    place = (prompts[..., None] * y + numbers.clamp(min=0)).flatten(1)
    weights = torch.ones(runs, rows, dtype=torch.float64) if data.weights is None else data.weights.double()
    parts = []
    for part in best_and_worst(data):
        count = part.sum(-1, keepdim=True)
        share = shares(part * (weights[..., None] / count.clamp(min=1)))
        parts.append(
            torch.zeros(runs, x * y, dtype=torch.float64).scatter_add_(1, place, share.flatten(1)).view(runs, x, y)
        )
    counted = numbers >= 0 if data.valid is None else data.valid & (numbers >= 0)
    shown = (counted & (weights > 0)[..., None]).flatten(1)
    seen = torch.zeros(runs, x * y, dtype=torch.float64).scatter_add_(1, place, shown.double())
    return parts, (seen == 0).view(runs, x, y)


def _token_world(measure: str, world: ExactWorld) -> SequenceWorld:
    if not isinstance(world, SequenceWorld):
        raise LabError(
            f"measure: {measure} needs a world of token strings, of which every response is known; use environment "
            "sequences"
        )
    return world
