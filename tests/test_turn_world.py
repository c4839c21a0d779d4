"""Games of turns as exact worlds, against a dense table of the same game written out in loops, and by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab.worlds import ExactWorld, TabularMDP, TurnWorld, WorldError

F64 = torch.float64
GAMMAS = [0.0, 0.9, 0.999, 1.0]
SEEDS = range(4)
VALUES = ("state_values", "action_values", "advantages", "expected_return")
VISITS = ("occupancy", "policy_gradient")
OPTIMA = ("optimal_values", "optimal_action_values", "optimal_return")


def game(seed: int, gamma: float = 1.0, runs: tuple[int, ...] = (), states: int = 9, leak: float = 0.05) -> TurnWorld:
    """A random game of 3 actions and 4 replies with illegal actions, missing replies and replies that never come.

    The last three states are ends. From every position a reply of chance ``leak`` or more leads to one of them; with
    ``leak`` 0 a part of the states may be a trap. Two replies may lead to one state; not all states are reached.
    """
    rng = np.random.default_rng(seed)
    positions, open_states = states - 1, states - 3
    moves = rng.integers(0, positions, (states, 3))
    moves[:, 1:][rng.random((states, 2)) < 0.3] = -1
    moves[open_states:] = -1
    replies = rng.integers(0, open_states, (positions, 4))
    replies[:, 3] = rng.integers(open_states, states, positions)
    chances = rng.random((positions, 4)) * (rng.random((positions, 4)) < 0.8)
    chances[:, 0] += 0.1
    chances[:, 3] = leak * (1 + rng.random(positions))
    replies[:, 1][rng.random(positions) < 0.3] = -1
    chances[replies < 0] = 0
    chances /= chances.sum(1, keepdims=True)
    start = np.zeros(states)
    start[:2] = 0.25, 0.75
    at = torch.arange(states)
    return TurnWorld(
        torch.from_numpy(moves.astype(np.int32)),
        torch.from_numpy(replies.astype(np.int32)),
        torch.from_numpy(chances),
        torch.from_numpy(rng.standard_normal((*runs, states, 3))),
        torch.from_numpy(rng.standard_normal((*runs, positions, 4))),
        torch.from_numpy(start),
        {"won": at == states - 1, "drawn": (at >= open_states) & (at < states - 1)},
        gamma,
    )


def dense(world: TurnWorld) -> TabularMDP:
    """The same game as a table [s,a,s'], filled move by move and reply by reply."""
    states, actions = world.moves.shape
    transition = torch.zeros(states, actions, states, dtype=F64)
    axes = max(world.own_rewards.shape[:-2], world.reply_rewards.shape[:-2], key=len)
    paid = torch.zeros(*axes, states, actions, states, dtype=F64)
    for s, a in itertools.product(range(states), range(actions)):
        position = int(world.moves[s, a])
        for k in range(world.replies.shape[1] if position >= 0 else 0):
            after, chance = int(world.replies[position, k]), float(world.chances[position, k])
            if after >= 0:
                transition[s, a, after] += chance
                paid[..., s, a, after] += chance * (
                    world.own_rewards[..., s, a] + world.reply_rewards[..., position, k]
                )
    reward = torch.where(transition > 0, paid / transition, 0)
    legal = world.moves >= 0
    return TabularMDP(transition, reward, world.start, ~legal.any(1), world.gamma, legal)


def policies(world: TurnWorld, *runs: int, seed: int = 5, spread: float = 1.0) -> Tensor:
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((*runs, *world.moves.shape)))
    logits = (spread * noise).masked_fill(world.moves < 0, -math.inf)
    return logits.masked_fill((world.moves < 0).all(1)[:, None], 0).softmax(-1)


def first_moves(world: TurnWorld) -> Tensor:
    """The policy that always takes its first legal action."""
    return torch.nn.functional.one_hot((world.moves >= 0).int().argmax(1), world.moves.shape[1]).double()


