import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Size
from rlhf_lab.types import link_values
from rlhf_lab_mdp import CartPole
from rlhf_lab_mdp.cartpole import physics

SIZES = [Size(40), Size(3, "episodes")]


class Linear:
    """An actor with weights [runs, 4]: pushes right with probability sigmoid(w · x); V(x) = v · x."""

    def __init__(self, weights, critic=None):
        self.weights, self.critic = weights, critic

    def act(self, observations, uniforms, mask=None):
        p = torch.sigmoid((observations * self.weights[:, None]).sum(-1))
        right = uniforms < p
        return right.long(), torch.where(right, p, 1 - p).log()

    def values(self, observations):
        return None if self.critic is None else (observations * self.critic[:, None]).sum(-1)


BALANCE = torch.tensor([100.0, 200.0, 1000.0, 300.0])  # pushes to the side to which the pole falls


def actor_for(seeds, scale=1.0):
    streams = Streams(seeds)["actor"]
    return Linear(streams.normals(0, 4).float() * scale, streams.normals(1, 4).float())


def tensors(samples):
    batch = samples.trajectories
    return {
        **{n: getattr(batch, n) for n in ("rewards", "terminated", "truncated", "valid", "log_probs")},
        **{n: getattr(batch, n) for n in ("values", "next_values") if batch.values is not None},
        **samples.inputs,
    }


def test_one_step_is_gymnasiums():
    # from 5000 states over and beyond the track, both pushes
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    found, expected = [], []
    for state in rng.uniform(-1, 1, (2500, 4)) * [2.5, 3, 0.25, 3]:
        for action in (0, 1):
            env.state, env.steps_beyond_terminated = state, None
            env.step(action)
            found.append(physics(*state, action == 1))
            expected.append(env.state)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("runs", [1, 3])
