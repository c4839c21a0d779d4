"""Small worlds in which every outcome can be written down, and the few ways in which the tests ask them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.conformance import verify
from rlhf_lab.conformance.verification import claims_of_role
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import PolicyBatch, Trajectories, link_values
from rlhf_lab.worlds import GradientError, TabularMDP, gradient_error

F64 = torch.float64
REGISTRY = load_plugins()
FAST = settings(derandomize=True, max_examples=30, deadline=None, database=None)


def create(role: str, name: str, **parameters: Any) -> Any:
    return REGISTRY.create(role, {"name": name, **parameters})


def make(name: str, **parameters: Any) -> Any:
    return create("advantage", name, **parameters)


def gradient(
    world: TabularMDP,
    policy: Tensor,
    estimator: Any,
    critic: Tensor | None = None,
    objective: str = "reinforce",
    **more: Any,
) -> GradientError:
    horizon = len(world.terminal) - 1  # no episode of the worlds below is longer
    return gradient_error(world, policy, estimator, create("objective", objective), critic, horizon, **more)


def broken(component: Any, *laws: str) -> list[str]:
    """Return which of these laws a component breaks that claims them all."""
    kind = type(component)
    claims = frozenset(law.id for law in claims_of_role(kind.role)) & frozenset(laws)
    claiming = type(kind.__name__, (kind,), {"__module__": kind.__module__, "claims": claims})
    verdicts = verify(
        claiming(**{name: getattr(component, name) for name in kind.model_fields}), examples=40, only=laws
    )
    assert all(each.status in ("passed", "failed") for each in verdicts)
    return sorted(each.property.id for each in verdicts if each.status == "failed")


def noise(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def three_steps(gamma: float = 1.0) -> TabularMDP:
    """State 0, then 1 or 2, then 3 or 4, then the end; dynamics and rewards are random, both actions everywhere."""
    transition = torch.zeros(6, 2, 6, dtype=F64)
    transition[0, :, 1:3] = noise(2, 2, seed=1).softmax(-1)
    transition[1:3, :, 3:5] = noise(2, 2, 2, seed=2).softmax(-1)
    transition[3:5, :, 5] = 1
    at = torch.arange(6)
    return TabularMDP(transition, noise(6, 2, 6, seed=3), at == 0, at == 5, gamma)


LOGITS = noise(6, 2, seed=4)
POLICY = LOGITS.softmax(-1)
WRONG = noise(6, seed=5)  # a critic that knows nothing


def coins(tosses: int) -> TabularMDP:
    """A row of states; action 0 pays 1, action 1 pays -1, both go on to the next."""
    at = torch.arange(tosses + 1)
    transition = torch.zeros(tosses + 1, 2, tosses + 1)
    transition[at[:-1], :, at[1:]] = 1
    reward = torch.tensor([1.0, -1])[None, :, None].expand_as(transition)
    return TabularMDP(transition, reward, at == 0, at == tosses)


def fair(world: TabularMDP) -> Tensor:
    return world.uniform_policy()


def paid_back() -> TabularMDP:
    """The world itself tosses a coin: it pays 1 or -1 in the first step and takes it back in the second."""
    transition, reward = torch.zeros(4, 2, 4), torch.zeros(4, 2, 4)
    transition[0, :, 1:3] = 0.5
    transition[1:3, :, 3] = 1
    reward[0, :, 1], reward[0, :, 2], reward[1], reward[2] = 1, -1, -1, 1
    at = torch.arange(4)
    return TabularMDP(transition, reward, at == 0, at == 3)


def bandit(*rewards: float) -> TabularMDP:
    """One step: state 0, then the end, state 1."""
    reward = torch.tensor(rewards, dtype=F64)[None, :, None].expand(2, -1, 2)
    transition = torch.tensor([0.0, 1]).expand(reward.shape)
    return TabularMDP(transition, reward, torch.tensor([1.0, 0]), torch.tensor([False, True]))


def arms(*probabilities: float) -> Tensor:
    """Return a policy of a bandit, the same in both states."""
    return torch.tensor([probabilities] * 2, dtype=F64)


def steps_of(values: Any) -> Trajectories:
    """Return one terminated episode with these rewards and V = 0."""
    rewards = torch.tensor([values], dtype=F64)
    valid = torch.ones_like(rewards, dtype=torch.bool)
    last = torch.arange(rewards.shape[1])[None] == rewards.shape[1] - 1
    zero = torch.zeros_like(rewards)
    return Trajectories(rewards, last, ~valid, valid, zero, zero)


def losses(objective: Any, ratios: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """Return a ratio objective's losses ``[t]`` and their derivative by each log-probability."""
    log_probs = ratios.log().to(F64)[None].requires_grad_()
    valid = torch.ones_like(log_probs, dtype=torch.bool)
    batch = PolicyBatch(log_probs, advantages.to(F64)[None], valid, valid, old_log_probs=torch.zeros_like(log_probs))
    values = objective(batch).values
    (slopes,) = torch.autograd.grad(values.sum(), log_probs)
    return values.detach()[0], slopes[0]


NUMBERS = st.integers(-8, 8).map(lambda i: i / 4)


@st.composite
def windows(draw: st.DrawFn) -> Trajectories:
    """One cut episode of 1 to 7 steps with any rewards and any critic."""
    steps = draw(st.integers(1, 7))
    rewards, values = (torch.tensor(draw(st.lists(NUMBERS, min_size=steps, max_size=steps)), dtype=F64) for _ in "rv")
    off = torch.zeros(steps, dtype=torch.bool)
    cut = torch.arange(steps) == steps - 1
    after = torch.full((steps,), draw(NUMBERS), dtype=F64)
    following = torch.where(cut, after, torch.cat([values[1:], values[:1]]))
    return Trajectories(rewards, off, cut, ~off, values, link_values(values, off, cut, ~off, following))


def deltas(batch: Trajectories, gamma: float) -> Tensor:
    assert batch.values is not None and batch.next_values is not None
    return batch.rewards + gamma * batch.next_values - batch.values


def n_step_sum(batch: Trajectories, gamma: float, n: int) -> float:
    """Σ_{i<n} γ^i r_i + γ^n V(s_n) - V(s_0) of the first step, term by term; n is at most the number of steps."""
    assert batch.values is not None and batch.next_values is not None
    paid = sum(gamma**i * float(batch.rewards[i]) for i in range(n))
    return paid + gamma**n * float(batch.next_values[n - 1]) - float(batch.values[0])
