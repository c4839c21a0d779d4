"""The KL-regularised optimum and what follows from it: C05, C30, C34 to C36, E36, E38, E41 to E46.

A bandit stands for one prompt, its arms for the responses.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.types import Scores
from rlhf_lab.worlds import TabularMDP
from source_text.worlds import F64, FAST, bandit, create, noise

NUMBERS = st.integers(-12, 12).map(lambda i: i / 4)
SCALES = st.sampled_from([0.25, 0.5, 1.0, 4.0])
THREE = st.lists(NUMBERS, min_size=3, max_size=3).map(lambda x: torch.tensor(x, dtype=F64))


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """Return KL(π ‖ π_ref) of one state, by the component that users would take."""
    found: Tensor = create("kl", "full")(policy.log(), reference.log())
    return found


def tilted(rewards: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return π* = π_ref exp(r/β) / Z and Z."""
    mass = reference * (rewards / beta).exp()
    return mass / mass.sum(), mass.sum()


def objective(policy: Tensor, rewards: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return E_π[r] - β KL(π ‖ π_ref)."""
    return policy @ rewards - beta * divergence(policy, reference)


# ---- the reference


def over_optimised(reference: list[float], gold: list[float], proxy: list[float]) -> tuple[list[float], list[float]]:
    """Return the true and the proxy's expected reward of the best policies for 1/β = 0, 0.1, ..., 6."""
    start, true, seen = (torch.tensor(x, dtype=F64) for x in (reference, gold, proxy))
    policies = [tilted(seen, start, 1 / max(i / 10, 1e-12))[0] for i in range(61)]
    return [float(p @ true) for p in policies], [float(p @ seen) for p in policies]


def test_c05_a_frozen_reference_does_not_prevent_that_a_reward_model_is_exploited() -> None:
    # The third arm is the proxy's favourite and truly bad. d E[gold] / d(1/β) at β = ∞ is Cov_ref(gold, proxy): with
    # Cov = (0.4 - 1.2) - 0 · 0.7 = -0.8 the reference itself is best, and every penalised optimum is worse.
    gold, proxy = over_optimised([0.5, 0.4, 0.1], [0, 1, -4], [0, 1, 3])
    assert all(later > earlier for earlier, later in itertools.pairwise(proxy))
    assert all(later < earlier for earlier, later in itertools.pairwise(gold))
    slope = (gold[1] - gold[0]) / 0.1
    assert slope < -0.5
    # Where the bad arm is rare the truth improves first and falls then: the penalty moves along that curve, no more.
    gold, proxy = over_optimised([0.5, 0.49, 0.01], [0, 1, -4], [0, 1, 3])
    assert all(later > earlier for earlier, later in itertools.pairwise(proxy))
    peak = gold.index(max(gold))
    assert 0 < peak < 60
    assert gold[-1] < gold[0] - 3


# ---- tokens


@FAST
@given(st.integers(0, 1000))
def test_c30_every_distribution_over_responses_is_a_policy_over_tokens(seed: int) -> None:
    # Two tokens and an end, at most three of them: 1 + 2 + 4 prefixes are states. Any p(response) gives conditionals
    # p(token|prefix), under which the world's enumeration must find p again, log p being the sum over tokens.
    prefixes = [p for length in range(3) for p in itertools.product("ab", repeat=length)]
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    end, tokens = len(prefixes), "ab."
    responses = [(*p, ".") for p in prefixes] + list(itertools.product("ab", repeat=3))
    joint = dict(zip(responses, noise(len(responses), seed=seed).softmax(0).tolist(), strict=True))

    def mass(prefix: tuple[str, ...]) -> float:
        return sum(p for response, p in joint.items() if response[: len(prefix)] == prefix)

    policy, transition = torch.full((end + 1, 3), 1 / 3, dtype=F64), torch.zeros(end + 1, 3, end + 1)
    for prefix, s in number.items():
        for a, token in enumerate(tokens):
            policy[s, a] = mass((*prefix, token)) / mass(prefix)
            transition[s, a, number.get((*prefix, token), end)] = 1
    at = torch.arange(end + 1)
    world = TabularMDP(transition, torch.zeros_like(transition), at == 0, at == end)
    outcomes = world.enumerate(policy, 3)
    steps = outcomes.trajectories
    assert steps.log_probs is not None
    assert len(outcomes.probabilities) == len(responses)
    assert float(outcomes.probabilities.sum()) == pytest.approx(1, abs=1e-14)
    for i, actions in enumerate(outcomes.actions.tolist()):
        said = tuple(tokens[a] for a, counts in zip(actions, steps.valid[i].tolist(), strict=True) if counts)
        assert float(outcomes.probabilities[i]) == pytest.approx(joint[said], rel=1e-12)
        assert float(steps.log_probs[i].where(steps.valid[i], 0).sum()) == pytest.approx(
            math.log(joint[said]), abs=1e-12
        )


# ---- the optimum


@FAST
@given(THREE, THREE, THREE, SCALES)
def test_c34_what_a_policy_lacks_is_its_divergence_from_the_tilted_reference(
    rewards: Tensor, reference_logits: Tensor, logits: Tensor, beta: float
) -> None:
    # J(π*) = β log Z and J(π*) - J(π) = β KL(π ‖ π*) ≥ 0 for every π
    reference, policy = reference_logits.softmax(0), logits.softmax(0)
    best, normaliser = tilted(rewards, reference, beta)
    most = float(objective(best, rewards, reference, beta))
    assert most == pytest.approx(float(beta * normaliser.log()), abs=1e-12)
    lack = most - float(objective(policy, rewards, reference, beta))
    assert lack == pytest.approx(float(beta * divergence(policy, best)), abs=1e-11)


def test_c34_the_gradient_of_the_regularised_return_vanishes_at_the_optimum_alone() -> None:
    # With the penalty as a reward, r - β log(π/π_ref), the world's own policy gradient is that of J.
    rewards, reference, beta = torch.tensor([1.0, 0, -2], dtype=F64), noise(3, seed=10).softmax(0), 0.5
    best, _ = tilted(rewards, reference, beta)

    def slope(policy: Tensor) -> float:
        paid = rewards - beta * (policy / reference).log()
        return float(bandit(*paid.tolist()).policy_gradient(policy.expand(2, 3)).abs().max())

    assert slope(best) < 1e-15
    assert slope(reference) > 0.1 and slope(torch.full((3,), 1 / 3, dtype=F64)) > 0.1


def test_c35_the_normaliser_is_estimated_without_bias_and_its_logarithm_is_not() -> None:
    # Ẑ is the mean of exp(r/β) over n responses of the reference, all 3^n of them enumerated.
    rewards, reference, beta = torch.tensor([1.0, 0, -2], dtype=F64), noise(3, seed=10).softmax(0), 0.5
    _, normaliser = tilted(rewards, reference, beta)
    gaps = []
    for n in (1, 2, 4, 6):
        drawn = torch.cartesian_prod(*[torch.arange(3)] * n).view(-1, n)
        chance, estimate = reference[drawn].prod(1), (rewards / beta).exp()[drawn].mean(1)
        assert float(chance @ estimate) == pytest.approx(float(normaliser), rel=1e-13)
        gaps.append(float(normaliser.log() - chance @ estimate.log()))
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(gaps))


