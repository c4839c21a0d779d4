"""The world of token strings, of which every response is known: exact values, KL, and the KL-regularised optimum.

Requirements this file meets:
- values go up the tree of prefixes and visits go down, one vectorised operation per token; no table [s,a,s'];
- probabilities of responses are sums of logarithms; a response of probability 0 has -inf and gives no NaN, also as a
  gradient, so that the exact objective can be trained on;
- the distance to the optimum is computed as a KL, not as the difference of two objectives, hence to rounding however
  near it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from rlhf_lab.worlds.branches import Branches
from rlhf_lab.worlds.checks import (
    checked_policy,
    checked_start,
    demand,
    demand_distribution,
    demand_nowhere,
    demand_price,
)
from rlhf_lab.worlds.distributions import divergence, log
from rlhf_lab.worlds.enumeration import enumerate_episodes
from rlhf_lab.worlds.protocol import Enumeration, WorldError
from rlhf_lab.worlds.token_tree import TokenTree
from rlhf_lab.worlds.tree_passes import cut, go_up, response_sums, visits

__all__ = ["Optimum", "SequenceWorld"]


@dataclass(frozen=True, eq=False)
class Optimum:
    """The policy that maximises E r - β KL(π || π_ref) over all policies, and how good it is.

    ``log_policy [*b,s,a]`` (uniform at the terminal state) and ``log_response_probs [*b,x,y]`` are the same
    distribution, π*(y|x) = π_ref(y|x) exp(r(x,y) / β) / Z(x) with ``log_partition [*b,x]`` = log Z(x), the latter
    computed by this formula and the former from soft values. ``objective [*b]`` = β E_x log Z(x).
    """

    log_policy: Tensor
    log_response_probs: Tensor
    log_partition: Tensor
    objective: Tensor

    @property
    def policy(self) -> Tensor:
        """The policy's table of probabilities ``[*b,s,a]``."""
        return self.log_policy.exp()

    @property
    def response_probs(self) -> Tensor:
        """π*(y|x) ``[*b,x,y]``."""
        return self.log_response_probs.exp()


