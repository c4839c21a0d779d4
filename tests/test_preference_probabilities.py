"""Probabilities of preferences, against their definitions, sums over all outcomes and limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from rlhf_lab.worlds import WorldError
from rlhf_lab.worlds.preferences import bradley_terry, davidson, plackett_luce, rao_kupper

F64 = torch.float64
SCORES = torch.tensor([0.4, -1.3, 2.0, 0.9], dtype=F64)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=F64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_bradley_terry_is_a_ratio_of_strengths(temperature):
    p, q = math.exp(0.4 / temperature), math.exp(-1.3 / temperature)
    assert float(bradley_terry(number(0.4), number(-1.3), temperature)) == pytest.approx(p / (p + q), rel=1e-14)


def test_at_temperature_zero_the_better_one_wins_and_equals_share():
    assert bradley_terry(SCORES, number(0.4), 0).tolist() == [0.5, 0, 1, 1]
    ranked = torch.tensor([[3.0, 2, 1], [3, 1, 2], [2, 2, 1], [2, 1, 1], [1, 1, 1]], dtype=F64)
    # among equals every order is as probable as any other
    assert plackett_luce(ranked, 0).exp().tolist() == pytest.approx([1, 0, 1 / 2, 1 / 2, 1 / 6])


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_plackett_luce_sums_to_one_over_all_orders(k, temperature):
    scores = SCORES[:k]
    orders = torch.stack([scores[list(order)] for order in itertools.permutations(range(k))])
    assert float(plackett_luce(orders, temperature).exp().sum()) == pytest.approx(1, abs=1e-14)


def test_plackett_luce_of_two_is_bradley_terry():
    for first, second in itertools.permutations(SCORES, 2):
        found = plackett_luce(torch.stack([first, second]), 0.7).exp()
        torch.testing.assert_close(found, bradley_terry(first, second, 0.7), rtol=1e-14, atol=0)


def test_plackett_luce_draws_without_putting_back():
    # P(2,3,0,1) = e2/(e0+e1+e2+e3) e3/(e0+e1+e3) e0/(e0+e1)
    e = SCORES.exp()
    due = e[2] / e.sum() * e[3] / (e[0] + e[1] + e[3]) * e[0] / (e[0] + e[1])
    torch.testing.assert_close(plackett_luce(SCORES[[2, 3, 0, 1]]).exp(), due, rtol=1e-14, atol=0)


def test_who_comes_first_is_drawn_by_softmax():
    first = torch.zeros(4, dtype=F64)
    for order in itertools.permutations(range(4)):
        first[order[0]] += plackett_luce(SCORES[list(order)]).exp()
    torch.testing.assert_close(first, SCORES.softmax(-1), rtol=1e-14, atol=0)


def test_the_most_probable_order_is_the_one_by_score():
    best = max(itertools.permutations(range(4)), key=lambda order: float(plackett_luce(SCORES[list(order)])))
    assert list(best) == SCORES.argsort(descending=True).tolist()


@pytest.mark.parametrize("difference", [-5.0, -0.3, 0.0, 2.0])
@pytest.mark.parametrize("ties", [1.0, 1.5, 4.0])
def test_outcomes_with_ties_sum_to_one(difference, ties):
    for model, parameter in ((rao_kupper, ties), (davidson, ties - 1)):
        found = model(number(difference), number(0.0), parameter, 0.8)
        assert float(sum(found)) == pytest.approx(1, abs=1e-15)
        turned = model(number(0.0), number(difference), parameter, 0.8)
        assert (float(found.win), float(found.tie)) == pytest.approx((float(turned.loss), float(turned.tie)))


def test_ties_follow_their_formulas():
    # θ = 2, ν = 1/2, p = e^.4, q = e^-1.3
    p, q = math.exp(0.4), math.exp(-1.3)
    found = rao_kupper(number(0.4), number(-1.3), 2.0)
    assert float(found.win) == pytest.approx(p / (p + 2 * q), rel=1e-14)
    assert float(found.tie) == pytest.approx(3 * p * q / ((p + 2 * q) * (q + 2 * p)), rel=1e-14)
    found = davidson(number(0.4), number(-1.3), 0.5)
    total = p + q + 0.5 * math.sqrt(p * q)
    assert float(found.win) == pytest.approx(p / total, rel=1e-14)
    assert float(found.tie) == pytest.approx(0.5 * math.sqrt(p * q) / total, rel=1e-14)


def test_without_ties_both_models_are_bradley_terry():
    due = bradley_terry(SCORES, number(0.1))
    for found in (rao_kupper(SCORES, number(0.1), 1.0), davidson(SCORES, number(0.1), 0.0)):
        torch.testing.assert_close(found.win, due, rtol=1e-14, atol=0)
        assert found.tie.tolist() == [0, 0, 0, 0]


def test_ties_are_most_frequent_between_equals():
    differences = torch.linspace(-3, 3, 61, dtype=F64)
    for found in (rao_kupper(differences, number(0.0), 1.5), davidson(differences, number(0.0), 0.7)):
        assert int(found.tie.argmax()) == 30


def test_far_scores_stay_finite():
    far = number(8000.0)
    assert float(bradley_terry(-far, far, 1e-3)) == 0 and float(bradley_terry(far, -far)) == 1
    assert plackett_luce(torch.stack([far, -far])).tolist() == 0
    assert plackett_luce(torch.stack([-far, far])).tolist() == -16_000
    for found in (rao_kupper(far, -far, 2.0), davidson(far, -far, 0.5)):
        assert [float(x) for x in found] == [1, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bradley_terry(SCORES, SCORES, -1.0), "temperature: expected a number above 0, found -1.0"),
        (lambda: plackett_luce(SCORES, math.nan), "temperature: expected a number above 0, found nan"),
        (lambda: rao_kupper(SCORES, SCORES, 0.9), r"threshold: expected a number of at least 1 \(1 = no ties\)"),
        (lambda: rao_kupper(SCORES, SCORES, 2.0, 0.0), "temperature: expected a number above 0, found 0.0"),
        (lambda: davidson(SCORES, SCORES, -0.1), r"ties: expected a number of at least 0 \(0 = no ties\)"),
    ],
)
def test_impossible_parameters_are_refused(call, message):
    with pytest.raises(WorldError, match=message):
        call()
