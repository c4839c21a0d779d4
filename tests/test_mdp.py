import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from pydantic import ValidationError

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.finite import BuiltFinite, FiniteWorld
from rlhf_lab.training.protocols import Size
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.walk import draw_action
from rlhf_lab.types import link_values
from rlhf_lab.worlds.tabular import TabularMDP
from rlhf_lab_mdp import GridWorld, RandomWalk, ShortCorridor, TransitionTable


class Table:
    """An actor given by tables: logits [runs, states, actions], values [runs, states]."""

    def __init__(self, logits, values=None):
        self.logits, self.table = logits, values

    def action_log_probs(self, observations, mask=None):
        logits = self.logits.gather(1, observations[..., None].expand(*observations.shape, self.logits.shape[-1]))
        return (logits if mask is None else logits.masked_fill(~mask, -math.inf)).log_softmax(-1)

    def values(self, observations):
        return None if self.table is None else self.table.gather(1, observations)


def actor_for(built, seeds, dtype=torch.float32):
    """A random policy and critic that belong to the seed."""
    spaces, streams = built.spaces, Streams(seeds)["actor"]
    logits = streams.normals(0, spaces.states, spaces.actions, dtype=dtype)
    return Table(logits, streams.normals(1, spaces.states, dtype=dtype))


def equal(a: Samples, b: Samples, run_a=slice(None), run_b=slice(None)):
    """Whether two samples are bit-equal at every valid step."""
    one, two = a.trajectories, b.trajectories
    steps = max(one.valid[run_a].any(0).any(0).sum(), two.valid[run_b].any(0).any(0).sum())
    tensors = [(getattr(one, n), getattr(two, n)) for n in ("rewards", "terminated", "truncated", "valid", "log_probs")]
    tensors += [(getattr(one, n), getattr(two, n)) for n in ("values", "next_values") if one.values is not None]
    tensors += [(a.inputs[name], b.inputs[name]) for name in a.inputs]
    return all(torch.equal(x[run_a][:, :, :steps], y[run_b][:, :, :steps]) for x, y in tensors)


WORLDS = [
    RandomWalk(states=5, max_steps=7),
    ShortCorridor(reward_noise=0.5),
    GridWorld(slip=0.2, walls=(5,), max_steps=12),
    TransitionTable(),
]
SIZES = [Size(9), Size(3, "episodes")]


# Worlds


def test_the_random_walk_has_the_values_of_the_text():
    # v solves v(s) = (v(s-1) + v(s+1)) / 2 with v(0) = -1, v(20) = 1: the line s / 10 - 1
    world = RandomWalk().world()
    uniform = torch.full((21, 2), 0.5, dtype=torch.float64)
    expected = torch.arange(1, 20, dtype=torch.float64) / 10 - 1
    torch.testing.assert_close(world.state_values(uniform)[1:-1], expected, rtol=0, atol=1e-12)
    assert int(world.start.argmax()) == 10


@pytest.mark.parametrize("p", [0.05, 0.5, 2 - math.sqrt(2), 0.95])
def test_the_short_corridor_has_the_closed_form_value(p):
    # v0 = -1 + p v1 + (1-p) v0, v1 = -1 + p v0 + (1-p) v2, v2 = -1 + (1-p) v1  =>  v0 = -2 (2 - p) / (p (1 - p))
    value = ShortCorridor().world().expected_return(torch.tensor([1 - p, p], dtype=torch.float64).expand(4, 2))
    assert float(value) == pytest.approx(-2 * (2 - p) / (p * (1 - p)), abs=1e-9)


def test_the_short_corridor_features_hide_the_state():
    value, action = ShortCorridor().features()
    assert bool((value == value[0]).all())
    assert bool((action == action[0]).all())
    assert action[0].tolist() == [[0, 1], [1, 0]]


def test_the_grid_worlds_are_those_of_the_text():
    # Sutton and Barto 2018, figures 3.2 and 4.1, to the printed digit
    five = GridWorld(
        height=5, width=5, goals=(), step_reward=0, bump_reward=-1, jumps=((1, 21, 10), (3, 13, 5)), gamma=0.9
    )
    values = five.world().state_values(torch.full((25, 4), 0.25, dtype=torch.float64))
    assert [round(v, 1) for v in values.tolist()] == [
        *(3.3, 8.8, 4.4, 5.3, 1.5),
        *(1.5, 3.0, 2.3, 1.9, 0.5),
        *(0.1, 0.7, 0.7, 0.4, -0.4),
        *(-1.0, -0.4, -0.4, -0.6, -1.2),
        *(-1.9, -1.3, -1.2, -1.4, -2.0),
    ]
    four = GridWorld().world().state_values(torch.full((16, 4), 0.25, dtype=torch.float64))
    assert four.round().tolist()[:8] == [0, -14, -20, -22, -14, -18, -20, -20]


