"""Policy objectives against hand tables and enumeration, and the laws against mutants that they must reject."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from rlhf_lab.types import BatchError, Loss, PolicyBatch
from rlhf_lab_objectives import (
    PPOKL,
    AdaptiveKL,
    Constant,
    Fixed,
    ImportanceWeighted,
    PPOClip,
    Reinforce,
    SequenceMean,
    SequenceSum,
    TokenMean,
)

Objective = Callable[[PolicyBatch], Loss]

OBJECTIVES = [Reinforce(), ImportanceWeighted(), PPOClip(), PPOKL(coef=0.5)]
RATIO_OBJECTIVES = OBJECTIVES[1:]
NAN = math.nan


def name_of(part: Any) -> str | None:
    return getattr(part, "name", None) or getattr(part, "__name__", None)


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def make(
    log_probs: Tensor,
    advantages: Tensor,
    old: Tensor | None = None,
    valid: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> PolicyBatch:
    valid = torch.ones(log_probs.shape, dtype=torch.bool) if valid is None else valid
    return PolicyBatch(log_probs, advantages, valid, torch.zeros_like(valid), old_log_probs=old, state=state)


def ratio_batch(ratio: Tensor, advantages: Tensor) -> PolicyBatch:
    """A batch whose ratio is as given; log_probs is a leaf."""
    old = torch.linspace(-2, -0.5, ratio.numel(), dtype=torch.float64).view_as(ratio)
    return make((old + ratio.log()).requires_grad_(), advantages, old)


def values_and_gradient(objective: Objective, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
    values = objective(batch).values
    (gradient,) = torch.autograd.grad(values.sum(), batch.log_probs)
    return values.detach(), gradient


# The laws of a clipped objective.

# clip = 1/4, so the interval is [3/4, 5/4]. The objective is min(rho A, clip(rho) A), the loss its negative. Since
# d rho / d log pi = rho, the gradient of an unclipped step equals its loss.
#   A, rho, objective, whether the step keeps its gradient
GRID = [
    (2.0, 0.5, 1.0, 0.5),  # min(1, 1.5) = 1: A > 0 below the interval keeps its gradient
    (2.0, 1.0, 2.0, 1.0),
    (2.0, 1.125, 2.25, 1.0),
    (2.0, 1.5, 2.5, 0.0),  # min(3, 2.5): clipped
    (2.0, 8.0, 2.5, 0.0),
    (-2.0, 0.125, -1.5, 0.0),  # min(-0.25, -1.5): clipped
    (-2.0, 0.5, -1.5, 0.0),
    (-2.0, 0.875, -1.75, 1.0),
    (-2.0, 1.0, -2.0, 1.0),
    (-2.0, 1.5, -3.0, 1.0),  # min(-3, -2.5): A < 0 above the interval keeps its gradient
    (-2.0, 8.0, -16.0, 1.0),  # and is unbounded, by design
]


def law_grid(objective: Objective) -> None:
    advantages, ratio, gain, _ = double(GRID).unbind(-1)
    live = double([row[3] != 0 for row in GRID])
    values, gradient = values_and_gradient(objective, ratio_batch(ratio, advantages))
    torch.testing.assert_close(values, -gain, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, live * -gain, atol=1e-12, rtol=0)


def law_on_policy(objective: Objective) -> None:
    """At ratio 1 the loss is -A, and its gradient -A grad log pi."""
    advantages = double([3.0, -0.5, 0.0, 0.25])
    values, gradient = values_and_gradient(objective, ratio_batch(torch.ones_like(advantages), advantages))
    torch.testing.assert_close(values, -advantages, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient, -advantages, atol=1e-12, rtol=0)


def law_detached(objective: Objective) -> None:
    """Only log_probs receives gradient."""
    log_probs, advantages, old = (double([-1.0, -0.5]).requires_grad_() for _ in range(3))
    values = objective(make(log_probs, advantages, old)).values
    found = torch.autograd.grad(values.sum(), [log_probs, advantages, old], allow_unused=True)
    assert bool((found[0] != 0).all())
    assert all(g is None or bool((g == 0).all()) for g in found[1:])


def law_pessimistic(objective: Objective) -> None:
    """The clipped loss is never below the surrogate's."""
    advantages, ratio, *_ = double(GRID).unbind(-1)
    batch = ratio_batch(ratio, advantages)
    assert bool((objective(batch).values >= ImportanceWeighted()(batch).values - 1e-12).all())


