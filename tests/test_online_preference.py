"""The ``online_preference`` loop: who ranks, against whom, where it stands still, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from fake_rankings import Likelihood, PairLoss, Records, spec
from learning import check_bits, learner
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.study.measures import policy_table
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.response_numbers import response_numbers
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_trainers.prompt_records import PromptRecords

TRAINER = {"name": "online_preference", "episodes": 64}
WORLD: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2, "beta": 0.5, "responses": 2},
    "policy": {"name": "tabular_autoregressive", "precision": "float64", "scale": 0.3},
    "trainer": TRAINER,
    "preference": {"name": "dpo", "beta": 0.5},
    "optimizer": {"name": "sgd", "lr": 1.0},
    "gamma": 1.0,
}


def with_trainer(**options: Any) -> dict[str, Any]:
    return WORLD | {"trainer": {**TRAINER, **options}}


def rows_of(found: Any) -> Candidates:
    """Return the rows of one round."""
    (rows,) = list(found._batches())
    return rows


def true_rewards(found: Any, rows: Candidates) -> Tensor:
    prompts, numbers = response_numbers(rows, found.environment.tree)
    return found.environment.true_rewards[torch.arange(len(prompts))[:, None, None], prompts[..., None], numbers]


def test_a_judge_by_reward_puts_the_better_answer_first() -> None:
    found = learner(with_trainer(label="reward"))
    rows = rows_of(found)
    rewards = true_rewards(found, rows)
    assert (rewards[..., 0] >= rewards[..., 1]).all()
    # equal answers tell nothing, and only they have equal rewards
    assert torch.equal(rows.weights == 0, rewards[..., 0] == rewards[..., 1]) and bool((rows.weights == 0).any())


def test_a_judge_by_preference_is_right_as_often_as_bradley_terry_says() -> None:
    data = WORLD | {"trainer": {**TRAINER, "episodes": 40_000, "temperature": 2.0}}
    found = learner(data, (0,))
    rewards = true_rewards(found, rows_of(found))
    better, worse = rewards.amax(-1), rewards.amin(-1)
    differ = better > worse
    share = (rewards[..., 0] == better)[differ].double().mean()
    expected = ((better - worse) / 2).sigmoid()[differ].mean()
    assert abs(float(share - expected)) < 0.015  # 18,000 pairs: four standard errors


def test_longer_rankings_are_drawn_from_plackett_luce() -> None:
    # the first of three distinct answers is the best with softmax probability
    environment = WORLD["environment"] | {"responses": 3}
    data = WORLD | {"environment": environment, "trainer": {**TRAINER, "episodes": 60_000}}
    data["preference"] = {"name": "dpo", "likelihood": "plackett_luce"}
    found = learner(data, (0,))
    rewards = true_rewards(found, rows_of(found))
    expected = rewards.softmax(-1)  # of an answer at the place where it ended up
    distinct = (
        (rewards[..., 0] != rewards[..., 1])
        & (rewards[..., 1] != rewards[..., 2])
        & (rewards[..., 0] != rewards[..., 2])
    )
    first = (rewards == rewards.amax(-1, keepdim=True))[..., 0]
    assert abs(float((first.double() - expected.amax(-1))[distinct].mean())) < 0.015


def test_best_and_worst_of_many_make_a_pair() -> None:
    environment = WORLD["environment"] | {"responses": 4}
    found = learner(with_trainer(label="reward", compare="best_and_worst") | {"environment": environment})
    rows = rows_of(found)
    assert rows.lengths.shape == (2, 16, 2)
    whole = learner(with_trainer(label="reward") | {"environment": environment, "preference": "sft"})
    rewards = true_rewards(whole, rows_of(whole))
    torch.testing.assert_close(true_rewards(found, rows), rewards[..., [0, -1]])
    assert (rewards.diff(dim=-1) <= 0).all()


def test_the_policy_judges_itself_by_what_it_has_learned_before() -> None:
    before = learner(WORLD).actor.logits.detach()
    later = {"logits": before + torch.randn(before.shape, generator=torch.Generator().manual_seed(0)).double()}
    found = learner(with_trainer(label="self"), parameters=later)
    rows = rows_of(found)
    world, (prompts, numbers) = found.environment.exact(), response_numbers(rows, found.environment.tree)
    ratio = world.response_log_probs(later["logits"].softmax(-1)) - world.response_log_probs(before.softmax(-1))
    judged = ratio[torch.arange(2)[:, None, None], prompts[..., None], numbers]
    assert (judged[..., 0] >= judged[..., 1] - 1e-12).all()
    with pytest.raises(LabError, match="label: self judges by what the policy has learned before, which is nothing"):
        learner(with_trainer(label="self"))


def expected_gradient(policy: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Return the exact expected DPO gradient in the logits of one prompt: both answers from π, Bradley-Terry labels."""
    logits = policy.log().clone().requires_grad_()
    log_probs = logits.log_softmax(-1)
    ratio = beta * (log_probs - reference.log())
    total = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(len(policy)), repeat=2):
        for best, worst in ((a, b), (b, a)):
            win = torch.sigmoid(rewards[best] - rewards[worst])
            total = total - policy[a] * policy[b] * win * torch.nn.functional.logsigmoid(ratio[best] - ratio[worst])
    return torch.autograd.grad(total, logits)[0]


