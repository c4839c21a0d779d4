"""Best-of-n: the distribution of the best of n independent responses, exact on a finite set of responses.

Everything is ``[*b,y]`` over the responses and ``[*b]`` over prompts and runs: probabilities under the policy that
answers, and the reward that chooses.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.worlds.checks import demand, rescaled

__all__ = ["best_of_n", "kl_bound", "win_rate"]


def best_of_n(probs: Tensor, reward: Tensor, n: float) -> Tensor:
    """Return the probability of each response to be the best of ``n`` drawn from ``probs [*b,y]``, ``[*b,y]``.

    π_n(y) = F(y)^n - F⁻(y)^n, where F(y) and F⁻(y) are the probabilities of a reward of at most and of less than r(y).
    The formula has a value, and is a distribution, for every n from 1, whole or not. Responses with equal rewards share
    the difference in proportion to ``probs``, as where the first best one is kept.

    Source: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", section 2.
    """
    demand(n >= 1, "n", "one response or more", n)
    probs = _checked(probs, reward, "probs")
    at_most, equal = _distribution(probs, reward)
    # F^n - (F - g)^n of a group with mass g, without the difference's cancellation; a group without mass has none
    share = (equal / at_most.where(equal > 0, 1)).clamp(max=1)
    group = -torch.expm1(n * torch.log1p(-share)) * at_most**n
    return group * probs / equal.where(equal > 0, 1)


def win_rate(probs: Tensor, others: Tensor, reward: Tensor) -> Tensor:
    """Return the probability that a response from ``probs`` beats one from ``others``, ``[*b]``; ties count half.

    Of best-of-n against its own base it is n / (n + 1) where no two rewards are equal and every response is rare; with
    equal rewards, or few responses, it is less.
    """
    at_most, equal = _distribution(_checked(others, reward, "others"), reward)
    return (_checked(probs, reward, "probs") * (at_most - equal / 2)).sum(-1)


def kl_bound(n: float) -> float:
    """Return log n - (n - 1) / n, which KL(π_n || π) never exceeds, and reaches where every response is rare.

    Source: Stiennon et al. 2020, "Learning to summarize from human feedback", as a formula; Beirami et al. 2024,
    theorem 3.1, as a bound.
    """
    demand(n >= 1, "n", "one response or more", n)
    return math.log(n) - (n - 1) / n


def _checked(probs: Tensor, reward: Tensor, name: str) -> Tensor:
    due = f"shape [*b,{reward.shape[-1]}], one probability per response of reward"
    demand(probs.ndim > 0 and probs.shape[-1] == reward.shape[-1], name, due, probs)
    return rescaled(probs, name, "responses")


def _distribution(probs: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities ``[*b,y]`` of a reward of at most r(y), and of one that equals r(y)."""
    shape = np.broadcast_shapes(probs.shape, reward.shape)
    probs, reward = probs.expand(shape), reward.to(torch.float64).expand(shape)
    order = reward.argsort(dim=-1, stable=True)
    ordered, mass = reward.gather(-1, order), probs.gather(-1, order)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    group = new.cumsum(-1) - 1
    masses = torch.zeros_like(mass).scatter_add(-1, group, mass)
    back = order.argsort(dim=-1)
    at_most, equal = (x.gather(-1, group).gather(-1, back) for x in (masses.cumsum(-1), masses))
    return at_most, equal