def law_padding(objective: Objective) -> None:
    """NaN at invalid steps reaches neither values nor gradients; other steps are what they are without padding."""
    log_probs = double([[-1.0, NAN, -0.5], [-0.7, -0.2, NAN]]).requires_grad_()
    advantages = double([[2.0, NAN, -1.0], [0.5, math.inf, NAN]])
    old = double([[-1.2, NAN, -0.1], [-0.7, NAN, NAN]])
    valid = torch.tensor([[True, False, True], [True, False, False]])
    loss = objective(make(log_probs, advantages, old, valid))
    (gradient,) = torch.autograd.grad(loss.values.sum(), log_probs)
    kept = make(*(x.detach()[valid].requires_grad_() for x in (log_probs, advantages, old)))
    values, expected = values_and_gradient(objective, kept)
    assert bool((loss.values[~valid] == 0).all()) and bool((gradient[~valid] == 0).all())
    torch.testing.assert_close(loss.values[valid].detach(), values)
    torch.testing.assert_close(gradient[valid], expected)
    assert all(bool(metric.isfinite().all()) for metric in loss.metrics.values())


def clip(ratio: Tensor) -> Tensor:
    return ratio.clamp(0.75, 1.25)


def parts(batch: PolicyBatch) -> tuple[Tensor, Tensor]:
    assert batch.old_log_probs is not None
    return (batch.log_probs - batch.old_log_probs.detach()).exp(), batch.advantages.detach()


def paper_form(batch: PolicyBatch) -> Loss:
    """Equation 7 as printed, negated: sound but for overflow and padding."""
    ratio, advantages = parts(batch)
    return Loss(-torch.minimum(ratio * advantages, clip(ratio) * advantages))


def min_before_advantage(batch: PolicyBatch) -> Loss:  # P01
    ratio, advantages = parts(batch)
    return Loss(-torch.minimum(ratio, clip(ratio)) * advantages)


def dual_clip_for_every_sign(batch: PolicyBatch) -> Loss:  # P03
    ratio, advantages = parts(batch)
    return Loss(-torch.maximum(torch.minimum(ratio * advantages, clip(ratio) * advantages), 3 * advantages))


def old_recomputed(batch: PolicyBatch) -> Loss:  # P06
    log_probs = batch.log_probs
    return paper_form(make(log_probs, batch.advantages, log_probs.detach()))


def old_recomputed_live(batch: PolicyBatch) -> Loss:  # P06b
    ratio = (batch.log_probs - batch.log_probs).exp()
    return Loss(-torch.minimum(ratio * batch.advantages, clip(ratio) * batch.advantages))


def live_advantage(batch: PolicyBatch) -> Loss:  # P09
    ratio, _ = parts(batch)
    return Loss(-torch.minimum(ratio * batch.advantages, clip(ratio) * batch.advantages))


def gain_instead_of_loss(batch: PolicyBatch) -> Loss:  # P23, and E17 of the source text
    return Loss(-paper_form(batch).values)


def clipped_both_sides(batch: PolicyBatch) -> Loss:  # C31 as the source text has it
    ratio, advantages = parts(batch)
    return Loss(-clip(ratio) * advantages)


def clips_the_product(batch: PolicyBatch) -> Loss:  # E32: compares rho A, not rho, with the interval
    ratio, advantages = parts(batch)
    return Loss(-torch.minimum(ratio * advantages, clip(ratio * advantages)))


def cleans_afterwards(batch: PolicyBatch) -> Loss:
    return Loss(torch.where(batch.valid, paper_form(batch).values, 0))


@pytest.mark.parametrize("law", [law_grid, law_on_policy, law_detached, law_pessimistic], ids=name_of)
@pytest.mark.parametrize("objective", [PPOClip(clip=0.25), paper_form], ids=name_of)
def test_ppo_clip_obeys(law: Callable[[Objective], None], objective: Objective) -> None:
    law(objective)


