"""Exact errors in studies: gradients of any actor's log-probabilities, a few start states, and errors along a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_endings import Toy, toy_world

from rlhf_lab import compare
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.actor_scores import jacobian_of
from rlhf_lab.study.measures import policy_table
from rlhf_lab.study.runner import start
from rlhf_lab.study.start_states import start_states
from rlhf_lab.worlds import TabularMDP, gradient_error
from rlhf_lab.worlds.protocol import open_actions
from rlhf_lab.worlds.scores import SoftmaxScores

REGISTRY = load_plugins()
TOY: dict[str, Any] = {
    "environment": Toy(),
    "policy": "tabular_softmax",
    "trainer": {"name": "online", "envs": 4, "steps": 8},
    "advantage": {"name": "gae", "lam": 0.5},
    "objective": "reinforce",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "gamma": 0.9,
    "budget": {"iterations": 6},
    "exact": {"horizon": 4},
}
LINEAR = {"name": "linear_softmax", "critic": False}
MLP = {"name": "mlp", "hidden": (5,)}
SEQUENCES = {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2, "eos": 0}


def arm(spec: dict[str, Any], *measure: str, seeds: Any = 2) -> Any:
    spec = {name: part for name, part in spec.items() if part is not None}
    return compare({"title": "t", "spec": spec, "seeds": seeds, "measure": list(measure)}).arms[0]


REINFORCE: Any = REGISTRY.create("objective", "reinforce")


def gae() -> Any:
    return REGISTRY.create("advantage", {"name": "gae", "lam": 0.5, "gamma": 0.9})


def by_hand(actor: Any, world: Any, run: int) -> Tensor:
    """Return ``[states, actions, parameters]`` by one backward pass per entry; 0 for illegal actions."""
    legal = open_actions(world)
    states = torch.arange(len(world.terminal)).expand(actor.runs, -1)
    mask = None if legal is None else legal.expand(actor.runs, -1, -1)
    log_probs = actor.action_log_probs(states, mask)[run]
    rows = []
    for entry in log_probs.flatten():
        if not bool(entry.isfinite()):
            rows.append(torch.zeros(sum(p[0].numel() for p in actor.parameters()), dtype=torch.float64))
            continue
        parts = torch.autograd.grad(entry, list(actor.parameters()), retain_graph=True, allow_unused=True)
        given = zip(actor.parameters(), parts, strict=True)
        rows.append(
            torch.cat([torch.zeros_like(p[run]).flatten() if g is None else g[run].flatten() for p, g in given])
        )
    return torch.stack(rows).view(*log_probs.shape, -1)


ACTORS: list[tuple[Any, Any]] = [
    (Toy(), LINEAR),
    (Toy(), MLP),
    (Toy(), "tabular_softmax"),
    (SEQUENCES, {"name": "tabular_autoregressive", "scale": 0.5}),
    (SEQUENCES, {"name": "linear_features"}),
    (SEQUENCES, {"name": "linear_features", "features": "random", "size": 3}),  # features of its own for each run
]


@pytest.mark.parametrize(("environment", "policy"), ACTORS)
def test_gradients_of_all_pairs_at_once_are_those_of_one_after_the_other(environment: Any, policy: Any) -> None:
    spec, _ = make_spec({"environment": environment, "policy": policy}, REGISTRY)
    streams = Streams([0, 1])
    built = spec.environment.build(2, 1, streams["environment"])
    world: Any = built.exact()
    actor: Any = spec.policy.build(built.spaces, 2, streams["policy"])
    for weights in actor.parameters():  # away from the uniform policy, each run by another way
        weights.data = weights.data.double() + Streams([0, 1]).normals(7, *weights.shape[1:])
    actor.double()
    due, policy_of_run = by_hand(actor, world, 1), policy_table(actor, world)[1]
    states, actions = (policy_of_run > 0).nonzero().unbind(1)
    whole = due[states, actions]
    found = jacobian_of(actor, world, 1)
    products = whole @ whole.mT  # whatever weights stand beside, and in whatever order
    if found is None:
        assert actor.logit_table
        scores = SoftmaxScores(policy_of_run)
        cell = states * due.shape[1] + actions
        torch.testing.assert_close(scores.norms(cell), products.diagonal(), rtol=0, atol=1e-12)
        push = Streams([3]).normals(0, len(cell))[0]
        torch.testing.assert_close(
            scores.squares(cell[None], push[None])[0], push @ products @ push, rtol=1e-12, atol=0
        )
    else:
        assert callable(found)
        rows = found(states, actions)
        torch.testing.assert_close(rows @ rows.mT, products, rtol=0, atol=1e-12)


def test_gradients_of_many_pairs_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, _ = make_spec({"environment": Toy(), "policy": MLP}, REGISTRY)
    built = spec.environment.build(1, 1, Streams([0]))
    world: Any = built.exact()
    found: Any = jacobian_of(spec.policy.build(built.spaces, 1, Streams([0])), world, 0)
    pairs = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1])
    monkeypatch.setattr("rlhf_lab.study.actor_scores._CHUNK", 100)  # two pairs at a time, and a rest
    parts: Any = jacobian_of(spec.policy.build(built.spaces, 1, Streams([0])), world, 0)
    torch.testing.assert_close(parts(*pairs), found(*pairs), rtol=0, atol=1e-15)


def test_static_errors_are_those_of_the_dense_form() -> None:
    # of a linear policy, whose Jacobian is x(s) ⊗ (e_a - π)
    spec = TOY | {"policy": {"name": "linear_softmax"}, "exact": {"horizon": 4, "critic": "zero"}}
    found = arm(spec | {"trainer": None, "optimizer": None}, "gradient_error", seeds=1).exact
    world = toy_world()
    jacobian = by_hand(start(make_spec(spec, REGISTRY)[0], [0]).actor, world, 0)
    due = gradient_error(world, world.uniform_policy(), gae(), REINFORCE, torch.zeros(4), 4, jacobian=jacobian.double())
    assert found["gradient_bias"] == pytest.approx(due.relative_bias, rel=1e-6)
    assert found["gradient_variance"] == pytest.approx(due.variance_trace, rel=1e-6)
    assert found["gradient_noise"] == pytest.approx(due.variance_trace / float(due.expected.norm()) ** 2, rel=1e-6)
    assert found["gradient_cosine"] == pytest.approx(due.cosine, rel=1e-6)


def test_beyond_the_horizon_studies_ask_for_the_critic_or_for_the_exact_value() -> None:
    spec = TOY | {"trainer": None, "optimizer": None, "advantage": {"name": "gae", "lam": 1.0}}
    settings = {"horizon": 2, "critic": "zero"}
    found = arm(spec | {"exact": settings | {"beyond": "value"}}, "gradient_error", "estimator_error", seeds=1).exact
    assert found["gradient_bias"] < 1e-14  # λ = 1 trusts no critic, except at a cut
    assert found["squared_bias"] > 0.1  # of Q, which the critic does not centre
    cut = arm(spec | {"exact": settings}, "gradient_error", "estimator_error", seeds=1).exact
    assert cut["gradient_bias"] > 0.1
    assert cut["bias"] != found["bias"]
    run = TOY | {"advantage": {"name": "gae", "lam": 1.0}}
    for beyond, low, high in (("value", 0, 1e-13), ("critic", 1e-3, 10)):  # each run's own critic is still learning
        curve = arm(run | {"exact": {"horizon": 2, "beyond": beyond}}, "gradient_along").curves["gradient_bias"]
        assert low <= curve.min() and curve.max() < high


# ---- a few start states


def spread(start: Tensor) -> TabularMDP:
    """A world that ends at once wherever it starts."""
    states, start = len(start), start.double() / start.double().sum()
    transition = torch.zeros(states, 1, states)
    transition[:, :, -1] = 1
    return TabularMDP(transition, torch.zeros(states, 1, states), start, torch.arange(states) == states - 1)


def test_start_states_are_drawn_without_replacement_and_equally_likely() -> None:
    world = spread(torch.cat([torch.full((40,), 1 / 40), torch.zeros(20)]))
    few, more, every = (start_states(world, n) for n in (5, 30, 40))
    assert few is not None and more is not None and every is not None
    assert sorted(few.tolist()) == [0] * 55 + [1 / 5] * 5
    assert bool((more[few > 0] > 0).all())  # drawn one after the other
    assert torch.equal(every > 0, world.start > 0) and torch.equal(start_states(world, 5), few)  # type: ignore[arg-type]
    assert start_states(world, None) is None


def test_start_states_are_drawn_in_proportion() -> None:
    # 2,000 states, every other one nine times as likely: of 200 drawn without replacement about 0.9 are likely ones
    weights = torch.tensor([0.9, 0.1]).repeat(1000) / 1000
    found = start_states(spread(torch.cat([weights, torch.zeros(1)])), 200)
    assert found is not None
    likely = int((found[0:2000:2] > 0).sum())
    assert 160 <= likely <= 195  # standard deviation √(200 · 0.9 · 0.1) = 4 around at most 180


def test_errors_are_enumerated_from_the_start_states_that_are_asked_for() -> None:
    spec = TOY | {"trainer": None, "optimizer": None}
    one = arm(spec | {"exact": {"horizon": 4, "starts": 1}}, "gradient_error", "estimator_error", seeds=[3]).exact
    world = toy_world()
    from_one = start_states(world, 1)
    uniform = world.uniform_policy()
    due = gradient_error(world, uniform, gae(), REINFORCE, world.state_values(uniform), 4, start=from_one)
    assert one["gradient_variance"] == pytest.approx(due.variance_trace, rel=1e-6)
    whole = arm(spec, "gradient_error", seeds=1).exact
    assert abs(one["gradient_variance"] - whole["gradient_variance"]) > 0.01
    with pytest.raises(
        LabError, match=r"exact.starts: 3 are more start states than the 2 of this world; give at most 2"
    ):
        arm(spec | {"exact": {"starts": 3}}, "gradient_error", seeds=1)


# ---- along a run


@pytest.mark.parametrize("policy", [{"name": "tabular_softmax"}, LINEAR])
def test_the_gradient_is_judged_at_every_point_with_the_run_s_own_critic(policy: dict[str, Any]) -> None:
    spec = TOY | {"policy": policy, "advantage": {"name": "td"} if policy is not LINEAR else {"name": "monte_carlo"}}
    found = arm(spec | {"record_every": 3}, "gradient_along")
    assert {name: curve.shape for name, curve in found.curves.items() if name.startswith("gradient")} == {
        "gradient_bias": (2, 2),
        "gradient_variance": (2, 2),
        "gradient_noise": (2, 2),
        "gradient_cosine": (2, 2),
    }
    learner = start(make_spec(spec, REGISTRY)[0], [0, 1])
    learner.actor.load_state_dict({name: torch.from_numpy(value) for name, value in found.weights.items()})
    world = toy_world(give_up=2.0)  # as it is paid in training
    given: Any = REGISTRY.create("advantage", {**spec["advantage"], "gamma": 0.9})
    for run in range(2):
        critic = learner.actor.values(torch.arange(4).expand(2, -1))
        values = torch.zeros(4) if critic is None else critic[run].detach().double()
        due = gradient_error(
            world, policy_table(learner.actor, world)[run], given, REINFORCE, values, 4,
            jacobian=by_hand(learner.actor, world, run).double(),
        )  # fmt: skip
        assert found.curves["gradient_bias"][-1, run] == pytest.approx(due.relative_bias, rel=1e-5)
        assert found.curves["gradient_variance"][-1, run] == pytest.approx(due.variance_trace, rel=1e-5)
        length = float(due.expected.square().sum())
        assert found.curves["gradient_noise"][-1, run] == pytest.approx(due.variance_trace / length, rel=1e-5)
        assert found.curves["gradient_cosine"][-1, run] == pytest.approx(due.cosine, rel=1e-5)
    assert not np.array_equal(found.curves["gradient_variance"][0], found.curves["gradient_variance"][1])


def test_a_seed_s_curve_is_its_own_and_a_failed_seed_has_none() -> None:
    alone, beside = arm(TOY, "gradient_along", seeds=[1]), arm(TOY, "gradient_along", seeds=[0, 1])
    np.testing.assert_array_equal(alone.curves["gradient_bias"][:, 0], beside.curves["gradient_bias"][:, 1])
    failed = arm(TOY | {"optimizer": {"name": "sgd", "lr": 1e30}}, "gradient_along", seeds=3)
    assert failed.failed.any()
    assert np.isnan(failed.curves["gradient_bias"][-1, failed.failed]).all()


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"environment": SEQUENCES, "policy": "tabular_autoregressive", "trainer": "exact_gradient"}
        | {"advantage": None, "objective": None},
        "gradient_along needs an advantage; add `advantage: NAME`",
    ),
    (
        {"environment": SEQUENCES | {"responses": 2}, "policy": "tabular_autoregressive", "advantage": "rloo"}
        | {"trainer": {"name": "online", "envs": 4, "episodes": 1}, "gamma": 1.0},
        "exact.samples: advantage 'rloo' compares the episodes of a group; give 2 or more",
    ),
    ({"exact": {"critic": "zero"}}, "exact.critic: gradient_along takes each run's own critic; leave it out"),
    ({"exact": {"starts": 9}}, "exact.starts: 9 are more start states than the 2"),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_what_cannot_be_judged_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        arm(TOY | changes, "gradient_along")
