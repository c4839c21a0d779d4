"""Best-of-n: the distribution of the best of n independent responses, exact on a finite set of responses.

Everything is ``[*b,y]`` over the responses and ``[*b]`` over prompts and runs: probabilities under the policy that
answers, and the reward that chooses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.worlds.checks import demand, rescaled
from rlhf_lab.worlds.distributions import log

__all__ = ["best_of_n", "kl_bound", "win_rate"]


def best_of_n(probs: Tensor, reward: Tensor, n: float) -> Tensor:
    """Return the probability of each response to be the best of ``n`` drawn from ``probs [*b,y]``, ``[*b,y]``.

    π_n(y) = F(y)^n - F⁻(y)^n, where F(y) and F⁻(y) are the probabilities of a reward of at most and of less than r(y).
    The formula has a value, and is a distribution, for every n from 1, whole or not. Responses with equal rewards share
    the difference in proportion to ``probs``, as where the first best one is kept.

    Source: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", section 2.
    """
    _demand_some(n)
    probs = _checked(probs, reward, "probs")
    found = _distribution(probs, reward)
    # F^n - (F - g)^n of a group with mass g, without the difference's cancellation; a group without mass has none
    share = (found.equal / found.at_most.where(found.equal > 0, 1)).clamp(max=1)
    group = -torch.expm1(n * torch.log1p(-share)) * (n * found.log_at_most).exp()
    return group * probs / found.equal.where(found.equal > 0, 1)


def win_rate(probs: Tensor, others: Tensor, reward: Tensor) -> Tensor:
    """Return the probability that a response from ``probs`` beats one from ``others``, ``[*b]``; ties count half.

    Of best-of-n against its own base it is n / (n + 1) where no two rewards are equal and every response is rare; with
    equal rewards, or few responses, it is less.
    """
    found = _distribution(_checked(others, reward, "others"), reward)
    return (_checked(probs, reward, "probs") * (found.at_most - found.equal / 2)).sum(-1)


def kl_bound(n: float) -> float:
    """Return log n - (n - 1) / n, which KL(π_n || π) never exceeds, and reaches where every response is rare.

    Source: Stiennon et al. 2020, "Learning to summarize from human feedback", as a formula; Beirami et al. 2024,
    theorem 3.1, as a bound.
    """
    _demand_some(n)
    return math.log(n) - (n - 1) / n


def _checked(probs: Tensor, reward: Tensor, name: str) -> Tensor:
    due = f"shape [*b,{reward.shape[-1]}], one probability per response of reward"
    demand(probs.ndim > 0 and probs.shape[-1] == reward.shape[-1], name, due, probs)
    return rescaled(probs, name, "responses")


class _Distribution(NamedTuple):
    """The probabilities ``[*b,y]`` of a reward of at most r(y), its logarithm, and of a reward that equals r(y)."""

    at_most: Tensor
    log_at_most: Tensor
    equal: Tensor


def _distribution(probs: Tensor, reward: Tensor) -> _Distribution:
    """Return how rewards are distributed, F to rounding near 0 and 1 - F to rounding near 1.

    A power F^n is as good as n log F. Hence F is the sum of what is below where that is little, and elsewhere one less
    the sum of what is above, which is exactly nothing at the best.
    """
    shape = np.broadcast_shapes(probs.shape, reward.shape)
    probs, reward = probs.expand(shape), reward.to(torch.float64).expand(shape)
    order = reward.argsort(dim=-1, stable=True)
    ordered, mass = reward.gather(-1, order), probs.gather(-1, order)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    group = new.cumsum(-1) - 1
    masses = torch.zeros_like(mass).scatter_add(-1, group, mass)
    below = masses.cumsum(-1)
    above = torch.zeros_like(masses)
    above[..., :-1] = masses.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    few = below < 0.5
    at_most = torch.where(few, below, 1 - above)
    log_at_most = torch.where(few, log(below), torch.log1p(-above.clamp(max=0.5)))
    back = order.argsort(dim=-1)
    return _Distribution(*(x.gather(-1, group).gather(-1, back) for x in (at_most, log_at_most, masses)))


def _demand_some(n: float) -> None:
    demand(1 <= n < math.inf, "n", "one response or more", n)
