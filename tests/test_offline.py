"""The ``offline`` loop: its loss, its minibatches, its warm-up, and what it refuses."""

from __future__ import annotations

from typing import Any

import learning
import pytest
import torch
from fake_rankings import Labels, Likelihood, NumberPolicy, PairLoss, Records, spec
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.samples import taker
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_trainers.packing import pack, unpack
from rlhf_lab_trainers.ranking_checks import check_data


def learner(seeds: tuple[int, ...] = (0, 1), **changes: Any) -> Any:
    """Return a learner of the fakes."""
    return learning.learner(spec(**changes), seeds)


def trained(iterations: int, seeds: tuple[int, ...] = (0, 1), **changes: Any) -> tuple[Any, list[dict[str, Tensor]]]:
    """Return a learner of the fakes after so many iterations, and its metrics."""
    return learning.trained(spec(**changes), iterations, seeds)


def test_the_first_loss_is_log_2_at_the_reference_and_falls() -> None:
    _, metrics = trained(20)
    assert metrics[0]["loss"].tolist() == pytest.approx([0.6931471805599453] * 2)
    assert metrics[0]["accuracy"].tolist() == [0.5, 0.5] and metrics[0]["margin"].tolist() == [0.0, 0.0]
    assert (metrics[-1]["loss"] < metrics[0]["loss"]).all() and (metrics[-1]["margin"] > 0).all()


def test_rows_count_by_their_weights() -> None:
    # at the start the gradient of row i is -1/2 (e_first - e_last) at its prompt's logits; the run's is their weighted
    # mean, and one step of lr 1 goes against it
    found, _ = trained(1, data=Records(weighted=True))
    prompts, responses = (found.data.inputs[name] for name in ("prompts", "responses"))
    for run in range(2):
        expected = torch.zeros(2, 4, dtype=torch.float64)
        for row in range(12):
            expected[prompts[run, row], responses[run, row, 0]] += 0.5 * (row + 1) / 78  # 1 + 2 + ... + 12 = 78
            expected[prompts[run, row], responses[run, row, 1]] -= 0.5 * (row + 1) / 78
        torch.testing.assert_close(found.actor.logits[run].detach(), expected)


def test_what_does_not_count_in_a_ragged_row_changes_nothing() -> None:
    # rankings whose padding is cut off, row by row, have the same losses
    found, metrics = trained(1, data=Records(k=4, ragged=True))
    ends = found.data.valid.sum(-1)
    assert set(ends.flatten().tolist()) == {2, 3, 4}
    last = found.data.inputs["responses"].gather(-1, ends[..., None] - 1)[..., 0]
    pairs = torch.stack([found.data.inputs["responses"][..., 0], last], dim=-1)
    alone = learner(data=Records(k=2))
    alone.data.inputs["responses"].copy_(pairs)
    assert torch.equal(alone.step(0.0)["loss"], metrics[0]["loss"])
    assert torch.equal(alone.actor.logits, found.actor.logits)


def test_an_epoch_sees_each_row_once_in_minibatches_that_differ_by_one_row_at_most() -> None:
    found = learner(data=Records(rows=11), trainer={"name": "offline", "minibatch": 4, "updates": 3})
    for epoch in range(2):
        parts = [found._records.epochs.index(3 * epoch + part) for part in range(3)]
        assert [part.shape[1] for part in parts] == [3, 4, 4]
        rows = torch.cat(parts, dim=1)
        assert torch.equal(rows.sort(dim=1).values, torch.arange(11).expand(2, 11))
        assert not torch.equal(rows[0], rows[1])


def test_a_minibatch_is_the_data_s_rows_in_the_epoch_s_order() -> None:
    found = learner(data=Records(rows=9, k=3, ragged=True, weighted=True), trainer={"name": "offline", "minibatch": 5})
    records = found._records
    for number in range(4):
        expected = found.data.select(records.epochs.index(number))
        batch = records.minibatch(records.epochs, number)
        assert all(torch.equal(x, expected.inputs[name]) for name, x in batch.inputs.items())
        assert torch.equal(batch.lengths, expected.lengths) and batch.lengths.dtype is torch.int64
        assert torch.equal(batch.valid, expected.valid) and torch.equal(batch.weights, expected.weights)


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([0, 255], torch.uint8),
        ([-1, 255], torch.int16),
        ([0, 2**15], torch.int32),
        ([-(2**31), 5], torch.int32),
        ([0, 2**31], torch.int64),
    ],
)
def test_integers_are_packed_into_the_smallest_type_that_holds_them(numbers: list[int], dtype: torch.dtype) -> None:
    x = torch.tensor([numbers])
    assert pack(x).dtype is dtype and torch.equal(unpack(pack(x)), x)
    shared = pack(x.expand(3, -1))
    assert shared.dtype is dtype and shared.stride(0) == 0  # runs that share rows go on sharing them
    assert pack(x.float()).dtype is torch.float32 and pack(x > 0).dtype is torch.bool


