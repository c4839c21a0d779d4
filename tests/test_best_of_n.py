"""The best of n responses, against all n-tuples written out, published figures and quadrature."""

from __future__ import annotations

import decimal
import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab.worlds import WorldError
from rlhf_lab.worlds.best_of_n import best_of_n, kl_bound, win_rate
from rlhf_lab.worlds.distributions import divergence

F64 = torch.float64


def drawn(count: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(count))


def by_tuples(probs: Tensor, reward: Tensor, n: int) -> Tensor:
    """The first best one of every n-tuple of responses."""
    found = torch.zeros_like(probs)
    for answers in itertools.product(range(len(probs)), repeat=n):
        best = max(answers, key=lambda y: float(reward[y]))  # the first one of equals
        found[best] += math.prod(float(probs[y]) for y in answers)
    return found


def kl(probs: Tensor, others: Tensor) -> float:
    return float(divergence(probs, others.log()))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("rewards", [[0.3, -1.0, 2.0, 0.1], [1.0, 0.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
def test_it_is_the_first_best_one_of_all_tuples(n, rewards):
    probs, reward = drawn(4, 0).softmax(-1), torch.tensor(rewards, dtype=F64)
    torch.testing.assert_close(best_of_n(probs, reward, n), by_tuples(probs, reward, n), rtol=0, atol=1e-14)


def test_one_response_is_the_policy_itself():
    probs = drawn(6, 1).softmax(-1)
    torch.testing.assert_close(best_of_n(probs, drawn(6, 2), 1), probs, rtol=0, atol=1e-16)


@pytest.mark.parametrize("n", [2, 16, 1000])
def test_it_is_a_distribution(n):
    probs = best_of_n(drawn(64, 1).softmax(-1), drawn(64, 2).round(decimals=1), n)
    assert float(probs.sum()) == pytest.approx(1, abs=1e-12)
    assert bool((probs >= 0).all())


def test_what_the_policy_never_answers_is_never_the_best():
    probs, reward = torch.tensor([0.0, 0.5, 0.5, 0.0], dtype=F64), torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=F64)
    assert best_of_n(probs, reward, 3).tolist() == pytest.approx([0, 1 / 8, 7 / 8, 0], abs=1e-16)


def test_rare_responses_keep_their_digits():
    # the best one has probability 1e-30: 1 - (1 - p)^n = n p, which 1 - 1 would lose
    probs = torch.tensor([1 - 1e-30, 1e-30], dtype=F64)
    assert float(best_of_n(probs, torch.tensor([0.0, 1.0]), 8)[1]) == pytest.approx(8e-30, rel=1e-12)


def by_digits(probs: Tensor, n: int) -> list[float]:
    """F^n - F⁻^n in 60 digits, of responses whose rewards grow."""
    with decimal.localcontext() as context:
        context.prec = 60
        mass = [Decimal(p) for p in probs.tolist()]
        powers = [(below / sum(mass)) ** n for below in (sum(mass[:i], Decimal(0)) for i in range(len(mass) + 1))]
        return [float(high - low) for low, high in itertools.pairwise(powers)]


@pytest.mark.parametrize("n", [10, 10**5, 10**10, 10**15])
def test_it_stays_a_distribution_however_many_there_are(n):
    # in a sum of 100 probabilities that ends at 1 + 2e-16 the last one's power would be exp(2e-16 n)
    probs = torch.cat([drawn(90, 1).softmax(-1), 10.0 ** -torch.arange(7, 17, dtype=F64)])
    probs /= probs.sum()
    found = best_of_n(probs, torch.arange(100.0), n)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    assert found.tolist() == pytest.approx(by_digits(probs, n), rel=1e-11, abs=1e-300)


def test_a_best_one_as_rare_as_one_in_n_is_found_with_1_less_1_over_e():
    # 1 - (1 - 1/n)^n for n = 1e15, which is 1 - 1/e to 2e-16
    probs = torch.tensor([0.3, 0.7 - 1e-15, 1e-15], dtype=F64)
    found = best_of_n(probs, torch.tensor([0.0, 1.0, 2.0]), 1e15)
    assert found.tolist() == pytest.approx([0, math.exp(-1), 1 - math.exp(-1)], rel=1e-14)


def test_of_endlessly_many_the_best_is_always_among_them():
    probs, reward = drawn(100, 1).softmax(-1), drawn(100, 2)
    for n in (1e15, 1e308):
        found = best_of_n(probs, reward, n)
        assert float(found[reward.argmax()]) == 1 and float(found.sum()) == 1


def test_the_kl_of_eight_even_responses_is_below_the_formula():
    # 8 equally probable responses, n = 16: Σ_i (F_i^n - F_(i-1)^n) log(8 (...)) = 1.6799 < log 16 - 15/16 = 1.8351
    even = torch.full((8,), 1 / 8, dtype=F64)
    found = kl(best_of_n(even, torch.arange(8.0), 16), even)
    assert found == pytest.approx(1.6799, abs=5e-5)
    assert kl_bound(16) == pytest.approx(1.8351, abs=5e-5)


@pytest.mark.parametrize(
    ("n", "bound"),
    [(2, 0.1931), (4, 0.6363), (8, 1.2044), (16, 1.8351), (32, 2.4970), (64, 3.1745), (128, 3.8598), (1000, 5.9088)],
)
def test_the_formula_is_a_bound_and_its_own_limit(n, bound):
    # log n - (n-1)/n; with M even responses the KL goes to it from below, with an error of order n / M
    assert kl_bound(n) == pytest.approx(bound, abs=5e-5)
    found = []
    for count in (10, 1000, 100_000):
        even = torch.full((count,), 1 / count, dtype=F64)
        found.append(kl(best_of_n(even, torch.arange(float(count)), n), even))
    assert found[0] < found[1] < found[2] <= kl_bound(n)
    assert found[2] == pytest.approx(kl_bound(n), abs=2 * n / 100_000)


def test_a_coin_wins_less_often_than_n_in_n_plus_one():
    # M = 2, n = 4: best with 15/16; wins 15/16 (1/2 + 1/4) + 1/16 (1/4) = .71875 < 4/5
    even, reward = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.0, 1.0])
    assert float(win_rate(best_of_n(even, reward, 4), even, reward)) == 0.71875