def test_a_slipping_walker_goes_in_a_random_direction():
    # from cell 5 of the 4x4 grid, up with slip 0.4: 0.6 + 0.1 up, 0.1 in each other direction
    row = GridWorld(slip=0.4).world().transition[5, 0]
    assert {s: round(p, 12) for s, p in enumerate(row.tolist()) if p} == {1: 0.7, 4: 0.1, 6: 0.1, 9: 0.1}


def test_walls_are_never_entered():
    world = GridWorld(walls=(5, 6)).world()
    outside = [s for s in range(16) if s not in (5, 6)]
    assert float(world.transition[outside][:, :, [5, 6]].sum()) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"goals": (16,)}, "cell 16 is outside the 4 x 4 grid"),
        ({"walls": (3,), "start": 3}, "cell 3 is a wall"),
        ({"start": 0}, "no episode can start on a goal"),
        ({"height": 1, "width": 1, "goals": (0,)}, "no episode can start on a goal"),
    ],
)
def test_an_impossible_grid_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        GridWorld(**fields)


@pytest.mark.parametrize("number", [math.inf, math.nan])
@pytest.mark.parametrize(
    ("world", "field"),
    [
        *((RandomWalk, field) for field in ("left_reward", "right_reward")),
        *((GridWorld, field) for field in ("step_reward", "goal_reward", "bump_reward", "slip")),
    ],
)
def test_a_number_that_is_not_finite_is_refused(world, field, number):
    with pytest.raises(ValidationError, match=rf"{field}\n  Input should be "):
        world(**{field: number})


@pytest.mark.parametrize(
    ("name", "optimum", "limit"),
    [("FrozenLake-v1", 14 / 17, 100), ("CliffWalking-v1", -13, 10_000), ("Taxi-v4", None, 200)],
)
def test_a_gymnasium_table_is_a_world(name, optimum, limit):
    # 14 / 17 = 0.8235, the known optimum of the slippery 4x4 lake; 13 steps around the cliff
    component = TransitionTable(id=name)
    assert component.step_limit() == limit
    if optimum is not None:
        assert float(component.world().optimal_return()) == pytest.approx(optimum, abs=1e-6)


def test_an_environment_without_a_table_is_refused():
    with pytest.raises(LabError, match="has no transition table"):
        TransitionTable(id="CartPole-v1").world()
    with pytest.raises(LabError, match="cannot make 'Nowhere-v0'"):
        TransitionTable(id="Nowhere-v0").world()


def test_an_environment_that_raises_is_refused_with_its_arguments():
    message = "cannot make 'FrozenLake-v1' with kwargs {'map_name': '9x9'}: KeyError: '9x9'"
    with pytest.raises(LabError, match=message):
        TransitionTable(id="FrozenLake-v1", kwargs={"map_name": "9x9"}).world()


# Rollouts


def test_sampled_frequencies_are_those_of_the_tables():
    # 4.5 standard errors for each start state, action and successor of a slippery grid under a random policy
    component = GridWorld(slip=0.3, goals=(15,))
    built = component.build(4, 25, Streams(range(4)))
    actor = actor_for(built, [1] * 4)
    samples = built.collect(actor, Size(600))
    states, actions = samples.inputs["observations"], samples.inputs["actions"]
    policy = actor.action_log_probs(torch.arange(16).expand(4, 16)).exp()[0].double()
    fresh = built.collect(actor, Size(100, "episodes"))
    first = fresh.inputs["observations"][..., 0].flatten().bincount(minlength=16)
    inside = ~(samples.trajectories.terminated | samples.trajectories.truncated)[..., :-1]
    pairs = (states * 4 + actions)[..., :-1][inside], states[..., 1:][inside]
    moved = torch.zeros(64, 16).index_put_(pairs, torch.tensor(1.0), accumulate=True)
    chosen = torch.zeros(16, 4).index_put_((states.flatten(), actions.flatten()), torch.tensor(1.0), accumulate=True)
    transition = component.world().transition.flatten(0, 1).clone()
    transition[:, 15] = 0  # steps into the goal have no successor in the row
    transition = transition / transition.sum(1, keepdim=True).clamp(min=1e-9)
    for counts, p in ((first, component.world().start), (moved, transition), (chosen, policy)):
        n = counts.sum(-1, keepdim=True)
        assert bool(((counts - n * p).abs() <= 4.5 * (n * p * (1 - p)).sqrt() + 1e-6).all())


