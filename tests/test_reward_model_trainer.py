"""The ``reward_model`` loop: what it learns, what it reports, and the names of its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_rankings import PairScores, Records, spec
from learning import check_bits, learner, trained

from rlhf_lab.errors import LabError
from rlhf_lab_trainers.calibration import Calibration

TRAINER = {"name": "reward_model"}
WORLD: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2},
    "policy": {"name": "tabular_autoregressive", "precision": "float64"},
    "trainer": {"name": "reward_model", "updates": 50},
    "data": "population",
    "reward_model": "bradley_terry",
    "optimizer": {"name": "adam", "lr": 0.1, "schedule": "linear"},
    "gamma": 1.0,
}
# a convex loss and a step of about the inverse of its curvature: the error shrinks by a constant factor per step
FITTED = WORLD | {
    "environment": {"name": "sequences", "vocabulary": 4, "length": 1, "prompts": 2},
    "trainer": {"name": "reward_model", "updates": 300},
    "optimizer": {"name": "sgd", "lr": 20.0},
}


def fake(**changes: Any) -> dict[str, Any]:
    return spec(trainer=TRAINER, preference=None, reward_model=PairScores()) | changes


def test_population_data_give_the_reward_up_to_a_shift_per_prompt() -> None:
    # with every pair of responses weighed by its Bradley-Terry probability the likelihood is largest at r + c(x)
    found, _ = trained(FITTED, 1)
    metrics = found.step(0.5)  # of which every prediction is a fitted one
    rewards = found.actor.rewards(found.environment.all_responses()).detach()
    apart = rewards - found.environment.true_rewards
    torch.testing.assert_close(apart - apart.mean(-1, keepdim=True), torch.zeros_like(apart), atol=1e-7, rtol=0)
    assert (metrics["reward_error"] < 1e-7).all()
    # hence predictions are right as often as they say
    assert (metrics["calibration_error"] < 1e-7).all() and (metrics["true_calibration_error"] < 1e-7).all()


def test_at_another_temperature_of_the_labels_it_is_the_reward_over_the_temperature() -> None:
    found, _ = trained(FITTED | {"data": {"name": "population", "temperature": 2.0}}, 1)
    rewards = found.actor.rewards(found.environment.all_responses()).detach()
    apart = rewards - found.environment.true_rewards / 2
    torch.testing.assert_close(apart - apart.mean(-1, keepdim=True), torch.zeros_like(apart), atol=1e-7, rtol=0)


def test_the_reward_error_of_a_model_without_knowledge_is_the_spread_of_the_reward() -> None:
    # scores are 0 at first: the error is the standard deviation of r over each prompt's responses, root mean squared
    found = learner(WORLD | {"optimizer": {"name": "sgd", "lr": 1e-12}})
    rewards = found.environment.true_rewards
    spread = (rewards - rewards.mean(-1, keepdim=True)).square().mean((-2, -1)).sqrt()
    torch.testing.assert_close(found.step(0.0)["reward_error"], spread)


def test_a_model_that_is_too_sure_is_told_by_its_calibration() -> None:
    # scores 3 r against labels drawn with r: of two responses a prediction says σ(3 |d|), and σ(|d|) is right; in one
    # bin the error is the difference of the two means over the population's pairs, whose weights are all alike
    found = learner(WORLD | {"trainer": {"name": "reward_model", "bins": 1}, "optimizer": {"name": "sgd", "lr": 1e-12}})
    world = found.environment.exact()
    reward = world.reward.view(2, 2, 3, 3)
    logits = torch.zeros(2, 2, 4, 3, dtype=torch.float64)
    logits[:, :, 1:] = 3 * reward  # states of a prompt: the empty prefix, then one for each first token
    found.actor.reward.logits.data[:, :8] = logits.flatten(1, 2)
    metrics = found.step(0.0)
    d = (reward.flatten(-2)[..., :, None] - reward.flatten(-2)[..., None, :]).abs()
    pairs = d[..., ~torch.eye(9, dtype=torch.bool)]
    expected = ((3 * pairs).sigmoid() - pairs.sigmoid()).mean((-2, -1))
    torch.testing.assert_close(metrics["true_calibration_error"], expected)
    torch.testing.assert_close(metrics["calibration_error"], expected)


def test_calibration_counts_bins_apart() -> None:
    # four rows in two bins of [1/2, 1]: differences ±ln 1.5 (sure .6), ±ln 4 (sure .8); in the first bin one of two is
    # right, in the second both: (|1.2 - 1| + |1.6 - 2|) / 4
    found = Calibration(1, 2)
    difference = torch.tensor([[1.5, 1 / 1.5, 4.0, 4.0]]).log()
    found.add(difference, torch.ones(1, 4), torch.ones(1, 4))
    assert found.error().tolist() == pytest.approx([0.15])


def test_calibration_takes_the_exact_chance_of_what_was_predicted() -> None:
    # predicted: the second of the two with .6, which truly wins with .9
    found = Calibration(1, 5)
    found.add(-torch.tensor([[1.5]]).log(), torch.tensor([[0.1]]), torch.ones(1, 1))
    assert found.error().tolist() == pytest.approx([0.3])


def test_weights_have_names_of_their_own_and_begin_with_an_earlier_model_s() -> None:
    earlier = {"logits": torch.ones(2, 2, 4), "reward.logits": torch.full((2, 2, 4), 5.0)}
    found = learner(fake(), parameters=earlier)
    assert list(found.actor.state_dict()) == ["reward.logits"]
    assert (found.actor.reward.logits == 5).all()
    fresh = learner(fake(), parameters={"logits": torch.ones(2, 2, 4)})  # a policy's weights are no reward model's
    assert (fresh.actor.reward.logits == 0).all()


def test_metrics_tell_scores_and_accuracy() -> None:
    *_, metrics = trained(fake(), 30)[1]
    torch.testing.assert_close(metrics["margin"], metrics["chosen_score"] - metrics["rejected_score"])
    assert (metrics["accuracy"] > 0.5).all() and metrics["episodes"].tolist() == [360.0, 360.0]
    assert "reward_error" not in metrics  # the fakes' world tells no truth


def test_a_run_s_bits_depend_on_nothing_else() -> None:
    check_bits(fake(trainer={"name": "reward_model", "minibatch": 5, "updates": 3}, optimizer="adam"))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": Records(labelled=True)}, "reward_model: data 'records' says which responses are desirable"),
    ({"preference": "dpo"}, "preference: trainer 'reward_model' does not use it"),
    ({"reward_model": None}, "reward_model: trainer 'reward_model' needs one"),
    ({"reward_model": "rao_kupper"}, "reward_model: 'rao_kupper' needs ranks, which neither"),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_what_cannot_be_fitted_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        learner(fake(**changes))


def test_more_responses_than_a_pair_loss_takes_are_refused() -> None:
    with pytest.raises(LabError, match="has 3 responses to a prompt, but reward_model 'bradley_terry' takes 2"):
        learner(fake(data=Records(k=3), reward_model="bradley_terry"))