def test_whole_runs_are_gymnasiums(runs):
    """The same actions from the same starts: observations, rewards and both flags agree over 6000 steps and more."""
    built = CartPole().build(runs, 2, Streams(range(runs)))
    weights = torch.stack([BALANCE * (run != 1) for run in range(runs)])  # run 1 pushes at random and falls soon
    samples = built.collect(Linear(weights), Size(3000 // runs))
    observations, actions = samples.inputs["observations"].numpy(), samples.inputs["actions"].numpy()
    batch = samples.trajectories
    env = gymnasium.make("CartPole-v1")
    lengths = []
    for run in range(runs):
        for row in range(2):
            age = 0
            for t in range(actions.shape[2] - 1):
                if age == 0:
                    env.reset(seed=0)
                    env.unwrapped.state = observations[run, row, t].astype(np.float64)
                found, reward, terminated, truncated, _ = env.step(int(actions[run, row, t]))
                age += 1
                assert reward == batch.rewards[run, row, t] == 1
                assert terminated == bool(batch.terminated[run, row, t])
                assert (truncated and not terminated) == bool(batch.truncated[run, row, t])
                if terminated or truncated:
                    lengths.append(age)
                    age = 0
                else:
                    assert np.abs(found - observations[run, row, t + 1]).max() < 1e-6
                    # float32 observations lose digits that an unstable pole would blow up: go on from the lab's own
                    env.unwrapped.state = observations[run, row, t + 1].astype(np.float64)
    assert 500 in lengths
    assert runs == 1 or min(lengths) < 30


def test_starts_are_uniform():
    # 8000 numbers in (-0.05, 0.05): mean 0, variance 0.1^2 / 12 with standard error variance * sqrt(0.8 / n)
    built = CartPole().build(4, 500, Streams(range(4)))
    start = built.collect(Linear(torch.zeros(4, 4)), Size(1)).inputs["observations"]
    n = start.numel()
    assert float(start.abs().max()) < 0.05
    assert abs(float(start.mean())) < 4.5 * np.sqrt(0.01 / 12 / n)
    assert abs(float(start.var()) * 1200 - 1) < 4.5 * np.sqrt(0.8 / n)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: s.unit)
def test_a_seed_is_bit_equal_alone_and_among_others(size):
    seeds = [5, 17, 2]
    together, alone = CartPole().build(3, 2, Streams(seeds)), CartPole().build(1, 2, Streams([17]))
    for _ in range(3):
        crowd = tensors(together.collect(actor_for(seeds), size))
        single = tensors(alone.collect(actor_for([17]), size))
        steps = single["valid"].shape[-1]
        assert not bool(crowd["valid"][1, :, steps:].any())
        assert all(
            torch.equal(crowd[name][1:2, :, :steps][single["valid"]], x[single["valid"]]) for name, x in single.items()
        )


def test_two_windows_are_one_long_window():
    one, two = (CartPole(max_steps=9).build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for([1, 2])
    whole = tensors(one.collect(actor, Size(60)))
    parts = [tensors(two.collect(actor, Size(n))) for n in (25, 35)]
    for name, x in whole.items():
        torch.testing.assert_close(x, torch.cat([part[name] for part in parts], 2), rtol=1e-6, atol=1e-7)


def test_a_restored_environment_goes_on_as_if_nothing_had_happened():
    one, other = (CartPole().build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for([1, 2])
    one.collect(actor, Size(33))
    one.collect(actor, Size(1, "episodes"))
    saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    expected = [tensors(one.collect(actor, size)) for size in SIZES]
    other.load_state_dict(saved)
    for size, before in zip(SIZES, expected, strict=True):
        after = tensors(other.collect(actor, size))
        assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_truncations_and_live_edges_take_the_value_of_the_true_next_state():
    # V(x) = position: between two steps it moves by 0.02 * speed, so the true next value is x + 0.02 * speed everywhere
    built = CartPole(max_steps=7).build(3, 4, Streams([1, 2, 3]))
    critic = torch.tensor([1.0, 0, 0, 0]).expand(3, 4)
    samples = built.collect(Linear(BALANCE.expand(3, 4), critic), Size(50))
    batch, x = samples.trajectories, samples.inputs["observations"]
    assert int(batch.truncated.sum()) == 3 * 4 * 7  # after 7, 14, ... 49 steps
    torch.testing.assert_close(batch.next_values, x[..., 0] + 0.02 * x[..., 1], rtol=0, atol=1e-6)
    linked = link_values(batch.values, batch.terminated, batch.truncated, batch.valid, batch.next_values)
    assert torch.equal(linked, batch.next_values)


def test_whole_episodes_come_one_per_row():
    built = CartPole().build(2, 2, Streams([1, 2]))
    actor = actor_for([1, 2])
    first = built.collect(actor, Size(3, "episodes"))
    batch = first.trajectories
    ends = batch.terminated | batch.truncated
    assert batch.valid.shape[:2] == (2, 6)
    assert bool((ends.sum(-1) == 1).all())
    assert torch.equal(ends.int().argmax(-1) + 1, batch.valid.sum(-1))
    assert torch.equal(batch.rewards, batch.valid.float())
    again = built.collect(actor, Size(3, "episodes"))
    assert not torch.equal(first.inputs["observations"][:, :, 0], again.inputs["observations"][:, :, 0])


def test_without_a_critic_there_are_no_values():
    batch = CartPole().build(1, 1, Streams([0])).collect(Linear(torch.zeros(1, 4)), Size(5)).trajectories
    assert batch.values is None and batch.next_values is None


def test_gymnasium_accepts_the_cart_pole_and_it_is_cartpole():
    env = gymnasium.make("rlhf_lab_mdp:rlhf_lab/CartPole-v0", render_mode="ansi")
    check_env(env.unwrapped)
    original = gymnasium.make("CartPole-v1")
    rng = np.random.default_rng(0)
    for seed in range(30):
        one, info = env.reset(seed=seed)
        two, _ = original.reset(seed=seed)
        assert info["action_mask"].tolist() == [1, 1]
        over = False
        while not over:
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)
            action = int(rng.integers(2))
            one, paid, terminated, truncated, _ = env.step(action)
            two, *rest, _ = original.step(action)
            assert [paid, terminated, truncated] == rest
            over = terminated or truncated
    assert "position" in env.render()


def test_make_vec_runs_cart_poles():
    envs = gymnasium.make_vec("rlhf_lab/CartPole-v0", num_envs=2, max_steps=3)
    envs.reset(seed=0)
    flags = [envs.step(np.array([0, 1]))[3].tolist() for _ in range(3)]
    assert flags == [[False] * 2, [False] * 2, [True] * 2]