def test_c35_samples_for_ten_percent_grow_with_the_range_of_rewards_over_beta() -> None:
    # A good response of probability p and reward R, else 0: with w = exp(R/β) the relative variance of one sample is
    # p (1-p) (w-1)² / (1 + p (w-1))², and a tenth of error needs 100 times that many samples; at most 100 (1-p) / p.
    p, needed = 0.01, []
    for ratio in (0.5, 1.0, 2.0, 5.0, 10.0):
        reference, rewards = torch.tensor([p, 1 - p], dtype=F64), torch.tensor([ratio, 0], dtype=F64)
        _, normaliser = tilted(rewards, reference, 1.0)
        second = reference @ (2 * rewards).exp()
        needed.append(float(100 * (second / normaliser**2 - 1)))
        w = math.exp(ratio)
        assert needed[-1] == pytest.approx(100 * p * (1 - p) * (w - 1) ** 2 / (1 + p * (w - 1)) ** 2, rel=1e-9)
    assert all(later > earlier for earlier, later in itertools.pairwise(needed))
    assert needed[0] < 1 and 9000 < needed[-1] < 9900


def test_e38_a_tilted_mass_is_no_expected_reward_and_its_form_is_known() -> None:
    # Printed: the numerator is an expected reward, the denominator the sum of them, so that the ratio is in [0, 1].
    rewards, reference, beta = torch.tensor([1.0, 0, -2], dtype=F64), noise(3, seed=10).softmax(0), 0.5
    printed = reference * rewards / (reference @ rewards)
    assert float(printed.sum()) == pytest.approx(1) and float(printed.min()) < 0 and float(printed.max()) > 1
    best, normaliser = tilted(rewards, reference, beta)
    assert float(best.sum()) == pytest.approx(1, abs=1e-15) and float(best.min()) > 0
    # the denominator is E_ref[exp(r/β)], by Jensen above exp(E_ref[r]/β): no function of the expected reward
    assert float(normaliser) > math.exp(float(reference @ rewards) / beta)
    # a level of rewards is no preference, and moves the printed shares
    torch.testing.assert_close(tilted(rewards + 3, reference, beta)[0], best, rtol=0, atol=1e-15)
    moved = reference * (rewards + 3) / (reference @ (rewards + 3))
    assert float((moved - printed).abs().max()) > 0.1
    # Printed: the form is unknown. But odds of two responses need their two rewards only, neither Z nor a sample.
    for one, other in itertools.permutations(range(3), 2):
        odds = float(reference[one] / reference[other]) * math.exp(float(rewards[one] - rewards[other]) / beta)
        assert float(best[one] / best[other]) == pytest.approx(odds, rel=1e-13)


