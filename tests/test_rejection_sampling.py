"""The ``rejection_sampling`` loop: what it keeps, its gradient, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_rankings import Likelihood, spec
from learning import REGISTRY, check_bits, learner
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.spec import make_spec
from rlhf_lab.study.measures import policy_table
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.response_numbers import response_numbers

TRAINER = {"name": "rejection_sampling", "episodes": 64}
WORLD: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2, "responses": 4},
    "policy": {"name": "tabular_autoregressive", "precision": "float64", "scale": 0.3},
    "trainer": TRAINER,
    "optimizer": {"name": "sgd", "lr": 1.0},
    "gamma": 1.0,
}
ONE = {"name": "sequences", "vocabulary": 3, "length": 1}  # a bandit with three arms


def with_trainer(**options: Any) -> dict[str, Any]:
    return WORLD | {"trainer": {**TRAINER, **options}}


def sampled(found: Any) -> tuple[Candidates, Candidates]:
    """Return a round's rows, and the samples that they were made of."""
    seen: list[Candidates] = []
    real = found.environment.candidates

    def watch(samples: Any) -> Candidates:
        seen.append(real(samples))
        return seen[-1]

    found.environment.candidates = watch
    (rows,) = list(found._batches())
    return rows, seen[0]


def numbers(found: Any, rows: Candidates) -> Tensor:
    return response_numbers(rows, found.environment.tree)[1]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_answers_to_each_prompt_are_kept(keep: int) -> None:
    found = learner(with_trainer(keep=keep))
    rows, samples = sampled(found)
    assert rows.lengths.shape == (2, 16 * keep, 1) and rows.weights is None
    order = samples.targets.argsort(dim=-1, descending=True, stable=True)[..., :keep]
    expected = numbers(found, samples).gather(-1, order).flatten(1)
    assert torch.equal(numbers(found, rows)[..., 0], expected)
    prompts = samples.inputs["prompts"].repeat_interleave(keep, dim=1)
    assert torch.equal(rows.inputs["prompts"], prompts)


def test_a_threshold_keeps_what_reaches_it() -> None:
    found = learner(with_trainer(threshold=0.25))
    rows, samples = sampled(found)
    assert torch.equal(numbers(found, rows)[..., 0], numbers(found, samples).flatten(1))
    assert torch.equal(rows.weights, (samples.targets.flatten(1) >= 0.25).double())


def test_a_quantile_is_that_of_a_run_s_own_round() -> None:
    found = learner(with_trainer(quantile=0.75))
    rows, samples = sampled(found)
    for run in range(2):
        rewards = samples.targets[run].flatten()
        bound = rewards.sort().values[48]  # of 64: position .75 * 63 = 47.25, rounded up
        assert torch.equal(rows.weights[run], (rewards >= bound).double())


def test_a_filter_of_zero_and_one_has_reinforce_s_gradient() -> None:
    # E over samples of 1[r >= c] ∇log π is ∇ E 1[r >= c]: REINFORCE without baseline. The loss divides by how many are
    # kept, so the mean step is the true gradient of log P(r >= c)
    environment = {**ONE, "responses": 1}
    found = learner(with_trainer(threshold=0.0, episodes=200_000) | {"environment": environment}, (3,))
    policy = policy_table(found.actor, found.environment.exact())[0, 0]
    good = (found.environment.true_rewards[0, 0] >= 0).double()
    assert 0 < good.sum() < 3
    before = found.actor.logits.detach().clone()
    metrics = found.step(0.0)
    moved = (found.actor.logits.detach() - before)[0, 0]
    reinforce = policy * (good - (policy * good).sum())  # of the logits, for the reward 1[r >= c]
    torch.testing.assert_close(moved * metrics["kept"], reinforce, atol=5e-3, rtol=0)


def test_best_of_n_learns_the_distribution_of_the_best() -> None:
    # with ties counted once, P(best of n = y) = F(y)^n - F^-(y)^n under the sampling policy; one full fit to what is
    # kept (an sgd step moves the logits by kept frequency - π)
    environment = {**ONE, "responses": 4}
    found = learner(with_trainer(episodes=200_000) | {"environment": environment}, (0,))
    policy = policy_table(found.actor, found.environment.exact())[0, 0]
    rewards = found.environment.true_rewards[0, 0]
    order = rewards.argsort()
    below = policy[order].cumsum(0)
    best = torch.zeros(3, dtype=torch.float64)
    best[order] = below**4 - (below - policy[order]) ** 4
    before = found.actor.logits.detach().clone()
    found.step(0.0)
    moved = (found.actor.logits.detach() - before)[0, 0]
    torch.testing.assert_close(moved, best - policy, atol=5e-3, rtol=0)


def test_it_climbs() -> None:
    found = learner(WORLD)
    metrics = [found.step(0.0) for _ in range(40)]
    assert (metrics[-1]["episode_return"] > metrics[0]["episode_return"] + 0.3).all()
    assert all((m["kept_return"] >= m["episode_return"]).all() for m in metrics)
    assert metrics[0]["kept"].tolist() == [0.25, 0.25]
    assert metrics[-1]["steps"].tolist() == [40.0, 40.0] and metrics[-1]["episodes"].tolist() == [2560.0, 2560.0]


def test_a_round_in_which_nothing_is_kept_teaches_nothing() -> None:
    found = learner(with_trainer(threshold=1e9))
    before = found.actor.logits.detach().clone()
    metrics = found.step(0.0)
    assert torch.equal(found.actor.logits, before)
    assert metrics["loss"].tolist() == [0.0, 0.0] == metrics["kept"].tolist() and metrics["kept_return"].isnan().all()
    assert found.alive.all()


def test_supervised_learning_is_the_default_and_another_loss_may_be_named() -> None:
    assert make_spec(WORLD, REGISTRY)[0].preference.name == "sft"  # type: ignore[union-attr]
    found = learner(spec(trainer={**TRAINER, "keep": 2}, data=None, preference=Likelihood()))
    assert found.loss.objective.name == "likelihood" and found.step(0.0)["loss"].isfinite().all()


def test_a_run_s_bits_depend_on_nothing_else() -> None:
    check_bits(with_trainer(quantile=0.5, epochs=2, minibatch=20) | {"optimizer": "adam"})


LISTWISE = {"name": "dpo", "likelihood": "plackett_luce"}  # a ranking of one says nothing
REFUSED: list[tuple[dict[str, Any], str]] = [
    (with_trainer(keep=4), "trainer.keep: 4 of 4 answers to a prompt are kept, so that nothing is rejected"),
    (with_trainer() | {"environment": ONE}, "trainer.keep: 1 of 1 answers to a prompt are kept"),
    (with_trainer(keep=1, quantile=0.5), "give one of keep, threshold and quantile, found keep and quantile"),
    (with_trainer(episodes=30), "30 episodes per collect .* are no multiple of 4"),
    (WORLD | {"preference": "dpo"}, "preference 'dpo': a loss on pairs compares two responses, found rows of 1"),
    (WORLD | {"preference": LISTWISE}, "preference 'dpo' gives every row weight 0"),
    (WORLD | {"preference": "kto"}, "preference: 'kto' needs desirable"),
    (WORLD | {"data": "sampled"}, "data: trainer 'rejection_sampling' does not use it"),
]


@pytest.mark.parametrize(("data", "says"), REFUSED)
def test_what_rejects_nothing_or_learns_nothing_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        learner(data)
