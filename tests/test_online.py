"""The ``online`` loop: its total loss, its composition, and that the contract's four calls are all it needs."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from rlhf_lab.components import Environment, Policy
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.protocols import Evaluation, Setup, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Trajectories, link_values

REGISTRY = load_plugins()
WALK = {
    "environment": {"name": "random_walk", "states": 5},
    "policy": {"name": "tabular_softmax", "critic": True},
    "trainer": {"name": "online", "envs": 4, "steps": 16},
    "advantage": "gae",
    "objective": "ppo_clip",
    "value": "mse",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "gamma": 0.9,
}
EOS, LENGTH, PROMPTS = 3, 6, 3


class TokenActor(nn.Module):
    """A bigram language model over four tokens with a critic per last token; token 3 ends a response."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self.bigram = nn.Parameter(torch.zeros(runs, 4, 4))
        self.critic = nn.Parameter(torch.zeros(runs, 4))
        self.reference: Tensor | None = None

    def keep_reference(self) -> None:
        self.reference = self.bigram.detach().clone()

    def evaluate(self, samples: Samples) -> Evaluation:
        before, after = samples.inputs["before"], samples.inputs["after"]
        run = torch.arange(len(before))[:, None, None]
        table = self.bigram.log_softmax(-1)
        rows = table[run, before]
        reference = None if self.reference is None else self.reference.log_softmax(-1)[run, before, after]
        return Evaluation(
            log_probs=table[run, before, after],
            values=self.critic[run, before],
            entropy=-(rows.exp() * rows).sum(-1),
            ref_log_probs=reference,
        )