# ---- the reward of a policy


@FAST
@given(THREE, THREE, SCALES, NUMBERS)
def test_c36_e41_e42_the_reward_of_an_optimum_is_known_up_to_a_constant_that_cancels(
    rewards: Tensor, reference_logits: Tensor, beta: float, shift: float
) -> None:
    reference = reference_logits.softmax(0)
    best, normaliser = tilted(rewards, reference, beta)
    constant = beta * normaliser.log()
    right = beta * (best / reference).log() + constant
    torch.testing.assert_close(right, rewards, rtol=0, atol=1e-11)
    # E41: printed with Z inside and outside the logarithm, which adds β log Z to every reward
    printed = beta * (best * normaliser / reference).log() + constant
    torch.testing.assert_close(printed - rewards, constant.expand(3), rtol=0, atol=1e-11)
    # only differences, and hence Bradley-Terry probabilities, are independent of Z: no c(x) shows in them
    implicit = beta * (best / reference).log()
    torch.testing.assert_close(implicit[:, None] - implicit, rewards[:, None] - rewards, rtol=0, atol=1e-11)
    moved, other = tilted(rewards + shift, reference, beta)
    torch.testing.assert_close(moved, best, rtol=0, atol=1e-12)
    # E42: Z is not independent of the reward, it is the same for every response
    assert float(other) == pytest.approx(float(normaliser) * math.exp(shift / beta), rel=1e-9)


