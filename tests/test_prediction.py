"""The ``prediction`` loop against the textbook's algorithms, written out with their own clocks."""

import numpy as np
import pytest
import torch

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.protocols import Size

REGISTRY = load_plugins()
SPEC = {
    "environment": {"name": "random_walk", "states": 5},
    "policy": {"name": "tabular_softmax", "critic": True},
    "trainer": {"name": "prediction", "update": "step"},
    "advantage": {"name": "n_step", "n": 3},
    "value": "mse",
    "optimizer": {"name": "sgd", "lr": 0.3},
    "gamma": 0.9,
}


def episodes(spec, seed: int, count: int) -> list[tuple[list[int], list[float]]]:
    """Return the states (with a final -1 for the end) and rewards of the seed's first episodes."""
    learner = start(spec, [seed])
    found = []
    for _ in range(count):
        samples = learner.environment.collect(learner.actor, Size(1, "episodes"))
        valid = samples.trajectories.valid[0, 0]
        states = samples.inputs["observations"][0, 0][valid].tolist()
        found.append((states, samples.trajectories.rewards[0, 0][valid].tolist()))
    return found


def textbook_n_step(
    states: list[int], rewards: list[float], values: np.ndarray, n: int, rate: float, gamma: float
) -> None:
    """Sutton and Barto 2018, n-step TD, section 7.1: at time t the state at tau = t - n + 1 is updated."""
    end = len(states)
    t = 0
    while True:
        tau = t - n + 1
        if tau >= 0:
            target = sum(gamma ** (i - tau) * rewards[i] for i in range(tau, min(tau + n, end)))
            if tau + n < end:
                target += gamma**n * values[states[tau + n]]
            values[states[tau]] += rate * (target - values[states[tau]])
        if tau == end - 1:
            return
        t += 1


@pytest.mark.parametrize("n", [1, 3, 64])
def test_update_step_is_the_textbooks_online_algorithm(n):
    spec, _ = make_spec(SPEC | {"advantage": {"name": "n_step", "n": n}}, REGISTRY)
    learner = start(spec, [5])
    expected = np.zeros(7)
    for states, rewards in episodes(spec, 5, 4):
        textbook_n_step(states, rewards, expected, n, rate=0.3, gamma=0.9)
        learner.step(0.0)
    values = learner.actor.values(torch.arange(7)[None])[0].detach().numpy()
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_update_episode_applies_offline_lambda_returns_in_order_of_visit():
    data = SPEC | {
        "trainer": {"name": "prediction", "update": "episode"},
        "advantage": {"name": "td_lambda", "lam": 0.7},
    }
    spec, _ = make_spec(data, REGISTRY)
    learner = start(spec, [5])
    expected = np.zeros(7)
    for states, rewards in episodes(spec, 5, 4):
        end, frozen = len(states), expected.copy()
        for t in range(end):
            # the mixture of n-step returns, S&B eq. 12.3, with the values at the start of the episode
            returns = [
                sum(0.9**i * rewards[t + i] for i in range(n))
                + (0.9**n * frozen[states[t + n]] if t + n < end else 0.0)
                for n in range(1, end - t + 1)
            ]
            weights = [0.3 * 0.7**i for i in range(end - t - 1)] + [0.7 ** (end - t - 1)]
            target = np.dot(weights, returns)
            expected[states[t]] += 0.3 * (target - expected[states[t]])
        learner.step(0.0)
    values = learner.actor.values(torch.arange(7)[None])[0].detach().numpy()
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_shorter_episodes_of_other_runs_do_not_matter():
    spec, _ = make_spec(SPEC, REGISTRY)
    alone, beside = start(spec, [5]), start(spec, [1, 5, 9])
    for _ in range(4):
        alone.step(0.0)
        beside.step(0.0)
    states = torch.arange(7)
    assert torch.equal(alone.actor.values(states[None])[0], beside.actor.values(states.expand(3, -1))[1])


@pytest.mark.parametrize("optimizer", ["adam", {"name": "sgd", "momentum": 0.9}])
def test_an_optimiser_with_a_memory_would_move_waiting_runs_and_is_refused(optimizer):
    with pytest.raises(LabError, match=r"optimizer: .* moves weights by earlier gradients"):
        make_spec(SPEC | {"optimizer": optimizer}, REGISTRY)


def test_a_field_that_this_loop_does_not_fill_is_missed_before_it_runs():
    data = SPEC | {"trainer": {"name": "prediction", "update": "episode"}, "advantage": "v_trace"}
    with pytest.raises(LabError, match="'v_trace' needs target_log_probs, which neither"):
        make_spec(data, REGISTRY)


def test_observations_may_be_vectors():
    data = SPEC | {
        "environment": {"name": "cartpole", "max_steps": 9},
        "policy": {"name": "linear_softmax", "critic": True},
        "advantage": {"name": "n_step", "n": 3},
        "optimizer": {"name": "sgd", "lr": 0.01},
    }
    learner = start(make_spec(data, REGISTRY)[0], [0, 1])
    assert learner.step(0.0)["value_loss"].isfinite().all()


def test_the_policy_stays_fixed():
    spec, _ = make_spec(SPEC, REGISTRY)
    learner = start(spec, [0])
    learner.step(0.0)
    assert torch.equal(learner.actor.get_parameter("logits"), torch.zeros(1, 7, 2))


def test_resumed_equals_uninterrupted():
    spec, _ = make_spec(SPEC, REGISTRY)
    whole = start(spec, [0, 1])
    for _ in range(4):
        whole.step(0.0)
    half, resumed = start(spec, [0, 1]), start(spec, [0, 1])
    for _ in range(2):
        half.step(0.0)
    resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    for _ in range(2):
        resumed.step(0.0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_window_is_demanded_where_the_estimator_has_no_n():
    with pytest.raises(LabError, match="say how far a target looks"):
        make_spec(SPEC | {"advantage": "gae"}, REGISTRY)


def test_streams_give_each_seed_its_own_episodes():
    spec, _ = make_spec(SPEC, REGISTRY)
    assert episodes(spec, 1, 3) != episodes(spec, 2, 3)
    assert Streams([1]).runs == 1