@pytest.mark.parametrize(("u", "action"), [(1e-9, 1), (0.24, 1), (0.26, 2), (0.74, 2), (0.99, 2)])
def test_an_action_without_probability_is_never_drawn(u, action):
    # shares (0, .25] and (.25, .75]; what rounding leaves above the sum goes to the last action that has a share
    assert draw_action(np.array([[[0.0, 0.25, 0.5, 0.0]]]), 0, 0, u) == action


def test_rewards_are_those_of_the_table_plus_noise():
    built = RandomWalk(states=3, reward_noise=2.0).build(2, 50, Streams([3, 4]))
    samples = built.collect(Table(torch.zeros(2, 5, 2)), Size(400))
    mean = torch.zeros(5, 2)
    mean[1, 0], mean[3, 1] = -1, 1
    noise = samples.trajectories.rewards - mean[samples.inputs["observations"], samples.inputs["actions"]]
    n = noise.numel()  # standard errors of mean and variance: 2 / sqrt(n), 4 sqrt(2 / n)
    assert abs(float(noise.mean())) < 4.5 * 2 / math.sqrt(n)
    assert abs(float(noise.var()) - 4) < 4.5 * 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("component", WORLDS, ids=lambda c: c.name)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: s.unit)
def test_a_seed_is_bit_equal_alone_and_among_others(component, size):
    seeds = [5, 17, 2]
    together, alone = component.build(3, 2, Streams(seeds)), component.build(1, 2, Streams([17]))
    for _ in range(3):
        crowd, single = together.collect(actor_for(together, seeds), size), alone.collect(actor_for(alone, [17]), size)
        assert equal(crowd, single, slice(1, 2), slice(0, 1))


@pytest.mark.parametrize("component", WORLDS, ids=lambda c: c.name)
def test_two_windows_are_one_long_window(component):
    one, two = (component.build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for(one, [1, 2])
    whole = one.collect(actor, Size(30))
    parts = [two.collect(actor, Size(n)) for n in (11, 19)]
    for name in ("observations", "actions"):
        assert torch.equal(whole.inputs[name], torch.cat([p.inputs[name] for p in parts], -1))
    for name in ("rewards", "terminated", "truncated", "log_probs", "values", "next_values"):
        cut = torch.cat([getattr(p.trajectories, name) for p in parts], -1)
        assert torch.equal(getattr(whole.trajectories, name), cut)


@pytest.mark.parametrize("component", WORLDS, ids=lambda c: c.name)
def test_a_restored_environment_goes_on_as_if_nothing_had_happened(component):
    one = component.build(2, 3, Streams([1, 2]))
    actor = actor_for(one, [1, 2])
    one.collect(actor, Size(7))
    one.collect(actor, Size(2, "episodes"))
    saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    expected = [one.collect(actor, size) for size in SIZES]
    other = component.build(2, 3, Streams([1, 2]))
    other.load_state_dict(saved)
    assert all(equal(a, other.collect(actor, size)) for a, size in zip(expected, SIZES, strict=True))


@pytest.mark.parametrize("component", WORLDS, ids=lambda c: c.name)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: s.unit)
def test_values_are_linked(component, size):
    built = component.build(2, 3, Streams([1, 2]))
    batch = built.collect(actor_for(built, [1, 2]), size).trajectories
    linked = link_values(batch.values, batch.terminated, batch.truncated, batch.valid, batch.next_values)
    assert torch.equal(linked, batch.next_values)


def test_every_row_of_whole_episodes_is_one_fresh_episode():
    built = RandomWalk(states=5).build(3, 2, Streams([1, 2, 3]))
    samples = built.collect(actor_for(built, [1, 2, 3]), Size(4, "episodes"))
    batch = samples.trajectories
    assert batch.valid.shape[:2] == (3, 8)
    ends = batch.terminated | batch.truncated
    assert bool((ends.sum(-1) == 1).all())
    assert torch.equal(ends.int().argmax(-1) + 1, batch.valid.sum(-1))  # the end is the last valid step
    assert bool((samples.inputs["observations"][..., 0] == 3).all())
    assert bool(batch.valid[..., -1].any())  # no longer than the longest


