import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from pydantic import ValidationError

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Size
from rlhf_lab.types import link_values
from rlhf_lab_gymnasium import GymnasiumEnvironment

MODES = ["next_step", "same_step", "disabled"]


class Counter(gymnasium.Env):
    """Counts its steps: observation (seed-drawn tag, steps). Ends after 3 steps, or is truncated after ``limit``."""

    def __init__(self, limit=100, space=None):
        self.limit = limit
        self.observation_space = space or Box(0, 1e6, (2,), np.float32)
        self.action_space = Discrete(3)

    def observation(self):
        return np.array([self.tag, self.steps], dtype=np.float32)

    def info(self):
        return {"action_mask": np.array([1, self.steps % 2, 1], dtype=np.int8)}  # action 1 only after odd steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tag, self.steps = int(self.np_random.integers(1000)), 0
        return self.observation(), self.info()

    def step(self, action):
        assert self.info()["action_mask"][action], "an illegal action was played"
        self.steps += 1
        done, cut = self.steps >= 3, self.steps >= self.limit
        return self.observation(), float(10 * self.steps + action), done, cut, self.info()


class Target(gymnasium.Env):
    """One step: the reward is minus the squared distance of the played action [2] from (1, 1)."""

    observation_space = Box(-1, 1, (2, 2), np.float64)
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((2, 2)), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros((2, 2)), -float(((action - 1) ** 2).sum()), True, False, {}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("test/Counter-v0", entry_point=Counter)
    gymnasium.register("test/Target-v0", entry_point=Target)
    yield
    for name in ("test/Counter-v0", "test/Target-v0"):
        del gymnasium.registry[name]


class Actor:
    """Acts uniformly among the legal actions; V(observation) = sum of its numbers."""

    def __init__(self, actions):
        self.actions = actions

    def act(self, observations, uniforms, mask=None):
        if mask is None:
            mask = torch.ones(*uniforms.shape, self.actions, dtype=torch.bool)
        cumulative = mask.double().cumsum(-1) / mask.sum(-1, keepdim=True)
        return (cumulative <= uniforms[..., None]).sum(-1), -mask.sum(-1).double().log().float()

    def values(self, observations):
        return (observations if observations.ndim == 2 else observations.flatten(2).sum(-1)).float()


class Pusher(Actor):
    """Plays the uniforms, moved out of bounds."""

    def act(self, observations, uniforms, mask=None):
        return uniforms.float() + 0.5, uniforms.sum(-1).float()


def steps_of(samples):
    """The valid steps of each row, one after the other: [(observation, action, reward, flags, values, ...)]."""
    batch = samples.trajectories
    columns = [samples.inputs["observations"], samples.inputs["actions"], batch.rewards, batch.terminated]
    columns += [batch.truncated, batch.values, batch.next_values, batch.log_probs]
    columns += [samples.inputs["mask"]] if "mask" in samples.inputs else []
    runs, rows, _ = batch.valid.shape
    return {
        (run, row): [
            tuple(column[run, row, t].tolist() for column in columns)
            for t in batch.valid[run, row].nonzero().flatten().tolist()
        ]
        for run in range(runs)
        for row in range(rows)
    }


def collect(size, seeds=(1, 2), envs=3, actor=None, times=1, **fields):
    component = GymnasiumEnvironment(**{"id": "test/Counter-v0", **fields})
    built = component.build(len(seeds), envs, Streams(list(seeds)))
    for _ in range(times):
        samples = built.collect(actor or Actor(built.spaces.actions), size)
    return samples


@pytest.mark.parametrize("limit", [100, 2])
@pytest.mark.parametrize("mode", MODES)
def test_every_autoreset_mode_gives_the_same_steps(mode, limit):
    # NEXT_STEP spends a column on each reset: 20 columns hold 15 steps of 3-step episodes (3 of 4), 14 of 2-step ones.
    # Two windows each, so that a reset also falls between windows; NEXT_STEP's steps are then the first of SAME_STEP's.
    found = {}
    for autoreset in ("same_step", mode):
        component = GymnasiumEnvironment(id="test/Counter-v0", autoreset=autoreset, kwargs={"limit": limit})
        built = component.build(2, 3, Streams([1, 2]))
        windows = [steps_of(built.collect(Actor(3), Size(10))) for _ in range(2)]
        found[autoreset] = {row: windows[0][row] + windows[1][row] for row in windows[0]}
    for row, steps in found[mode].items():
        assert len(steps) == (20 if mode != "next_step" else 15 if limit == 100 else 14)
        assert steps == found["same_step"][row][: len(steps)]


@pytest.mark.parametrize("mode", MODES)
def test_no_fake_step_is_valid(mode):
    # the rewards of a real episode are 10, 20, 30 plus the action; a reset step would pay 0
    samples = collect(Size(20), autoreset=mode)
    batch = samples.trajectories
    counted = samples.inputs["observations"][..., 1] + 1
    expected = 10 * counted + samples.inputs["actions"]
    assert torch.equal(batch.rewards[batch.valid], expected[batch.valid])
    assert bool((batch.terminated[batch.valid] == (counted == 3)[batch.valid]).all())


