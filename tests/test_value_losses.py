"""Critic losses against hand tables and their known minimisers, and the laws against mutants that they must reject."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.types import BatchError, Loss, ValueBatch
from rlhf_lab_objectives import ClippedValue, HuberValue, MSEValue

ValueLoss = Callable[[ValueBatch], Loss]

LOSSES = [MSEValue(), ClippedValue(clip=0.25), HuberValue(delta=0.5)]
NAN = math.nan


def name_of(part: Any) -> str | None:
    return getattr(part, "name", None) or getattr(part, "__name__", None)


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def make(values: Tensor, returns: Tensor, old: Tensor | None = None, valid: Tensor | None = None) -> ValueBatch:
    valid = torch.ones(values.shape, dtype=torch.bool) if valid is None else valid
    return ValueBatch(values, returns, valid, torch.zeros_like(valid), old_values=old)


def values_and_gradient(loss: ValueLoss, batch: ValueBatch) -> tuple[Tensor, Tensor]:
    values = loss(batch).values
    (gradient,) = torch.autograd.grad(values.sum(), batch.values)
    return values.detach(), gradient


# clip = 1/4. held = V_old + clip(V - V_old, -1/4, 1/4); loss = max((V - R)^2, (held - R)^2) / 2; the gradient is V - R
# where the first is larger or V was not held, else 0.
#  V    V_old   R      loss      gradient
CLIPPED = [
    (1.0, 1.0, 3.0, 2.0, -2.0),  # not moved: plain error
    (1.125, 1.0, 3.0, 1.7578125, -1.875),  # moved within clip: 1.875^2 / 2
    (2.0, 1.0, 3.0, 1.53125, 0.0),  # moved towards R: held = 1.25, 1.75^2 / 2 > 1 / 2
    (0.0, 1.0, 3.0, 4.5, -3.0),  # moved away: held = 0.75, 2.25^2 < 9, so V is pulled back
    (5.0, 1.0, 3.0, 2.0, 2.0),  # jumped over R: held error 1.75 < 2
    (4.0, 1.0, 3.0, 1.53125, 0.0),  # jumped over R but nearer: held error 1.75 > 1
    (0.0, 1.0, -2.0, 3.78125, 0.0),  # downwards: held = 0.75, 2.75^2 / 2 > 2
    (1.5, 1.0, 1.375, 0.0078125, 0.0625),  # held error -0.125, as far off as the free 0.125: half of its gradient
]


def law_table(loss: ValueLoss) -> None:
    table = double(CLIPPED)
    found = values_and_gradient(loss, make(table[:, 0].clone().requires_grad_(), table[:, 2], table[:, 1]))
    torch.testing.assert_close(found, (table[:, 3], table[:, 4]), atol=1e-12, rtol=0)


def law_not_below_mse(loss: ValueLoss) -> None:
    table = double(CLIPPED)
    batch = make(table[:, 0], table[:, 2], table[:, 1])
    assert bool((loss(batch).values >= MSEValue()(batch).values).all())


def law_wide_clip_is_mse(loss: ValueLoss) -> None:
    """Where no value moved by more than the clip, the loss is mse."""
    batch = make(double([1.0, -2.0, 0.5]), double([3.0, 1.0, 0.4]), double([1.1, -1.8, 0.5]))
    torch.testing.assert_close(loss(batch).values, MSEValue()(batch).values, atol=1e-12, rtol=0)


def held(batch: ValueBatch, centre: Tensor) -> Tensor:
    return centre + (batch.values - centre).clamp(-0.25, 0.25)


def worst(batch: ValueBatch, clipped: Tensor) -> Loss:
    return Loss(0.5 * torch.maximum((batch.values - batch.returns) ** 2, (clipped - batch.returns) ** 2))


def old_value_recomputed(batch: ValueBatch) -> Loss:  # V02
    return worst(batch, held(batch, batch.values.detach()))


def clipped_around_the_return(batch: ValueBatch) -> Loss:  # V03
    return worst(batch, held(batch, batch.returns))


def clipped_branch_only(batch: ValueBatch) -> Loss:  # V08
    assert batch.old_values is not None
    return Loss(0.5 * (held(batch, batch.old_values) - batch.returns) ** 2)


def minimum_of_both(batch: ValueBatch) -> Loss:
    plain, clipped = MSEValue()(batch).values, clipped_branch_only(batch).values
    return Loss(torch.minimum(plain, clipped))


def without_half(batch: ValueBatch) -> Loss:  # V05
    return Loss(2 * ClippedValue(clip=0.25)(batch).values)


@pytest.mark.parametrize("law", [law_table, law_not_below_mse, law_wide_clip_is_mse], ids=name_of)
def test_clipped_obeys(law: Callable[[ValueLoss], None]) -> None:
    law(ClippedValue(clip=0.25))


@pytest.mark.parametrize(
    ("law", "mutant"),
    [
        (law_table, old_value_recomputed),
        (law_table, clipped_around_the_return),
        (law_table, clipped_branch_only),
        (law_not_below_mse, clipped_branch_only),
        (law_not_below_mse, minimum_of_both),
        (law_wide_clip_is_mse, without_half),
    ],
    ids=name_of,
)
def test_laws_reject_mutants(law: Callable[[ValueLoss], None], mutant: ValueLoss) -> None:
    with pytest.raises(AssertionError):
        law(mutant)


@pytest.mark.parametrize("name", ["returns", "valid", "old_values"])
def test_a_trailing_axis_is_refused_and_not_broadcast(name: str) -> None:
    # V04: [4] against [4, 1] would compare every value with every return.
    fields = {"values": torch.zeros(4), "returns": torch.ones(4), "old_values": torch.zeros(4)}
    fields |= {"valid": torch.ones(4, dtype=torch.bool), "ends": torch.zeros(4, dtype=torch.bool)}
    fields[name] = fields[name][:, None]
    with pytest.raises(BatchError, match=rf"{name}: expected shape \[4\], found shape \[4, 1\]"):
        ValueBatch(**fields)


def test_mse_by_hand() -> None:
    values, gradient = values_and_gradient(MSEValue(), make(double([1.0, -2.0]).requires_grad_(), double([4.0, -2.5])))
    assert values.tolist() == [4.5, 0.125]
    assert gradient.tolist() == [-3.0, 0.5]


def test_huber_by_hand() -> None:
    # delta = 1/2: errors 1/4 and -1/2 are square (1/32, 1/8), 3 and -2 linear: (3 - 1/4) / 2, (2 - 1/4) / 2.
    batch = make(double([0.25, -0.5, 3.0, -2.0]).requires_grad_(), torch.zeros(4, dtype=torch.float64))
    values, gradient = values_and_gradient(HuberValue(delta=0.5), batch)
    assert values.tolist() == [0.03125, 0.125, 1.375, 0.875]
    assert gradient.tolist() == [0.25, -0.5, 0.5, -0.5]


@pytest.mark.parametrize("delta", [1e6, math.inf])
def test_huber_with_a_large_delta_is_mse(delta: float) -> None:
    batch = make(double([1.0, -20.0, 0.0]).requires_grad_(), double([3.0, 5.0, 0.0]))
    found = values_and_gradient(HuberValue(delta=delta), batch)
    torch.testing.assert_close(found, values_and_gradient(MSEValue(), batch))


@pytest.mark.parametrize(
    ("loss", "minimiser"),
    [
        (MSEValue(), 2.5),  # the mean of 0, 0, 0, 10
        (HuberValue(delta=0.25), 0.25 / 3),  # three pull down by V, one up by delta: 3 V = delta
        (ClippedValue(clip=100.0), 2.5),
    ],
    ids=name_of,
)
def test_minimiser_on_skewed_returns(loss: ValueLoss, minimiser: float) -> None:
    # C23: only the square's minimiser is the expected return. There, and only there, the summed gradient is 0.
    def slope(value: float) -> float:
        values = torch.full((4,), value, dtype=torch.float64, requires_grad=True)
        batch = make(values, double([0.0, 0.0, 0.0, 10.0]), torch.zeros(4, dtype=torch.float64))
        return float(values_and_gradient(loss, batch)[1].sum())

    assert abs(slope(minimiser)) < 1e-12
    assert slope(minimiser - 0.01) < 0 < slope(minimiser + 0.01)


numbers = st.floats(-8, 8, allow_subnormal=False)


@settings(derandomize=True, max_examples=50, deadline=None, database=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=6), st.floats(0, 4))
def test_clipped_is_the_larger_of_two_squares(steps: list[tuple[float, float, float]], clip: float) -> None:
    values, old, returns = double(steps).unbind(-1)
    found = ClippedValue(clip=clip)(make(values, returns, old)).values
    expected = [max((v - r) ** 2, (min(max(v, o - clip), o + clip) - r) ** 2) / 2 for v, o, r in steps]
    torch.testing.assert_close(found, double(expected), atol=1e-9, rtol=1e-9)


def test_value_clip_fraction_counts_only_steps_without_gradient() -> None:
    table = double(CLIPPED)
    loss = ClippedValue(clip=0.25)(make(table[:, 0], table[:, 2], table[:, 1]))
    assert loss.metrics["value_clip_fraction"].tolist() == [float(row[4] == 0) for row in CLIPPED]


def test_rounding_does_not_count_as_clipping() -> None:
    torch.manual_seed(0)
    values, returns = torch.randn(2, 100)
    loss = ClippedValue(clip=0.25)(make(values, returns, values + 0.2 * torch.rand(100)))
    assert float(loss.metrics["value_clip_fraction"].sum()) == 0


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_invalid_steps_are_inert(loss: ValueLoss) -> None:
    values = double([[1.0, NAN, -0.5], [2.0, 3.0, NAN]]).requires_grad_()
    returns = double([[3.0, NAN, 0.25], [-1.0, math.inf, NAN]])
    old = double([[0.5, NAN, -0.5], [2.0, NAN, NAN]])
    valid = torch.tensor([[True, False, True], [True, False, False]])
    found = loss(make(values, returns, old, valid))
    (gradient,) = torch.autograd.grad(found.values.sum(), values)
    kept = make(values.detach()[valid].requires_grad_(), returns[valid], old[valid])
    expected = values_and_gradient(loss, kept)
    assert bool((found.values[~valid] == 0).all()) and bool((gradient[~valid] == 0).all())
    torch.testing.assert_close((found.values[valid].detach(), gradient[valid]), expected)
    assert all(bool(metric.isfinite().all()) for metric in found.metrics.values())


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_only_values_carries_gradient(loss: ValueLoss) -> None:
    # The second step is held: its loss depends on the old value, but must not pull at it.
    values, returns, old = (double(x).requires_grad_() for x in ([1.0, 2.0], [3.0, 3.0], [0.9, 1.0]))
    found = torch.autograd.grad(
        loss(make(values, returns, old)).values.sum(), [values, returns, old], allow_unused=True
    )
    assert bool((found[0] != 0).any())
    assert all(g is None or bool((g == 0).all()) for g in found[1:])


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_leading_axes_do_not_matter(loss: ValueLoss) -> None:
    torch.manual_seed(0)
    values, returns, old = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    valid = torch.rand(2, 4, 5) > 0.3
    whole = loss(make(values, returns, old, valid)).values
    for run in range(2):
        for row in range(4):
            at = (run, row)
            single = loss(make(values[at], returns[at], old[at], valid[at])).values
            torch.testing.assert_close(whole[at], single, atol=0, rtol=0)


def test_defaults_are_the_usual_ones() -> None:
    # the clip of OpenAI's PPO, the delta of Mnih et al. 2015
    assert ClippedValue() == ClippedValue(clip=0.2)
    assert HuberValue() == HuberValue(delta=1)


def test_missing_old_values_are_named() -> None:
    assert ClippedValue().needs() == {"old_values"}
    with pytest.raises(BatchError, match="old_values"):
        ClippedValue()(make(double([1.0]), double([1.0])))
