"""Exact quantities about optimal policies: signs of advantages, and what is optimal for what is paid in training."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.study.ending_measures import probabilities_of_ends
from rlhf_lab.study.measures import reachable
from rlhf_lab.training.protocols import BuiltEnvironment, PaidEnvironment
from rlhf_lab.worlds.greedy import TIE, best_actions, greedy_policy
from rlhf_lab.worlds.protocol import ExactWorld, open_actions

__all__ = ["advantage_signs", "paid_optimum"]

HIGH: Final = 0.5  # of the best possible value: above it an action value is called high


def advantage_signs(world: ExactWorld, policy: Tensor) -> dict[str, float]:
    """Return how often an action is good and yet worse than its policy, of ``policy [s,a]`` and of an optimal one.

    By policy, ``initial`` and ``optimal``: ``high_value_negative_advantage``, the share of actions with A < 0 and Q
    above half of the best possible value, max_s V*(s); ``negative_advantage``, the share with A < 0;
    ``largest_advantage`` and ``smallest_advantage``. The optimal policy is uniform over the optimal actions, evaluated
    as any other: that no A exceeds 0 is a theorem, and not by construction.

    A share is the chance that holds for an action drawn uniformly from the legal ones of a state that is drawn
    uniformly from those that an episode can visit: no policy is in it, so that policies are compared on the same pairs,
    and a state with many actions counts no more than one with few. Raises ``LabError`` where nothing can be won.
    """
    states = reachable(world) & ~world.terminal
    best = float(world.optimal_values()[states].max())
    if best <= TIE:
        raise LabError(f"measure: advantage_signs needs a world where something can be won; its best value is {best:g}")
    legal = open_actions(world)
    counted = (torch.ones_like(policy) if legal is None else legal.to(policy))[states]
    weights = counted / (counted.sum(-1, keepdim=True) * len(counted))
    found: dict[str, float] = {}
    for name, table in (("initial", policy), ("optimal", greedy_policy(world.optimal_action_values()))):
        values, advantages = world.action_values(table)[states], world.advantages(table)[states]
        negative = advantages < -TIE
        among = advantages[counted > 0]
        found |= {
            f"high_value_negative_advantage_{name}": float((weights * (negative & (values > HIGH * best))).sum()),
            f"negative_advantage_{name}": float((weights * negative).sum()),
            f"largest_advantage_{name}": float(among.max()),
            f"smallest_advantage_{name}": float(among.min()),
        }
    return found


def paid_optimum(environment: BuiltEnvironment, world: ExactWorld) -> dict[str, float]:
    """Return how good a policy is that is optimal for what is paid in training, uniform over its optimal actions.

    ``paid_optimum_differs`` is the share of start-weighted states in which not all actions that are optimal for what is
    paid are optimal for the truth (action values within ``TIE`` are equal), ``paid_optimum_return`` the true return of
    that policy, ``paid_optimum_gap`` how much less than the largest that is, and ``paid_optimum_probability_of_<end>``
    how its episodes end, where the world tells. Raises ``LabError`` where the environment does not tell what it pays.
    """
    if not isinstance(environment, PaidEnvironment):
        raise LabError(
            "measure: paid_optimum needs an environment that tells what it pays in training; this one does not"
        )
    paid = environment.paid().of_run(0).optimal_action_values()
    misled = (best_actions(paid) & ~best_actions(world.optimal_action_values())).any(-1)
    policy = greedy_policy(paid)
    found = float(world.expected_return(policy))
    return {
        "paid_optimum_differs": float((world.start * misled).sum()),
        "paid_optimum_return": found,
        "paid_optimum_gap": float(world.optimal_return()) - found,
        **{f"paid_optimum_{name}": value for name, value in probabilities_of_ends(world, policy).items()},
    }