@pytest.mark.parametrize(
    ("law", "mutant"),
    [
        (law_grid, min_before_advantage),
        (law_grid, dual_clip_for_every_sign),
        (law_grid, old_recomputed),
        (law_on_policy, old_recomputed_live),
        (law_detached, live_advantage),
        (law_grid, gain_instead_of_loss),
        (law_on_policy, gain_instead_of_loss),
        (law_pessimistic, clipped_both_sides),
        (law_grid, clips_the_product),
        (law_padding, cleans_afterwards),
    ],
    ids=name_of,
)
def test_laws_reject_mutants(law: Callable[[Objective], None], mutant: Objective) -> None:
    with pytest.raises(AssertionError):
        law(mutant)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_invalid_steps_are_inert(objective: Objective) -> None:
    law_padding(objective)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_only_log_probs_carries_gradient(objective: Objective) -> None:
    law_detached(objective)


@pytest.mark.parametrize("objective", RATIO_OBJECTIVES, ids=name_of)
def test_at_ratio_one_the_loss_is_minus_the_advantage(objective: Objective) -> None:
    law_on_policy(objective)


@pytest.mark.parametrize("objective", RATIO_OBJECTIVES, ids=name_of)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(objective: Objective) -> None:
    batch = ratio_batch(torch.ones(5, dtype=torch.float64), double([1.0, -2.0, 0.5, 0.0, 3.0]))
    _, expected = values_and_gradient(Reinforce(), batch)
    _, gradient = values_and_gradient(objective, batch)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_whitened_advantages_make_the_loss_zero_and_the_gradient_not() -> None:
    # C33: A = (1, -1) has mean 0, so the mean loss at ratio 1 is 0; its gradient is (-1/2, 1/2).
    batch = ratio_batch(torch.ones(2, dtype=torch.float64), double([1.0, -1.0]))
    loss = PPOClip()(batch).values.mean()
    (gradient,) = torch.autograd.grad(loss, batch.log_probs)
    assert loss.item() == 0
    assert gradient.tolist() == [-0.5, 0.5]


ratios = st.floats(-6, 6).map(math.exp)
numbers = st.floats(-8, 8, allow_subnormal=False)


