"""Games of turns against a player whose strategy is known, as exact worlds without a table [s,a,s']."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.worlds.branches import Branches
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
from rlhf_lab.worlds.protocol import Enumeration, WorldError
from rlhf_lab.worlds.single_game import SingleGame
from rlhf_lab.worlds.sweeps import Rows, weigh
from rlhf_lab.worlds.turn_chain import Floats, TurnChain
from rlhf_lab.worlds.turn_ending import Ending, ending_of

__all__ = ["TurnWorld"]


@dataclass(frozen=True, eq=False)
class TurnWorld:
    """A game of turns; an ``ExactWorld`` (see there for what each method returns).

    An action in state s surely leads to a position p of the other player, whose reply k, of known probability, leads
    to the next state: Q(s,a) = own(s,a) + Σ_k chance(p,k) (reply_reward(p,k) + γ V(s_k)), p = moves(s,a). A state
    without a legal action is terminal. A position where the game is over has one reply, of chance 1, to a terminal
    state. ``ends`` are named sets of terminal states; together they are all of them.

    Rewards may have leading axes, the same for both, one world per run; so may policies. A policy's values are
    certified to a few 1e-14 of the largest for each step that an episode lasts on the mean, from where it lasts
    longest, or for each of 1 / (1 - γ) steps; the optimal ones are those of a policy that ``SingleGame`` finds. With
    γ = 1 a policy that may never end while it is paid has value +inf or -inf (NaN where both may happen); one that
    loops unpaid has a finite value. Everything is float64, on the CPU.

    Raises ``WorldError`` where tables or policies make no sense, and where episodes go on for too long to be solved
    exactly (``TurnChain``).
    """

    moves: Tensor  # [s,a] int32 position after the action, -1 = illegal
    replies: Tensor  # [p,k] int32 state after the reply, -1 = there is none
    chances: Tensor  # [p,k] probability of the reply
    own_rewards: Tensor  # [*b,s,a] paid for the action
    reply_rewards: Tensor  # [*b,p,k] paid for the reply, in the same step
    start: Tensor  # [s], 0 at terminal states
    ends: Mapping[str, Tensor]  # name -> [s] bool
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("chances", "own_rewards", "reply_rewards", "start"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)).to(torch.float64))
        self._check_shapes()
        self._check_numbers()

    def _check_shapes(self) -> None:
        for name, axes in (("moves", "s,a"), ("replies", "p,k")):
            table = getattr(self, name)
            demand(table.ndim == 2 and table.dtype == torch.int32, name, f"shape [{axes}] torch.int32", table)
        (states, actions), (positions, replies) = self.moves.shape, self.replies.shape
        own, paid = self.own_rewards.shape, self.reply_rewards.shape
        same = own[:-2] == paid[:-2] or min(len(own), len(paid)) == 2
        due = {
            "chances": (self.chances.shape == (positions, replies), f"shape [{positions},{replies}]"),
            "own_rewards": (own[-2:] == (states, actions), f"shape [*b,{states},{actions}]"),
            "reply_rewards": (
                paid[-2:] == (positions, replies) and same,
                f"shape [*b,{positions},{replies}], *b that of own_rewards {list(own[:-2])} or none",
            ),
            "start": (self.start.shape == (states,), f"shape [{states}]"),
        }
        for name, (ok, what) in due.items():
            demand(ok, name, what, getattr(self, name))
        for name, end in self.ends.items():
            demand(is_mask(end, states), f"ends[{name!r}]", f"a bool mask [{states}]", end)

    def _check_numbers(self) -> None:
        demand(0 <= self.gamma <= 1, "gamma", "a number in [0,1]", self.gamma)
        for name, limit in (("moves", len(self.replies)), ("replies", len(self.moves))):
            table = getattr(self, name)
            demand_nowhere((table < -1) | (table >= limit), name, f"-1 or a number below {limit:,}")
        for name in ("own_rewards", "reply_rewards"):
            demand_nowhere(~getattr(self, name).isfinite(), name, "finite numbers")
        demand_nowhere(~(self.chances >= 0), "chances", "probabilities")
        demand_nowhere((self.replies < 0) & (self.chances != 0), "chances", "probability 0 where there is no reply")
        off = ~((self.chances.sum(-1) - 1).abs() <= TABLE_TOLERANCE)
        demand_nowhere(off, "chances", "probabilities that sum to one over replies")
        demand_distribution(self.start, "start", self.terminal)
        covered = torch.zeros_like(self.terminal)
        for name, end in self.ends.items():
            demand_nowhere(end & ~self.terminal, f"ends[{name!r}]", "terminal states only")
            demand_nowhere(end & covered, f"ends[{name!r}]", "no state of the ends before it")
            covered |= end
        demand_nowhere(self.terminal & ~covered, "ends", "every terminal state in one of them")

    # ---- an exact world

    @cached_property
    def legal(self) -> Tensor:
        """Which actions are legal, bool ``[s,a]``."""
        return self.moves >= 0

    @cached_property
    def terminal(self) -> Tensor:
        """The states without a legal action, bool ``[s]``."""
        return ~self.legal.any(-1)

    @cached_property
    def branches(self) -> Branches:
        """What may follow each state and action; replies that lead to one state are merged, their rewards averaged."""
        position, reply = (self.chances > 0).nonzero(as_tuple=True)
        key = position * len(self.moves) + self.replies[position, reply]
        key, inverse = torch.unique(key, return_inverse=True)
        chance = self.chances[position, reply]
        paid = chance * self.reply_rewards[..., position, reply]
        merged = torch.zeros(len(key), dtype=torch.float64).index_add_(0, inverse, chance)
        paid = torch.zeros(*paid.shape[:-1], len(key), dtype=torch.float64).index_add_(-1, inverse, paid) / merged
        fan = torch.bincount(key // len(self.moves), minlength=len(self.replies))

        after = self.moves.flatten()
        pair = (after >= 0).nonzero()[:, 0]
        after = after[pair].long()
        counts = torch.zeros(self.moves.numel(), dtype=torch.int64).index_copy_(0, pair, fan[after])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        pair, after = (torch.repeat_interleave(x, fan[after]) for x in (pair, after))
        branch = (fan.cumsum(0) - fan)[after] + torch.arange(len(pair)) - offsets[pair]
        rewards = self.own_rewards.flatten(-2)[..., pair] + paid[..., branch]
        return Branches(offsets, key[branch] % len(self.moves), merged[branch], rewards)

    def of_run(self, run: int) -> TurnWorld:
        if not self._axes:
            return self
        own, paid = self._rewards(run)
        return replace(self, own_rewards=own, reply_rewards=paid)

    def uniform_policy(self) -> Tensor:
        weights = (self.legal | self.terminal[:, None]).to(torch.float64)
        return weights / weights.sum(-1, keepdim=True)

    def state_values(self, policy: Tensor) -> Tensor:
        return self._each_run(policy, lambda game, policy: _evaluate(game, policy)[1])

    def action_values(self, policy: Tensor) -> Tensor:
        return self._each_run(policy, lambda game, policy: game.action_values(_evaluate(game, policy)[1]))

    def advantages(self, policy: Tensor) -> Tensor:
        return self._each_run(policy, lambda game, policy: _advantages(game, _evaluate(game, policy)[1]))

    def expected_return(self, policy: Tensor) -> Tensor:
        return self._mean(self.state_values(policy))

    def optimal_values(self) -> Tensor:
        return self._optimum.clone()

    def optimal_action_values(self) -> Tensor:
        best = self._optimum.reshape(-1, len(self.moves)).numpy()
        found = [self._game(run).action_values(values) for run, values in enumerate(best)]
        return _stack(found, self._axes)

    def optimal_return(self) -> Tensor:
        return self._mean(self._optimum)

    def occupancy(self, policy: Tensor, discounted: bool = True) -> Tensor:
        chains = self._chains(policy, self.gamma if discounted else 1.0)
        return _stack([chain.visits(self.start.numpy()) for chain in chains], policy.shape[:-2])

    def policy_gradient(self, policy: Tensor, discounted: bool = True) -> Tensor:
        start = self.start.numpy()

        def gradient(game: SingleGame, policy: Floats) -> Tensor:
            chain, values = _evaluate(game, policy)
            chain = chain if discounted else replace(chain, gamma=1.0)
            taken, visits = torch.from_numpy(policy), torch.from_numpy(chain.visits(start))[:, None]
            found = _advantages(game, values).mul_(taken).mul_(visits)
            return found.masked_fill_((taken == 0) | (visits == 0), 0)  # where an advantage is infinite, too

        return self._each_run(policy, gradient)

    def enumerate(self, policy: Tensor, horizon: int, samples: int = 1, start: Tensor | None = None) -> Enumeration:
        """Return every outcome of at most ``horizon`` steps of one ``policy [s,a]`` in one world (no leading axes)."""
        policy = self._checked(policy)
        if self._axes or policy.ndim > 2:
            raise WorldError("enumerate: takes one world and one policy, found leading axes; index them first")
        first = checked_start(start, self.start, self.terminal)
        return enumerate_episodes(self.branches, first, self.terminal, policy, horizon, samples)

    def ending(self, policy: Tensor) -> Ending:
        """Return how episodes of ``policy [*b,s,a]`` end, not discounted: with which probability, and when."""
        ends = {name: end.numpy() for name, end in self.ends.items()}
        return ending_of(self._chains(policy, 1.0), self.start.numpy(), ends, policy.shape[:-2])

    # ---- runs

    @property
    def _axes(self) -> torch.Size:
        return max(self.own_rewards.shape[:-2], self.reply_rewards.shape[:-2], key=len)

    @cached_property
    def _optimum(self) -> Tensor:
        """V* ``[*b,s]``, found once, since large games take seconds."""
        return _stack([self._game(run).optimal_values() for run in range(math.prod(self._axes))], self._axes)

    @cached_property
    def _replies(self) -> Rows:
        kept = self.chances > 0
        counts = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(-1).cumsum(0)])
        return Rows(counts.numpy(), self.replies[kept].numpy(), self.chances[kept].numpy())

    def _game(self, run: int) -> SingleGame:
        own, paid = self._rewards(run)
        answers = (self.chances * paid).sum(-1)
        tables = self.moves.numpy(), self._replies, own.numpy(), answers.numpy(), self.terminal.numpy()
        return SingleGame(*tables, self.gamma)

    def _rewards(self, run: int) -> tuple[Tensor, Tensor]:
        """Return the rewards of one world, counted along the leading axes: ``[s,a]``, ``[p,k]``."""
        index = np.unravel_index(run, self._axes)
        own, paid = (x[index] if x.ndim > 2 else x for x in (self.own_rewards, self.reply_rewards))
        return own, paid

    def _chains(self, policy: Tensor, gamma: float) -> Iterator[TurnChain]:
        """Yield each run of ``policy [*b,s,a]`` at work, whatever is paid."""
        game = self._game(0)
        for table in self._checked(policy).reshape(-1, *self.moves.shape).numpy():
            yield replace(game.chain(table)[0], gamma=gamma)

    def _each_run(self, policy: Tensor, answer: Callable[[SingleGame, Floats], Any]) -> Tensor:
        """Return what is the ``answer`` for each run's world and policy, stacked over all leading axes."""
        policy = self._checked(policy)
        axes = np.broadcast_shapes(policy.shape[:-2], self._axes)
        policies = policy.expand(*axes, -1, -1)
        worlds = np.broadcast_to(np.arange(math.prod(self._axes)).reshape(self._axes), axes)
        found = [answer(self._game(int(worlds[run])), policies[run].numpy()) for run in np.ndindex(axes)]
        return _stack(found, axes)

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values [*b,s]`` over the start; where it never starts, infinity does not matter."""
        starts = np.flatnonzero(self.start.numpy()).astype(np.int32)
        row, mean = Rows(np.array([0, len(starts)]), starts, self.start.numpy()[starts]), np.empty(1)
        means = []
        for table in values.reshape(-1, len(self.start)).numpy():
            weigh(row, table, mean)
            means.append(float(mean[0]))
        return torch.tensor(means, dtype=torch.float64).reshape(values.shape[:-1])

    def _checked(self, policy: Tensor) -> Tensor:
        return checked_policy(policy, self.moves.shape[1], self.terminal, self.legal)


def _evaluate(game: SingleGame, policy: Floats) -> tuple[TurnChain, Floats]:
    """Return a policy at work and V^π ``[s]``."""
    chain, rewards = game.chain(policy)
    return chain, chain.totals(rewards)


def _advantages(game: SingleGame, values: Floats) -> Tensor:
    """Return Q - V ``[s,a]``, 0 for illegal actions and at terminal states."""
    advantages = torch.from_numpy(game.action_values(values)).sub_(torch.from_numpy(values)[:, None])
    return advantages.masked_fill_(torch.from_numpy(game.moves < 0), 0)


def _stack(found: Sequence[Any], axes: Sequence[int]) -> Tensor:
    """Return arrays or tensors of equal shapes as one tensor with these leading axes."""
    return torch.stack([torch.as_tensor(x) for x in found]).reshape(*axes, *found[0].shape)
