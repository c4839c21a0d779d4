"""The ``reward_model`` loop: what it learns, what it reports, and the names of its weights."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from fake_rankings import PairScores, Records, spec
from learning import check_bits, learner, trained

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.worlds.sequences import SequenceWorld
from rlhf_lab_trainers.calibration import Calibration
from rlhf_lab_trainers.exact_pairs import ExactPairs

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
    # hence predictions are right as often as they say, and as often as they can be
    assert (metrics["calibration_error"] < 1e-7).all() and (metrics["exact_calibration_error"] < 1e-7).all()
    torch.testing.assert_close(metrics["exact_accuracy"], metrics["best_accuracy"], atol=1e-12, rtol=0)


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
    torch.testing.assert_close(metrics["exact_calibration_error"], expected)
    torch.testing.assert_close(metrics["calibration_error"], expected)


def test_few_rows_are_learned_by_heart_and_the_exact_accuracy_tells() -> None:
    # 64 pairs of 64 responses, each with a reward of its own. A chance of 1/2 is what no knowledge gives; what the
    # truth gives is E σ(|d|) of d ~ N(0, 2), .725, of which 64 labels teach about a third
    few = {"environment": {"name": "sequences", "vocabulary": 4, "length": 3}, "data": {"name": "sampled", "rows": 64}}
    metrics = trained(WORLD | few, 3, (0, 1, 2, 3))[1][-1]
    assert (metrics["accuracy"] > 0.95).all()
    assert (metrics["exact_accuracy"] < 0.65).all()
    assert metrics["best_accuracy"].tolist() == pytest.approx([0.725] * 4, abs=0.05)
    assert (metrics["exact_calibration_error"] > 0.2).all()  # as sure of other responses as of these


def test_exact_figures_are_those_of_all_pairs_one_by_one() -> None:
    # ordered pairs in plain numbers, prompts 1/4 and 3/4: of two responses the one with the higher score wins with
    # 1 / (1 + exp(r_other - r_one)), an equal one with 1/2
    prompts, rewards = [0.25, 0.75], [[0.3, -1.2, 2.0], [0.0, 0.7, 0.7]]
    said = [[1.0, 0.5, -3.0], [2.0, 2.0, 0.1]]
    right, best, excess = 0.0, 0.0, [0.0] * 4
    for x, (i, j) in itertools.product(range(2), itertools.permutations(range(3), 2)):
        weight = prompts[x] / 6
        wins = 1 / (1 + math.exp(rewards[x][j] - rewards[x][i]))
        sure = 1 / (1 + math.exp(-abs(said[x][i] - said[x][j])))
        happens = 0.5 if said[x][i] == said[x][j] else wins if said[x][i] > said[x][j] else 1 - wins
        right += weight * happens
        best += weight * max(wins, 1 - wins)
        excess[min(3, int((2 * sure - 1) * 4))] += weight * (sure - happens)
    world = SequenceWorld(3, 1, torch.tensor([rewards], dtype=torch.float64), torch.tensor(prompts))
    found = ExactPairs(world, Streams([3]), 4).metrics(torch.tensor([said]))
    assert found["exact_accuracy"].tolist() == pytest.approx([right])
    assert found["best_accuracy"].tolist() == pytest.approx([best])
    assert found["exact_calibration_error"].tolist() == pytest.approx([sum(map(abs, excess))])


def test_of_many_responses_some_are_paired_the_same_ones_in_every_run_of_a_seed() -> None:
    # 1024 responses: 256 of them stand for all; scores that are the reward turned round are right with 1 - best, and
    # the best is E σ(|d|) of d ~ N(0, 2), found by quadrature, to the 256 numbers' noise of 1/√256 · 0.15 and some
    reward = Streams([0, 1])["r"].normals(0, 1, 1024)
    found = ExactPairs(SequenceWorld(4, 5, reward), Streams([0, 1]), 10).metrics(-reward)
    d = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
    due = float(((-d.square() / 4).softmax(0) * d.abs().sigmoid()).sum())
    assert found["best_accuracy"].tolist() == pytest.approx([due] * 2, abs=0.03)
    torch.testing.assert_close(found["exact_accuracy"], 1 - found["best_accuracy"])
    alone = ExactPairs(SequenceWorld(4, 5, reward[1:]), Streams([1]), 10).metrics(-reward[1:])
    assert all(torch.equal(x[0], found[name][1]) for name, x in alone.items())


@pytest.mark.parametrize(
    ("vocabulary", "length", "prompts", "kept"), [(4, 4, 1, 256), (4, 4, 4, 128), (2, 1, 50_000, 2)]
)
def test_no_run_has_more_pairs_than_it_may(vocabulary: int, length: int, prompts: int, kept: int) -> None:
    # 256 · 255 / 2 = 32,640 and 4 · 128 · 127 / 2 = 32,512; one more response would be 32,896 and 33,024
    world = SequenceWorld(vocabulary, length, torch.zeros(1, prompts, vocabulary**length))
    pairs = ExactPairs(world, Streams([0]), 10)
    assert pairs.count == prompts * kept * (kept - 1) // 2


def test_calibration_counts_bins_apart() -> None:
    # four rows in two bins of [1/2, 1]: differences ±ln 1.5 (sure .6), ±ln 4 (sure .8); in the first bin one of two is
    # right, in the second both: (|1.2 - 1| + |1.6 - 2|) / 4
    found = Calibration(1, 2)
    difference = torch.tensor([[1.5, 1 / 1.5, 4.0, 4.0]]).log()
    found.add(difference, torch.ones(1, 4), torch.ones(1, 4))
    assert found.error().tolist() == pytest.approx([0.15])


def test_a_diverged_run_s_figures_are_no_numbers_and_leave_the_others_alone() -> None:
    found = Calibration(2, 3)
    scores = torch.tensor([[math.nan], [4.0]])
    found.add(scores, torch.ones(2, 1), torch.ones(2, 1))
    assert found.error().isnan().tolist() == [True, False]
    world = SequenceWorld(2, 1, torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]))
    exact = ExactPairs(world, Streams([0, 1]), 3).metrics(scores[..., None] * torch.tensor([1.0, 2.0]))
    assert [exact[f"exact_{name}"].isnan().tolist() for name in ("accuracy", "calibration_error")] == [
        [True, False]
    ] * 2


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