def test_whole_episodes_do_not_disturb_the_windows():
    one, two = (RandomWalk().build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for(one, [1, 2])
    first = one.collect(actor, Size(4, "episodes"))
    assert not equal(first, one.collect(actor, Size(4, "episodes")))
    assert equal(one.collect(actor, Size(20)), two.collect(actor, Size(20)))


def test_a_step_limit_truncates_with_the_value_of_the_true_next_state():
    # always right from the middle (3) of 5 states: 3, 4 | cut after two steps before state 5, again and again
    built = RandomWalk(states=5, max_steps=2).build(1, 1, Streams([0]))
    logits = torch.tensor([-1e9, 0.0]).expand(1, 7, 2)
    samples = built.collect(Table(logits, torch.arange(7.0)[None]), Size(5))
    batch = samples.trajectories
    assert samples.inputs["observations"].tolist() == [[[3, 4, 3, 4, 3]]]
    assert batch.truncated.tolist() == [[[False, True, False, True, False]]]
    assert not bool(batch.terminated.any())
    assert batch.next_values.tolist() == [[[4, 5, 4, 5, 4]]]


def test_a_step_that_arrives_at_the_limit_is_terminated_only():
    # 3 -> 4 -> 5 -> end is three steps, and the limit is three
    built = RandomWalk(states=5, max_steps=3).build(1, 1, Streams([0]))
    batch = built.collect(Table(torch.tensor([-1e9, 0.0]).expand(1, 7, 2)), Size(4)).trajectories
    assert batch.terminated.tolist() == [[[False, False, True, False]]]
    assert not bool(batch.truncated.any())
    assert batch.values is None


def test_illegal_actions_are_never_taken():
    transition = torch.zeros(3, 3, 3)
    transition[:, :, 2] = 1
    legal = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    world = TabularMDP(
        transition, torch.zeros(3, 3, 3), torch.tensor([1.0, 0, 0]), torch.tensor([False, False, True]), legal=legal
    )
    built = BuiltFinite(world, 2, 4, Streams([0, 1]))
    samples = built.collect(Table(torch.zeros(2, 3, 3)), Size(50))
    assert built.spaces.masked
    assert samples.inputs["actions"].unique().tolist() == [0, 2]
    assert bool((samples.inputs["mask"] == legal[0]).all())
    torch.testing.assert_close(samples.trajectories.log_probs, torch.full((2, 4, 50), math.log(0.5)))


def test_each_run_is_paid_by_its_own_rewards():
    world = RandomWalk(states=1).world()
    paid = TabularMDP(world.transition, torch.stack([world.reward, 10 * world.reward]), world.start, world.terminal)
    batch = BuiltFinite(paid, 2, 1, Streams([0, 0])).collect(Table(torch.zeros(2, 3, 2)), Size(8)).trajectories
    assert torch.equal(batch.rewards[1], 10 * batch.rewards[0])
    assert bool((batch.rewards != 0).all())


def test_trajectories_have_the_dtype_of_the_actor():
    built = RandomWalk().build(1, 1, Streams([0]))
    batch = built.collect(actor_for(built, [0], torch.float64), Size(3)).trajectories
    assert {x.dtype for x in (batch.rewards, batch.values, batch.next_values, batch.log_probs)} == {torch.float64}


# Gymnasium


@pytest.mark.parametrize("name", ["RandomWalk", "ShortCorridor", "GridWorld"])
def test_gymnasium_accepts_the_environment(name):
    env = gymnasium.make(f"rlhf_lab_mdp:rlhf_lab/{name}-v0", render_mode="ansi")
    check_env(env.unwrapped)
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1] * int(env.action_space.n)
    assert isinstance(env.render(), str)


def test_gymnasium_steps_are_those_of_the_table():
    env = gymnasium.make("rlhf_lab/GridWorld-v0", slip=0.5, walls=(6,), max_steps=9)
    world = GridWorld(slip=0.5, walls=(6,)).world()
    rng = np.random.default_rng(0)
    lengths = set()
    for episode in range(200):
        state, _ = env.reset(seed=episode)
        assert world.start[state] > 0
        for step in range(1, 10):
            action = int(rng.integers(4))
            after, reward, terminated, truncated, _ = env.step(action)
            assert world.transition[state, action, after] > 0
            assert reward == float(world.reward[state, action, after])
            assert terminated == bool(world.terminal[after])
            assert truncated == (step == 9 and not terminated)
            state = after
            if terminated or truncated:
                lengths.add(step)
                break
    assert {1, 9} <= lengths


def test_make_vec_gives_the_mask_and_its_autoreset_mode():
    envs = gymnasium.make_vec("rlhf_lab/RandomWalk-v0", num_envs=3, states=3)
    observations, info = envs.reset(seed=[1, 2, 3])
    assert observations.tolist() == [2, 2, 2]
    assert info["action_mask"].tolist() == [[1, 1]] * 3
    assert isinstance(envs.metadata["autoreset_mode"], gymnasium.vector.AutoresetMode)


def test_an_illegal_action_is_refused():
    env = gymnasium.make("rlhf_lab/RandomWalk-v0").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 2 is illegal in state 10"):
        env.step(2)


def test_a_world_draws_itself():
    assert GridWorld(walls=(5,)).text(1) == "Go..\n.#..\n....\n...G"
    assert RandomWalk(states=3).text(2) == "|.o.|"
    assert ShortCorridor().text(0) == "o~.G"
    assert isinstance(TransitionTable(), FiniteWorld) and TransitionTable().text(7) == "state 7"