def close(found: Tensor, due: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(found, due, rtol=tolerance, atol=tolerance, equal_nan=True)


# ---- everything, against the dense table


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_that_of_the_dense_table(gamma: float, seed: int) -> None:
    world = game(seed, gamma)
    table = dense(world)
    for policy in (world.uniform_policy(), policies(world), policies(world, spread=20.0), first_moves(world)):
        for name in VALUES + VISITS:
            close(getattr(world, name)(policy), getattr(table, name)(policy))
        for name in VISITS:
            close(getattr(world, name)(policy, discounted=False), getattr(table, name)(policy, discounted=False))
    for name in OPTIMA:
        close(getattr(world, name)(), getattr(table, name)())
    assert torch.equal(world.uniform_policy(), table.uniform_policy())
    assert torch.equal(world.terminal, table.terminal) and torch.equal(world.legal, table.legal)


@pytest.mark.parametrize(
    ("own", "paid", "policy"), [((2,), (2,), (2,)), ((2, 3), (), (3,)), ((), (2,), ()), ((), (), (2, 2))]
)
def test_leading_axes_of_rewards_and_policies_are_those_of_the_dense_table(own, paid, policy) -> None:
    world = game(1, 0.9)
    rewards = [
        torch.from_numpy(np.random.default_rng(3).standard_normal((*b, *x.shape)))
        for b, x in ((own, world.own_rewards), (paid, world.reply_rewards))
    ]
    world = replace(world, own_rewards=rewards[0], reply_rewards=rewards[1])
    table, table_policies = dense(world), policies(world, *policy)
    for name in VALUES + VISITS:
        close(getattr(world, name)(table_policies), getattr(table, name)(table_policies))
    for name in OPTIMA:
        close(getattr(world, name)(), getattr(table, name)())


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_a_larger_game_is_that_of_the_dense_table(gamma: float) -> None:
    world = game(0, gamma, states=200, leak=0.01)
    table, policy = dense(world), policies(world)
    for name in VALUES + VISITS:
        close(getattr(world, name)(policy), getattr(table, name)(policy))
    for name in OPTIMA:
        close(getattr(world, name)(), getattr(table, name)())


def test_it_is_an_exact_world() -> None:
    assert isinstance(game(0), ExactWorld)


@pytest.mark.parametrize("runs", [(), (2,)])
def test_the_branches_are_those_of_the_dense_table(runs: tuple[int, ...]) -> None:
    world = game(2, runs=runs)
    found, due = world.branches, dense(world).branches
    assert torch.equal(found.offsets, due.offsets) and torch.equal(found.successors, due.successors)
    close(found.probabilities, due.probabilities, 1e-15)
    close(found.rewards, due.rewards, 1e-14)


def test_enumeration_is_that_of_the_dense_table() -> None:
    world = game(3)
    policy = policies(world)
    found, due = world.enumerate(policy, 2), dense(world).enumerate(policy, 2)
    assert torch.equal(found.states, due.states) and torch.equal(found.actions, due.actions)
    close(found.probabilities, due.probabilities, 1e-15)
    close(found.trajectories.rewards, due.trajectories.rewards, 1e-14)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_policy_gradient_is_the_derivative_of_the_return(gamma: float) -> None:
    world, width = game(0, gamma), 1e-3
    logits = torch.from_numpy(np.random.default_rng(7).standard_normal(world.moves.shape))
    shut = (world.moves < 0) & ~world.terminal[:, None]
    shifts = width * torch.eye(logits.numel(), dtype=F64).reshape(-1, *logits.shape)

    def returns(k: int) -> Tensor:
        return world.expected_return((logits + k * shifts).masked_fill(shut, -math.inf).softmax(-1))

    # central differences of fourth order: error of order width^4 = 1e-12
    due = (8 * (returns(1) - returns(-1)) - (returns(2) - returns(-2))) / (12 * width)
    found = world.policy_gradient(logits.masked_fill(shut, -math.inf).softmax(-1))
    close(found.flatten(), due, 1e-9)
    assert float(found.abs().max()) > 0.01


# ---- the run axis


def test_a_run_is_bit_equal_alone_and_beside_others() -> None:
    world = game(1, 0.9, runs=(5,), states=60)
    table, single = policies(world, 5), world.of_run(3)
    for name in VALUES + VISITS:
        assert torch.equal(getattr(world, name)(table)[3], getattr(single, name)(table[3]))
    for name in OPTIMA:
        assert torch.equal(getattr(world, name)()[3], getattr(single, name)())
    assert torch.equal(world.ending(table).steps["won"][3], single.ending(table[3]).steps["won"])


def test_worlds_of_runs_are_counted_along_the_leading_axes() -> None:
    world = game(1, runs=(2, 3))
    assert torch.equal(world.of_run(4).own_rewards, world.own_rewards[1, 1])
    assert torch.equal(world.of_run(4).reply_rewards, world.reply_rewards[1, 1])
    single = game(1)
    assert single.of_run(4) is single


# ---- episodes without end


def line(end: float, pay: float = -1.0, gamma: float = 1.0, states: int = 3) -> TurnWorld:
    """States in a ring, each paid ``pay``; every reply ends with chance ``end`` or goes on to the next state.

    Action 1 leads to a trap of two states, paid 0.
    """
    at = torch.arange(states)
    moves = torch.stack([at, torch.full_like(at, states)], 1)
    moves = torch.cat([moves, torch.tensor([[states, states], [states + 1, -1], [-1, -1]])]).int()
    replies = torch.cat(
        [
            torch.stack([(at + 1) % states, torch.full_like(at, states + 2)], 1),
            torch.tensor([[states + 1, -1], [states, -1]]),
        ]
    ).int()
    chances = torch.cat([torch.tensor([[1 - end, end]], dtype=F64).expand(states, 2), torch.tensor([[1.0, 0]] * 2)])
    own = torch.zeros(states + 3, 2, dtype=F64)
    own[:states] = pay
    terminal = torch.arange(states + 3) == states + 2
    start = torch.arange(states + 3) == 0
    return TurnWorld(moves, replies, chances, own, torch.zeros(states + 2, 2), start, {"end": terminal}, gamma)


def staying(world: TurnWorld, trap: float = 0.0) -> Tensor:
    """The policy that takes action 1, to the trap, with this probability; in the trap surely action 0."""
    policy = torch.tensor([[1 - trap, trap]], dtype=F64).repeat(len(world.moves), 1)
    policy[-3:] = torch.tensor([1.0, 0])
    return policy


@pytest.mark.parametrize("seed", range(12))
def test_traps_have_the_infinite_values_of_the_dense_table(seed: int) -> None:
    world = game(seed, leak=0.0)
    world = replace(world, chances=torch.where(torch.arange(8)[:, None] < 2, game(seed).chances, world.chances))
    table = dense(world)
    for policy in (policies(world), first_moves(world)):
        for name in ("state_values", "action_values", "expected_return", "occupancy"):
            close(getattr(world, name)(policy), getattr(table, name)(policy))
    # the optimum is the best of all policies that do not mix; one that may gain and lose without end is not
    choices = [(world.moves[s] >= 0).nonzero()[:, 0].tolist() or [0] for s in range(9)]
    every = torch.nn.functional.one_hot(torch.tensor(list(itertools.product(*choices))), 3).double()
    close(world.optimal_values(), table.state_values(every).nan_to_num(-math.inf, math.inf, -math.inf).amax(0))


def test_traps_are_met_by_the_games_of_the_test_before() -> None:
    endless = [
        (~game(seed, leak=0.0).state_values(policies(game(seed, leak=0.0))).isfinite()).any() for seed in range(12)
    ]
    assert sum(map(bool, endless)) >= 6


def test_an_unpaid_trap_is_worth_nothing_and_a_paid_one_is_infinite() -> None:
    # Every step costs 1 until the end, of chance 1/4 a step, or the trap, 1/5 before it: 1 / (1 - 4/5 * 3/4) steps.
    world = line(0.25)
    close(world.state_values(staying(world, 0.2)), torch.tensor([-2.5, -2.5, -2.5, 0, 0, 0], dtype=F64), 1e-14)
    costly = replace(world, own_rewards=torch.full((6, 2), -1.0))
    assert costly.state_values(staying(costly, 0.2)).tolist() == [-math.inf] * 5 + [0]
    assert costly.state_values(staying(costly)).tolist() == [pytest.approx(-4)] * 3 + [-math.inf] * 2 + [0]
    assert float(costly.expected_return(staying(costly))) == pytest.approx(-4)  # it never starts in the trap
    assert costly.occupancy(staying(costly, 0.2)).tolist()[3:] == [math.inf, math.inf, 0]
    # The trap costs nothing: entering it at once is best, and costs the one step. With a trap that costs, staying is.
    assert world.optimal_values().tolist() == [-1, -1, -1, 0, 0, 0]
    assert costly.optimal_values().tolist() == [pytest.approx(-4)] * 3 + [-math.inf] * 2 + [0]


def test_the_optimum_is_found_where_every_state_can_fall_into_a_costly_trap() -> None:
    # From states 0 and 1 alike: action 0 ends or falls into the trap 2, action 1 ends or goes to the other state. Each
    # step costs 1, so that all is -inf for policies that may take action 0, and 2 steps on the mean are best.
    moves = torch.tensor([[0, 1], [0, 2], [3, -1], [-1, -1]]).int()
    replies = torch.tensor([[3, 2], [3, 1], [3, 0], [2, -1]]).int()
    chances = torch.tensor([[0.5, 0.5]] * 3 + [[1, 0]])
    end = torch.tensor([False, False, False, True])
    start = torch.tensor([1.0, 0, 0, 0])
    world = TurnWorld(moves, replies, chances, torch.full((4, 2), -1.0), torch.zeros(4, 2), start, {"end": end})
    assert world.state_values(world.uniform_policy()).tolist() == [-math.inf] * 3 + [0]
    assert world.optimal_values().tolist() == [pytest.approx(-2, rel=1e-13)] * 2 + [-math.inf, 0]


def test_a_gamble_between_infinities_does_not_hide_the_optimum() -> None:
    # Action 0 leads to the loop that pays or to the one that costs, action 1 ends with reward 1, action 2 with 5.
    moves = torch.tensor([[0, 3, 3], [1, -1, -1], [2, -1, -1], [-1, -1, -1]]).int()
    replies = torch.tensor([[1, 2], [1, -1], [2, -1], [3, -1]]).int()
    chances = torch.tensor([[0.5, 0.5]] + [[1.0, 0]] * 3)
    own = torch.tensor([[0.0, 1, 5], [1, 0, 0], [-1, 0, 0], [0, 0, 0]])
    at = torch.arange(4)
    world = TurnWorld(moves, replies, chances, own, torch.zeros(4, 2), at == 0, {"end": at == 3})
    assert world.state_values(world.uniform_policy()).isnan().tolist() == [True, False, False, False]
    assert world.optimal_values().tolist() == [5, math.inf, -math.inf, 0]


def test_a_trap_that_is_never_entered_has_no_part_in_the_gradient() -> None:
    # every step costs 1, so that the trap is worth -inf: an infinite advantage, of an action that is never taken
    world = replace(line(0.25), own_rewards=torch.full((6, 2), -1.0))
    assert world.advantages(staying(world))[0].tolist() == [pytest.approx(0, abs=1e-13), -math.inf]
    assert float(world.policy_gradient(staying(world)).abs().max()) < 1e-12


@pytest.mark.parametrize("end", [1e-4, 1e-9, 1e-15])
def test_a_rare_end_costs_no_accuracy(end: float) -> None:
    world = line(end)
    close(world.state_values(staying(world))[:3], torch.full((3,), -1 / end, dtype=F64), 1e-10)
    assert float(world.occupancy(staying(world)).sum()) == pytest.approx(1 / end, rel=1e-10)
    assert float(world.ending(staying(world)).steps["end"]) == pytest.approx(1 / end, rel=1e-9)


@pytest.mark.parametrize("gamma", [1 - 1e-4, 1 - 1e-7])
def test_patience_costs_no_accuracy(gamma: float) -> None:
    # for ever 1 a step is worth 1 / (1 - γ)
    world = replace(line(0.0, 1.0, gamma), own_rewards=torch.ones(6, 2))
    assert float(world.expected_return(staying(world))) == pytest.approx(1 / (1 - gamma), rel=1e-9)
    assert float(world.optimal_return()) == pytest.approx(1 / (1 - gamma), rel=1e-9)


def test_what_can_be_visited_is_visited_however_rarely() -> None:
    # Up with 0.3, down with 0.69 and to the end with 0.01 in each of 200 states from the lowest on, beside which there
    # is one that nobody comes to. The highest is visited with a probability below (0.3 / 0.69)^199 = 1e-72.
    up, down = torch.arange(200).add(1).clamp(max=199), torch.arange(200).sub(1).clamp(min=0)
    replies = torch.stack([torch.cat([up, up[:1]]), torch.cat([down, down[:1]]), torch.full((201,), 201)], -1).int()
    at = torch.arange(202)
    moves = at.where(at < 201, -1).int()[:, None]
    chances = torch.tensor([[0.3, 0.69, 0.01]], dtype=F64).expand(201, 3)
    world = TurnWorld(moves, replies, chances, torch.zeros(202, 1), torch.zeros(201, 3), at == 0, {"end": at == 201})
    visits = world.occupancy(world.uniform_policy())
    assert (visits > 0).tolist() == [True] * 200 + [False] * 2
    assert float(visits.sum()) == pytest.approx(100, rel=1e-12)


def test_what_is_too_large_and_too_long_is_refused() -> None:
    rare, endless = line(1e-9, states=3000), line(0.0, states=3000)
    for world in (rare, endless):
        with pytest.raises(
            WorldError,
            match=r"may go on for ever, or for more than 100,000 steps on the mean, in 3,000 states, too many to be "
            r"solved exactly \(at most 2,500\); discount, with gamma at most 0.99999, or ask about a policy that ends",
        ):
            world.state_values(staying(world))
    # where nothing is paid for ever it does not matter, nor with discounting
    unpaid = replace(endless, own_rewards=torch.zeros(1, 1).expand(3003, 2))
    assert float(unpaid.state_values(staying(unpaid)).abs().max()) == 0
    assert float(replace(endless, gamma=0.9).expected_return(staying(endless))) == pytest.approx(-10, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_values_are_as_large_as_rewards(scale: float) -> None:
    # squares of these leave float64, so that no Krylov method can work; sweeps can, in more states than a dense solver
    one = game(0, 0.9, states=2600)
    scaled = replace(one, own_rewards=scale * one.own_rewards, reply_rewards=scale * one.reply_rewards)
    close(scaled.state_values(policies(one)) / scale, one.state_values(policies(one)))


# ---- how episodes end


def layered(seed: int) -> TurnWorld:
    """A game over after three steps at most: states 0, 1-2, 3-4 and the ends 5-7 follow each other."""
    rng = np.random.default_rng(seed)
    replies = torch.tensor([[1, 2, 5], [1, 2, -1], [3, 4, 6], [3, 4, 7], [5, 6, 7], [5, 7, -1]]).int()
    chances = torch.from_numpy(rng.random((6, 3))) * (replies >= 0)
    at = torch.arange(8)
    moves = torch.tensor([[0, 1], [2, 3], [3, 2], [4, 5], [5, -1]] + [[-1, -1]] * 3).int()
    ends = {"mate": at == 5, "draw": (at == 6) | (at == 7)}
    return TurnWorld(
        moves, replies, chances / chances.sum(1, keepdim=True), torch.zeros(8, 2), torch.zeros(6, 3), at == 0, ends
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_ends_are_those_of_every_episode_written_out(seed: int) -> None:
    world = replace(layered(seed), gamma=0.5)  # which does not matter here
    policy = policies(world)
    outcomes = world.enumerate(policy, 3)
    assert bool(outcomes.trajectories.terminated.any(-1).all())
    length, found = outcomes.trajectories.valid.sum(-1).double(), world.ending(policy)
    for name, end in world.ends.items():
        weight = outcomes.probabilities * end[outcomes.states[:, -1]]
        close(found.probability[name], weight.sum(), 1e-14)
        close(found.steps[name], (weight * length).sum() / weight.sum(), 1e-13)
    assert float(found.never) == 0


def test_ends_by_hand() -> None:
    # To the end with 1/4 a step, to the trap with 1/5 before that: the trap takes 1/5 / (1 - 4/5 * 3/4) = 1/2, the end
    # the other half. Each step goes on with 3/5 whatever comes of it: 1 / (1 - 3/5) = 5/2 steps to the end.
    world = line(0.25)
    table = torch.stack([staying(world, 0.2), staying(world, 0.0), staying(world, 1.0)])
    found = world.ending(table)
    assert found.probability["end"].tolist() == pytest.approx([0.5, 1, 0], abs=1e-14)
    assert found.never.tolist() == pytest.approx([0.5, 0, 1], abs=1e-14)
    assert found.steps["end"][:2].tolist() == pytest.approx([2.5, 4], rel=1e-13)
    assert math.isnan(float(found.steps["end"][2]))


@pytest.mark.parametrize("seed", SEEDS)
def test_ends_are_values_of_entering_them(seed: int) -> None:
    # paid 1 for entering the set, undiscounted, a policy is worth the probability of ending there
    world = game(seed)
    policy, ending = policies(world), world.ending(policies(world))
    for name, end in world.ends.items():
        paid = replace(world, own_rewards=torch.zeros(9, 3), reply_rewards=end[world.replies.clamp(min=0).long()])
        close(ending.probability[name], paid.expected_return(policy), 1e-13)
    close(sum(ending.probability.values(), torch.zeros(())), torch.ones((), dtype=F64), 1e-13)
    # whatever the end, the mean number of steps is the number of states passed
    steps = sum(ending.probability[name] * ending.steps[name] for name in world.ends)
    assert float(steps) == pytest.approx(float(world.occupancy(policy).sum()), rel=1e-12)


# ---- what makes no world


def with_one(table: Tensor, *index: int, value: float) -> Tensor:
    changed = table.clone()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"moves": w.moves.long()}, r"moves: expected shape \[s,a\] torch.int32, found .* torch.int64"),
        (lambda w: {"replies": w.replies[0]}, r"replies: expected shape \[p,k\] torch.int32, found shape \[3\]"),
        (lambda w: {"chances": w.chances[:, :2]}, r"chances: expected shape \[6,3\], found shape \[6, 2\]"),
        (lambda w: {"own_rewards": torch.zeros(8)}, r"own_rewards: expected shape \[\*b,8,2\], found shape \[8\]"),
        (
            lambda w: {"own_rewards": torch.zeros(2, 8, 2), "reply_rewards": torch.zeros(3, 6, 3)},
            r"reply_rewards: expected shape \[\*b,6,3\], \*b that of own_rewards \[2\] or none",
        ),
        (lambda w: {"start": torch.ones(7)}, r"start: expected shape \[8\], found shape \[7\]"),
        (lambda w: {"start": torch.full((8,), 1 / 8)}, r"start: expected .* 0 at terminal states, .* index \[5\]"),
        (lambda w: {"start": w.start / 2}, "start: expected sum 1, found 0.5"),
        (lambda w: {"gamma": 1.5}, r"gamma: expected a number in \[0,1\], found 1.5"),
        (lambda w: {"moves": with_one(w.moves, 1, 0, value=6)}, r"moves: expected -1 or a number below 6, .* \[1, 0\]"),
        (lambda w: {"moves": with_one(w.moves, 1, 0, value=-2)}, r"moves: expected -1 or a number below 6, .* index"),
        (lambda w: {"replies": with_one(w.replies, 2, 1, value=8)}, r"replies: expected -1 or a number below 8, .*"),
        (
            lambda w: {"replies": with_one(w.replies, 2, 1, value=-1)},
            r"chances: expected probability 0 where there is no reply, .* index \[2, 1\]",
        ),
        (lambda w: {"chances": with_one(w.chances, 1, 0, value=-0.1)}, r"chances: expected probabilities, .* \[1, 0\]"),
        (lambda w: {"chances": with_one(w.chances, 1, 0, value=math.nan)}, r"chances: expected probabilities, .*"),
        (lambda w: {"chances": 2 * w.chances}, r"chances: expected probabilities that sum to one over replies"),
        (lambda w: {"own_rewards": torch.full((8, 2), math.inf)}, r"own_rewards: expected finite numbers, .* \[0, 0\]"),
        (lambda w: {"reply_rewards": torch.full((6, 3), math.nan)}, "reply_rewards: expected finite numbers"),
        (lambda w: {"ends": {"mate": w.terminal[:7]}}, r"ends\['mate'\]: expected a bool mask \[8\], found"),
        (lambda w: {"ends": {"mate": ~w.terminal}}, r"ends\['mate'\]: expected terminal states only, .* index \[0\]"),
        (
            lambda w: {"ends": {"mate": w.terminal, "draw": w.terminal}},
            r"ends\['draw'\]: expected no state of the ends before it, .* index \[5\]",
        ),
        (
            lambda w: {"ends": {"mate": w.ends["mate"]}},
            r"ends: expected every terminal state in one of them, .* index \[6\]",
        ),
    ],
)  # fmt: skip
def test_numbers_that_make_no_world_are_refused(change, message: str) -> None:
    world = layered(0)
    with pytest.raises(WorldError, match=message):
        replace(world, **change(world))


def test_a_policy_that_is_none_is_refused() -> None:
    world = layered(0)
    uniform = world.uniform_policy()
    for ask in (world.state_values, world.occupancy, world.policy_gradient, world.ending):
        with pytest.raises(WorldError, match=r"policy: expected shape \[\*b,8,2\], found shape \[7, 2\]"):
            ask(uniform[:7])
        with pytest.raises(WorldError, match="policy: expected probabilities that sum to one over actions"):
            ask(2 * uniform)
        with pytest.raises(WorldError, match=r"policy: expected probability 0 for illegal actions, .* index \[4, 1\]"):
            ask(torch.full((8, 2), 0.5))


def test_enumeration_takes_one_world_and_one_policy() -> None:
    with pytest.raises(WorldError, match="takes one world and one policy"):
        layered(0).enumerate(layered(0).uniform_policy()[None], 3)
    several = replace(layered(0), own_rewards=torch.zeros(2, 8, 2))
    with pytest.raises(WorldError, match="takes one world and one policy"):
        several.enumerate(several.uniform_policy(), 3)
