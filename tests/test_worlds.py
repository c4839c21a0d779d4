"""Exact worlds, against hand-solved ones, power series, finite differences and enumeration."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab.worlds import ExactWorld, TabularMDP, WorldError, chain, enumeration

F64 = torch.float64


def corridor(gamma: float = 1.0) -> TabularMDP:
    """Sutton and Barto 2018, example 13.1: left, right; reversed in state 1; state 3 ends; -1 every step."""
    transition = torch.zeros(4, 2, 4, dtype=F64)
    for state, action, following in [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 0), (2, 0, 1), (2, 1, 3)]:
        transition[state, action, following] = 1
    start = torch.tensor([1.0, 0, 0, 0])
    return TabularMDP(transition, torch.full_like(transition, -1), start, start.flip(0) == 1, gamma)


def right_with(p: float | Tensor) -> Tensor:
    p = torch.as_tensor(p, dtype=F64)
    return torch.stack([1 - p, p], dim=-1)[..., None, :].expand(*p.shape, 4, 2)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def random_world(gamma: float = 0.9, runs: tuple[int, ...] = (), seed: int = 0) -> TabularMDP:
    """Five states, the last terminal, three actions; any state may follow, so episodes have no longest length."""
    transition = noise(5, 3, 5, seed=seed).softmax(-1)
    start = torch.tensor([0.5, 0.25, 0.25, 0, 0])
    return TabularMDP(transition, noise(*runs, 5, 3, 5, seed=seed + 1), start, torch.arange(5) == 4, gamma)


def random_policy(*runs: int, seed: int = 9) -> Tensor:
    return noise(*runs, 5, 3, seed=seed).softmax(-1)


def power_series(world: TabularMDP, policy: Tensor, terms: int = 2000) -> tuple[Tensor, Tensor]:
    """V^π and discounted visits as the sums over time that define them."""
    live = ~world.terminal
    step = torch.einsum("sa,sat->st", policy, world.transition)[live][:, live]
    reward = torch.einsum("sa,sat,sat->s", policy, world.transition, world.reward)[live]
    values, visits, weights = (
        torch.zeros(5, dtype=F64),
        torch.zeros(5, dtype=F64),
        torch.eye(int(live.sum()), dtype=F64),
    )
    for _ in range(terms):
        values[live] += weights @ reward
        visits[live] += world.start[live] @ weights
        weights = world.gamma * weights @ step
    return values, visits


# ---- the short corridor, solved by hand


@pytest.mark.parametrize("p", [0.05, 0.5, 2 - math.sqrt(2), 0.95])
def test_corridor_returns_follow_the_closed_form(p: float) -> None:
    # v0 = -1 + (1-p) v0 + p v1, v1 = -1 + (1-p) v2 + p v0, v2 = -1 + (1-p) v1  =>  v0 = -2 (2-p) / (p (1-p))
    assert float(corridor().expected_return(right_with(p))) == pytest.approx(-2 * (2 - p) / (p * (1 - p)), rel=1e-13)


def test_corridor_figures_of_the_book() -> None:
    returns = corridor().expected_return(right_with(torch.tensor([0.05, 0.95, 0.5, 2 - math.sqrt(2)], dtype=F64)))
    assert returns.tolist() == pytest.approx([-82.1052631579, -44.2105263158, -12, -(6 + 4 * math.sqrt(2))], abs=1e-9)


def test_corridor_optimum_for_one_probability_is_where_the_gradient_vanishes() -> None:
    # All states share θ, the log-odds of right: ∇J = Σ w(s,a) ∂log π(a)/∂θ, with ∂log π = 1-p for right, -p for left.
    world = corridor()

    def slope(p: float) -> float:
        w = world.policy_gradient(right_with(p)).sum(0)
        return float(w[1] * (1 - p) - w[0] * p)

    # dv/dp = (2p² - 8p + 4) / (p (1-p))², times dp/dθ = p (1-p): at p = 1/2 that is 8 * 1/4
    assert slope(0.5) == pytest.approx(2, abs=1e-12)
    assert slope(2 - math.sqrt(2)) == pytest.approx(0, abs=1e-10)


def test_corridor_optimum_with_states_told_apart() -> None:
    world = corridor()
    assert world.optimal_values().tolist() == [-3, -2, -1, 0]  # right, left, right
    assert world.optimal_return() == -3
    assert world.optimal_action_values().tolist() == [[-4, -3], [-2, -4], [-3, -1], [0, 0]]


# ---- values, occupancy, gradient


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_values_and_occupancy_are_the_sums_over_time(gamma: float) -> None:
    world, policy = random_world(gamma), random_policy()
    values, visits = power_series(world, policy)
    torch.testing.assert_close(world.state_values(policy), values, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(world.occupancy(policy), visits, rtol=1e-11, atol=1e-12)


def test_occupancy_weighs_rewards_to_the_return() -> None:
    world, policy = random_world(0.9), random_policy()
    paid = torch.einsum("sa,sat,sat->s", policy, world.transition, world.reward)
    assert float(world.occupancy(policy) @ paid) == pytest.approx(float(world.expected_return(policy)), rel=1e-12)


def test_occupancy_of_a_world_without_end_sums_to_the_effective_horizon() -> None:
    world = replace(random_world(0.9), terminal=torch.zeros(5, dtype=torch.bool))
    assert float(world.occupancy(random_policy()).sum()) == pytest.approx(10, rel=1e-12)  # 1 / (1 - 0.9)


def test_undiscounted_occupancy_ignores_gamma() -> None:
    policy = random_policy()
    found = random_world(0.5).occupancy(policy, discounted=False)
    torch.testing.assert_close(found, power_series(random_world(1.0), policy)[1], rtol=1e-11, atol=1e-12)


def test_the_policys_mean_advantage_is_zero() -> None:
    world, policy = random_world(), random_policy()
    assert float((policy * world.advantages(policy)).sum(-1).abs().max()) < 1e-13


def test_action_values_are_one_step_and_then_the_policy() -> None:
    world, policy = random_world(0.9), random_policy()
    values, _ = power_series(world, policy)
    for s, a in itertools.product(range(4), range(3)):
        expected = sum(float(world.transition[s, a, t] * (world.reward[s, a, t] + 0.9 * values[t])) for t in range(5))
        assert float(world.action_values(policy)[s, a]) == pytest.approx(expected, abs=1e-11)
    assert world.action_values(policy)[4].tolist() == [0, 0, 0]


def test_performance_difference_lemma() -> None:
    # Kakade and Langford 2002: J(π') - J(π) = Σ_s d_π'(s) Σ_a π'(a|s) A^π(s,a)
    world, old, new = random_world(0.9), random_policy(seed=1), random_policy(seed=2)
    gain = (world.occupancy(new)[:, None] * new * world.advantages(old)).sum()
    assert float(gain) == pytest.approx(float(world.expected_return(new) - world.expected_return(old)), abs=1e-13)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_policy_gradient_is_the_derivative_of_the_return(gamma: float) -> None:
    world, logits, step = random_world(gamma), noise(5, 3, seed=3), 1e-4
    shifts = step * torch.eye(15, dtype=F64).view(15, 5, 3)

    def returns(k: int) -> Tensor:
        return world.expected_return((logits + k * shifts).softmax(-1))

    # central differences of fourth order: error of order step^4 = 1e-16
    difference = (8 * (returns(1) - returns(-1)) - (returns(2) - returns(-2))) / (12 * step)
    found = world.policy_gradient(logits.softmax(-1))
    torch.testing.assert_close(found.flatten(), difference, rtol=0, atol=1e-9)
    undiscounted = world.policy_gradient(logits.softmax(-1), discounted=False)
    assert torch.allclose(undiscounted, found) == (gamma == 1)  # without γ^t it is no gradient of J


def test_float32_policies_are_rescaled_to_probabilities() -> None:
    world, policy = random_world(), random_policy().float()
    exact = policy.double() / policy.double().sum(-1, keepdim=True)
    assert torch.equal(world.state_values(policy), world.state_values(exact))


# ---- the run axis


def test_stacked_worlds_and_policies_equal_single_ones() -> None:
    stacked, policies = random_world(runs=(3,)), random_policy(3)
    for name in ("state_values", "action_values", "advantages", "expected_return", "occupancy", "policy_gradient"):
        found = getattr(stacked, name)(policies)
        for run in range(3):
            single = replace(stacked, reward=stacked.reward[run])
            torch.testing.assert_close(found[run], getattr(single, name)(policies[run]), rtol=1e-13, atol=1e-14)


def test_policies_may_be_stacked_over_one_world_and_worlds_over_one_policy() -> None:
    one, three, policies = random_world(), random_world(runs=(3,)), random_policy(3)
    both = torch.stack([one.state_values(policy) for policy in policies])
    torch.testing.assert_close(one.state_values(policies), both)
    singles = [replace(three, reward=reward).expected_return(policies[0]) for reward in three.reward]
    torch.testing.assert_close(three.expected_return(policies[0]), torch.stack(singles))


def test_each_run_has_its_own_optimum() -> None:
    stacked = random_world(runs=(4,))
    assert stacked.optimal_return().shape == (4,)
    for run in range(4):
        # 3 actions in 4 states: 81 deterministic policies, one of which is optimal everywhere
        choices = torch.tensor(list(itertools.product(range(3), repeat=4)))
        policies = torch.nn.functional.one_hot(torch.cat([choices, choices[:, :1]], 1), 3).double()
        single = replace(stacked, reward=stacked.reward[run])
        best = single.state_values(policies).max(0).values
        torch.testing.assert_close(stacked.optimal_values()[run], best, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(single.optimal_action_values().max(-1).values, best, rtol=1e-13, atol=1e-13)


# ---- episodes without end


def test_a_policy_that_never_ends_has_an_infinite_return_and_leaves_other_runs_alone() -> None:
    returns = corridor().expected_return(right_with(torch.tensor([0.5, 0.0, 1.0, 0.5])))
    assert returns.tolist() == [pytest.approx(-12), -math.inf, -math.inf, pytest.approx(-12)]
    assert corridor().occupancy(right_with(0.0)).tolist() == [math.inf, 0, 0, 0]
    assert corridor().action_values(right_with(0.0)).tolist() == [[-math.inf] * 2] * 2 + [[-math.inf, -1], [0, 0]]


@pytest.mark.parametrize("p", [1e-9, 1e-15, 1e-20, 1e-100])
def test_a_rare_end_costs_no_accuracy(p: float) -> None:
    # Beyond 1e-16 the probability 1 - p is 1 in float64; only p itself tells that the episode ends.
    assert float(corridor().expected_return(right_with(p))) == pytest.approx(-2 * (2 - p) / (p * (1 - p)), rel=1e-12)
    # State 2 is left for the end once, with probability p per visit, and is entered from state 1 with 1 - p per visit.
    assert corridor().occupancy(right_with(p))[1:].tolist() == pytest.approx([1 / (p * (1 - p)), 1 / p, 0], rel=1e-12)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_solver_for_rare_ends_agrees_with_the_usual_one(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world, policies = random_world(gamma, runs=(3,)), random_policy(3)
    usual = world.state_values(policies), world.occupancy(policies)
    monkeypatch.setattr(chain, "_LONG", 0.0)  # trust nothing to the factorisation
    torch.testing.assert_close(world.state_values(policies), usual[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(world.occupancy(policies), usual[1], rtol=1e-13, atol=1e-13)


def loop(*pay: float) -> TabularMDP:
    """A start, from which action 0 enters a loop of as many states as ``pay`` and action 1 ends with reward 1."""
    states = len(pay) + 2
    transition, reward = torch.zeros(states, 2, states), torch.zeros(states, 2, states)
    transition[0, 0, 2 if len(pay) else 0] = transition[0, 1, 1] = 1
    reward[0, 1, 1] = 1
    for i, amount in enumerate(pay):
        transition[2 + i, :, 2 + (i + 1) % len(pay)] = 1
        reward[2 + i] = amount
    at = torch.arange(states)
    return TabularMDP(transition, reward, at == 0, at == 1)


@pytest.mark.parametrize(
    ("pay", "total"), [((0, 0), 0.5), ((1, 0), math.inf), ((0, -1), -math.inf), ((3, -1, -1), math.inf)]
)
def test_the_sign_of_a_loops_mean_pay_decides(pay: tuple[float, ...], total: float) -> None:
    world = loop(*pay)
    assert float(world.expected_return(world.uniform_policy())) == total  # half of the episodes end, with reward 1
    assert world.occupancy(world.uniform_policy()).tolist() == [1, 0] + [math.inf] * len(pay)


def test_unpaid_loops_do_not_hide_the_optimum() -> None:
    # Staying in state 0 costs nothing and pays nothing; ending pays 1, whenever it is done.
    world = loop()
    assert world.optimal_values().tolist() == [1, 0]
    assert world.expected_return(torch.tensor([[1.0, 0], [1, 0]])) == 0


def risky(*pay: float) -> TabularMDP:
    """State 0: action 0 ends by half a chance, with reward 1, or stays; action 1 leads to a loop, ``pay`` a step."""
    transition = torch.zeros(3, 2, 3, dtype=F64)
    transition[0, 0] = torch.tensor([0.5, 0, 0.5])
    transition[0, 1, 1] = transition[1, :, 1] = 1
    reward = torch.zeros(len(pay), 3, 2, 3, dtype=F64)
    reward[:, 0, 0, 2], reward[:, 1, :, 1] = 1, torch.tensor(pay, dtype=F64)[:, None]
    return TabularMDP(transition, reward, torch.tensor([1.0, 0, 0]), torch.tensor([False, False, True]))


def test_a_costly_trap_does_not_hide_the_optimum() -> None:
    # Trying until the end comes is worth 1 wherever the loop costs; the uniform policy falls into it, sooner or later.
    world = risky(-1, 0, 1)
    assert world.state_values(world.uniform_policy()[None])[0].tolist() == [-math.inf, -math.inf, 0]
    assert world.optimal_values().tolist() == [[1, -math.inf, 0], [1, 0, 0], [math.inf, math.inf, 0]]


def test_a_trap_that_is_never_entered_has_no_part_in_the_gradient() -> None:
    world = risky(-1).of_run(0)
    trying = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    assert world.advantages(trying)[0].tolist() == [0, -math.inf]
    assert world.policy_gradient(trying).tolist() == [[0, 0]] * 3


def test_a_gamble_between_infinities_does_not_hide_the_optimum() -> None:
    # Action 0 leads to the loop that pays or to the one that costs, action 1 ends with reward 1, action 2 with 5.
    transition = torch.zeros(4, 3, 4, dtype=F64)
    transition[0, 0, 1:3] = 0.5
    transition[0, 1:, 3] = transition[1, :, 1] = transition[2, :, 2] = 1
    reward = torch.zeros(4, 3, 4, dtype=F64)
    reward[0, 1, 3], reward[0, 2, 3], reward[1], reward[2] = 1, 5, 1, -1
    at = torch.arange(4)
    world = TabularMDP(transition, reward, at == 0, at == 3)
    assert world.state_values(world.uniform_policy()).isnan().tolist() == [True, False, False, False]
    assert world.optimal_values().tolist() == [5, math.inf, -math.inf, 0]


# ---- legal actions


def test_illegal_actions_are_never_taken_nor_counted() -> None:
    open_world = random_world()
    legal = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]]).bool()
    world = replace(open_world, legal=legal, reward=open_world.reward + 100.0 * ~legal[:, :, None])
    policy = world.uniform_policy()
    assert torch.equal(policy[0], torch.tensor([0.5, 0.5, 0], dtype=F64))
    torch.testing.assert_close(world.state_values(policy), open_world.state_values(policy))
    assert torch.equal(world.action_values(policy) == -math.inf, ~legal)
    assert torch.equal(world.advantages(policy)[~legal], torch.zeros(4, dtype=F64))
    assert float(world.optimal_values().max()) < 50
    with pytest.raises(WorldError, match=r"policy: expected probability 0 for illegal actions.*index \[0, 2\]"):
        world.state_values(open_world.uniform_policy())


# ---- enumeration


def test_enumerated_episodes_have_probability_one_and_the_exact_return() -> None:
    world, policy = random_world(1.0), random_policy()
    outcomes = world.enumerate(policy, horizon=5)
    assert float(outcomes.probabilities.sum()) == pytest.approx(1, abs=1e-13)
    # what is missing after the horizon is the value of where the outcome stands then
    totals = outcomes.trajectories.rewards.sum(-1) + world.state_values(policy)[outcomes.states[:, -1]]
    assert float(outcomes.probabilities @ totals) == pytest.approx(float(world.expected_return(policy)), abs=1e-12)


def test_an_enumeration_is_every_path_with_its_product_of_probabilities() -> None:
    world, policy = random_world(), random_policy()
    found = world.enumerate(policy, horizon=2)
    expected = {}
    for s0, a0, s1, a1, s2 in itertools.product(range(3), range(3), range(5), range(3), range(5)):
        chance = float(world.start[s0] * policy[s0, a0] * world.transition[s0, a0, s1])
        if s1 == 4:
            expected[s0, a0, 4, 0, 4] = chance
        else:
            expected[s0, a0, s1, a1, s2] = chance * float(policy[s1, a1] * world.transition[s1, a1, s2])
    paths = torch.stack([found.states, torch.nn.functional.pad(found.actions, (0, 1))], -1).flatten(1)[:, :-1].tolist()
    assert len(paths) == len(expected) == 3 * 3 * (1 + 4 * 3 * 5)
    for path, probability in zip(paths, found.probabilities.tolist(), strict=True):
        assert probability == pytest.approx(expected[tuple(path)], rel=1e-13)


def test_steps_of_an_enumeration() -> None:
    outcomes = corridor().enumerate(right_with(0.25), horizon=4)
    steps = outcomes.trajectories
    at = outcomes.actions.tolist().index([1, 0, 1, 0])  # right, left (reversed), right: the end after three steps
    assert outcomes.states[at].tolist() == [0, 1, 2, 3, 3]
    assert steps.rewards[at].tolist() == [-1, -1, -1, 0]
    assert steps.valid[at].tolist() == [True, True, True, False]
    assert steps.terminated[at].tolist() == [False, False, True, False]
    assert not steps.truncated[at].any()
    assert steps.log_probs is not None
    assert steps.log_probs[at].exp().tolist() == pytest.approx([0.25, 0.75, 0.25, 1])
    assert float(outcomes.probabilities[at]) == pytest.approx(0.25 * 0.75 * 0.25)


def test_the_step_at_the_horizon_is_truncated_unless_it_terminates() -> None:
    steps = corridor().enumerate(right_with(0.5), horizon=3).trajectories
    assert torch.equal(steps.truncated, steps.valid & ~steps.terminated & (torch.arange(3) == 2))
    assert (steps.terminated | steps.truncated).any(-1).all()


def test_branches_that_cannot_happen_are_pruned() -> None:
    outcomes = corridor().enumerate(torch.tensor([[0.0, 1], [1, 0], [0, 1], [0.5, 0.5]]), horizon=3)
    assert outcomes.states.tolist() == [[0, 1, 2, 3]]


def test_joint_outcomes_are_independent_episodes_from_one_start() -> None:
    world, policy = random_world(), random_policy()
    single, joint = world.enumerate(policy, 1), world.enumerate(policy, 1, samples=3)
    assert len(joint.probabilities) == 3 * 15**3  # three starts, 3 actions x 5 states each
    assert float(joint.probabilities.sum()) == pytest.approx(1, abs=1e-13)
    assert (joint.states[:, :, 0] == joint.states[:, :1, 0]).all()
    assert joint.trajectories.group_ids is not None
    assert (joint.trajectories.group_ids == torch.arange(3 * 15**3)[:, None]).all()
    for sample in range(3):  # each sample alone is distributed as a single episode
        key = joint.states[:, sample, 0] * 15 + joint.actions[:, sample, 0] * 5 + joint.states[:, sample, 1]
        marginal = torch.zeros(45, dtype=F64).index_add_(0, key, joint.probabilities)
        torch.testing.assert_close(marginal, single.probabilities)
    # two samples from one start are independent: E[r r'] = Σ_s p(s) E[r|s]²
    mean = torch.einsum("sa,sat,sat->s", policy, world.transition, world.reward)
    both = joint.probabilities @ joint.trajectories.rewards[:, :2, 0].prod(-1)
    assert float(both) == pytest.approx(float(world.start @ mean.square()), rel=1e-12)


def test_a_critic_fills_values_and_the_bootstrap_at_the_horizon() -> None:
    critic = torch.tensor([5.0, 7, 11, 99])  # 99 at the terminal state must not appear
    outcomes = corridor().enumerate(right_with(0.5), horizon=3).with_values(critic)
    steps = outcomes.trajectories
    assert steps.values is not None and steps.next_values is not None
    rows = dict(
        zip(map(tuple, outcomes.states.tolist()), zip(steps.values, steps.next_values, strict=True), strict=True)
    )
    values, following = rows[0, 1, 2, 3]
    assert (values.tolist(), following.tolist()) == ([5, 7, 11], [7, 11, 0])
    values, following = rows[0, 0, 1, 2]
    assert (values.tolist(), following.tolist()) == ([5, 5, 7], [5, 7, 11])


# ---- Gymnasium's tables


@pytest.mark.parametrize(
    ("name", "gamma", "copies"),
    [("FrozenLake-v1", 0.99, 0), ("FrozenLake-v1", 1.0, 0), ("Taxi-v4", 0.9, 4), ("CliffWalking-v1", 1.0, 0)],
)
def test_gymnasium_tables_have_the_values_of_plain_value_iteration(name: str, gamma: float, copies: int) -> None:
    env = gymnasium.make(name).unwrapped
    world = TabularMDP.from_gymnasium(env.P, env.initial_state_distrib, gamma)
    states, actions = len(env.P), len(env.P[0])
    assert world.transition.shape == (states + copies, actions, states + copies)
    rows = [(s, a, *o) for s in range(states) for a in range(actions) for o in env.P[s][a]]
    s, a, p, to, r, done = (np.array(column) for column in zip(*rows, strict=True))
    values = np.zeros(states)
    ended = set(to[done]) if not copies else set()  # Gymnasium's rows go on after the end; nobody walks there
    for _ in range(5000):
        q = np.zeros((states, actions))
        np.add.at(q, (s, a), p * (r + gamma * values[to] * ~done))
        before, values = values, q.max(1)
        values[list(ended)] = 0
        if np.abs(values - before).max() < 1e-13:
            break
    np.testing.assert_allclose(world.optimal_values()[:states], values, atol=1e-9)
    assert float(world.optimal_return()) == pytest.approx(float(env.initial_state_distrib @ values), abs=1e-9)


def test_known_optima_of_gymnasium_worlds() -> None:
    def optimum(name: str) -> float:
        env = gymnasium.make(name).unwrapped
        return float(TabularMDP.from_gymnasium(env.P, env.initial_state_distrib).optimal_return())

    assert optimum("CliffWalking-v1") == -13  # up, eleven to the right, down
    assert optimum("FrozenLake-v1") == pytest.approx(14 / 17, abs=1e-9)  # 0.8235


def test_arrivals_that_end_and_arrivals_that_go_on_are_told_apart() -> None:
    # State 1 is entered with done by action 0 and without by action 1; from there action 0 pays 5 and ends in 2.
    table = {
        0: {0: [(1.0, 1, 1.0, True)], 1: [(0.5, 1, 0.0, False), (0.25, 1, 4.0, True), (0.25, 1, 0.0, True)]},
        1: {0: [(1.0, 2, 5.0, True)], 1: [(1.0, 1, 0.0, False)]},
        2: {0: [(1.0, 2, 0.0, False)], 1: [(1.0, 2, 0.0, True)]},  # staying where it ended is no entry
    }
    world = TabularMDP.from_gymnasium(table, [1, 0, 0])
    assert world.terminal.tolist() == [False, False, True, True]
    assert world.transition[0].tolist() == [[0, 0, 0, 1], [0, 0.5, 0, 0.5]]
    assert world.reward[0, 1].tolist() == [0, 0, 0, 2]  # (4 + 0) / 2
    assert world.optimal_values().tolist() == [3.5, 5, 0, 0]  # 0.5 * 5 + 0.5 * 2
    assert TabularMDP.from_gymnasium(table).start.tolist() == [0.5, 0.5, 0, 0]


# ---- what is refused


def test_a_tabular_world_is_an_exact_world() -> None:
    assert isinstance(corridor(), ExactWorld)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": torch.ones(4, 2, 4)}, r"transition: expected probabilities that sum to one.*index \[0, 0\]"),
        ({"transition": torch.ones(4, 2, 3)}, r"transition: expected shape \[\*b,s,a,s'\], found shape \[4, 2, 3\]"),
        ({"reward": torch.zeros(4, 3, 4)}, r"reward: expected shape \[\*b,4,2,4\], found shape \[4, 3, 4\]"),
        ({"reward": torch.full((4, 2, 4), math.nan)}, "reward: expected finite numbers"),
        ({"start": torch.tensor([0.5, 0, 0, 0])}, "start: expected sum 1, found 0.5"),
        ({"start": torch.tensor([0.5, 0, 0, 0.5])}, r"start: expected .* 0 at terminal states.*index \[3\]"),
        ({"start": torch.ones(3)}, r"start: expected shape \[4\]"),
        ({"terminal": torch.zeros(4)}, r"terminal: expected a bool mask \[4\]"),
        ({"gamma": 1.5}, r"gamma: expected a number in \[0,1\], found 1.5"),
        ({"legal": torch.zeros(4, 2).bool()}, r"legal: expected a legal action in every state.*index \[0\]"),
        ({"legal": torch.ones(2, 2).bool()}, r"legal: expected None or a bool mask \[4,2\]"),
    ],
)
def test_bad_tables_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        replace(corridor(), **change)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (torch.ones(3, 2) / 2, r"policy: expected shape \[\*b,4,2\], found shape \[3, 2\]"),
        (torch.ones(4, 2), r"policy: expected probabilities.*index \[0\]"),
        (torch.tensor([[2.0, -1]] * 4), r"policy: expected probabilities.*index \[0\]"),
        (torch.tensor([[math.nan, 1]] * 4), r"policy: expected probabilities.*index \[0\]"),
    ],
)
def test_bad_policies_are_refused(policy: Tensor, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        corridor().state_values(policy)


def test_what_cannot_be_enumerated_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorldError, match="horizon and samples must be at least 1, found 0 and 1"):
        corridor().enumerate(right_with(0.5), 0)
    with pytest.raises(WorldError, match="takes one world and one policy"):
        corridor().enumerate(right_with(torch.tensor([0.5, 0.5])), 2)
    with pytest.raises(WorldError, match="takes one world and one policy"):
        random_world(runs=(2,)).enumerate(random_policy(), 2)
    with pytest.raises(WorldError, match=r"critic: expected one value per state, found shape \[2\]"):
        corridor().enumerate(right_with(0.5), 3).with_values(torch.zeros(2))
    monkeypatch.setattr(enumeration, "MAX_OUTCOMES", 100)
    with pytest.raises(WorldError, match="more than 100 outcomes with horizon 20 and samples 1"):
        corridor().enumerate(right_with(0.5), 20)
    with pytest.raises(WorldError, match="more than 100 outcomes with horizon 3 and samples 3"):
        corridor().enumerate(right_with(0.5), 3, samples=3)


def test_a_table_with_holes_is_refused() -> None:
    with pytest.raises(WorldError, match=r"states 0, 1, \.\.\. with the same actions"):
        TabularMDP.from_gymnasium({0: {0: [(1.0, 1, 0.0, True)]}, 2: {0: []}})