def test_online_dpo_stands_still_at_the_tilted_reference_and_nowhere_near() -> None:
    # at π* the implicit reward is r + c(x), so that each pair's soft label is what the loss predicts
    rewards = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    optimum = (reference.log() + rewards / 0.5).softmax(-1)
    assert expected_gradient(optimum, reference, rewards, 0.5).abs().max() < 1e-15
    assert expected_gradient(reference, reference, rewards, 0.5).abs().max() > 0.01


def test_the_loop_s_mean_gradient_is_the_expected_one() -> None:
    # one step of sgd from the optimum with very many samples: the mean gradient is 0 up to their noise; from the
    # reference it is the enumerated one
    environment = {"name": "sequences", "vocabulary": 3, "length": 1, "responses": 2}
    data = WORLD | {"environment": environment, "trainer": {**TRAINER, "episodes": 200_000}}
    found = learner(data, (0,))
    reference = policy_table(found.actor, found.environment.exact())[0, 0]
    rewards = found.environment.true_rewards[0, 0]
    for policy in (reference, (reference.log() + rewards / 0.5).softmax(-1)):
        found.actor.logits.data[0, 0] = policy.log()
        before = found.actor.logits.detach().clone()
        found.step(0.0)
        moved = (before - found.actor.logits.detach())[0, 0]
        torch.testing.assert_close(moved, expected_gradient(policy, reference, rewards, 0.5), atol=4e-3, rtol=0)


def test_online_dpo_comes_near_the_optimum() -> None:
    found = learner(with_trainer(episodes=1024) | {"optimizer": {"name": "adam", "lr": 0.05, "schedule": "linear"}})
    world = found.environment.exact()
    reference = policy_table(found.actor, world)
    before = world.objective_gap(reference, reference, 0.5)
    for i in range(120):
        found.step(i / 120)
    assert (world.objective_gap(policy_table(found.actor, world), reference, 0.5) < 0.02 * before).all()


def test_the_reference_is_renewed_every_so_many_rounds() -> None:
    found = learner(with_trainer(renew_reference=2))
    kept = []
    for _ in range(5):
        found.step(0.0)
        kept.append(found.actor.reference["logits"].clone())
    same = [bool(torch.equal(a, b)) for a, b in itertools.pairwise(kept)]
    assert same == [True, False, True, False]


def test_a_new_reference_makes_the_loss_log_2_again() -> None:
    found = learner(with_trainer(renew_reference=1))
    metrics = [found.step(0.0) for _ in range(3)]
    assert all(m["loss"].tolist() == pytest.approx([0.6931471805599453] * 2) for m in metrics)
    assert metrics[-1]["steps"].tolist() == [3.0, 3.0] and metrics[-1]["episodes"].tolist() == [192.0, 192.0]