def test_rows_that_all_runs_share_are_taken_without_a_copy_for_each() -> None:
    x, index = torch.arange(12).view(1, 4, 3).expand(2, -1, -1), torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(taker(index, 4)(x), taker(index, 4)(x.contiguous()))


def test_an_epoch_s_order_depends_on_seed_and_epoch_alone() -> None:
    small, large = (learner((3, 5), data=Records(rows=12), trainer={"name": "offline", "minibatch": m}) for m in (3, 6))
    threes = torch.cat([small._records.epochs.index(4 + part) for part in range(4)], dim=1)
    sixes = torch.cat([large._records.epochs.index(2 + part) for part in range(2)], dim=1)
    assert torch.equal(threes, sixes)


def test_steps_count_updates_and_episodes_count_rows() -> None:
    _, metrics = trained(2, data=Records(rows=10), trainer={"name": "offline", "minibatch": 4, "updates": 3})
    assert metrics[-1]["steps"].tolist() == [6.0, 6.0]
    assert metrics[-1]["episodes"].tolist() == [20.0, 20.0]  # 3 + 3 + 4, twice


@pytest.mark.parametrize("preference", [PairLoss(), Likelihood()])
def test_a_run_s_bits_depend_on_nothing_else(preference: Any) -> None:
    learning.check_bits(
        spec(
            trainer={"name": "offline", "minibatch": 5, "updates": 2, "warm_up": 2, "max_grad_norm": 0.1},
            optimizer={"name": "adam", "schedule": "linear"},
            preference=preference,
        )
    )


def test_the_warm_up_raises_the_best_responses_and_the_reference_stands_behind_it() -> None:
    found, metrics = trained(1, trainer={"name": "offline", "warm_up": 50}, optimizer={"name": "sgd", "lr": 0.1})
    fresh = learner()
    fresh.actor.logits.data.copy_(found.actor.reference_logits)
    before = learner().step(0.0)["chosen_log_prob"]
    assert metrics[0]["loss"].tolist() == pytest.approx([0.6931471805599453] * 2)  # measured from the new reference
    assert (fresh.step(0.0)["chosen_log_prob"] > before + 0.1).all()
    assert metrics[0]["steps"].tolist() == [1.0, 1.0]  # the warm-up is no part of the budget


def test_the_warm_up_is_maximum_likelihood() -> None:
    # sgd to convergence: the frequencies of best responses are the maximum-likelihood policy
    data = Records(rows=40)
    found, _ = trained(1, data=data, trainer={"name": "offline", "warm_up": 3000}, optimizer={"name": "sgd", "lr": 2.0})
    best, prompts = found.data.inputs["responses"][..., 0], found.data.inputs["prompts"]
    for run in range(2):
        counts = torch.zeros(2, 4, dtype=torch.float64).index_put(
            (prompts[run], best[run]), torch.tensor(1.0).double(), True
        )
        assert (counts > 0).all()
        found_policy = found.actor.reference_logits[run].softmax(-1)
        torch.testing.assert_close(found_policy, counts / counts.sum(-1, keepdim=True), atol=1e-6, rtol=0)


def test_likelihoods_are_reported_without_a_reference_too() -> None:
    _, metrics = trained(3, preference=Likelihood())
    # without a reference the margin is one of log-probabilities; uniform at first
    assert metrics[0]["chosen_log_prob"].tolist() == pytest.approx([-1.3862943611198906] * 2)
    torch.testing.assert_close(metrics[2]["margin"], metrics[2]["chosen_log_prob"] - metrics[2]["rejected_log_prob"])


def test_a_batch_objective_sees_one_run_per_call_and_the_next_row_s_responses() -> None:
    shapes = []

    class Watched(Labels):
        """Notes what it sees."""

        name = "watched"

        def __call__(self, batch: Rankings) -> Loss:
            shapes.append(tuple(batch.log_probs.shape))
            assert not batch.mismatched_log_probs.requires_grad  # type: ignore[union-attr]
            return super().__call__(batch)

    _, metrics = trained(1, data=Records(labelled=True), preference=Watched())
    assert set(shapes) == {(12, 2)} and len(shapes) == 4  # two runs, when built and in the only step
    assert metrics[0]["accuracy"].isfinite().all()


