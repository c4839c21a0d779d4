import math

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from pydantic import ValidationError

from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Size
from rlhf_lab_bandit import BernoulliBandit, ContextualBandit, GaussianBandit

BANDITS = [GaussianBandit(arms=4, drift=0.1), BernoulliBandit(arms=3), ContextualBandit(contexts=3, arms=4)]
SIZES = [Size(9), Size(4, "episodes")]


class Table:
    """An actor given by tables: logits [runs, states, actions], values [runs, states]."""

    def __init__(self, logits, values=None):
        self.logits, self.table = logits, values

    def action_log_probs(self, observations, mask=None):
        index = observations[..., None].expand(*observations.shape, self.logits.shape[-1])
        return self.logits.gather(1, index).log_softmax(-1)

    def values(self, observations):
        return None if self.table is None else self.table.gather(1, observations)


def actor_for(built, seeds):
    spaces, streams = built.spaces, Streams(seeds)["actor"]
    shape = (spaces.states, spaces.actions)
    return Table(streams.normals(0, *shape).float(), streams.normals(1, spaces.states).float())


def everything(samples):
    batch = samples.trajectories
    return [batch.rewards, batch.log_probs, batch.values, batch.next_values, batch.terminated, *samples.inputs.values()]


@pytest.mark.parametrize("component", BANDITS, ids=lambda c: c.name)
def test_every_step_is_an_episode(component):
    built = component.build(2, 3, Streams([1, 2]))
    actor = actor_for(built, [1, 2])
    window = built.collect(actor, Size(5)).trajectories
    episodes = built.collect(actor, Size(5, "episodes")).trajectories
    assert window.rewards.shape == (2, 3, 5)
    assert episodes.rewards.shape == (2, 15, 1)
    for batch in (window, episodes):
        assert bool(batch.terminated.all()) and bool(batch.valid.all()) and not bool(batch.truncated.any())


@pytest.mark.parametrize("component", BANDITS, ids=lambda c: c.name)
def test_two_windows_are_one_long_window(component):
    one, two = (component.build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for(one, [1, 2])
    whole = everything(one.collect(actor, Size(9)))
    parts = [everything(two.collect(actor, Size(n))) for n in (4, 5)]
    assert all(torch.equal(x, torch.cat(pair, -1)) for x, *pair in zip(whole, *parts, strict=True))


def test_windows_and_episodes_are_the_same_pulls():
    for component in BANDITS:
        one, two = (component.build(2, 3, Streams([1, 2])) for _ in range(2))
        actor = actor_for(one, [1, 2])
        window, episodes = one.collect(actor, Size(5)), two.collect(actor, Size(5, "episodes"))
        assert torch.equal(window.trajectories.rewards.flatten(), episodes.trajectories.rewards.flatten())


@pytest.mark.parametrize("component", BANDITS, ids=lambda c: c.name)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: s.unit)
def test_a_seed_is_bit_equal_alone_and_among_others(component, size):
    together, alone = component.build(3, 2, Streams([5, 17, 2])), component.build(1, 2, Streams([17]))
    for _ in range(3):
        crowd = everything(together.collect(actor_for(together, [5, 17, 2]), size))
        single = everything(alone.collect(actor_for(alone, [17]), size))
        assert all(torch.equal(x[1:2], y) for x, y in zip(crowd, single, strict=True))
    assert torch.equal(together.exact().reward[1:2], alone.exact().reward)


