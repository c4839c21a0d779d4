"""From per-step losses to one optimiser step per run: weights, clipping, freezing, and going on after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_lab.components import Aggregation
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Setup, Spaces
from rlhf_lab.training.step import (
    GuardedOptimizer,
    Reduction,
    as_state,
    from_state,
    initial_actor,
    make_actor,
    make_environment,
    mean_metrics,
    per_run,
    shares,
)
from rlhf_lab.types import Loss, Weights

NAN = float("nan")


class TokenMean(Aggregation):
    """Every valid step weighs 1."""

    name = "token_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), valid.double())


class Halved(Aggregation):
    """A total that differs from the weights: each row counts as two."""

    name = "halved"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), 2 * valid.double())


VALID = torch.tensor([[[True, True], [True, False]], [[True, True], [True, True]]])
ENDS = torch.zeros_like(VALID)
VALUES = torch.tensor([[[1.0, 2.0], [6.0, 99.0]], [[1.0, 1.0], [1.0, 5.0]]])


def test_a_reduction_is_the_weighted_mean_of_each_run() -> None:
    # run 0: (1 + 2 + 6) / 3, run 1: (1 + 1 + 1 + 5) / 4
    loss, metrics = Reduction(TokenMean(), VALID, ENDS)(Loss(VALUES, metrics={"twice": 2 * VALUES}))
    assert loss.tolist() == [3.0, 2.0] and metrics["twice"].tolist() == [6.0, 4.0]


def test_the_total_normalises() -> None:
    assert Reduction(Halved(), VALID, ENDS)(Loss(VALUES))[0].tolist() == [1.5, 1.0]


def test_a_step_of_weight_zero_does_not_count_in_sum_or_total() -> None:
    # run 0 without its second step: (1 + 6) / 2; run 1 without its last: 1
    weights = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]])
    loss, metrics = Reduction(TokenMean(), VALID, ENDS)(Loss(VALUES, weights, {"same": VALUES}))
    assert loss.tolist() == [3.5, 1.0] == metrics["same"].tolist()


def test_other_weights_multiply_and_leave_the_total_alone() -> None:
    # run 0: (1 + 2 * 2 + 6) / 3
    weights = torch.ones_like(VALUES)
    weights[0, 0, 1] = 2
    assert Reduction(TokenMean(), VALID, ENDS)(Loss(VALUES, weights))[0].tolist() == pytest.approx([11 / 3, 2.0])


def test_weights_of_one_loss_do_not_stick_to_the_next() -> None:
    reduction = Reduction(TokenMean(), VALID, ENDS)
    reduction(Loss(VALUES, torch.zeros_like(VALUES)))
    assert reduction(Loss(VALUES))[0].tolist() == [3.0, 2.0]


def test_metrics_are_means_whatever_the_aggregation_does_to_the_loss() -> None:
    # the mean of the valid values, each weighed 1: run 0 has 1, 2, 6 and run 1 has 1, 2, 3 (see VALUES and VALID)
    loss = Loss(VALUES, metrics={"x": VALUES})
    due = Reduction(TokenMean(), VALID, ENDS)(loss)[1]["x"].tolist()
    assert Reduction(Halved(), VALID, ENDS)(loss)[1]["x"].tolist() == pytest.approx(due)


def test_an_aggregation_that_must_see_one_run_at_a_time_does() -> None:
    class ByLongest(Aggregation):
        """Divides by the longest row of all that it sees."""

        name = "by_longest"
        scope = "batch"

        def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
            weights = valid.double()
            return Weights(weights, weights * weights.sum(-1).amax())

    beside = Reduction(ByLongest(), VALID, ENDS)(Loss(VALUES))[0]
    alone = Reduction(ByLongest(), VALID[1:], ENDS[1:])(Loss(VALUES[1:]))[0]
    assert beside[1] == alone[0]


def test_a_run_without_valid_steps_has_loss_zero() -> None:
    nothing = VALID & torch.tensor([True, False])[:, None, None]
    assert Reduction(TokenMean(), nothing, ENDS)(Loss(VALUES))[0].tolist() == [3.0, 0.0]


@pytest.mark.parametrize("aggregation", [TokenMean(), Halved()])
def test_splitting_the_rows_does_not_change_the_loss(aggregation: Aggregation) -> None:
    # sum(weights * values) / sum(total) over both halves, each half's sums taken from its own reduction
    whole = Reduction(aggregation, VALID, ENDS)(Loss(VALUES))[0]
    sums = totals = torch.zeros(2, dtype=torch.float64)
    for row in (slice(0, 1), slice(1, 2)):
        part = Reduction(aggregation, VALID[:, row], ENDS[:, row])(Loss(VALUES[:, row]))[0]
        total = per_run(aggregation(VALID[:, row], ENDS[:, row]).total)
        sums, totals = sums + part * total, totals + total
    assert torch.allclose(whole.double(), sums / totals)


def test_padding_with_zeros_changes_no_bit_of_a_sum() -> None:
    x = torch.rand(2, 37, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(per_run(x), per_run(nn.functional.pad(x, (0, more)))) for more in range(70))


def test_per_run_sums_everything_but_the_run_axis() -> None:
    assert per_run(VALUES).tolist() == [108.0, 8.0] and per_run(torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]


class Weighted(nn.Module):
    """Three parameters, one of them with no axis but the run's; the loss of a run is the sum of parameter * slope."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        start = torch.arange(1.0, 1 + runs)
        self.a = nn.Parameter(start[:, None].repeat(1, 2))
        self.b = nn.Parameter(start[:, None, None].repeat(1, 1, 2))
        self.c = nn.Parameter(start.clone())

    def forward(self, slopes: Tensor) -> Tensor:
        """Return the loss ``[runs]``; ``slopes [runs, 5]``."""
        flat = torch.cat([self.a, self.b.flatten(1), self.c[:, None]], dim=1)
        return (flat * slopes).sum(1)

    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(len(self.c), -1) for p in (self.a, self.b, self.c)], dim=1)


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
}