def test_a_random_loss_with_a_state_gets_both_and_resumes() -> None:
    seen: list[tuple[Tensor, float]] = []

    class Stateful(PairLoss):
        """Weighs by a coin; counts its updates."""

        name = "stateful"
        requires = frozenset({"ref_log_probs", "uniforms"})

        def initial_state(self) -> dict[str, Tensor]:
            return {"count": torch.zeros(())}

        def next_state(self, state: Any, metrics: Any) -> dict[str, Tensor]:
            assert "loss" in metrics and "grad_norm" in metrics
            return {"count": state["count"] + 1}

        def __call__(self, batch: Rankings) -> Loss:
            assert batch.uniforms is not None and batch.state is not None
            seen.append((batch.uniforms.clone(), batch.state["count"].tolist()))
            return super().__call__(batch)

    changes = {"preference": Stateful(), "trainer": {"name": "offline", "updates": 2}}
    found, _ = trained(1, **changes)
    assert [count for _, count in seen] == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]  # when built, then two steps
    assert seen[1][0].shape == (2, 12) and not torch.equal(seen[1][0], seen[2][0])
    resumed = learner(**changes)
    resumed.load_state_dict(found.state_dict())
    resumed.step(0.5)
    assert seen[-1][1] == [3.0, 3.0]


def test_a_seed_that_diverges_is_frozen_and_the_others_go_on() -> None:
    calls: list[int] = []

    class Poisoned(PairLoss):
        """Infinite in the second run from the third call on."""

        name = "poisoned"

        def __call__(self, batch: Rankings) -> Loss:
            values = super().__call__(batch).values
            calls.append(0)
            bad = torch.zeros_like(values)
            if len(calls) > 2:
                bad[1] = torch.inf
            return Loss(values + bad)

    found, metrics = trained(4, preference=Poisoned())
    healthy, _ = trained(4)
    assert found.alive.tolist() == [True, False]
    assert torch.equal(found.actor.logits[0], healthy.actor.logits[0])
    assert found.actor.logits.isfinite().all() and metrics[-1]["loss"][1].isnan()
    assert metrics[-1]["loss"][0].isfinite()


class Flat(PairLoss):
    """Forgets that the policy is to learn."""

    name = "flat"

    def __call__(self, batch: Rankings) -> Loss:
        return Loss(super().__call__(batch).values.detach())


class Inverse(PairLoss):
    """Counts rows less than nothing."""

    name = "inverse"

    def __call__(self, batch: Rankings) -> Loss:
        values = super().__call__(batch).values
        return Loss(values, -torch.ones_like(values))


def test_a_loss_without_a_gradient_is_refused() -> None:
    with pytest.raises(LabError, match="the loss has no gradient, so that there is nothing to learn by"):
        trained(1, preference=Flat())


def test_a_loss_with_negative_weights_is_refused() -> None:
    with pytest.raises(LabError, match="preference 'inverse' gives a row a negative weight"):
        learner(preference=Inverse())