class TokenEnvironment:
    """Ragged prompts, three responses each; pays 1 for every token 1 in a response. Padding holds NaN."""

    spaces = Spaces(actions=4)

    def __init__(self, runs: int, streams: Streams) -> None:
        self.runs, self.streams, self.calls = runs, streams, 0

    def collect(self, actor: TokenActor, size: Size) -> Samples:
        rows = PROMPTS * 3
        uniforms = self.streams.uniforms(self.calls, rows, LENGTH)
        self.calls += 1
        prompt = (
            torch.arange(rows) % PROMPTS
        )  # interleaved groups; the last prompt token, after prompts of 1 to 3 tokens
        last = prompt.expand(self.runs, rows).clone()
        before = torch.zeros(self.runs, rows, LENGTH, dtype=torch.int64)
        after = torch.zeros_like(before)
        alive = torch.ones(self.runs, rows, dtype=torch.bool)
        valid = torch.zeros(self.runs, rows, LENGTH, dtype=torch.bool)
        run = torch.arange(self.runs)[:, None]
        with torch.no_grad():
            cumulative = actor.bigram.softmax(-1).double().cumsum(-1)
            for t in range(LENGTH):
                token = (uniforms[..., t, None] > cumulative[run, last]).sum(-1).clamp(max=3)
                before[..., t], after[..., t], valid[..., t] = last, token, alive
                alive = alive & (token != EOS)
                last = token
        final = valid.clone()
        final[..., :-1] = valid[..., :-1] & ~valid[..., 1:]
        terminated = final & (after == EOS)
        truncated = final & ~terminated
        rewards = (after == 1).float().masked_fill(~valid, torch.nan)
        samples = Samples(
            Trajectories(rewards, terminated, truncated, valid),
            {"before": before, "after": after},
            stepwise=False,
        )
        with torch.no_grad():
            evaluation = actor.evaluate(samples)
            beyond = actor.critic[run[..., None], after]
        values = evaluation.values.masked_fill(~valid, torch.nan)
        trajectories = Trajectories(
            rewards,
            terminated,
            truncated,
            valid,
            values=values,
            next_values=link_values(
                values,
                terminated,
                truncated,
                valid,
                torch.where(truncated, beyond, torch.nan).where(
                    final, link_values(values, terminated | truncated, truncated & False, valid)
                ),
            ),
            log_probs=evaluation.log_probs.masked_fill(~valid, torch.nan),
            group_ids=prompt.expand(self.runs, rows),
        )
        return Samples(trajectories, samples.inputs, stepwise=False)

    def exact(self) -> None:
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {"calls": torch.tensor(self.calls)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.calls = int(state["calls"])


class Tokens(Environment):
    """Ragged prompts."""

    name = "tokens"
    provides = frozenset({"group_ids"})

    def build(self, runs: int, envs: int, streams: Streams) -> TokenEnvironment:
        return TokenEnvironment(runs, streams)


class Bigram(Policy):
    """A tiny language model."""

    name = "bigram"
    provides = frozenset({"log_probs", "values", "next_values", "ref_log_probs", "target_log_probs", "entropy"})

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> TokenActor:
        return TokenActor(runs)


def tokens(**changes: object) -> dict[str, object]:
    """Return a spec of the token policy."""
    spec: dict[str, object] = {
        "environment": Tokens(),
        "policy": Bigram(),
        "trainer": {"name": "online"},
        "advantage": "grpo_mean",
        "objective": "ppo_clip",
        "optimizer": {"name": "adam", "lr": 0.1},
        "gamma": 1.0,
    }
    return spec | changes


def learn(
    data: dict[str, object], iterations: int, seeds: tuple[int, ...] = (0, 1)
) -> tuple[object, list[dict[str, Tensor]]]:
    """Return the learner and its metrics after so many iterations."""
    spec, _ = make_spec(data, REGISTRY)
    learner = start(spec, list(seeds))
    return learner, [learner.step(i / iterations) for i in range(iterations)]


@pytest.mark.parametrize("advantage", ["grpo", "rloo", "grpo_mean", "loo_baseline", "gae", "monte_carlo"])
def test_token_policy_learns_through_the_same_loop(advantage):
    spec = tokens(advantage=advantage) | ({"value": "mse"} if advantage == "gae" else {})
    _, metrics = learn(spec, 60)
    first = torch.stack([m["episode_return"] for m in metrics[:5]]).mean()
    last = torch.stack([m["episode_return"] for m in metrics[-5:]]).mean()
    assert last > first + 1.0  # a response of six tokens 1 earns 6; the uniform policy earns less than 1


def test_token_policy_minibatches_keep_groups_whole_and_kl_in_reward_is_reported():
    spec = tokens(
        trainer={"name": "online", "epochs": 2, "minibatches": 3, "kl_in": "reward", "kl_coef": 0.05}, kl="k1"
    )
    _, metrics = learn(spec, 3)
    assert torch.equal(metrics[0]["kl"], torch.zeros(2))  # the reference is the policy itself
    assert (metrics[-1]["kl"] != 0).all()


def test_total_loss_signs_entropy_bonus_raises_entropy():
    # E20: the entropy enters the minimised loss with a minus; alone (no reward signal) it must push entropy up
    spec = WALK | {
        "environment": {"name": "random_walk", "states": 5, "left_reward": 0.0, "right_reward": 0.0},
        "advantage": "monte_carlo",
        "policy": {"name": "linear_softmax", "initial": [1.0, 0.0] * 7},
        "trainer": {"name": "online", "envs": 4, "steps": 16, "entropy_coef": 0.1},
    }
    spec.pop("value")
    _, metrics = learn(spec, 20)
    entropies = torch.stack([m["entropy"] for m in metrics])
    assert (entropies[-1] > entropies[0]).all()


def test_total_loss_signs_value_loss_falls():
    _, metrics = learn(WALK, 40)
    losses = torch.stack([m["value_loss"] for m in metrics])
    assert (losses[-10:].mean(0) < losses[:10].mean(0)).all()


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_kl_to_the_reference_holds_the_policy_back(placement):
    held = WALK | {
        "kl": "k2" if placement == "loss" else "k1",
        "trainer": {"name": "online", "envs": 8, "steps": 32, "kl_in": placement, "kl_coef": 2.0},
    }
    free = WALK | {"trainer": {"name": "online", "envs": 8, "steps": 32}}
    moved = []
    for spec in (held, free):
        learner, _ = learn(spec, 40)
        moved.append(learner.actor.get_parameter("logits").detach().abs().mean())
    assert moved[0] < 0.5 * moved[1]


def test_one_epoch_of_ppo_is_reinforce():
    # C33: at ratio 1 both gradients are equal, hence so are the weights after one optimiser step
    ppo, _ = learn(WALK, 1)
    reinforce, _ = learn(WALK | {"objective": "reinforce"}, 1)
    for name, value in ppo.actor.state_dict().items():
        torch.testing.assert_close(value, reinforce.actor.state_dict()[name])


def test_a_seed_is_bit_equal_whatever_runs_beside_it():
    spec = WALK | {"trainer": {"name": "online", "envs": 2, "steps": 16, "epochs": 2, "minibatches": 4}}
    alone, _ = learn(spec, 10, seeds=(7,))
    beside, _ = learn(spec, 10, seeds=(3, 7, 11))
    for name, value in alone.actor.state_dict().items():
        assert torch.equal(value[0], beside.actor.state_dict()[name][1])


def test_a_seed_is_bit_equal_where_its_only_episode_has_fewer_steps_than_there_are_states():
    spec = WALK | {
        "environment": {"name": "random_walk", "states": 19},
        "trainer": {"name": "online", "envs": 1, "episodes": 1},
        "optimizer": "adam",
    }
    alone, _ = learn(spec, 20, seeds=(7,))
    beside, _ = learn(spec, 20, seeds=tuple(range(16)))
    for name, value in alone.actor.state_dict().items():
        assert torch.equal(value[0], beside.actor.state_dict()[name][7]), name


@pytest.mark.parametrize("policy", ["tabular_softmax", "linear_softmax", "mlp"])
def test_a_seed_is_bit_equal_where_others_play_longer_episodes(policy):
    # whole episodes are padded to the longest of all runs; the padding must not reach a bit of the weights
    spec = WALK | {
        "environment": {"name": "random_walk", "states": 9},
        "policy": {"name": policy, "critic": True},
        "trainer": {"name": "online", "envs": 2, "episodes": 2, "epochs": 2, "minibatches": 2},
        "normalizer": "batch",
    }
    alone, metrics = learn(spec, 5, seeds=(7,))
    beside, others = learn(spec, 5, seeds=(3, 7, 11, 20, 21))
    for name, value in alone.actor.state_dict().items():
        assert torch.equal(value[0], beside.actor.state_dict()[name][1]), name
    for name, value in metrics[-1].items():
        assert torch.equal(value[0], others[-1][name][1]), name


def test_resumed_equals_uninterrupted():
    spec, _ = make_spec(WALK | {"optimizer": "adam"}, REGISTRY)
    whole = start(spec, [0, 1])
    for _ in range(6):
        whole.step(0.0)
    half = start(spec, [0, 1])
    for _ in range(3):
        half.step(0.0)
    resumed = start(spec, [0, 1])
    resumed.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    for _ in range(3):
        resumed.step(0.0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_diverged_run_is_frozen_and_the_others_go_on():
    spec, _ = make_spec(WALK, REGISTRY)
    learner = start(spec, [0, 1])
    with torch.no_grad():
        learner.actor.get_parameter("logits")[0] = 1e13
    metrics = learner.step(0.0)
    assert learner.alive.tolist() == [False, True]
    assert torch.isnan(metrics["policy_loss"][0])
    assert not torch.isnan(metrics["policy_loss"][1])
    kept = learner.actor.get_parameter("logits")[0].clone()
    learner.step(0.0)
    assert torch.equal(learner.actor.get_parameter("logits")[0], kept)


def test_controller_follows_the_kl():
    spec = WALK | {
        "kl": "k1",
        "controller": {"name": "adaptive_kl", "target": 0.01},
        "trainer": {"name": "online", "envs": 4, "steps": 16, "kl_in": "reward", "kl_coef": 0.1},
    }
    _, metrics = learn(spec | {"optimizer": {"name": "adam", "lr": 0.1}}, 12)
    # Schulman et al. 2017, section 4: doubled above 1.5 times the target, halved below the target / 1.5
    old = torch.full_like(metrics[0]["kl"], 0.1)
    directions = set()
    for point in metrics:
        factor = 1 + (point["kl"] > 0.015).double() - 0.5 * (point["kl"] < 0.01 / 1.5).double()
        torch.testing.assert_close(point["kl_coef"].double(), old.double() * factor)
        old, directions = point["kl_coef"], directions | set(factor.tolist())
    assert {0.5, 2.0} <= directions


def test_one_run_s_overflowing_network_does_not_end_the_others():
    spec = {
        "environment": "cartpole",
        "policy": {"name": "mlp", "hidden": [16, 16, 16], "activation": "relu"},
        "trainer": {"name": "online", "envs": 2, "steps": 32},
        "advantage": "gae",
        "objective": "reinforce",
        "value": "mse",
        "optimizer": {"name": "sgd", "lr": 1.0},
    }
    learner, _ = learn(spec, 12, seeds=(0, 1, 2, 3))
    assert not learner.alive.all() and all(p.isfinite().all() for p in learner.actor.parameters())


def test_a_critic_without_targets_is_refused_by_name():
    spec = {
        "environment": {"name": "random_walk", "states": 5},
        "policy": {"name": "tabular_softmax", "critic": True},
        "trainer": {"name": "online", "envs": 4, "episodes": 1, "group_size": 4},
        "advantage": "grpo",
        "objective": "reinforce",
        "value": "mse",
        "optimizer": "sgd",
    }
    with pytest.raises(LabError, match=r"advantage 'grpo' gives no value targets \(returns\)"):
        learn(spec, 1)


def test_whole_distributions_of_continuous_actions_are_refused_by_name():
    spec = {
        "environment": {"name": "gymnasium", "id": "Pendulum-v1"},
        "policy": "mlp",
        "trainer": {"name": "online", "steps": 4},
        "advantage": "gae",
        "objective": "reinforce",
        "value": "mse",
        "kl": "full",
        "optimizer": "sgd",
    }
    with pytest.raises(LabError, match="kl 'full' compares whole distributions, which needs finitely many actions"):
        learn(spec, 1)


def test_groups_need_one_start_that_is_known():
    spec = {
        "environment": "cartpole",
        "policy": "mlp",
        "trainer": {"name": "online", "envs": 4, "episodes": 1, "group_size": 2},
        "advantage": "grpo",
        "objective": "reinforce",
        "optimizer": "sgd",
    }
    with pytest.raises(LabError, match="may start in several states"):
        learn(spec, 1)


def test_setup_counts_its_runs():
    setup = Setup(Tokens(), Bigram(), {}, Streams([1, 2, 3]))
    assert setup.runs == 3