def guarded(model: nn.Module, runs: int, name: str = "sgd", **options: float) -> GuardedOptimizer:
    return GuardedOptimizer(OPTIMIZERS[name](model.parameters()), runs, **options)


def test_a_step_descends_and_returns_the_gradient_norm_of_each_run() -> None:
    model = Weighted(2)
    # run 0: gradient (3, 4, 0, 0, 0) of norm 5, run 1: (1, 1, 1, 1, 0) of norm 2; theta - 0.5 g
    norms = guarded(model, 2).step(model(torch.tensor([[3.0, 4, 0, 0, 0], [1, 1, 1, 1, 0]])))
    assert norms.tolist() == pytest.approx([5.0, 2.0])
    assert model.flat().tolist() == [[-0.5, -1.0, 1.0, 1.0, 1.0], [1.5, 1.5, 1.5, 1.5, 2.0]]


def test_gradients_are_clipped_per_run() -> None:
    # the largest norm is 2.5: run 0 is scaled by 1/2, run 1 (norm 2) not at all; the norms are those before
    model = Weighted(2)
    norms = guarded(model, 2, max_grad_norm=2.5).step(model(torch.tensor([[3.0, 4, 0, 0, 0], [0, 0, 0, 0, 2]])))
    due = torch.tensor([[1 - 0.75, 1 - 1.0, 1, 1, 1], [2.0, 2, 2, 2, 1]])
    assert norms.tolist() == pytest.approx([5.0, 2.0]) and torch.allclose(model.flat(), due, atol=1e-6)


