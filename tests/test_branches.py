"""The sparse form of finite worlds, and what is drawn from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.finite import BuiltFinite
from rlhf_lab.training.protocols import Size
from rlhf_lab.training.walk import tabulate
from rlhf_lab.worlds import TabularMDP, WorldError
from rlhf_lab_mdp import GridWorld, RandomWalk


class Uniform:
    """An actor that takes every action alike and has no critic."""

    def __init__(self, runs: int, states: int, actions: int) -> None:
        self.table = torch.full((runs, states, actions), -math.log(actions))

    def action_log_probs(self, observations, mask=None):
        return self.table

    def values(self, observations):
        return None


def noise(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_branches_are_the_table_without_its_zeros():
    world = GridWorld(slip=0.3, walls=(5,)).world()
    found = world.branches
    states, actions, _ = world.transition.shape
    transition, reward = torch.zeros_like(world.transition), torch.zeros_like(world.reward)
    for pair in range(states * actions):
        for branch in range(int(found.offsets[pair]), int(found.offsets[pair + 1])):
            place = pair // actions, pair % actions, int(found.successors[branch])
            assert transition[place] == 0  # every branch stands there once
            transition[place], reward[place] = found.probabilities[branch], found.rewards[branch]
    assert torch.equal(transition, world.transition)
    assert torch.equal(reward, world.reward.where(transition > 0, 0))
    assert torch.equal(found.pairs, found.pairs.sort().values)
    assert len(found.pairs) == int((world.transition > 0).sum())


def test_rewards_of_branches_keep_their_run_axis():
    world = RandomWalk(states=3).world()
    paid = TabularMDP(world.transition, noise(2, 5, 2, 5, seed=0), world.start, world.terminal)
    source, action, successor = world.transition.nonzero(as_tuple=True)
    assert torch.equal(paid.branches.rewards, paid.reward[:, source, action, successor])
    assert tabulate(paid).payoffs.shape == (2, len(source))


def test_what_is_drawn_from_is_cumulative_within_each_pair_and_ends_with_one():
    # ten branches of probability 0.1 sum to 0.9999999999999999; the last one is 1, so that no draw leads past it
    transition = torch.full((10, 2, 10), 0.1, dtype=torch.float64)
    world = TabularMDP(transition, transition, torch.eye(10)[0], torch.arange(10) == 9, gamma=0.9)
    cumulative = tabulate(world).cumulative.reshape(20, 10)
    assert (cumulative[:, -1] == 1).all()
    assert cumulative[7, :-1].tolist() == np.cumsum(np.full(10, 0.1))[:-1].tolist()


def test_the_world_of_one_run_has_its_tables():
    transition, reward = noise(3, 5, 2, 5, seed=1).softmax(-1), noise(3, 5, 2, 5, seed=2)
    start, terminal = torch.eye(5)[0], torch.arange(5) == 4
    several = TabularMDP(transition, reward, start, terminal, 0.9)
    policy = noise(5, 2, seed=3).softmax(-1)
    torch.testing.assert_close(several.of_run(2).expected_return(policy), several.expected_return(policy)[2])
    one = TabularMDP(transition[0], reward, start, terminal, 0.9)
    assert torch.equal(one.of_run(1).reward, reward[1]) and torch.equal(one.of_run(1).transition, transition[0])
    with pytest.raises(WorldError, match="branches: transition has leading axes; take one world with of_run"):
        _ = several.branches


def test_siblings_begin_in_the_same_state():
    transition = torch.zeros(6, 1, 6)
    transition[..., 5] = 1  # five states to begin in, each of which leads to the end
    start = torch.tensor([0.2] * 5 + [0.0], dtype=torch.float64)
    world = TabularMDP(transition, torch.zeros_like(transition), start, torch.arange(6) == 5)
    actor = Uniform(2, 6, 1)
    apart = BuiltFinite(world, 2, 8, Streams([1, 2])).collect(actor, Size(3, "episodes"))
    built = BuiltFinite(world, 2, 8, Streams([1, 2]), siblings=4)
    states = built.collect(actor, Size(3, "episodes")).inputs["observations"][..., 0].view(2, 6, 4)
    assert bool((states == states[..., :1]).all())
    # groups are drawn as single rows are: group i begins where row i would
    assert torch.equal(states[..., 0], apart.inputs["observations"][:, :6, 0])
    # windows belong to rows, not to groups
    found = built.collect(actor, Size(4)).inputs["observations"]
    due = BuiltFinite(world, 2, 8, Streams([1, 2])).collect(actor, Size(4)).inputs["observations"]
    assert torch.equal(found, due)


def test_a_walk_goes_on_in_a_world_that_pays_something_else():
    world = RandomWalk(states=1).world()
    built = BuiltFinite(world, 1, 4, Streams([0]))
    built.collect(Uniform(1, 3, 2), Size(2))
    built.move_to(TabularMDP(world.transition, 7 * world.reward.abs(), world.start, world.terminal))
    assert built.collect(Uniform(1, 3, 2), Size(2)).trajectories.rewards.tolist() == [[[7.0, 7.0]] * 4]