@settings(derandomize=True, max_examples=50, deadline=None, database=None)
@given(st.lists(st.tuples(ratios, numbers), min_size=1, max_size=6), st.floats(0, 0.99), st.floats(0, 3))
def test_ppo_clip_is_the_negated_minimum_of_the_paper(steps: list[Any], low: float, high: float) -> None:
    ratio, advantages = double(steps).unbind(-1)
    values = PPOClip(clip_low=low, clip_high=high)(ratio_batch(ratio, advantages)).values
    gains = [min(r * a, max(1 - low, min(r, 1 + high)) * a) for r, a in steps]
    torch.testing.assert_close(values, -double(gains), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("limit", [PPOClip(clip=math.inf), PPOClip(clip=1e9), PPOKL(coef=0)], ids=repr)
def test_without_clip_or_penalty_the_surrogate_remains(limit: Objective) -> None:
    advantages, ratio, *_ = double(GRID).unbind(-1)
    batch = ratio_batch(ratio, advantages)
    for found, expected in zip(
        values_and_gradient(limit, batch), values_and_gradient(ImportanceWeighted(), batch), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_each_side_has_its_own_clip() -> None:
    # [1 - 1/2, 1 + 1/4]: A = 1 at rho 2 is held at 1.25; A = -1 at rho 1/4 at 1/2. A side left out falls back to clip.
    batch = ratio_batch(double([2.0, 0.25]), double([1.0, -1.0]))
    held = PPOClip(clip_low=0.5, clip_high=0.25)(batch).values
    torch.testing.assert_close(held, double([-1.25, 0.5]), atol=1e-12, rtol=0)
    for partly in (PPOClip(clip=0.5, clip_high=0.25), PPOClip(clip=0.25, clip_low=0.5)):
        torch.testing.assert_close(partly(batch).values, held, atol=1e-12, rtol=0)


def test_a_clip_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"clip: clip_low and clip_high set both sides, so .*; leave clip out"):
        PPOClip(clip=0.9, clip_low=0.1, clip_high=0.3)


def test_a_saved_clip_of_both_sides_is_read_again() -> None:
    # a saved spec names the default clip too
    objective = PPOClip(clip_low=0.1, clip_high=0.3)
    saved = {key: value for key, value in objective.model_dump().items() if key != "name"}
    assert saved["clip"] == 0.2 and PPOClip(**saved) == objective


def test_an_overflowing_ratio_that_is_clipped_gives_no_nan() -> None:
    # exp(800) is inf: A > 0 is held at 1.25, without gradient; A = 0 contributes nothing; exp(-800) is 0.
    log_probs = double([0.0, 0.0, -800.0]).requires_grad_()
    batch = make(log_probs, double([1.0, 0.0, 1.0]), double([-800.0, -800.0, 0.0]))
    values, gradient = values_and_gradient(PPOClip(clip=0.25), batch)
    torch.testing.assert_close(values, double([-1.25, 0.0, 0.0]), atol=1e-12, rtol=0)
    assert gradient.tolist() == [0, 0, 0]


def test_clip_fraction_counts_only_steps_without_gradient() -> None:
    # Outside [0.75, 1.25] at A = 0 nothing is clipped; a padded step never is.
    advantages, ratio, *_ = double([*GRID, (0.0, 9.0, 0.0, 0.0)]).unbind(-1)
    expected = [float(row[3] == 0) for row in GRID] + [0.0]
    loss = PPOClip(clip=0.25)(ratio_batch(ratio, advantages))
    assert loss.metrics["clip_fraction"].tolist() == expected


@pytest.mark.parametrize("objective", RATIO_OBJECTIVES, ids=name_of)
def test_metrics_of_ratio_objectives(objective: Objective) -> None:
    # rho = 2: approx_kl = 2 - 1 - log 2;  rho = 1/2: 1/2 - 1 + log 2.
    metrics = objective(ratio_batch(double([2.0, 0.5]), double([1.0, 1.0]))).metrics
    torch.testing.assert_close(metrics["ratio"], double([2.0, 0.5]))
    torch.testing.assert_close(metrics["approx_kl"], double([1 - math.log(2), math.log(2) - 0.5]))


# Exact expectations on a bandit with four actions.

LOGITS = double([0.3, -0.7, 1.1, 0.0])
OLD_LOGITS = double([-0.2, 0.4, 0.5, 0.1])
REWARDS = double([1.0, -2.0, 0.5, 3.0])


def expected_gradient(objective: Objective, logits: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    """The exact mean over actions drawn from ``old`` of the loss's gradient in ``logits``."""
    logits = logits.clone().requires_grad_()
    values = objective(make(logits.log_softmax(-1), advantages, old.log_softmax(-1))).values
    (gradient,) = torch.autograd.grad((old.softmax(-1) * values).sum(), logits)
    return gradient


def gradient_of(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(logits), logits)
    return gradient


def test_reinforce_has_the_exact_policy_gradient_with_any_baseline() -> None:
    exact = gradient_of(lambda x: -(x.softmax(-1) * REWARDS).sum(), LOGITS)
    for baseline in (0.0, 1.5, -40.0):
        found = expected_gradient(Reinforce(), LOGITS, LOGITS, REWARDS - baseline)
        torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)


def test_importance_weighting_has_the_exact_policy_gradient_off_policy() -> None:
    exact = gradient_of(lambda x: -(x.softmax(-1) * REWARDS).sum(), LOGITS)
    found = expected_gradient(ImportanceWeighted(), LOGITS, OLD_LOGITS, REWARDS)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    wrong = expected_gradient(Reinforce(), LOGITS, OLD_LOGITS, REWARDS)
    assert (wrong - exact).norm() > 0.1


def kl_of_old_and_new(logits: Tensor) -> Tensor:
    old = OLD_LOGITS.log_softmax(-1)
    return (old.exp() * (old - logits.log_softmax(-1))).sum()


def test_the_penalty_of_ppo_kl_is_the_divergence_of_the_old_policy_from_the_new() -> None:
    # E_old[rho - 1 - log rho] = 1 - 1 - E_old[log rho] = KL(old || new): value and gradient, with A = 0 and beta = 3.
    penalty = PPOKL(coef=3)
    zero = torch.zeros_like(REWARDS)
    new, old = LOGITS.log_softmax(-1), OLD_LOGITS.log_softmax(-1)
    value = (old.exp() * penalty(make(new, zero, old)).values).sum()
    torch.testing.assert_close(value, 3 * kl_of_old_and_new(LOGITS), atol=1e-12, rtol=0)
    found = expected_gradient(penalty, LOGITS, OLD_LOGITS, zero)
    torch.testing.assert_close(found, 3 * gradient_of(kl_of_old_and_new, LOGITS), atol=1e-12, rtol=0)


# The state of ppo_kl.


def test_ppo_kl_by_hand() -> None:
    # rho = 2, A = 3, beta = 1/2: loss = -6 + (2 - 1 - log 2) / 2.
    loss = PPOKL(coef=0.5)(ratio_batch(double([2.0]), double([3.0])))
    torch.testing.assert_close(loss.values.detach(), double([-6 + (1 - math.log(2)) / 2]))


def test_each_run_has_its_own_coefficient() -> None:
    # shape [runs, rows, t] = [2, 3, 2], beta = (1, 4), A = 0: the loss is beta times the penalty of rho = 2.
    old = torch.full((2, 3, 2), -1.0, dtype=torch.float64)
    batch = make(old + math.log(2), torch.zeros_like(old), old, state={"coef": double([1.0, 4.0])})
    loss = PPOKL()(batch)
    expected = double([1.0, 4.0])[:, None, None].expand(2, 3, 2)
    torch.testing.assert_close(loss.values, expected * (1 - math.log(2)))
    assert torch.equal(loss.metrics["kl_coef"], expected)


def test_the_coefficient_follows_the_observed_divergence_per_run() -> None:
    # Target 0.01: 0.02 > 0.015 doubles, 0.004 < 0.00667 halves, 0.01 stays.
    objective = PPOKL(coef=0.5)
    state = objective.initial_state()
    for expected in ([1.0, 0.25, 0.5], [2.0, 0.125, 0.5]):
        state = objective.next_state(state, {"approx_kl": torch.tensor([0.02, 0.004, 0.01])})
        assert state["coef"].tolist() == expected


def test_defaults_are_those_of_ppo() -> None:
    assert PPOClip() == PPOClip(clip=0.2)
    assert PPOKL() == PPOKL(coef=1, controller=AdaptiveKL())


def test_a_fixed_controller_keeps_the_coefficient() -> None:
    objective = PPOKL(coef=2, controller=Fixed())
    state = objective.next_state(objective.initial_state(), {"approx_kl": torch.tensor(100.0)})
    assert state["coef"].item() == 2


def test_ppo_kl_serialises_with_its_controller() -> None:
    dumped = PPOKL(controller=AdaptiveKL(target=0.03)).model_dump()
    assert dumped["controller"] == {"name": "adaptive_kl", "target": 0.03, "tolerance": 1.5, "factor": 2.0}


@pytest.mark.parametrize("wrong", [{"clip": -0.1}, {"clip_low": -1}, {"clip_high": NAN}, {"epsilon": 0.2}], ids=repr)
def test_ppo_clip_refuses_bad_parameters(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PPOClip(**wrong)


def test_ppo_kl_refuses_a_component_of_another_role() -> None:
    with pytest.raises(ValidationError, match="expected a component of role 'controller'"):
        PPOKL(controller=Reinforce())


# All of them.


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_leading_axes_do_not_matter(objective: Objective) -> None:
    torch.manual_seed(0)
    log_probs, advantages, old = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    valid = torch.rand(2, 4, 5) > 0.3
    whole = objective(make(log_probs, advantages, old, valid)).values
    for run in range(2):
        for row in range(4):
            at = (run, row)
            single = objective(make(log_probs[at], advantages[at], old[at], valid[at])).values
            torch.testing.assert_close(whole[at], single, atol=0, rtol=0)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_loss_has_the_dtype_of_the_log_probs(objective: Objective, dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, -2.0], dtype=dtype)
    assert objective(make(x, x, x)).values.dtype == dtype


@pytest.mark.parametrize("objective", RATIO_OBJECTIVES, ids=name_of)
def test_missing_old_log_probs_are_named(objective: Any) -> None:
    assert objective.needs() == {"old_log_probs"}
    with pytest.raises(BatchError, match="old_log_probs"):
        objective(make(double([-1.0]), double([1.0])))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_named_aggregations_exist(objective: Any) -> None:
    shipped = {a.name for a in (TokenMean, SequenceMean, SequenceSum, Constant)}
    assert set(objective.aggregations) <= shipped