def test_clipping_a_run_equals_torch_s_own_clipping() -> None:
    slopes = torch.tensor([[3.0, -4, 1, 2, 5]])
    ours, theirs = Weighted(1), Weighted(1)
    guarded(ours, 1, max_grad_norm=0.7).step(ours(slopes))
    theirs(slopes).sum().backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
    OPTIMIZERS["sgd"](theirs.parameters()).step()
    assert torch.allclose(ours.flat(), theirs.flat())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [NAN, float("inf"), 1e30])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_run_that_diverges_is_frozen_and_the_others_do_not_notice(name: str, bad: float, clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    together, alone = Weighted(3), Weighted(3)
    first, second = (guarded(model, 3, name, max_grad_norm=clip) for model in (together, alone))
    kept = None
    for step in range(6):
        slopes = torch.randn(3, 5, generator=generator)
        second.step(alone(slopes))
        if step == 2:
            kept = together.flat()[1].clone()
            slopes = slopes.clone()
            slopes[1, 2] = bad
        first.step(together(slopes))
    assert first.alive.tolist() == [True, False, True] and second.alive.all()
    assert torch.equal(together.flat()[1], kept)  # type: ignore[arg-type]
    assert torch.equal(together.flat()[[0, 2]], alone.flat()[[0, 2]])  # bit for bit


def test_a_loss_that_is_not_finite_freezes_its_run_though_its_gradient_is() -> None:
    model = Weighted(2)
    optimizer = guarded(model, 2)
    optimizer.step(model(torch.ones(2, 5)) + torch.tensor([0.0, float("inf")]))
    assert optimizer.alive.tolist() == [True, False] and model.flat()[1].tolist() == [2.0] * 5


def test_no_nan_enters_the_optimiser_s_moments() -> None:
    model = Weighted(2)
    optimizer = guarded(model, 2, "adam", max_grad_norm=1.0)
    optimizer.step(model(torch.tensor([[1.0] * 5, [NAN] * 5])))
    assert all(bool(x.isfinite().all()) for x in optimizer.state_dict().values())


def test_a_run_whose_weights_left_the_sound_range_is_frozen_with_small_ones() -> None:
    model = Weighted(3)
    optimizer = guarded(model, 3)
    with torch.no_grad():
        model.a[0, 1], model.c[1], model.b[2, 0, 0] = 2e12, NAN, 7.0
    before = model.flat()[2].clone()
    optimizer.check_weights(lambda: torch.zeros(3))
    assert optimizer.alive.tolist() == [False, False, True]
    assert bool((model.flat().abs() <= 1).all(dim=1)[:2].all()) and torch.equal(model.flat()[2], before)


def test_a_run_whose_outputs_overflow_is_frozen_though_its_weights_are_finite() -> None:
    model = Weighted(3)
    optimizer = guarded(model, 3)
    with torch.no_grad():
        model.a[:, 1] = 2e3
    optimizer.check_weights(lambda: torch.tensor([1.0, float("inf"), NAN]))
    assert optimizer.alive.tolist() == [True, False, False] and model.a[0, 1] == 2e3


def test_small_weights_are_believed_without_asking_for_outputs() -> None:
    optimizer = guarded(Weighted(2), 2)
    optimizer.check_weights(lambda: pytest.fail("asked"))
    assert optimizer.alive.all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resting_run_does_not_move_and_the_others_do_not_notice(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    together, alone = Weighted(2), Weighted(2)
    first, second = guarded(together, 2, name), guarded(alone, 2, name)
    for step in range(5):
        if step == 3:
            first.rest(torch.tensor([False, True]))
            kept = together.flat()[1].clone()
        slopes = torch.randn(2, 5, generator=generator)
        first.step(together(slopes))
        second.step(alone(slopes))
    assert torch.equal(together.flat()[1], kept) and torch.equal(together.flat()[0], alone.flat()[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_runs_that_are_not_equally_far_are_annealed_apart(name: str) -> None:
    # run 0 is at the start of a linear schedule, run 1 has a quarter left: its step is a quarter of the whole one
    half, whole = Weighted(2), Weighted(2)
    slopes, start = torch.tensor([[1.0, -2, 3, 1, 2]]).repeat(2, 1), Weighted(2).flat()
    annealed = guarded(half, 2, name)
    annealed.anneal(lambda progress: 1 - progress, torch.tensor([0.0, 0.75]))
    annealed.step(half(slopes))
    guarded(whole, 2, name).step(whole(slopes))
    moved, due = half.flat() - start, whole.flat() - start
    assert torch.allclose(moved, due * torch.tensor([[1.0], [0.25]]), atol=1e-6)


def test_a_frozen_run_stays_frozen() -> None:
    model = Weighted(2)
    optimizer = guarded(model, 2, "momentum")
    optimizer.step(model(torch.tensor([[1.0] * 5, [NAN] * 5])))
    optimizer.step(model(torch.ones(2, 5)))
    assert optimizer.alive.tolist() == [True, False] and model.flat()[1].tolist() == [2.0] * 5


def test_annealing_scales_the_first_learning_rates() -> None:
    model = Weighted(1)
    groups = [{"params": [model.a], "lr": 1.0}, {"params": [model.b, model.c], "lr": 0.5}]
    optimizer = GuardedOptimizer(torch.optim.SGD(groups), 1)
    optimizer.anneal(lambda progress: progress, 0.5)
    optimizer.anneal(lambda progress: progress, 0.25)  # of the first value, not of the last
    optimizer.step(model(torch.ones(1, 5)))
    assert model.flat().tolist() == [[0.75, 0.75, 0.875, 0.875, 0.875]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimiser_goes_on_equally(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    model, other = Weighted(2), Weighted(2)
    optimizer, restored = guarded(model, 2, name), guarded(other, 2, name)
    for _ in range(3):
        optimizer.step(model(torch.randn(2, 5, generator=generator)))
    optimizer.step(model(torch.tensor([[1.0] * 5, [NAN] * 5])))
    other.load_state_dict({key: x.clone() for key, x in model.state_dict().items()})
    restored.load_state_dict({key: x.clone() for key, x in optimizer.state_dict().items()})
    for _ in range(3):
        slopes = torch.randn(2, 5, generator=generator)
        optimizer.step(model(slopes))
        restored.step(other(slopes))
    assert restored.alive.tolist() == [True, False] and torch.equal(model.flat(), other.flat())
    assert all(torch.equal(x, restored.state_dict()[key]) for key, x in optimizer.state_dict().items())


def test_two_optimisers_restored_from_one_state_do_not_share_it() -> None:
    model, other = Weighted(2), Weighted(2)
    optimizer, restored = guarded(model, 2, "adam"), guarded(other, 2, "adam")
    optimizer.step(model(torch.ones(2, 5)))
    state = optimizer.state_dict()
    restored.load_state_dict(state)
    kept = {key: x.clone() for key, x in state.items()}
    restored.step(other(torch.tensor([[NAN] * 5, [1.0] * 5])))
    assert optimizer.alive.all() and all(torch.equal(x, kept[key]) for key, x in optimizer.state_dict().items())


def test_state_keys_carry_a_prefix() -> None:
    state = {**as_state("actor", {"a/b": torch.tensor(1)}), **as_state("act", {"c": torch.tensor(2)})}
    assert {key: int(x) for key, x in state.items()} == {"actor/a/b": 1, "act/c": 2}
    assert {key: int(x) for key, x in from_state("actor", state).items()} == {"a/b": 1}


class Policy:
    """Builds a fixed actor."""

    name = "weighted"

    def build(self, spaces: Spaces, runs: int, streams: Streams) -> Weighted:
        return Weighted(runs)


def setup(**parameters: Tensor) -> Setup:
    return Setup(None, Policy(), {}, Streams((0, 1)), parameters)  # type: ignore[arg-type]


def test_an_actor_begins_with_an_earlier_stage_s_weights() -> None:
    actor: Any = make_actor(setup(c=torch.tensor([7.0, 8.0])), Spaces(2))
    assert actor.c.tolist() == [7.0, 8.0] and actor.a[0].tolist() == [1.0, 1.0]


def test_a_reward_model_s_weights_are_no_policy_s() -> None:
    parameters = {"reward.c": torch.tensor([7.0, 8.0])}
    actor: Any = make_actor(setup(**parameters), Spaces(2))
    assert actor.c.tolist() == [1.0, 2.0]
    with pytest.raises(LabError, match="policy 'weighted' has none of the earlier stage's weights: d; give both"):
        make_actor(setup(d=torch.zeros(2), **parameters), Spaces(2))


def test_the_untrained_policy_knows_no_earlier_stage() -> None:
    actor: Any = initial_actor(setup(c=torch.tensor([7.0, 8.0])), Spaces(2))
    assert actor.c.tolist() == [1.0, 2.0]


class Adopting:
    """Builds itself, and notes what it is handed."""

    name = "adopting"

    def build(self, runs: int, envs: int, streams: Streams) -> Adopting:
        self.built, self.adopted = (runs, envs, streams.path), {}
        return self

    def adopt(self, parameters: dict[str, Tensor]) -> None:
        self.adopted = parameters


def test_an_environment_takes_over_what_earlier_stages_have_learned() -> None:
    parameters = {"reward.c": torch.zeros(2)}
    for given in ({}, parameters):
        environment: Any = make_environment(replace(setup(**given), environment=Adopting()), 3)  # type: ignore[arg-type]
        assert environment.built == (2, 3, "/environment") and environment.adopted == given


def test_metrics_are_averaged_over_the_steps_for_which_they_are_defined() -> None:
    points = [{"a": torch.tensor([1.0, NAN, NAN])}, {"a": torch.tensor([3.0, 5.0, NAN])}]
    assert mean_metrics(points)["a"].tolist()[:2] == [2.0, 5.0] and mean_metrics(points)["a"][2].isnan()


def test_the_mean_of_a_run_s_metric_has_the_same_bits_whatever_runs_beside_it() -> None:
    numbers = torch.rand(50, 7, generator=torch.Generator().manual_seed(0))
    together = mean_metrics([{"a": row} for row in numbers])["a"]
    for run in range(7):
        assert torch.equal(mean_metrics([{"a": row[run : run + 1]} for row in numbers])["a"][0], together[run])


def test_shares_sum_to_one_or_are_zero() -> None:
    assert shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_an_optimiser_that_forgets_steps_as_a_new_one_and_keeps_what_has_diverged(kind: str) -> None:
    model, fresh = Weighted(2), Weighted(2)
    optimizer = guarded(model, 2, kind)
    optimizer.step(model(torch.ones(2, 5)))
    optimizer.step(model(torch.tensor([[1.0] * 5, [NAN] * 5])))
    fresh.load_state_dict(model.state_dict())
    optimizer.forget()
    optimizer.step(model(torch.ones(2, 5)))
    guarded(fresh, 2, kind).step(fresh(torch.ones(2, 5)))
    assert torch.equal(model.flat()[0], fresh.flat()[0]) and optimizer.alive.tolist() == [True, False]


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(
        LabError, match=r"policy 'weighted': the earlier stage's c has shape \[3\], this one's has \[2\]"
    ):
        make_actor(setup(c=torch.zeros(3)), Spaces(2))
