"""The measures ``regularised`` and ``likelihood``: against sums over all responses, written out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab import compare
from rlhf_lab.components import PreferenceData
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.measures import Along
from rlhf_lab.study.runner import start
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.response_numbers import response_numbers

REGISTRY = load_plugins()
BETA = 0.5
SPEC: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2, "beta": BETA, "eos": 0},
    "policy": {"name": "tabular_autoregressive", "precision": "float64", "scale": 0.7},
    "trainer": {"name": "offline", "updates": 5},
    "data": {"name": "sampled", "rows": 10},
    "preference": "dpo",
    "optimizer": {"name": "sgd", "lr": 20.0},
    "budget": {"iterations": 3},
    "gamma": 1.0,
}
RESPONSES = ((0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2))  # of at most two tokens, where 0 ends


def results(spec: dict[str, Any], measure: list[str], seeds: list[int] | None = None, **study: Any) -> Any:
    return compare({"title": "t", "spec": spec, "seeds": seeds or [0, 1], "measure": measure, **study}).arms[0]


def responses(logits: Any) -> np.ndarray:
    """Return π(y|x) ``[seeds, x, y]`` of ``logits [seeds, states, tokens]``, product by product."""
    policy = torch.tensor(np.asarray(logits)).softmax(-1).numpy()
    found = np.ones((len(policy), 2, len(RESPONSES)))
    for x in range(2):
        for y, tokens in enumerate(RESPONSES):
            state = 4 * x  # of the empty prefix; those of one token follow
            for token in tokens:
                found[:, x, y] *= policy[:, state, token]
                state = 4 * x + 1 + token
    return found


def learner(spec: dict[str, Any], seeds: tuple[int, ...] = (0, 1)) -> Any:
    return start(make_spec(spec, REGISTRY)[0], list(seeds))


def test_regularised_measures_are_sums_over_all_responses() -> None:
    arm = results(SPEC, ["regularised"])
    start_logits = learner(SPEC).actor.logits.detach()
    rewards = learner(SPEC).environment.true_rewards.numpy()
    policy, reference = responses(arm.weights["logits"]), responses(start_logits)
    tilted = reference * np.exp(rewards / BETA)
    optimum = tilted / tilted.sum(-1, keepdims=True)

    def mean_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p * np.log(p / q)).sum(-1).mean(-1)

    def objective(p: np.ndarray) -> np.ndarray:
        return (p * rewards).sum(-1).mean(-1) - BETA * mean_kl(p, reference)

    expected = {
        "objective": objective(policy),
        "objective_gap": objective(optimum) - objective(policy),
        "kl_reference": mean_kl(policy, reference),
        "kl_optimum": mean_kl(policy, optimum),
        "total_variation": 0.5 * np.abs(policy - optimum).sum(-1).mean(-1),
        "largest_difference": np.abs(policy - optimum).max((-2, -1)),
    }
    assert (expected["kl_reference"] > 0.01).all()  # it has moved
    for name, value in expected.items():
        np.testing.assert_allclose(arm.curves[name][-1], value, rtol=1e-9, err_msg=name)
    levels = arm.references
    assert levels["objective"]["optimum"] == pytest.approx(objective(optimum).mean())
    assert levels["objective"]["reference"] == pytest.approx(objective(reference).mean())
    assert levels["kl_reference"]["optimum"] == pytest.approx(mean_kl(optimum, reference).mean())
    assert levels["kl_reference"]["reference"] == pytest.approx(0, abs=1e-15)
    assert levels["objective_gap"]["optimum"] == 0.0


def test_the_reference_is_the_policy_before_all_stages_and_the_warm_up() -> None:
    sft = {"preference": "sft", "optimizer": {"name": "sgd", "lr": 1.0}}
    still = {"name": "sgd", "lr": 1e-12}
    moved = results(SPEC | {"stages": {"sft": sft, "dpo": {"optimizer": still}}}, ["regularised"])
    policy, reference = responses(moved.weights["logits"]), responses(learner(SPEC).actor.logits.detach())
    expected = (policy * np.log(policy / reference)).sum(-1).mean(-1)
    assert (expected > 0.01).all()
    np.testing.assert_allclose(moved.curves["kl_reference"][0], expected, rtol=1e-6)
    # what the first stage ended with is told too
    np.testing.assert_allclose(moved.curves["sft.kl_reference"][0], expected, rtol=1e-6)
    warmed = results(
        SPEC | {"trainer": {"name": "offline", "warm_up": 9}, "optimizer": {"name": "sgd", "lr": 0.5}}, ["regularised"]
    )
    assert (warmed.curves["kl_reference"][0] > 0.01).all()


class Few(PreferenceData):
    """Two rows of prompt 0 and one of prompt 1, by response numbers, with weights 1, 3 and 0."""

    name = "few"

    def build(self, environment: Any, reference: Any, streams: Streams) -> Candidates:
        everything = environment.all_responses()
        prompts, best, worst = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]), torch.tensor([2, 5, 4])

        def pick(x: Tensor) -> Tensor:
            return x[:, prompts[:, None], torch.stack([best, worst], dim=1)]

        inputs = {name: x[:, prompts] if name == "prompts" else pick(x) for name, x in everything.inputs.items()}
        weights = torch.tensor([1.0, 3.0, 0.0]).expand(streams.runs, -1)
        return Candidates(inputs, pick(everything.lengths), weights=weights)


def test_likelihoods_are_weighted_means_over_rows_and_unseen_is_what_no_row_shows() -> None:
    arm = results(SPEC | {"data": Few()}, ["likelihood"])
    first = responses(learner(SPEC).actor.logits.detach())
    last = responses(arm.weights["logits"])

    def levels(policy: np.ndarray) -> dict[str, np.ndarray]:
        log = np.log(policy[:, 0])
        unseen = [0, 3, 4, 6]  # of prompt 0; the only row of prompt 1 weighs nothing, so that all of it is unseen
        return {
            "chosen": (log[:, 1] + 3 * log[:, 2]) / 4,
            "rejected": (log[:, 2] + 3 * log[:, 5]) / 4,
            "unseen": (policy[:, 0, unseen].sum(-1) + 1) / 2,
        }

    names = {"chosen": "chosen_log_likelihood", "rejected": "rejected_log_likelihood", "unseen": "unseen_probability"}
    for key, name in names.items():
        now, before = levels(last)[key], levels(first)[key]
        np.testing.assert_allclose(arm.curves[name][-1], now, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(arm.curves[f"{key}_gain"][-1], now - before, atol=1e-12, err_msg=key)
        assert arm.references[name]["reference"] == pytest.approx(before.mean())


def test_labels_make_the_best_and_the_worst_ones() -> None:
    data = {"name": "sampled", "rows": 40, "form": "unpaired"}
    spec = SPEC | {
        "data": data,
        "preference": "kto",
        "trainer": {"name": "offline"},
        "optimizer": {"name": "sgd", "lr": 1e-12},
    }
    arm, found = results(spec, ["likelihood"]), learner(spec)
    prompts, numbers = response_numbers(found.data, found.environment.tree)
    log = np.log(responses(found.actor.logits.detach()))
    for seed in range(2):
        said = log[seed, prompts[seed].numpy(), numbers[seed, :, 0].numpy()]
        liked = found.data.desirable[seed, :, 0].numpy()
        assert arm.curves["chosen_log_likelihood"][-1, seed] == pytest.approx(said[liked].mean())
        assert arm.curves["rejected_log_likelihood"][-1, seed] == pytest.approx(said[~liked].mean())


def test_numbers_of_responses_are_those_of_the_world() -> None:
    environment = learner(SPEC).environment
    everything = environment.all_responses()
    prompts, numbers = response_numbers(everything, environment.tree)
    assert torch.equal(prompts, torch.arange(2).expand(2, 2))
    assert torch.equal(numbers, torch.arange(len(RESPONSES)).expand(2, 2, -1))
    counted = everything.inputs["counted"].clone()
    counted[:, :, 3] = False
    lacking = replace(everything, inputs={**everything.inputs, "counted": counted})
    assert (response_numbers(lacking, environment.tree)[1][:, :, 3] == -1).all()


def test_an_arm_without_data_is_measured_without_likelihoods() -> None:
    spec = SPEC | {"data": None, "preference": None, "trainer": "exact_gradient"}
    arm = results(spec, ["regularised", "likelihood"])
    assert "objective" in arm.curves and "unseen_probability" not in arm.curves


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"environment": {"name": "bandit", "arms": 3}, "policy": "tabular_softmax", "data": None, "preference": None}
        | {"trainer": "online", "advantage": "monte_carlo", "objective": "reinforce"},
        "measure: regularised needs a world of token strings",
    ),
    (
        {"preference": None, "reward_model": "bradley_terry", "trainer": "reward_model"},
        "measure: regularised needs a policy; this trainer learns none",
    ),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        results(SPEC | changes, ["regularised"])


def test_a_reward_model_is_shown_by_what_it_reports() -> None:
    arm = results(
        SPEC | {"preference": None, "reward_model": "bradley_terry", "trainer": "reward_model"}, ["learning_curve"]
    )
    assert "reward_error" in arm.curves and "exact_return" not in arm.curves


def test_a_policy_that_gives_up_responses_is_measured_without_nan() -> None:
    found = learner(SPEC)
    spec = make_spec(SPEC, REGISTRY)[0]
    measured = Along(frozenset({"regularised", "likelihood"}), spec, found, lambda: learner(SPEC).actor)
    found.actor.logits.data[..., 1] = -2000.0  # of probability 0 in float64
    now = measured()
    assert all(not bool(x.isnan().any()) for x in now.values())
    assert now["kl_optimum"].isfinite().all() and now["chosen_log_likelihood"].tolist() == [-math.inf] * 2