@pytest.mark.parametrize("component", BANDITS, ids=lambda c: c.name)
def test_a_restored_bandit_goes_on_as_if_nothing_had_happened(component):
    one, other = (component.build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for(one, [1, 2])
    one.collect(actor, Size(7))
    saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    expected = everything(one.collect(actor, Size(9)))
    other.load_state_dict(saved)
    found = everything(other.collect(actor, Size(9)))
    assert all(torch.equal(x, y) for x, y in zip(expected, found, strict=True))


def test_the_arms_of_the_testbed_are_drawn_per_run():
    means = GaussianBandit(mean=4.0).build(500, 1, Streams(range(500))).exact().reward[:, 0, :, 1]
    n = means.numel()  # standard errors of mean and variance: 1 / sqrt(n), sqrt(2 / n)
    assert abs(float(means.mean()) - 4) < 4.5 / math.sqrt(n)
    assert abs(float(means.var()) - 1) < 4.5 * math.sqrt(2 / n)


def test_rewards_are_normal_around_the_means():
    # 40 000 pulls: each arm's mean reward within 4.5 / sqrt(pulls), the noise's variance within 4.5 sqrt(2 / n)
    built = ContextualBandit(contexts=3, arms=4).build(1, 100, Streams([3]))
    samples = built.collect(Table(torch.zeros(1, 4, 4)), Size(400))
    cell = (samples.inputs["observations"] * 4 + samples.inputs["actions"]).flatten()
    rewards = samples.trajectories.rewards.flatten().double()
    means = built.exact().reward[0, :3, :, 3].flatten()
    pulls = cell.bincount(minlength=12)
    found = torch.zeros(12, dtype=torch.float64).index_add_(0, cell, rewards) / pulls
    assert bool(((found - means).abs() < 4.5 / pulls.sqrt()).all())
    n = len(cell)
    assert abs(float((rewards - means[cell]).var()) - 1) < 4.5 * math.sqrt(2 / n)
    share = n / 12  # contexts and, under the uniform policy, arms are equally frequent
    assert bool(((pulls - share).abs() < 4.5 * math.sqrt(share * 11 / 12)).all())


def test_actions_follow_the_policy():
    built = GaussianBandit(arms=3).build(1, 50, Streams([0]))
    p = torch.tensor([0.7, 0.2, 0.1])
    samples = built.collect(Table(p.log().expand(1, 2, 3)), Size(400))
    counts = samples.inputs["actions"].flatten().bincount(minlength=3)
    assert bool(((counts - 20_000 * p).abs() < 4.5 * (20_000 * p * (1 - p)).sqrt()).all())
    torch.testing.assert_close(samples.trajectories.log_probs, p.log()[samples.inputs["actions"]])


def test_bernoulli_rewards_are_zero_or_one_with_the_given_probabilities():
    built = BernoulliBandit(probabilities=(0.0, 0.3, 1.0)).build(2, 50, Streams([0, 1]))
    samples = built.collect(Table(torch.zeros(2, 2, 3)), Size(200))
    rewards, arms = samples.trajectories.rewards, samples.inputs["actions"]
    assert rewards.unique().tolist() == [0, 1]
    assert not bool(rewards[arms == 0].any()) and bool(rewards[arms == 2].all())
    paid = rewards[arms == 1]
    assert abs(float(paid.mean()) - 0.3) < 4.5 * math.sqrt(0.21 / len(paid))


def test_drift_moves_every_mean_by_a_random_walk():
    # after n steps of N(0, 0.5^2) the change of a mean has variance n / 4; 2000 means
    built = GaussianBandit(drift=0.5).build(200, 3, Streams(range(200)))
    before = built.exact().reward
    built.collect(Table(torch.zeros(200, 2, 10)), Size(16))
    change = (built.exact().reward - before)[:, 0, :, 1]
    assert abs(float(change.var()) / 4 - 1) < 4.5 * math.sqrt(2 / 2000)
    assert abs(float(change.mean())) < 4.5 * 2 / math.sqrt(2000)


def test_without_drift_the_means_stay():
    built = GaussianBandit().build(2, 3, Streams([0, 1]))
    before = built.exact().reward
    built.collect(Table(torch.zeros(2, 2, 10)), Size(16))
    assert torch.equal(built.exact().reward, before)


def test_the_exact_world_pays_the_mean():
    # uniform policy: v = mean over contexts and arms of q*; the optimum: mean over contexts of the best arm
    world = ContextualBandit(contexts=3, arms=4).build(2, 1, Streams([0, 1])).exact()
    means = world.reward[:, :3, :, 3]
    value = world.expected_return(torch.full((4, 4), 0.25, dtype=torch.float64))
    torch.testing.assert_close(value, means.mean((1, 2)))
    torch.testing.assert_close(world.optimal_return(), means.amax(2).mean(1))


@pytest.mark.parametrize("fields", [{"probabilities": (0.5,)}, {"probabilities": (0.5, 1.5)}])
def test_impossible_probabilities_are_refused(fields):
    with pytest.raises(ValidationError, match=r"at least two numbers in \[0, 1\]"):
        BernoulliBandit(**fields)


@pytest.mark.parametrize("number", [math.inf, math.nan])
@pytest.mark.parametrize(
    ("bandit", "field"),
    [
        *((GaussianBandit, field) for field in ("mean", "spread", "reward_noise", "drift")),
        *((ContextualBandit, field) for field in ("mean", "spread", "reward_noise")),
    ],
)
def test_a_number_that_is_not_finite_is_refused(bandit, field, number):
    with pytest.raises(ValidationError, match=rf"{field}\n  Input should be "):
        bandit(**{field: number})


def test_arms_beside_probabilities_are_refused():
    with pytest.raises(ValidationError, match="leave it out"):
        BernoulliBandit(arms=3, probabilities=(0.1, 0.2))


@pytest.mark.parametrize("name", ["Bandit", "BernoulliBandit", "ContextualBandit"])
def test_gymnasium_accepts_the_bandit(name):
    env = gymnasium.make(f"rlhf_lab_bandit:rlhf_lab/{name}-v0", render_mode="ansi")
    check_env(env.unwrapped)
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1] * 10
    observation, _, terminated, truncated, _ = env.step(3)
    assert terminated and not truncated and observation == env.observation_space.n - 1
    assert isinstance(env.render(), str)


def test_gymnasium_pays_the_arm_that_is_pulled():
    env = gymnasium.make("rlhf_lab/Bandit-v0", reward_noise=0.0, mean=4.0)
    env.reset(seed=1)
    first = [pull(env, arm) for arm in range(10)]
    assert [pull(env, arm) for arm in range(10)] == first  # reset without a seed keeps the arms
    assert len(set(first)) == 10
    env.reset(seed=2)
    assert pull(env, 0) != first[0]


def pull(env, arm):
    env.reset()
    return env.step(arm)[1]


def test_make_vec_runs_bandits():
    envs = gymnasium.make_vec("rlhf_lab/ContextualBandit-v0", num_envs=3, contexts=2)
    _, info = envs.reset(seed=0)
    assert info["action_mask"].shape == (3, 10)
    assert envs.step(envs.action_space.sample())[2].tolist() == [True] * 3