@dataclass(frozen=True, eq=False)
class SequenceWorld:
    """Responses to prompts, token by token; an ``ExactWorld`` (see there for what each method returns).

    The response y to prompt x pays ``reward [*b,x,y]`` with its last token; responses stand in the order of ``tree``.
    State ``prompt * prefixes + prefix`` is a prompt and the tokens so far, the last state is the terminal one; actions
    are tokens. The length-1 world is a bandit with an arm per token and a context per prompt. Everything is float64,
    undiscounted, and differentiable with respect to policies.

    Raises ``WorldError`` where numbers or shapes make no world, for a policy that is none, and for β <= 0 or so small
    that exp(r / β) cannot be told.
    """

    vocabulary: int
    length: int
    reward: Tensor  # [*b,x,y]
    prompts: Tensor | None = None  # [x] probabilities; None = all alike
    eos: int | None = None
    tree: TokenTree = field(init=False)
    terminal: Tensor = field(init=False)  # [s] bool
    start: Tensor = field(init=False)  # [s]

    gamma = 1.0
    legal = None

    def __post_init__(self) -> None:
        tree = TokenTree(self.vocabulary, self.length, self.eos)
        reward = torch.as_tensor(self.reward).to(torch.float64)
        due = f"shape [*b,x,{tree.responses}], one number per prompt and response"
        demand(reward.ndim >= 2 and reward.shape[-1] == tree.responses and reward.shape[-2] > 0, "reward", due, reward)
        demand_nowhere(~reward.isfinite(), "reward", "finite numbers")
        count = reward.shape[-2]
        even = torch.full((count,), 1 / count, dtype=torch.float64)
        prompts = even if self.prompts is None else torch.as_tensor(self.prompts).to(torch.float64)
        demand(prompts.shape == (count,), "prompts", f"shape [{count}], one probability per prompt", prompts)
        demand_distribution(prompts, "prompts")
        states = count * tree.prefixes + 1
        start = torch.zeros(states, dtype=torch.float64)
        start[: -1 : tree.prefixes] = prompts
        terminal = torch.arange(states) == states - 1
        found = {"tree": tree, "reward": reward, "prompts": prompts, "start": start, "terminal": terminal}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    # ---- an exact world

    @cached_property
    def branches(self) -> Branches:
        """What may follow each prefix and token: one state, surely; behind an end token the terminal one."""
        prompts, pairs = self.reward.shape[-2], len(self.tree.children)
        offsets = torch.arange(prompts * pairs + 1)
        offsets = torch.cat([offsets, offsets[-1:].expand(self.vocabulary)])
        first = self.tree.prefixes * torch.arange(prompts)[:, None]
        children = self.tree.children.expand(prompts, pairs)
        successors = torch.where(children < 0, len(self.terminal) - 1, first + children).flatten()
        rewards = self._paid.flatten(-3)
        return Branches(offsets, successors, torch.ones(len(successors), dtype=torch.float64), rewards)

    def of_run(self, run: int) -> SequenceWorld:
        return replace(self, reward=self.reward.flatten(0, -3)[run]) if self.reward.ndim > 2 else self

    def uniform_policy(self) -> Tensor:
        return torch.full((len(self.terminal), self.vocabulary), 1 / self.vocabulary, dtype=torch.float64)

    def state_values(self, policy: Tensor) -> Tensor:
        return self._values(self._checked(policy))[1]

    def action_values(self, policy: Tensor) -> Tensor:
        return self._values(self._checked(policy))[0]

    def advantages(self, policy: Tensor) -> Tensor:
        following, values = self._values(self._checked(policy))
        return following - values[..., None]

    def expected_return(self, policy: Tensor) -> Tensor:
        return (self.start * self.state_values(policy)).sum(-1)

    def optimal_values(self) -> Tensor:
        return go_up(self.tree, self._paid, lambda following, _: following.amax(-1))[1]

    def optimal_action_values(self) -> Tensor:
        return go_up(self.tree, self._paid, lambda following, _: following.amax(-1))[0]

    def optimal_return(self) -> Tensor:
        return (self.start * self.optimal_values()).sum(-1)

    def occupancy(self, policy: Tensor, discounted: bool = True) -> Tensor:
        """Return the probability that a response passes each state, ``[*b,s]``; nothing is discounted here."""
        return visits(self.tree, self.prompt_probs, self._checked(policy))

    def policy_gradient(self, policy: Tensor, discounted: bool = True) -> Tensor:
        policy = self._checked(policy)
        following, values = self._values(policy)
        return visits(self.tree, self.prompt_probs, policy)[..., None] * policy * (following - values[..., None])

    def enumerate(self, policy: Tensor, horizon: int, samples: int = 1, start: Tensor | None = None) -> Enumeration:
        """Return every outcome of at most ``horizon`` tokens of one ``policy [s,a]`` in one world (no leading axes)."""
        policy = self._checked(policy)
        if max(self.reward.ndim, policy.ndim) > 2:
            raise WorldError("enumerate: takes one world and one policy, found leading axes; index them first")
        first = checked_start(start, self.start, self.terminal)
        return enumerate_episodes(self.branches, first, self.terminal, policy, horizon, samples)

    # ---- whole responses

    def response_log_probs(self, policy: Tensor) -> Tensor:
        """Return log π(y|x) ``[*b,x,y]``, the sum over the response's tokens; -inf where a token is never taken."""
        return response_sums(self.tree, log(self._checked(policy)))

    def response_probs(self, policy: Tensor) -> Tensor:
        """Return π(y|x) ``[*b,x,y]``, which sums to one over y."""
        return self.response_log_probs(policy).exp()

    # ---- the KL-regularised objective

    def state_kl(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Return KL(π(.|s) || π_ref(.|s)) ``[*b,s]``, +inf where π takes a token that π_ref never takes."""
        return divergence(self._checked(policy), log(self._checked(reference, "reference")))

    def kl(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Return E_x KL(π(.|x) || π_ref(.|x)) ``[*b]`` over whole responses.

        By the chain rule it is the sum of the states' KLs, each weighted with the probability that π passes there.
        """
        return self._kl(self._checked(policy), log(self._checked(reference, "reference")))

    def log_partition(self, reference: Tensor, beta: float) -> Tensor:
        """Return log Z(x) = log Σ_y π_ref(y|x) exp(r(x,y) / β) ``[*b,x]``."""
        return self._tilted(reference, beta).logsumexp(-1)

    def optimum(self, reference: Tensor, beta: float) -> Optimum:
        """Return the policy that maximises E r - β KL(π || π_ref).

        Its table comes from soft values up the tree, W(s) = log Σ_a π_ref(a|s) exp(r(s,a) / β + W(s a)):
        π*(a|s) = π_ref(a|s) exp(r(s,a) / β + W(s a) - W(s)). Where π_ref never comes it is defined all the same.

        Source: Rafailov et al. 2023, "Direct preference optimization", eq. 4; soft values: Levine 2018, "Reinforcement
        learning and control as probabilistic inference", section 2.
        """
        tilted = self._tilted(reference, beta)
        log_partition = tilted.logsumexp(-1)
        log_reference = log(self._checked(reference, "reference"))
        levels = cut(self.tree, log_reference)
        soft, values = go_up(self.tree, self._paid / beta, lambda following, t: (levels[t] + following).logsumexp(-1))
        log_policy = log_reference + soft - values[..., None]
        log_policy = torch.where(self.terminal[:, None], -math.log(self.vocabulary), log_policy)
        objective = beta * (self.prompt_probs * log_partition).sum(-1)
        return Optimum(log_policy, tilted - log_partition[..., None], log_partition, objective)

    def objective(self, policy: Tensor, reference: Tensor, beta: float) -> Tensor:
        """Return J(π) = E r - β KL(π || π_ref) ``[*b]``."""
        demand_price(beta)
        return self.expected_return(policy) - beta * self.kl(policy, reference)

    def objective_gap(self, policy: Tensor, reference: Tensor, beta: float) -> Tensor:
        """Return J(π*) - J(π) = β KL(π || π*) ``[*b]``: how much the policy falls short of the optimum."""
        return beta * self._kl(self._checked(policy), self.optimum(reference, beta).log_policy)

    @property
    def prompt_probs(self) -> Tensor:
        """The probability of each prompt ``[x]``."""
        return self.start[: -1 : self.tree.prefixes]

    @cached_property
    def _paid(self) -> Tensor:
        """What each token pays after each prefix ``[*b,x,p,a]``: the reward of the response that it completes."""
        completed = self.tree.response_of
        paid = self.reward[..., completed.clamp(min=0)].masked_fill(completed < 0, 0)
        return paid.reshape(*paid.shape[:-1], -1, self.vocabulary)

    def _values(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q^π ``[*b,s,a]`` and V^π ``[*b,s]``."""
        levels = cut(self.tree, policy)
        return go_up(self.tree, self._paid, lambda following, t: (levels[t] * following).sum(-1))

    def _kl(self, policy: Tensor, log_reference: Tensor) -> Tensor:
        passing = visits(self.tree, self.prompt_probs, policy)
        return (passing * divergence(policy, log_reference).masked_fill(passing == 0, 0)).sum(-1)

    def _tilted(self, reference: Tensor, beta: float) -> Tensor:
        """Return log π_ref(y|x) + r(x,y) / β ``[*b,x,y]``."""
        demand_price(beta, self.reward)
        return self.response_log_probs(reference) + self.reward / beta

    def _checked(self, policy: Tensor, name: str = "policy") -> Tensor:
        return checked_policy(policy, self.vocabulary, self.terminal, None, name)
