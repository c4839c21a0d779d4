"""Playing endings: both ways of sampling against the exact world, windows and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.finite import BuiltFinite
from rlhf_lab.training.protocols import BuiltEnvironment, PaidEnvironment, RankedEnvironment, ReadingEnvironment, Size
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import clean
from rlhf_lab_chess import KRK, EpsilonOptimal, StepCost
from rlhf_lab_chess.environment import BuiltEnding, EndingEnvironment
from rlhf_lab_chess.games import Games
from rlhf_lab_chess.gathered import Gathered

GAMMA = 0.9


class Uneven:
    """An actor that prefers slots of small numbers, always the same; its critic says the number of the state."""

    def __init__(self, actions: int) -> None:
        self.actions = actions

    def action_log_probs(self, observations: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = -0.1 * torch.arange(self.actions, dtype=torch.float64).expand(*observations.shape, -1)
        assert mask is not None
        return weights.masked_fill(~mask, -torch.inf).log_softmax(-1)

    def act(self, observations: Tensor, uniforms: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_probs = self.action_log_probs(observations, mask)
        actions = (log_probs.exp().cumsum(-1) <= uniforms[..., None]).sum(-1)
        return actions, log_probs.gather(-1, actions[..., None])[..., 0]

    def values(self, observations: Tensor) -> Tensor:
        return observations.double()

    def policy(self, built: BuiltEnding) -> Tensor:
        world = built.exact()
        open_actions = world.legal | world.terminal[:, None]
        return self.action_log_probs(torch.arange(len(open_actions)), open_actions).exp()


def finite(environment: EndingEnvironment, runs: int, envs: int, streams: Streams) -> BuiltFinite:
    return BuiltFinite(environment.world(), runs, envs, streams, limit=environment.max_steps)


def gathered(environment: EndingEnvironment, runs: int, envs: int, streams: Streams) -> Gathered:
    return Gathered(environment.world(), runs, envs, streams, environment.max_steps)


Way = Callable[[EndingEnvironment, int, int, Streams], Any]
WAYS = pytest.mark.parametrize("way", [finite, gathered])
SMALL = KRK(board=4, gamma=GAMMA, opponent=EpsilonOptimal(epsilon=0.5), reward=StepCost(cost=0.01), max_steps=10_000)


def actor(environment: EndingEnvironment) -> Any:
    return Uneven(environment.ending().moves.shape[1])


def same(one: Samples, other: Samples) -> bool:
    names = ("rewards", "terminated", "truncated", "valid", "values", "next_values", "log_probs")
    inputs = all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    return inputs and all(torch.equal(getattr(one.trajectories, x), getattr(other.trajectories, x)) for x in names)


def joined(one: Samples, other: Samples) -> dict[str, Tensor]:
    """What two windows say one behind the other, but for the values that the first takes at its open edge."""
    found = {name: torch.cat([one.inputs[name], other.inputs[name]], 2) for name in one.inputs}
    for name in ("rewards", "terminated", "truncated", "valid", "log_probs", "values"):
        found[name] = torch.cat([getattr(x.trajectories, name) for x in (one, other)], 2)
    return found


# ---- the two ways of playing are the exact world


@WAYS
def test_samples_are_of_the_exact_world(way: Way):
    # 4,000 whole games: mean return and mean length by a z-test, first positions by their distance to mate
    built = SMALL.build(1, 1, Streams([0]))
    white, world = actor(SMALL), built.exact()
    policy = white.policy(built)
    samples = way(SMALL, 2, 100, Streams([3, 4])).collect(white, Size(20, "episodes"))
    batch = samples.trajectories
    assert batch.rewards.shape[:2] == (2, 2000)
    assert not batch.truncated.any()
    assert (batch.terminated.sum(-1) == 1).all()
    returns = (batch.rewards * GAMMA ** torch.arange(batch.rewards.shape[2])).sum(-1)
    lengths = batch.valid.sum(-1).double()
    due = float(world.expected_return(policy)), float(world.occupancy(policy, discounted=False).sum())
    for found, expected in zip((returns, lengths), due, strict=True):
        z = (found.mean() - expected) / found.std() * math.sqrt(found.numel())
        assert abs(float(z)) < 3
    moves = np.array([SMALL.ending().moves_to_mate(state) for state in range(built.ending.states - 3)])
    first = np.bincount(moves[samples.inputs["observations"][..., 0]].flatten(), minlength=8)
    share = np.bincount(moves, minlength=8) / len(moves)
    assert share[1:].min() * 4000 > 5
    chi = ((first[1:] - 4000 * share[1:]) ** 2 / (4000 * share[1:])).sum()
    assert chi < 18.5  # of 6 degrees of freedom: one in 200 is above


@WAYS
def test_what_follows_a_move_has_the_branches_probabilities(way: Way):
    # of the first steps from one position, by the state behind them; -1 is the end of a game
    built = SMALL.model_copy(update={"start": ("3k/4/4/KR2 w - - 0 1",)})
    world = built.world()
    samples = way(built, 1, 4000, Streams([5])).collect(actor(built), Size(2))
    states, actions = (samples.inputs[name][0, :, 0] for name in ("observations", "actions"))
    ended = samples.trajectories.terminated[0, :, 0]
    behind = samples.inputs["observations"][0, :, 1].masked_fill(ended, -1)
    assert len(states.unique()) == 1
    policy = actor(built).policy(built.build(1, 1, Streams([0])))
    state, expected = int(states[0]), dict[int, float]()
    for action in world.legal[state].nonzero()[:, 0].tolist():
        position = int(world.moves[state, action])
        for after, chance in zip(world.replies[position].tolist(), world.chances[position].tolist(), strict=True):
            after = -1 if world.terminal[after] else after
            expected[after] = expected.get(after, 0) + float(policy[state, action]) * chance
    expected = {after: share for after, share in expected.items() if share}
    assert sum(expected.values()) == pytest.approx(1)
    assert world.legal[state, actions].all()
    found = {after: int((behind == after).sum()) for after in expected}
    assert sum(found.values()) == 4000
    common = [after for after in expected if 4000 * expected[after] > 5]
    chi = sum((found[x] - 4000 * expected[x]) ** 2 / (4000 * expected[x]) for x in common)
    assert len(common) > 10
    assert chi < len(common) + 3 * math.sqrt(2 * len(common))


@WAYS
def test_a_seed_plays_the_same_whatever_plays_beside_it(way: Way):
    white = actor(SMALL)
    together, alone = way(SMALL, 3, 8, Streams([1, 2, 3])), way(SMALL, 1, 8, Streams([2]))
    index = torch.arange(8)[None]
    for size in (Size(7), Size(2, "episodes"), Size(3)):
        both = together.collect(white, size), alone.collect(white, size)
        longest = both[1].trajectories.rewards.shape[2]
        rows = both[1].trajectories.rewards.shape[1]
        index = torch.arange(rows).expand(3, -1)
        found = both[0].select(index)
        for name in ("rewards", "terminated", "valid", "log_probs", "values"):
            one, other = (getattr(x.trajectories, name) for x in (found, both[1]))
            assert torch.equal(one[1, :, :longest], other[0])
            assert not one[1, :, longest:].any() or size.unit == "steps" or name == "values"
        valid = both[1].trajectories.valid[0]
        for name in ("observations", "actions"):
            one, other = (x.inputs[name] for x in (found, both[1]))
            assert torch.equal(one[1, :, :longest][valid], other[0][valid])


@WAYS
def test_windows_of_two_and_three_steps_are_one_of_five(way: Way):
    environment = SMALL.model_copy(update={"max_steps": 4})  # so that games end and begin within
    white = actor(environment)
    parts, whole = way(environment, 2, 16, Streams([1, 2])), way(environment, 2, 16, Streams([1, 2]))
    found = joined(parts.collect(white, Size(2)), parts.collect(white, Size(3)))
    due = joined(*[whole.collect(white, Size(count)) for count in (5, 1)])
    for name, x in found.items():
        assert torch.equal(x, due[name][:, :, :5]), name
    assert due["truncated"].any()


@WAYS
def test_a_restored_state_goes_on_exactly(way: Way):
    environment = SMALL.model_copy(update={"max_steps": 7})  # so that it matters how old games are
    white = actor(environment)
    playing, restored = way(environment, 2, 4, Streams([1, 2])), way(environment, 2, 4, Streams([1, 2]))
    playing.collect(white, Size(5))
    playing.collect(white, Size(1, "episodes"))
    restored.load_state_dict({name: x.clone() for name, x in playing.state_dict().items()})
    for size in (Size(5), Size(1, "episodes"), Size(5)):
        assert same(playing.collect(white, size), restored.collect(white, size))


@WAYS
def test_moves_do_not_depend_on_how_the_first_position_was_drawn(way: Way):
    # one number must not choose both: of games in windows, correlate the first state with the first move's quantile
    environment = SMALL.model_copy(update={"max_steps": 1})
    samples = way(environment, 1, 100, Streams([1])).collect(actor(environment), Size(40))
    states, slots = (samples.inputs[name][0, :, 1:].flatten() for name in ("observations", "actions"))
    legal = environment.world().legal[states]
    before = (legal & (torch.arange(legal.shape[1]) < slots[:, None])).sum(-1) / legal.sum(-1)
    correlation = torch.corrcoef(torch.stack([states.double(), before.double()]))[0, 1]
    assert abs(float(correlation)) < 3 / math.sqrt(len(states))


@WAYS
def test_a_game_is_truncated_after_so_many_moves(way: Way):
    environment = SMALL.model_copy(update={"max_steps": 3})
    batch = way(environment, 1, 200, Streams([1])).collect(actor(environment), Size(1, "episodes")).trajectories
    assert batch.valid.shape[2] == 3
    assert not (batch.terminated & batch.truncated).any()
    assert ((batch.terminated | batch.truncated).sum(-1) == 1).all()
    assert torch.equal(batch.truncated.any(-1), batch.valid.all(-1) & ~batch.terminated.any(-1))
    assert batch.truncated.any() and batch.terminated.any()
    # a truncation is followed by the value of the position that was reached, an end by nothing
    after = batch.next_values
    assert after is not None
    assert (after[batch.truncated] > 0).all()
    assert not after[batch.terminated].any()


@WAYS
def test_a_critic_is_asked_about_the_position_that_was_reached(way: Way):
    # the critic says the state's number, so that next_values are those of the following observations
    samples = way(SMALL, 1, 20, Streams([1])).collect(actor(SMALL), Size(12))
    batch, states = samples.trajectories, samples.inputs["observations"]
    assert batch.values is not None and batch.next_values is not None
    assert torch.equal(batch.values, states.double())
    inside = ~batch.terminated[..., :-1]
    assert torch.equal(batch.next_values[..., :-1][inside], states[..., 1:][inside].double())
    assert not batch.next_values[batch.terminated].any()
    assert samples.inputs["mask"].gather(-1, samples.inputs["actions"][..., None]).all()


# ---- the environment


@pytest.mark.parametrize(("board", "way"), [(4, BuiltFinite), (5, Gathered)])
def test_small_boards_are_walked_and_large_ones_gathered(board, way):
    built = KRK(board=board).build(1, 1, Streams([0]))
    assert isinstance(built._rollouts, way)
    assert isinstance(built, BuiltEnvironment)
    assert isinstance(built, PaidEnvironment)
    assert isinstance(built, ReadingEnvironment)
    assert not isinstance(built, RankedEnvironment)  # its episodes are games, no responses
    samples = built.collect(actor(KRK(board=board)), Size(3))
    assert samples.inputs["mask"].shape == (1, 1, 3, built.spaces.actions)


@pytest.mark.parametrize("board", [4, 5])
def test_a_proxy_is_paid_and_the_truth_is_told(board):
    environment = KRK(board=board, proxy=StepCost(cost=0.25))
    built = environment.build(1, 4, Streams([0]))
    batch = built.collect(actor(environment), Size(20, "episodes")).trajectories
    mated = clean(batch.rewards, batch.valid)[batch.terminated]
    assert set(mated.tolist()) <= {-0.25, 0.75}
    assert (batch.rewards[batch.valid & ~batch.terminated] == -0.25).all()
    assert float(built.exact().own_rewards.min()) == 0
    assert float(built.paid().own_rewards.min()) == -0.25


def test_without_a_proxy_what_is_paid_is_the_truth():
    built = KRK(board=4).build(1, 1, Streams([0]))
    assert built.paid() is built.exact()


def test_a_policy_learns_to_mate():
    # tabular policy gradient on the exact gradient's own world: the value grows towards the optimum
    registry = load_plugins()
    spec, _ = make_spec(
        {
            "environment": {"name": "krk", "board": 4, "mate_in": [1, 2]},
            "policy": {"name": "tabular_softmax", "critic": False},
            "trainer": {"name": "online", "envs": 16, "steps": 16},
            "advantage": "monte_carlo",
            "objective": "reinforce",
            "optimizer": {"name": "adam", "lr": 0.3},
            "gamma": 0.9,
        },
        registry,
    )
    learner: Any = start(spec, [0])
    world = learner.environment.exact()
    before = float(world.expected_return(world.uniform_policy()))
    for _ in range(60):
        learner.step(0.0)
    states = torch.arange(learner.environment.ending.states)[None]
    mask = world.legal | world.terminal[:, None]
    policy = learner.actor.action_log_probs(states, mask[None]).exp()[0].detach().double()
    assert float(world.expected_return(policy / policy.sum(-1, keepdim=True))) > 2 * before


# ---- games of any shape


@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 3, 2)])
def test_games_have_any_shape(shape):
    world = SMALL.world()
    flat, games = Games(world, (6,), limit=5), Games(world, shape, limit=5)
    numbers = torch.rand(9, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat.begin(numbers[0, :, 0])
    games.begin(numbers[0, :, 0].reshape(shape))
    for row in numbers[1:]:
        actions = (torch.where(flat.legal(), row[:, :1], -1) * torch.arange(1, 21)).argmax(-1)
        one = flat.step(actions, row[:, 1])
        other = games.step(actions.reshape(shape), row[:, 1].reshape(shape))
        for a, b in zip(one, other, strict=True):
            assert b.shape == shape
            assert torch.equal(a, b.flatten())
        ended = one.terminated | one.truncated
        flat.begin(row[:, 0].contiguous(), ended)
        games.begin(row[:, 0].reshape(shape).contiguous(), ended.reshape(shape))
        assert torch.equal(flat.state, games.state.flatten())
        assert torch.equal(flat.age, games.age.flatten())
        assert not flat.age[ended].any()


def test_games_beside_others_share_nothing_but_the_world():
    games = Games(SMALL.world(), (2, 3), limit=5)
    games.begin(torch.full((2, 3), 0.5, dtype=torch.float64))
    before = games.state.clone()
    other = games.beside((4,))
    assert other.state.shape == other.age.shape == (4,)
    other.begin(torch.full((4,), 0.1, dtype=torch.float64))
    assert torch.equal(games.state, before)


def test_no_number_leads_to_an_answer_that_never_comes():
    world = SMALL.world()
    games = Games(world, (1,), limit=5)
    for number in (2.0**-33, 1 - 2.0**-33):
        for state in range(0, 1312, 7):
            games.state = torch.tensor([state])
            action = world.legal[state].nonzero()[0]
            answer = int(games.step(action, torch.tensor([number], dtype=torch.float64)).answers)
            assert world.chances[world.moves[state, action], answer] > 0