SPIN = {**TRAINER, "chosen": "data", "renew_reference": 1, "episodes": 128}
RECORDS = {"name": "population", "form": "scored", "candidates": 1, "strength": 1.5}


def spin(**changes: Any) -> dict[str, Any]:
    """Return SPIN on records that are the population of one answer each, by the weights of a better player."""
    return WORLD | {"trainer": SPIN, "data": RECORDS, "preference": {"name": "dpo", "beta": 0.5}} | changes


def test_spin_sets_records_against_answers_to_the_same_prompt() -> None:
    found = learner(spin())
    rows = rows_of(found)
    assert rows.lengths.shape == (2, 128, 2) and (rows.weights == 1).all()
    prompts, numbers = response_numbers(rows, found.environment.tree)
    # chosen answers come from the data's distribution b(y|x) in proportion to π_ref exp(1.5 r)
    world = found.environment.exact()
    likely = (world.response_log_probs(policy_table(found.actor, world)) + 1.5 * world.reward).softmax(-1)
    log = likely.log()[torch.arange(2)[:, None, None], prompts[..., None], numbers].mean(1)
    assert (log[:, 0] > log[:, 1]).all()  # the policy's own answers are less likely under it


def test_records_are_drawn_by_prompt_in_proportion_to_their_weights() -> None:
    prompts = torch.tensor([[4, 0, 4, 0, 4]])
    responses = torch.arange(10).view(1, 5, 2)
    weights = torch.tensor([[1.0, 2.0, 3.0, 6.0, 0.0]])
    data = Candidates(
        {"prompts": prompts, "answers": responses}, torch.ones(1, 5, 2, dtype=torch.int64), weights=weights
    )
    records = PromptRecords(data)
    uniforms = (torch.arange(400) + 0.5).double()[None] / 400
    drawn, there = records.draw(torch.full((1, 400), 4), uniforms)
    counts = drawn.inputs["answers"].flatten().bincount(minlength=10)
    assert counts.tolist() == [100, 0, 0, 0, 300, 0, 0, 0, 0, 0] and bool(there.all())  # 1 : 3 : 0, best answers only
    drawn, _ = records.draw(torch.full((1, 400), 0), uniforms)
    assert drawn.inputs["answers"].flatten().bincount(minlength=10).tolist() == [0, 0, 100, 0, 0, 0, 300, 0, 0, 0]
    assert drawn.inputs["prompts"].unique().tolist() == [0]
    assert not bool(records.draw(torch.full((1, 3), 9), uniforms[:, :3])[1].any())


def spin_gradient(policy: Tensor, data: Tensor) -> Tensor:
    """Return the exact expected SPIN gradient in the logits: the record from ``data``, the answer from π = π_ref."""
    logits = policy.log().clone().requires_grad_()
    ratio = logits.log_softmax(-1) - policy.log()
    total = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(len(policy)), repeat=2):
        total = total - data[a] * policy[b] * torch.nn.functional.logsigmoid(ratio[a] - ratio[b])
    return torch.autograd.grad(total, logits)[0]


def test_spin_stands_still_where_the_policy_is_the_data_s_distribution_and_only_there() -> None:
    data = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    assert spin_gradient(data, data).abs().max() < 1e-15
    # elsewhere it is -(p_data - π) / 2, since each pair's gradient is -(e_a - e_b) / 2 at the reference
    policy = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    torch.testing.assert_close(spin_gradient(policy, data), -(data - policy) / 2, atol=1e-15, rtol=0)


def test_the_loop_s_mean_spin_gradient_is_the_expected_one() -> None:
    environment = {"name": "sequences", "vocabulary": 3, "length": 1}
    trainer = {**SPIN, "episodes": 200_000}
    found = learner(spin(environment=environment, trainer=trainer, preference={"name": "dpo", "beta": 1.0}), (0,))
    start_policy = policy_table(found.actor, found.environment.exact())[0, 0]
    data = (start_policy.log() + 1.5 * found.environment.true_rewards[0, 0]).softmax(-1)
    for policy in (start_policy, data):
        found.actor.logits.data[0, 0] = policy.log()
        found.actor.keep_reference()
        before = found.actor.logits.detach().clone()
        found.step(0.0)
        moved = (before - found.actor.logits.detach())[0, 0]
        torch.testing.assert_close(moved, spin_gradient(policy, data), atol=4e-3, rtol=0)