class Silent(NumberPolicy):
    """Builds an actor that knows no responses."""

    name = "silent"

    def build(self, spaces: Any, runs: int, streams: Streams) -> Any:
        return torch.nn.Linear(1, 1)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": Records(labelled=True)}, "data 'records' says which responses are desirable and puts them in no order"),
    ({"preference": Labels()}, "'labels' needs desirable, which neither .* nor data 'records' provides"),
    ({"policy": Silent()}, "policy 'silent' on environment 'numbers' cannot score whole responses"),
    ({"policy": "tabular_softmax"}, "found candidates without prefixes, tokens, counted"),
    ({"data": None}, "data: trainer 'offline' needs one"),
    ({"advantage": "gae"}, "advantage: trainer 'offline' does not use it"),
    ({"data": Records(rows=0)}, "there is no row to learn from"),
    (
        {"data": Records(labelled=True), "preference": Labels(), "trainer": {"name": "offline", "minibatch": 1}},
        r"trainer.minibatch: preference 'labels' looks at many rows together; give more",
    ),
    (
        {
            "data": Records(rows=3, labelled=True),
            "preference": Labels(),
            "trainer": {"name": "offline", "minibatch": 2},
        },
        "minibatches of 1 of 3 rows do not hold",
    ),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_what_cannot_be_learned_from_is_refused_before_anything_runs(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        learner(**changes)


class Pairs(PairLoss):
    """Takes pairs only."""

    name = "pairs"
    max_candidates = 2


def test_more_responses_than_the_objective_takes_are_refused() -> None:
    with pytest.raises(LabError, match="has 3 responses to a prompt, but preference 'pairs' takes 2"):
        learner(data=Records(k=3), preference=Pairs())


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("lengths", torch.tensor([[1, 1], [1, 0], [1, 1]]), "row 1 .* of seed 4 has a response without a token"),
        ("valid", torch.tensor([[True, True], [True, True], [False, False]]), "row 2 .* of seed 4 has no response"),
        ("margins", torch.tensor([1.0, 2.0, torch.nan]), "row 2 .* of seed 4 has margins that are not finite"),
        ("weights", torch.tensor([1.0, -2.0, 1.0]), "row 1 .* of seed 4 has a negative weight"),
        ("weights", torch.tensor([0.0, 0.0, 0.0]), "row 0 .* of seed 4 and all others have weight 0"),
        ("desirable", torch.ones(3, 2, dtype=torch.bool), "every response of seed 4 is desirable; preference 'labels'"),
    ],
)
def test_rows_that_are_unfit_are_named(field: str, value: Tensor, says: str) -> None:
    class Bad(Records):
        """One bad row."""

        name = "bad"

        def gives(self) -> frozenset[str]:
            return frozenset({"desirable"}) if field == "desirable" else frozenset()

        def build(self, environment: Any, reference: Any, streams: Streams) -> Any:
            from dataclasses import replace

            return replace(super().build(environment, reference, streams), **{field: value[None]})

    preference = Labels() if field == "desirable" else PairLoss()
    with pytest.raises(LabError, match=says):
        learner((4,), data=Bad(rows=3), preference=preference)


def test_data_are_made_from_the_policy_before_any_training() -> None:
    seen = []

    class Noting(Records):
        """Notes the reference that it is given."""

        name = "noting"

        def build(self, environment: Any, reference: Any, streams: Streams) -> Any:
            seen.append(reference.logits.clone())
            return super().build(environment, reference, streams)

    later = torch.ones(2, 2, 4, dtype=torch.float64)
    found = learning.learner(spec(data=Noting(), policy=NumberPolicy()), parameters={"logits": later})
    assert torch.equal(found.actor.logits, later)  # type: ignore[attr-defined]
    assert torch.equal(seen[0], torch.zeros_like(later))


def trainable(role: str) -> list[str]:
    """Return the names of our own objectives whose labels the token world's data can give."""
    own = [c for c in learning.REGISTRY.components(role) if "@" not in c.name and c.name != "pointwise_bce"]
    return [c.name for c in own if not c().needs() & {"margins", "preference_prob"}]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("role", "name"), [(role, name) for role in ("preference", "reward_model") for name in trainable(role)]
)
def test_every_objective_trains_on_the_token_world_s_data(role: str, name: str) -> None:
    needs = learning.REGISTRY.get(role, name)().needs()  # type: ignore[attr-defined]
    form = "unpaired" if "desirable" in needs else "scored" if "targets" in needs else "rankings"
    data = {
        "environment": {"name": "sequences", "vocabulary": 3, "length": 3, "eos": 0},  # lengths differ
        "policy": "tabular_autoregressive",
        "trainer": {"name": "offline" if role == "preference" else "reward_model", "minibatch": 16, "updates": 2},
        "data": {"name": "sampled", "rows": 40, "form": form, **({"ties": 1.5} if "ranks" in needs else {})},
        role: name,
        "optimizer": "adam",
        "gamma": 1.0,
    }
    found, metrics = learning.trained(data, 2)
    assert metrics[-1]["loss"].isfinite().all() and (metrics[-1]["grad_norm"] > 0).all()
    assert found.alive.all() and all(p.isfinite().all() for p in found.actor.parameters())


def test_ties_are_counted_in_the_seed_that_is_named() -> None:
    ranks = torch.tensor([[[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    with pytest.raises(LabError, match=r"row 0 .* of seed 7 holds nothing but a tie, and so do 1 others"):
        check_data(Candidates({}, torch.ones_like(ranks), ranks=ranks), PairLoss(), (4, 7))
