"""Arms that are trained in stages: each begins with the weights of all before it, and goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_rankings import Likelihood, NumberPolicy, Numbers, PairLoss, PairScores, Records

from rlhf_lab import compare, hookimpl, run
from rlhf_lab.errors import LabError
from rlhf_lab.study import runner
from rlhf_lab.study.store import Store

PLUGIN = ModuleType("number_plugin")
PLUGIN.rlhf_lab_components = hookimpl(  # type: ignore[attr-defined]
    lambda: [Numbers, NumberPolicy, Records, PairLoss, Likelihood, PairScores]
)
SPEC: dict[str, Any] = {
    "environment": "numbers",
    "policy": "number_policy",
    "trainer": {"name": "offline", "minibatch": 4},
    "data": "records",
    "preference": "pair_loss",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "budget": {"iterations": 6},
}
STAGES = {"sft": {"preference": "likelihood", "budget": {"iterations": 4}}, "dpo": {}}


def study(**changes: Any) -> dict[str, Any]:
    return {"title": "t", "spec": SPEC, "arms": {"both": {"stages": STAGES}, "dpo": {}}, "seeds": [3, 5]} | changes


def curves(results: Any) -> dict[str, Any]:
    return {f"{arm.name}/{name}": curve for arm in results.arms for name, curve in arm.curves.items()}


def test_a_stage_begins_with_the_weights_of_the_one_before() -> None:
    both, _ = compare(study(), plugins=[PLUGIN]).arms
    chain = run(SPEC | {"stages": STAGES}, plugins=[PLUGIN], seed=5)
    np.testing.assert_array_equal(both.weights["logits"][1], chain.arm("dpo").weights["logits"][0])
    assert not np.array_equal(chain.arm("sft").weights["logits"], np.zeros((1, 2, 4)))
    # the second stage's reference is the first one's policy
    np.testing.assert_array_equal(both.weights["reference_logits"][1], chain.arm("sft").weights["logits"][0])


def test_curves_are_the_last_stage_s_and_earlier_ones_are_shown_by_their_last_point() -> None:
    results = compare(study(), plugins=[PLUGIN])
    both, chain = results.arm("both"), run(SPEC | {"stages": STAGES}, plugins=[PLUGIN], seed=3)
    np.testing.assert_array_equal(both.curves["loss"][:, :1], chain.arm("dpo").curves["loss"])
    assert len(both.curves["loss"]) == 6
    np.testing.assert_array_equal(both.curves["sft.loss"][:, 0], np.full(6, chain.arm("sft").curves["loss"][-1, 0]))
    assert both.x["iteration"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert both.spec["stages"]["sft"]["budget"]["iterations"] == 4
    assert both.parameters["stages.sft.preference"] == "likelihood"


def test_arms_with_and_without_stages_share_their_data() -> None:
    # paired: the only stage of one arm and the last one of the other see the same rows; the losses of the first update
    # differ by the start alone, and both are log 2
    both, alone = compare(study(), plugins=[PLUGIN]).arms
    np.testing.assert_allclose(both.curves["loss"][0], alone.curves["loss"][0], rtol=1e-12)
    np.testing.assert_allclose(both.curves["loss"][0], np.log(2), rtol=1e-12)


@pytest.mark.parametrize("stop_at", [1, 3, 5, 8, 11])
def test_an_arm_that_is_stopped_in_any_stage_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    monkeypatch.setattr(runner, "CHECKPOINT_SECONDS", 0.0)
    fractions: list[float] = []

    def watch(arm: str, number: int, total: int, fraction: float) -> None:
        fractions.append(fraction)
        if len(fractions) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(study(), plugins=[PLUGIN], out=tmp_path, watch=watch)
    resumed = curves(compare(study(), plugins=[PLUGIN], out=tmp_path))
    expected = curves(compare(study(), plugins=[PLUGIN]))
    assert resumed.keys() == expected.keys()
    for name, curve in resumed.items():
        np.testing.assert_array_equal(curve, expected[name], err_msg=name)
    assert sorted(path.name for path in tmp_path.glob("arms/*")) == ["both.safetensors", "dpo.safetensors"]


def test_progress_goes_over_all_stages() -> None:
    told: list[float] = []
    compare(study(arms={"both": {"stages": STAGES}}), plugins=[PLUGIN], watch=lambda *report: told.append(report[-1]))
    assert told == sorted(told) and told[-1] == 1.0
    assert told[3] == pytest.approx(0.5)  # the first of two stages is over after its 4 iterations


def test_observers_are_told_of_every_stage() -> None:
    heard: list[tuple[str, str]] = []
    observer = ModuleType("observer")
    observer.rlhf_lab_run_start = hookimpl(  # type: ignore[attr-defined]
        lambda arm, spec, seeds: heard.append((arm, spec["preference"]["name"]))
    )
    compare(study(), plugins=[PLUGIN, observer])
    assert heard == [("both/sft", "likelihood"), ("both/dpo", "pair_loss"), ("dpo", "pair_loss")]


class Breaking(PairLoss):
    """Infinite in the second run."""

    name = "breaking"

    def __call__(self, batch: Any) -> Any:
        loss = super().__call__(batch)
        if len(loss.values) > 1:
            loss.values.data[1] = float("inf")
        return loss


def test_a_seed_that_fails_in_an_early_stage_has_failed() -> None:
    plugin = ModuleType("breaking_plugin")
    plugin.rlhf_lab_components = hookimpl(lambda: [Breaking])  # type: ignore[attr-defined]
    arms = {"both": {"stages": {"bad": {"preference": "breaking"}, "dpo": {}}}}
    (both,) = compare(study(arms=arms), plugins=[PLUGIN, plugin]).arms
    assert both.failed.tolist() == [False, True]
    assert np.isnan(both.curves["loss"][:, 1]).all() and np.isfinite(both.curves["loss"][:, 0]).all()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sft": {"preference": "likelihod"}}, r"arm 'both/sft':\npreference: .*Did you mean 'likelihood'"),
    ({"sft": {"trainer": {"minibatch": 0}}}, r"arm 'both/sft':\ntrainer.minibatch: "),
    ({"sft": {"trainr": "offline"}}, r"arm 'both/sft':\ntrainr: is no parameter here. Did you mean 'trainer'"),
    ({}, r"arms.both.stages: expected {name: overrides, ...}, found {}"),
    (
        {"a": {}, "b": {"policy": "tabular_softmax"}},
        r"arm 'both/b': policy 'tabular_softmax': the earlier stage's logits has shape \[1, 2, 4\]",
    ),
]


@pytest.mark.parametrize(("stages", "says"), REFUSED)
def test_a_bad_stage_is_named_before_anything_runs(stages: Mapping[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=says):
        compare(study(arms={"both": {"stages": stages}}), plugins=[PLUGIN], out=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_bad_stage_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: t\nspec:\n  environment: numbers\n  policy: number_policy\n  trainer: offline\n  data: records\n"
        "  preference: pair_loss\n  optimizer: sgd\narms:\n  both:\n    stages:\n      sft: {preference: nil}\n",
        encoding="utf-8",
    )
    with pytest.raises(LabError, match=r"arm 'both/sft':\n.*mine.yaml:12:\d+: preference: "):
        compare(path, plugins=[PLUGIN])


def test_stages_need_a_measure_along_the_run() -> None:
    spec = {
        "environment": "short_corridor",
        "policy": {"name": "linear_softmax", "critic": False},
        "advantage": "td",
        "stages": {"a": {}, "b": {}},
    }
    with pytest.raises(LabError, match="stages: nothing that is measured here looks at a trained policy"):
        compare({"title": "t", "spec": spec, "measure": ["estimator_error"], "seeds": 1})


TABLE = {"name": "tabular_autoregressive", "critic": True}
CHAIN: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "responses": 1},
    "policy": TABLE,
    "optimizer": {"name": "adam", "lr": 0.05},
    "gamma": 1.0,
    "budget": {"iterations": 30},
    "stages": {
        "sft": {"trainer": "offline", "data": {"name": "sampled", "rows": 200}, "preference": "sft"},
        "reward": {
            "trainer": {"name": "reward_model", "updates": 5},
            "data": {"name": "sampled", "rows": 400},
            "reward_model": "bradley_terry",
        },
        "ppo": {
            "environment": {"proxy": {"name": "learned_reward", "policy": TABLE}},
            "trainer": {"name": "online", "episodes": 64, "epochs": 2, "kl_coef": 0.1},
            "advantage": "gae",
            "objective": "ppo_clip",
            "value": "mse",
            "kl": "k3",
        },
    },
}


def test_sft_then_a_reward_model_then_ppo_against_it_in_one_run(tmp_path: Path) -> None:
    results = run(CHAIN, out=tmp_path)
    sft, reward, ppo = results.arms
    # the reward model begins afresh and leaves the policy alone; PPO begins with the supervised policy, its reference
    assert set(reward.weights) == {"reward.logits", "reward.critic"}
    np.testing.assert_array_equal(ppo.weights["reference_logits"], sft.weights["logits"])
    # what PPO is paid is the model's scores, and the truth rises with them
    assert ppo.curves["episode_return"][-1, 0] > ppo.curves["episode_return"][0, 0]
    assert ppo.curves["exact_return"][-1, 0] > sft.curves["exact_return"][-1, 0] + 0.2
    again = run(CHAIN, out=tmp_path)
    np.testing.assert_array_equal(again.arm("ppo").weights["logits"], ppo.weights["logits"])
    assert results.chain and Store(tmp_path).results().chain


def test_the_same_chain_is_an_arm_of_a_study() -> None:
    arm = compare({"title": "t", "spec": CHAIN, "seeds": [0], "measure": ["learning_curve", "regularised"]}).arms[0]
    chain = run(CHAIN).arm("ppo")
    np.testing.assert_array_equal(arm.curves["exact_return"], chain.curves["exact_return"])
    assert {"sft.objective", "reward.reward_error", "reward.accuracy", "objective_gap"} <= arm.curves.keys()
    assert "reward.objective" not in arm.curves  # a reward model is no policy


def test_paying_a_reward_model_that_no_stage_has_trained_is_refused_before_anything_runs(tmp_path: Path) -> None:
    alone = {name: value for name, value in CHAIN["stages"].items() if name != "reward"}
    with pytest.raises(
        LabError, match="no reward model has been trained yet; put a stage with the trainer 'reward_model'"
    ):
        run(CHAIN | {"stages": alone}, out=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_chain_ends_with_a_stage_that_failed() -> None:
    wild = CHAIN["stages"]["sft"] | {"optimizer": {"name": "sgd", "lr": 1e30}}
    results = run(CHAIN | {"stages": {**CHAIN["stages"], "sft": wild}})
    assert [(arm.name, arm.failed.tolist()) for arm in results.arms] == [("sft", [True])]
    assert results.warnings == ("every seed of sft failed, so that reward, ppo did not begin",)