def test_e41_a_normaliser_that_is_not_one_shifts_the_printed_reward() -> None:
    # rewards (0, log 4) at β = 1 and an even reference: Z = 1/2 + 2 = 5/2
    rewards, reference = torch.tensor([0.0, math.log(4)], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    best, normaliser = tilted(rewards, reference, 1.0)
    assert best.tolist() == pytest.approx([0.2, 0.8])
    printed = (best * normaliser / reference).log() + normaliser.log()
    assert (printed - rewards).tolist() == pytest.approx([math.log(2.5)] * 2)


def test_e36_a_difference_of_logarithms_is_no_likelihood_of_a_difference() -> None:
    # Printed: log σ(r_w) - log σ(r_l). Right: log σ(r_w - r_l).
    def printed(chosen: Tensor, rejected: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(chosen) - torch.nn.functional.logsigmoid(rejected)

    def right(chosen: Tensor, rejected: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(chosen - rejected)

    chosen, rejected = (torch.tensor(x, dtype=F64) for x in ([0.0, 2, -1], [-50.0, 1, 3]))
    # a likelihood: not above 0, and the probabilities of both orders sum to one
    assert float(right(chosen, rejected).max()) < 0
    both = right(chosen, rejected).exp() + right(rejected, chosen).exp()
    torch.testing.assert_close(both, torch.ones(3, dtype=F64), rtol=0, atol=1e-15)
    assert float(printed(chosen, rejected)[0]) == pytest.approx(50 - math.log(2), abs=1e-12)
    assert float((printed(chosen, rejected).exp() + printed(rejected, chosen).exp() - 1).abs().min()) > 0.1
    # adding c(x) to both scores must change nothing
    torch.testing.assert_close(right(chosen + 1, rejected + 1), right(chosen, rejected), rtol=0, atol=1e-15)
    assert float((printed(chosen + 1, rejected + 1) - printed(chosen, rejected)).abs().min()) > 0.01


def test_e43_a_likelihood_is_maximised_or_its_negative_is_minimised() -> None:
    # Printed: L = -E[log P], then "loss = max". Of three wins and a defeat the minimum of L is at log 3, that of E's
    # maximum; a loss that is maximised has no end.
    apart = torch.linspace(-20, 20, 4001, dtype=F64)
    loss = 0.75 * bradley_terry(apart) + 0.25 * bradley_terry(-apart)
    assert float(apart[loss.argmin()]) == pytest.approx(math.log(3), abs=0.01)
    assert int(loss.argmin()) == int((-loss).argmax())
    assert int(loss.argmax()) == 0  # the farthest to the wrong side
    assert bool((loss[:1000] > loss[1:1001]).all()) and bool((loss[-1000:] > loss[-1001:-1]).all())


def test_e43_a_strength_is_a_number_of_each_response_and_no_product_with_its_name() -> None:
    # Printed: e^{λ y}. With one λ for all, y = 1, 2, 3 can stand in two orders; with r(x, y) in all six.
    wins = {
        tuple((torch.tensor([1.0, 2, 3]) * each).argsort(descending=True).tolist()) for each in (-2.0, -0.5, 0.5, 2.0)
    }
    assert wins == {(0, 1, 2), (2, 1, 0)}
    for order in itertools.permutations(range(3)):
        rewards = torch.zeros(3, dtype=F64)
        rewards[list(order)] = torch.tensor([2.0, 1, 0], dtype=F64)
        chance = (-bradley_terry(rewards[:, None] - rewards)).exp()
        assert all(float(chance[better, worse]) > 0.7 for better, worse in itertools.pairwise(order))
        torch.testing.assert_close(chance, rewards.exp()[:, None] / (rewards.exp()[:, None] + rewards.exp()))


def bradley_terry(apart: Tensor) -> Tensor:
    """Return -log P(better beats worse), by the component that users would take, for differences of scores."""
    batch = Scores(torch.stack([apart, torch.zeros_like(apart)], -1).view(-1, 2))
    found: Tensor = create("reward_model", "bradley_terry")(batch).values
    return found.view(apart.shape)


def ranked(scores: Tensor) -> dict[tuple[int, ...], float]:
    """Return the probability of every ranking, best first, by the component that users would take."""
    orders = list(itertools.permutations(range(len(scores))))
    losses = create("reward_model", "plackett_luce")(Scores(scores[torch.tensor(orders)])).values
    return {order: math.exp(-float(loss)) for order, loss in zip(orders, losses, strict=True)}


@FAST
@given(THREE)
def test_e44_the_model_of_rankings_is_that_of_plackett_and_luce_and_has_bradley_and_terry_as_k_two(s: Tensor) -> None:
    # Printed: a "PT model" for K > 2. Its formula, written out, is what is registered as plackett_luce ...
    for order, chance in ranked(s).items():
        strengths = s[list(order)].exp()
        printed = math.prod(float(strengths[k] / strengths[k:].sum()) for k in range(3))
        assert chance == pytest.approx(printed, rel=1e-12)
    # ... and holds of K = 2 as well, where it is bradley_terry, though printed as another model.
    assert ranked(s[:2])[0, 1] == pytest.approx(math.exp(-float(bradley_terry(s[0] - s[1]))), rel=1e-12)


@FAST
@given(THREE)
def test_e45_a_ranking_is_observed_and_does_not_beat_all_others(scores: Tensor) -> None:
    # Probabilities of what is observed sum to one, and those of i above j do to Bradley and Terry's.
    chances = ranked(scores)
    assert sum(chances.values()) == pytest.approx(1, abs=1e-13)
    for i, j in itertools.permutations(range(3), 2):
        above = sum(p for order, p in chances.items() if order.index(i) < order.index(j))
        assert above == pytest.approx(math.exp(-float(bradley_terry(scores[i] - scores[j]))), rel=1e-11)
    # Printed: that τ beats every other ranking. A duel is won with P(τ) / (P(τ) + P(τ')) = 1 / (1 + x'), and
    # all five of them with 1 / Π (1 + x'), which is less than 1 / (1 + Σ x') = P(τ), and for the least at most 1/32.
    for order, p in chances.items():
        beats_all = math.prod(p / (p + other) for rival, other in chances.items() if rival != order)
        assert beats_all < p
        assert p > min(chances.values()) or beats_all <= 0.5**5


def test_e46_a_ranking_loss_without_ranks_is_a_constant() -> None:
    # Printed: every factor has the one response y above and below, so that it is 1 / (K - k + 1) whatever the policy.
    scores = torch.tensor([0.5, -1, 2], dtype=F64).requires_grad_()
    printed = sum(((3 - k) * one.exp()).log() - one for k, one in enumerate(scores))  # the same y in each factor
    right = sum(torch.logsumexp(scores[k:], 0) - scores[k] for k in range(3))
    assert isinstance(printed, Tensor) and isinstance(right, Tensor)
    assert float(printed.detach()) == pytest.approx(math.log(6), abs=1e-14)
    assert torch.autograd.grad(printed, scores)[0].tolist() == pytest.approx([0, 0, 0], abs=1e-15)
    assert float(torch.autograd.grad(right, scores)[0].abs().max()) > 0.1
    # the right one is a distribution: exp(-loss) sums to one over all rankings
    total = sum(
        math.exp(-float(sum(torch.logsumexp(s[k:], 0) - s[k] for k in range(3))))
        for s in (scores.detach()[list(order)] for order in itertools.permutations(range(3)))
    )
    assert total == pytest.approx(1, abs=1e-14)