@pytest.mark.parametrize("mode", MODES)
def test_a_truncation_takes_the_value_of_the_real_final_observation(mode):
    # V = tag + steps; truncated after 2 steps: the next value is tag + 2, not that of a fresh episode
    samples = collect(Size(11), autoreset=mode, kwargs={"limit": 2})
    batch, seen = samples.trajectories, samples.inputs["observations"]
    assert int(batch.truncated.sum()) > 0 and not bool(batch.terminated.any())
    expected = seen.sum(-1) + 1
    assert torch.equal(batch.next_values[batch.valid], expected[batch.valid])
    linked = link_values(batch.values, batch.terminated, batch.truncated, batch.valid, batch.next_values)
    assert torch.equal(linked[batch.valid], batch.next_values[batch.valid])


def test_termination_wins_over_truncation():
    batch = collect(Size(12), kwargs={"limit": 3}).trajectories
    assert int(batch.terminated.sum()) == 2 * 3 * 4
    assert not bool(batch.truncated.any())


@pytest.mark.parametrize("mode", MODES)
def test_whole_episodes_come_one_per_row_and_equal_in_every_mode(mode):
    size = Size(2, "episodes")
    found = collect(size, autoreset=mode, times=2)
    assert found.trajectories.valid.shape == (2, 6, 3)
    assert bool(found.trajectories.terminated[..., 2].all())
    assert steps_of(found) == steps_of(collect(size, autoreset="same_step", times=2))
    assert steps_of(found) != steps_of(collect(size, autoreset=mode, times=1))


def test_masks_of_info_are_honoured():
    samples = collect(Size(30))
    legal = samples.inputs["mask"]
    odd = samples.inputs["observations"][..., 1] % 2 == 1
    assert torch.equal(legal[..., 1], odd)
    assert bool(legal.gather(-1, samples.inputs["actions"][..., None]).all())
    assert set(samples.inputs["actions"].unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
@pytest.mark.parametrize("size", [Size(30), Size(2, "episodes")], ids=lambda s: s.unit)
def test_a_seed_is_equal_alone_and_among_others(vectorization, size):
    fields = {"id": "CartPole-v1", "vectorization": vectorization, "times": 3}
    crowd, alone = collect(size, (5, 17, 2), **fields), collect(size, (17,), **fields)
    found = {row: steps for (run, row), steps in steps_of(crowd).items() if run == 1}
    assert found == {row: steps for (_, row), steps in steps_of(alone).items()}


def test_discrete_observations_are_state_numbers():
    component = GymnasiumEnvironment(id="FrozenLake-v1")
    built = component.build(2, 2, Streams([0, 1]))
    assert (built.spaces.states, built.spaces.actions, built.spaces.observation) == (16, 4, ())
    samples = built.collect(Actor(4), Size(50))
    assert samples.inputs["observations"].dtype == torch.int64
    assert samples.inputs["observations"].shape == (2, 2, 50)


def test_box_actions_are_clipped_when_played_and_recorded_as_chosen():
    samples = collect(Size(4), id="test/Target-v0", actor=Pusher(0))
    actions = samples.inputs["actions"]
    assert actions.shape == (2, 3, 4, 2)
    assert float(actions.max()) > 1
    played = actions.clamp(-1, 1)
    torch.testing.assert_close(samples.trajectories.rewards, -(played - 1).square().sum(-1))
    assert samples.inputs["observations"].shape == (2, 3, 4, 4)
    assert bool(samples.trajectories.terminated.all())


def test_a_gymnasium_environment_cannot_be_resumed():
    built = GymnasiumEnvironment().build(1, 1, Streams([0]))
    assert built.resumable is False
    assert built.exact() is None
    with pytest.raises(LabError, match="start the run again"):
        built.load_state_dict(built.state_dict())


def test_a_vector_implementation_has_its_own_autoreset():
    with pytest.raises(ValidationError, match="leave autoreset out"):
        GymnasiumEnvironment(vectorization="vector_entry_point", autoreset="same_step")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "Nowhere-v0"}, "cannot make 'Nowhere-v0'"),
        ({"id": "CartPole-v1", "kwargs": {"colour": 1}}, "cannot make 'CartPole-v1'"),
        ({"id": "FrozenLake-v1", "kwargs": {"map_name": "9x9"}}, "with kwargs {'map_name': '9x9'}: KeyError: '9x9'"),
        ({"id": "FrozenLake-v1", "vectorization": "vector_entry_point"}, "cannot make 'FrozenLake-v1'"),
        ({"kwargs": {"space": Dict({"a": Box(0, 1, (1,))})}, "id": "test/Counter-v0"}, "must be Box or Discrete"),
        ({"kwargs": {"space": Discrete(3, start=1)}, "id": "test/Counter-v0"}, "numbered from 0"),
    ],
)
def test_what_gymnasium_cannot_make_or_the_lab_cannot_play_is_refused(fields, message):
    with pytest.raises(LabError, match=message):
        GymnasiumEnvironment(**fields).build(1, 2, Streams([0]))


def test_a_lab_world_runs_through_gymnasium():
    samples = collect(Size(20), id="rlhf_lab_mdp:rlhf_lab/RandomWalk-v0", kwargs={"states": 3})
    assert bool(samples.inputs["mask"].all())
    assert int(samples.trajectories.terminated.sum()) > 0