@pytest.mark.parametrize("data", [with_trainer(epochs=2, minibatch=7, renew_reference=2), spin()])
def test_a_run_s_bits_depend_on_nothing_else(data: dict[str, Any]) -> None:
    check_bits(data | {"optimizer": "adam"})


def test_each_row_is_learned_from_once_per_epoch() -> None:
    seen: list[Tensor] = []

    class Watched(PairLoss):
        """Notes the sizes of what it sees."""

        name = "watched"

        def __call__(self, batch: Rankings) -> Loss:
            seen.append(batch.log_probs)
            return super().__call__(batch)

    found = learner(with_trainer(epochs=3, minibatch=12) | {"preference": Watched()})
    seen.clear()
    metrics = found.step(0.0)
    assert [x.shape[1] for x in seen] == [10, 11, 11] * 3  # 32 rows in three minibatches
    assert metrics["steps"].tolist() == [9.0, 9.0] and metrics["episodes"].tolist() == [64.0, 64.0]


def test_the_mean_reward_of_the_samples_is_reported() -> None:
    data = with_trainer(episodes=40_000)
    found = learner(data, (0,))
    world = found.environment.exact()
    expected = world.expected_return(policy_table(found.actor, world))
    assert abs(float(found.step(0.0)["episode_return"] - expected)) < 0.03


REFUSED: list[tuple[dict[str, Any], str]] = [
    (with_trainer(chosen="data"), "data: chosen: data sets the policy's answers against records; add `data: NAME`"),
    (WORLD | {"data": "sampled"}, "data: chosen: samples reads none; leave it out, or set trainer.chosen: data"),
    (spin(trainer={**SPIN, "label": "reward"}), "trainer.label: chosen: data ranks nothing; leave it out"),
    (with_trainer(label="reward", temperature=2.0), "trainer.temperature: label: reward draws nothing; leave it out"),
    (with_trainer(renew_reference=1) | {"preference": "simpo"}, "trainer.renew_reference: preference 'simpo' has no"),
    (
        WORLD | {"environment": {"name": "sequences", "vocabulary": 3, "length": 2}},
        "environment.responses: 1 answer to a prompt cannot be ranked; set it to 2 or more",
    ),
    (
        with_trainer(episodes=63) | {"environment": WORLD["environment"] | {"responses": 3}},
        "trainer.compare: preference 'dpo' takes 2 responses to a prompt, and there are 3; set compare: best_and_worst",
    ),
    (with_trainer(episodes=7), "7 episodes per collect .* are no multiple of 2"),
    (WORLD | {"environment": {"name": "bandit", "arms": 3}, "policy": "tabular_softmax"}, "episodes are no responses"),
]


@pytest.mark.parametrize(("data", "says"), REFUSED)
def test_what_cannot_be_compared_is_refused_before_anything_runs(data: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        learner(data)


def test_the_loop_needs_no_more_than_the_protocol() -> None:
    # a world and an actor that know nothing of tokens
    data = spec(
        trainer={"name": "online_preference", "episodes": 16, "label": "reward", "compare": "best_and_worst"}, data=None
    )
    found = learner(data | {"preference": PairLoss()})
    metrics = [found.step(0.0) for _ in range(30)]
    assert (metrics[-1]["episode_return"] > metrics[0]["episode_return"]).all()
    against = spec(
        trainer={"name": "online_preference", "episodes": 16, "chosen": "data"}, data=Records(), preference=PairLoss()
    )
    assert learner(against).step(0.0)["loss"].isfinite().all()
    plain = spec(trainer={"name": "online_preference", "episodes": 16}, data=None, preference=Likelihood())
    assert learner(plain).step(0.0)["loss"].isfinite().all()
