"""Worlds given by tables: values, optima, occupancies and policy gradients by linear algebra, and every episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.worlds.branches import Branches
from rlhf_lab.worlds.chain import MarkovChain, expect
from rlhf_lab.worlds.checks import (
    TABLE_TOLERANCE,
    checked_policy,
    checked_start,
    demand,
    demand_distribution,
    demand_nowhere,
    is_mask,
)
from rlhf_lab.worlds.enumeration import enumerate_episodes
from rlhf_lab.worlds.gymnasium_table import read_table
from rlhf_lab.worlds.protocol import Enumeration, WorldError

__all__ = ["TabularMDP"]

_IMPROVEMENT: Final = 1e-12  # relative; smaller differences of action values are rounding
_MAX_IMPROVEMENTS: Final = 1000  # never met; rounding could let equal policies alternate for ever


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite Markov decision process; an ``ExactWorld`` (see there for what each method returns).

    ``transition`` and ``reward`` may have leading axes, one world per run; so may policies. Terminal states absorb,
    with value 0, whatever their rows say. With γ = 1 a policy that may never end while it is paid has value +inf or
    -inf (NaN where both may happen); one that loops unpaid has a finite value. Everything is float64.

    Raises ``WorldError`` where tables or policies have wrong shapes or are no probabilities, and where a policy takes
    an illegal action.
    """

    transition: Tensor  # [*b,s,a,s'] p(s'|s,a)
    reward: Tensor  # [*b,s,a,s'] expected reward of a step
    start: Tensor  # [s], 0 at terminal states
    terminal: Tensor  # [s] bool
    gamma: float = 1.0
    legal: Tensor | None = None  # [s,a] bool, None = all

    def __post_init__(self) -> None:
        for name in ("transition", "reward", "start"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)).to(torch.float64))
        self._check_shapes()
        self._check_numbers()

    def _check_shapes(self) -> None:
        table = self.transition
        demand(table.ndim >= 3 and table.shape[-1] == table.shape[-3], "transition", "shape [*b,s,a,s']", table)
        states, actions = table.shape[-3:-1]
        due = {
            "reward": (self.reward.shape[-3:] == table.shape[-3:], f"shape [*b,{states},{actions},{states}]"),
            "start": (self.start.shape == (states,), f"shape [{states}]"),
            "terminal": (is_mask(self.terminal, states), f"a bool mask [{states}]"),
            "legal": (is_mask(self._legal, states, actions), f"None or a bool mask [{states},{actions}]"),
        }
        for name, (ok, what) in due.items():
            demand(ok, name, what, getattr(self, name))

    def _check_numbers(self) -> None:
        demand(0 <= self.gamma <= 1, "gamma", "a number in [0,1]", self.gamma)
        for name in ("transition", "reward"):
            demand_nowhere(~getattr(self, name).isfinite(), name, "finite numbers")
        off = ((self.transition.sum(-1) - 1).abs() > TABLE_TOLERANCE) | (self.transition < 0).any(-1)
        off &= self._legal & ~self.terminal[:, None]
        demand_nowhere(off, "transition", "probabilities that sum to one over s'")
        demand_distribution(self.start, "start", self.terminal)
        off = ~self.terminal & ~self._legal.any(-1)
        demand_nowhere(off, "legal", "a legal action in every state that is not terminal")

    @classmethod
    def from_gymnasium(
        cls,
        table: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]],
        start: Any = None,
        gamma: float = 1.0,
    ) -> TabularMDP:
        """Return the world of a Gymnasium transition table ``env.unwrapped.P``: ``{s: {a: [(p, s', r, done), ...]}}``.

        ``start`` is ``env.unwrapped.initial_state_distrib``; None starts uniformly in all states that are not terminal.
        A state that is entered both with and without ``done`` (Taxi) gets a terminal copy, numbered after the table's
        states. Entries with equal (s, a, s') are merged, their reward averaged: exact for expectations.
        """
        return cls(*read_table(table, start), gamma)

    def uniform_policy(self) -> Tensor:
        weights = (self._legal | self.terminal[:, None]).to(torch.float64)
        return weights / weights.sum(-1, keepdim=True)

    def state_values(self, policy: Tensor) -> Tensor:
        policy = self._checked(policy)
        return self._chain(policy, self.gamma).totals((policy * self._rewards).sum(-1))

    def action_values(self, policy: Tensor) -> Tensor:
        return self._backup(self.state_values(policy))

    def advantages(self, policy: Tensor) -> Tensor:
        values = self.state_values(policy)
        return self._hide(self._backup(values) - values[..., None], 0.0)

    def expected_return(self, policy: Tensor) -> Tensor:
        return expect(self.start[None], self.state_values(policy))[..., 0]

    def optimal_values(self) -> Tensor:
        """Return V* ``[*b,s]`` by policy iteration from the uniform policy, to rounding.

        An action is changed for a strictly better one only. At γ = 1 hence no policy on the way loops unless looping
        pays. Where the uniform one may enter a loop that costs, it is left for an action with which episodes surely
        end; a state that has none keeps -inf, even if it could reach loops that cost nothing. What may end in a loop
        that costs or in one that pays, by chance, counts as -inf.
        """
        policy = self.uniform_policy().expand(self._rewards.shape)
        values = _cautious(self.state_values(policy))
        lost = values == -math.inf
        if bool(lost.any()):
            policy = torch.where(lost[..., None], self._surely_ending(), policy)
            values = _cautious(self.state_values(policy))
        for _ in range(_MAX_IMPROVEMENTS):
            best, action = _cautious(self._backup(values)).max(-1)
            better = best > values + _IMPROVEMENT * values.abs().clamp(min=1).nan_to_num()
            if not bool(better.any()):
                break
            greedy = torch.nn.functional.one_hot(action, policy.shape[-1])
            policy = torch.where(better[..., None], greedy, policy)
            values = _cautious(self.state_values(policy))
        return values

    def optimal_action_values(self) -> Tensor:
        return self._backup(self.optimal_values())

    def optimal_return(self) -> Tensor:
        return expect(self.start[None], self.optimal_values())[..., 0]

    def occupancy(self, policy: Tensor, discounted: bool = True) -> Tensor:
        return self._chain(self._checked(policy), self.gamma if discounted else 1.0).visits(self.start)

    def policy_gradient(self, policy: Tensor, discounted: bool = True) -> Tensor:
        policy = self._checked(policy)
        chain = self._chain(policy, self.gamma)
        values = chain.totals((policy * self._rewards).sum(-1))
        visits = (chain if discounted else self._chain(policy, 1.0)).visits(self.start)
        gradient = visits[..., None] * policy * self._hide(self._backup(values) - values[..., None], 0.0)
        return gradient.masked_fill((policy == 0) | (visits[..., None] == 0), 0)  # where an advantage is infinite, too

    def enumerate(self, policy: Tensor, horizon: int, samples: int = 1, start: Tensor | None = None) -> Enumeration:
        """Return every outcome of at most ``horizon`` steps of one ``policy [s,a]`` in one world (no leading axes)."""
        policy = self._checked(policy)
        if max(self.transition.ndim, self.reward.ndim, policy.ndim + 1) > 3:
            raise WorldError("enumerate: takes one world and one policy, found leading axes; index them first")
        first = checked_start(start, self.start, self.terminal)
        return enumerate_episodes(self.branches, first, self.terminal, policy, horizon, samples)

    def of_run(self, run: int) -> TabularMDP:
        transition, reward = (x.flatten(0, -4)[run] if x.ndim > 3 else x for x in (self.transition, self.reward))
        return replace(self, transition=transition, reward=reward)

    @cached_property
    def branches(self) -> Branches:
        if self.transition.ndim > 3:
            raise WorldError("branches: transition has leading axes; take one world with of_run")
        return Branches.from_tables(self.transition, self.reward)

    @property
    def _legal(self) -> Tensor:
        if self.legal is not None:
            return self.legal
        return torch.ones(self.transition.shape[-3:-1], dtype=torch.bool, device=self.transition.device)

    @cached_property
    def _moves(self) -> Tensor:
        """Return p(s'|s,a) ``[*b,s,a,s']`` with zero rows for terminal states and illegal actions."""
        return self.transition.masked_fill((~self._legal | self.terminal[:, None])[..., None], 0)

    @cached_property
    def _rewards(self) -> Tensor:
        """Return E[r|s,a] ``[*b,s,a]``."""
        return (self._moves * self.reward).sum(-1)

    def _backup(self, values: Tensor) -> Tensor:
        """Return E[r + γ V(s')|s,a] ``[*b,s,a]`` for values ``[*b,s]``, -inf for illegal actions."""
        states, actions, _ = self._moves.shape[-3:]
        following = expect(self._moves.flatten(-3, -2), values)
        following = following.reshape(*following.shape[:-1], states, actions)
        return self._hide(self._rewards + self.gamma * following, -math.inf)

    def _surely_ending(self) -> Tensor:
        """Return a policy ``[*b,s,a]`` with which episodes surely end, uniform where there is none.

        An action will do where nothing that may follow leaves the states that still will do, and something that may
        comes nearer to an end.
        """
        kept = torch.ones(self._moves.shape[:-2], dtype=torch.bool, device=self._moves.device)
        while True:
            inside = ~self._may_reach(~kept)
            policy, reached = self.uniform_policy().expand(self._moves.shape[:-1]), self.terminal.expand_as(kept)
            while bool((new := ((near := self._may_reach(reached) & inside).any(-1)) & ~reached).any()):
                nearer = torch.nn.functional.one_hot(near.int().argmax(-1), policy.shape[-1])
                policy, reached = torch.where(new[..., None], nearer, policy), reached | new
            if torch.equal(reached, kept):
                return policy
            kept = reached

    def _may_reach(self, marked: Tensor) -> Tensor:
        """Return for which actions ``[*b,s,a]`` a state of ``marked [*b,s]`` may follow."""
        return ((self._moves > 0) & marked[..., None, None, :]).any(-1)

    def _chain(self, policy: Tensor, gamma: float) -> MarkovChain:
        return MarkovChain(torch.einsum("...sa,...sat->...st", policy, self._moves), self.terminal, gamma)

    def _hide(self, table: Tensor, illegal: float) -> Tensor:
        """Return ``table [*b,s,a]`` with 0 at terminal states and ``illegal`` for illegal actions."""
        return table.masked_fill(~self._legal, illegal).masked_fill(self.terminal[:, None], 0)

    def _checked(self, policy: Tensor) -> Tensor:
        return checked_policy(policy, self.transition.shape[-2], self.terminal, self.legal)


def _cautious(values: Tensor) -> Tensor:
    """Return ``values`` with -inf for NaN, which no comparison would find."""
    return values.masked_fill(values.isnan(), -math.inf)
