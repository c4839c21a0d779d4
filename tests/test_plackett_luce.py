"""The Plackett-Luce loss by hand, over every order, and for long rankings: its gradient and what it keeps in memory."""

from __future__ import annotations

import math
import random
from itertools import permutations
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf_lab.types import Scores
from rlhf_lab_preference import BradleyTerry, PlackettLuce

LOG = math.log


def double(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def loss(scores: Tensor) -> Tensor:
    return PlackettLuce()(Scores(scores)).values


def near(found: Any, expected: Any) -> None:
    torch.testing.assert_close(double(found), double(expected), atol=1e-12, rtol=1e-12)


def test_by_hand() -> None:
    # Strengths 3, 2, 1: P = 3/6 * 2/3 * 1/1 = 1/3. Slopes: expected choices less 1, 3/6 - 1, 2/6 + 2/3 - 1 and
    # 1/6 + 1/3 + 1 - 1.
    scores = double([[LOG(3), LOG(2), 0.0]]).requires_grad_()
    found = loss(scores)
    near(found.tolist(), [LOG(3)])
    near(torch.autograd.grad(found.sum(), scores)[0].tolist(), [[-0.5, 0.0, 0.5]])


def test_it_is_not_its_reverse() -> None:
    # Worst first with strengths 1/s: P = (1/1) / (1 + 1/2 + 1/3) * (1/2) / (1/2 + 1/3) = 6/11 * 3/5 = 18/55, not 1/3.
    near(loss(double([[LOG(3), LOG(2), 0.0]])).exp().tolist(), [3.0])
    near(loss(double([[0.0, -LOG(2), -LOG(3)]])).exp().tolist(), [55 / 18])


def test_two_candidates_are_a_pair_to_the_last_digit() -> None:
    # far apart, where the difference of two logarithms would have lost every digit of e^-40
    scores = double([[40.0, 0.0], [0.0, 40.0], [0.25, 0.5]]).requires_grad_()
    both = [form(Scores(scores)).values for form in (PlackettLuce(), BradleyTerry())]
    assert torch.equal(*both)
    slopes = [torch.autograd.grad(x.sum(), scores)[0] for x in both]
    torch.testing.assert_close(slopes[0][:, 0], slopes[1][:, 0], rtol=1e-12, atol=0)


def test_orders_of_five_sum_to_one_and_to_the_softmax() -> None:
    scores = double([0.5, -1.0, 2.0, 0.0, 0.25])
    orders = list(permutations(range(5)))
    chances = (-loss(scores[torch.tensor(orders)])).exp()
    near(chances.sum().tolist(), 1.0)
    first = [sum(float(p) for p, order in zip(chances, orders, strict=True) if order[0] == i) for i in range(5)]
    near(first, scores.softmax(-1).tolist())


def test_a_ranking_of_64_is_a_product_of_shares() -> None:
    # of small whole strengths, whose sums are exact
    random.seed(0)
    strengths = [random.randint(1, 9) for _ in range(64)]
    chance = math.prod(x / sum(strengths[place:]) for place, x in enumerate(strengths))
    near(loss(double([[LOG(x) for x in strengths]])).tolist(), [-LOG(chance)])


def test_gradient_of_a_long_ranking() -> None:
    # against central differences, and by its closed form: the shares of all choices up to one's own place, less 1
    torch.manual_seed(0)
    scores = (4 * torch.randn(2, 64, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(loss, scores)
    (gradient,) = torch.autograd.grad(loss(scores).sum(), scores)
    strengths = scores.detach().exp()
    left = strengths.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(gradient, strengths * (1 / left).cumsum(-1) - 1, atol=1e-10, rtol=1e-10)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        tensors = [x for x in (found if isinstance(found, tuple | list) else [found]) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *(x.numel() for x in tensors)])
        return found


def test_a_long_ranking_makes_no_matrix_of_candidates() -> None:
    scores = torch.randn(3, 4096, requires_grad=True)
    with Largest() as largest:
        loss(scores).sum().backward()  # type: ignore[no-untyped-call]
    assert largest.numbers == scores.numel()