def test_a_policy_wins_half_of_the_time_against_itself():
    probs, reward = drawn(9, 3).softmax(-1), drawn(9, 4).round()
    assert float(win_rate(probs, probs, reward)) == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize(
    ("n", "mean"), [(2, 0.56419), (4, 1.02938), (8, 1.42360), (16, 1.76599), (64, 2.34373), (1000, 3.24144)]
)
def test_the_best_of_normal_rewards_by_quadrature(n, mean):
    # E max of n standard normal numbers (David and Nagaraja 2003, table of normal order statistics): 1/√π for n = 2
    reward = torch.linspace(-9, 9, 100_001, dtype=F64)
    probs = (-reward.square() / 2).softmax(-1)
    best = best_of_n(probs, reward, n)
    assert float((best * reward).sum()) == pytest.approx(mean, abs=5e-6)
    assert float(win_rate(best, probs, reward)) == pytest.approx(n / (n + 1), abs=1e-8)
    assert kl(best, probs) == pytest.approx(kl_bound(n), abs=1e-7)


@pytest.mark.parametrize(("n", "share"), [(4, 0.912), (16, 0.922)])
def test_the_optimum_earns_more_at_the_same_kl(n, share):
    # N(0,1) tilted by exp(r/β) is N(1/β, 1) with KL 1/(2 β²), hence reward √(2 KL)
    reward = torch.linspace(-9, 9, 100_001, dtype=F64)
    best = best_of_n((-reward.square() / 2).softmax(-1), reward, n)
    assert float((best * reward).sum()) / math.sqrt(2 * kl_bound(n)) == pytest.approx(share, abs=5e-4)


def test_prompts_and_runs_stand_side_by_side():
    probs, reward = drawn(24, 5).view(2, 3, 4).softmax(-1), drawn(12, 6).view(3, 4).round()
    found = best_of_n(probs, reward, 3)
    rates = win_rate(found, probs, reward)
    assert found.shape == (2, 3, 4) and rates.shape == (2, 3)
    for run, prompt in itertools.product(range(2), range(3)):
        assert torch.equal(found[run, prompt], best_of_n(probs[run, prompt], reward[prompt], 3))
        alone = win_rate(found[run, prompt], probs[run, prompt], reward[prompt])
        torch.testing.assert_close(rates[run, prompt], alone, rtol=0, atol=1e-16)


def test_what_makes_no_question_is_refused():
    even = torch.full((4,), 0.25, dtype=F64)
    with pytest.raises(WorldError, match="n: expected one response or more, found 0"):
        best_of_n(even, torch.zeros(4), 0)
    with pytest.raises(WorldError, match="n: expected one response or more, found inf"):
        best_of_n(even, torch.zeros(4), math.inf)
    with pytest.raises(WorldError, match=r"probs: expected shape \[\*b,3\], one probability per response of reward"):
        best_of_n(even, torch.zeros(3), 2)
    with pytest.raises(WorldError, match="probs: expected probabilities that sum to one over responses"):
        best_of_n(2 * even, torch.zeros(4), 2)
    with pytest.raises(WorldError, match="others: expected probabilities that sum to one over responses"):
        win_rate(even, -even, torch.zeros(4))
    with pytest.raises(WorldError, match="n: expected one response or more, found 0"):
        kl_bound(0)
