"""Learning from preferences: when it equals playing, and when it does not. C02, C37 to C40, E37, E39, E40, E47, E48.

One prompt; its responses are the actions of a softmax, with logits of their own or with features that they share. All
pairs stand with their exact probabilities as weights, so that nothing is sampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from rlhf_lab.types import PolicyBatch, Rankings, Scores
from source_text.alignment import NUMBERS, SCALES, THREE, objective, tilted
from source_text.worlds import F64, FAST, create, noise

BETA = 0.5
EVEN = torch.full((3,), 1 / 3, dtype=F64)


def ordered_pairs(count: int = 3) -> Tensor:
    """Return every (better, worse), ``[n, 2]``."""
    return torch.tensor(list(itertools.permutations(range(count), 2)))


def chances(rewards: Tensor, pairs: Tensor, drawn: Tensor) -> Tensor:
    """Return how often each pair is seen in this order: both are drawn, and Bradley and Terry say which one wins."""
    return drawn[pairs].prod(1) * (rewards[pairs[:, 0]] - rewards[pairs[:, 1]]).sigmoid()


def dpo(log_policy: Tensor, reference: Tensor, pairs: Tensor, beta: float = BETA) -> Tensor:
    """Return DPO's loss of each pair, by the component that users would take."""
    batch = Rankings(log_policy[pairs], reference.log()[pairs])
    found: Tensor = create("preference", "dpo", beta=beta)(batch).values
    return found


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the gradient of a loss at ``at``."""
    at = at.detach().requires_grad_()
    return torch.autograd.grad(loss(at), at)[0]


def minimised(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where a convex loss is smallest."""
    x = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-14, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(x)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert float(slope(loss, x).abs().max()) < 1e-9
    return x.detach()


def flow(loss: Callable[[Tensor], Tensor], start: Tensor, rate: float, steps: int) -> Tensor:
    """Return where plain gradient descent arrives; the loss may itself depend on the present policy."""
    x = start
    for _ in range(steps):
        x = x - rate * slope(loss, x)
    return x


# ---- coverage


def test_c02_what_nobody_ranked_stays_unlearned_offline_and_is_found_online() -> None:
    # Rewards 0, 1, 2, of which the pairs show the first two only. There DPO's gradient is 0 at a margin of (1 - 0) / β
    # with the best response's logit where it began; the truth is π* of all three.
    rewards = torch.tensor([0.0, 1, 2], dtype=F64)
    pairs = ordered_pairs()
    best, _ = tilted(rewards, EVEN, BETA)
    records = torch.tensor([0.5, 0.5, 0], dtype=F64)

    def offline(logits: Tensor, drawn: Tensor = records) -> Tensor:
        return chances(rewards, pairs, drawn) @ dpo(logits.log_softmax(0), EVEN, pairs)

    def online(logits: Tensor) -> Tensor:  # pairs of the present policy, which is not differentiated
        return offline(logits, logits.detach().softmax(0))

    stuck = torch.tensor([0, 1 / BETA, 0], dtype=F64)
    stuck = stuck - stuck.mean()
    assert float(slope(offline, stuck).abs().max()) < 1e-15
    lack = objective(best, rewards, EVEN, BETA) - objective(stuck.softmax(0), rewards, EVEN, BETA)
    assert float(lack) > 0.3
    assert float(slope(online, stuck)[2]) < -0.01  # online the best response's logit rises from there
    assert float(slope(online, best.log()).abs().max()) < 1e-15
    arrived = flow(online, stuck, 20.0, 2000).softmax(0)
    torch.testing.assert_close(arrived, best, rtol=0, atol=1e-6)
    # with every response in the records the two meet
    full = flow(lambda x: offline(x, EVEN), torch.zeros(3, dtype=F64), 20.0, 2000).softmax(0)
    torch.testing.assert_close(full, best, rtol=0, atol=1e-6)


# ---- one step or two

WINS = torch.tensor([[0.0, 3, 4], [2, 0, 5], [1, 1, 0]], dtype=F64)  # how often row beat column


def counted(pairs: Tensor) -> Tensor:
    return WINS[pairs[:, 0], pairs[:, 1]]


def test_c37_e48_dpo_is_a_reward_model_and_its_optimum_where_every_policy_is_possible() -> None:
    pairs = ordered_pairs()
    reference = noise(3, seed=11).softmax(0)
    bradley_terry = create("reward_model", "bradley_terry")
    rewards = minimised(lambda r: counted(pairs) @ bradley_terry(Scores(r[pairs])).values, torch.zeros(3, dtype=F64))
    two_steps, _ = tilted(rewards, reference, BETA)
    logits = minimised(lambda x: counted(pairs) @ dpo(x.log_softmax(0), reference, pairs), reference.log())
    torch.testing.assert_close(logits.softmax(0), two_steps, rtol=0, atol=1e-6)


def test_c37_e48_with_a_feature_that_responses_share_one_step_and_two_part() -> None:
    # π ∝ exp(θ φ) with φ = (1, 0.5, 2), true rewards (1, 0, 0). Two steps maximise J over this class with the rewards
    # known; DPO fits the implicit rewards β θ φ to the preferences, and pays nothing for what J is of.
    feature, rewards = torch.tensor([1.0, 0.5, 2], dtype=F64), torch.tensor([1.0, 0, 0], dtype=F64)
    pairs = ordered_pairs()
    drawn = torch.tensor([0.6, 0.35, 0.05], dtype=F64)

    def policy(theta: Tensor) -> Tensor:
        return (drawn.log() + theta * feature).log_softmax(0)

    def loss(theta: Tensor) -> Tensor:
        return chances(rewards, pairs, drawn) @ dpo(policy(theta), drawn, pairs)

    start = torch.zeros(1, dtype=F64)
    one_step = minimised(loss, start)
    grid = torch.linspace(-6, 6, 1201, dtype=F64)
    values = torch.stack([objective(policy(x).exp(), rewards, drawn, BETA) for x in grid])
    two_steps = grid[values.argmax()]
    lack = values.max() - objective(policy(one_step).exp(), rewards, drawn, BETA)
    assert float((one_step - two_steps).abs()) > 0.1
    assert float(lack) > 1e-3


# ---- three objectives, and what each of them reaches


def test_e37_an_objective_that_is_maximised_is_no_loss() -> None:
    # Printed: "DPO Loss: max E[log σ(β h)]". What is called a loss is its negative: ascent on it turns the order round.
    pair, start = torch.tensor([[0, 1]]), torch.zeros(3, dtype=F64)

    def loss(x: Tensor) -> Tensor:
        return dpo(x.log_softmax(0), EVEN, pair)[0]

    for sign, right in ((1.0, True), (-1.0, False)):  # descent, and what "max" of a loss asks for
        arrived = flow(lambda x, sign=sign: sign * loss(x), start, 0.5, 50)  # type: ignore[misc]
        assert bool(arrived[0] > arrived[1]) is right


def test_e37_the_regularised_return_is_not_the_objective_of_ppo() -> None:
    # Printed: "PPO Loss: max E[r] - β KL". PPO's is the clipped surrogate. At the policy that has played its slope is
    # that of E[r], or of what is printed where the penalty is part of the reward; beyond the clip it has none.
    rewards, logits = torch.tensor([1.0, 0, -2], dtype=F64), torch.tensor([1.0, -0.5, 0], dtype=F64)
    old = logits.log_softmax(0)

    def printed(x: Tensor, beta: float = BETA) -> Tensor:
        policy = x.softmax(0)
        return policy @ rewards - beta * policy @ (policy / EVEN).log()

    def surrogate(x: Tensor, paid: Tensor) -> Tensor:
        every = torch.ones(1, 3, dtype=torch.bool)
        advantages = (paid - old.exp() @ paid)[None]
        batch = PolicyBatch(x.log_softmax(0)[None], advantages, every, every, old_log_probs=old[None])
        return -(old.exp() @ create("objective", "ppo_clip")(batch).values[0])

    penalised = rewards - BETA * (old - EVEN.log())
    here = slope(printed, logits)
    torch.testing.assert_close(slope(lambda x: surrogate(x, penalised), logits), here, rtol=0, atol=1e-14)
    without = slope(lambda x: surrogate(x, rewards), logits)
    torch.testing.assert_close(without, slope(lambda x: printed(x, 0.0), logits), rtol=0, atol=1e-14)
    assert float((without - here).abs().max()) > 0.1
    # every ratio beyond the clip, in the direction of its advantage: nothing pulls; the printed objective still does
    beyond = logits + 2 * (penalised > old.exp() @ penalised)
    ratios = (beyond.log_softmax(0) - old).exp()
    assert float((ratios - 1).abs().min()) > 0.2
    assert float(slope(lambda x: surrogate(x, penalised), beyond).abs().max()) == 0
    assert float(slope(printed, beyond).abs().max()) > 0.05


def test_e39_the_tilted_reference_is_the_optimum_over_all_policies_and_not_what_a_class_reaches() -> None:
    # Printed: "PPO's optimum is exactly π_r". Along one shared feature the best policy is another one, and what it
    # lacks is β KL(π ‖ π_r) > 0; there the return's own gradient, which PPO follows, is 0.
    rewards = torch.tensor([1.0, 0, 0], dtype=F64)
    best, normaliser = tilted(rewards, EVEN, BETA)

    def lack(theta: Tensor) -> Tensor:
        return -objective(shared(theta).exp(), rewards, EVEN, BETA)

    arrived = flow(lack, torch.zeros(1, dtype=F64), 0.2, 2000)
    assert float(slope(lack, arrived).abs().max()) < 1e-12
    policy = shared(arrived).exp()
    missing = float(BETA * normaliser.log() + lack(arrived))
    assert missing == pytest.approx(float(BETA * policy @ (policy / best).log()), abs=1e-12)
    assert missing > 0.05
    # β > 0 and the reference's support are part of the statement: what it never says has no mass in any optimum ...
    never = torch.tensor([0, 0.5, 0.5], dtype=F64)
    assert tilted(rewards, never, BETA)[0].tolist() == [0, 0.5, 0.5]
    # ... and for β = 0 every policy on the best responses is one, whatever the reference
    level = torch.tensor([1.0, 1, 0], dtype=F64)
    played = [torch.tensor(x, dtype=F64) @ level for x in ([1.0, 0, 0], [0.3, 0.7, 0])]
    assert played == [1, 1]
    tilted_little = tilted(level, torch.tensor([0.2, 0.6, 0.2], dtype=F64), 0.01)[0]
    torch.testing.assert_close(tilted_little, torch.tensor([0.25, 0.75, 0], dtype=F64), rtol=0, atol=1e-12)


def test_e40_the_derivation_does_not_start_from_the_objective_that_it_ends_with() -> None:
    # Printed as step 1, of which step 2 is to be the solution for a fixed reward: max E[log σ(β h)]. There is no reward
    # in it: it pulls away from the solution of max E[r] - β KL for any r, and on a single pair has none of its own.
    pair = torch.tensor([[0, 1]])

    def first(x: Tensor) -> Tensor:
        return -dpo(x.log_softmax(0), EVEN, pair)[0]

    for rewards in (torch.tensor([1.0, 0, 0], dtype=F64), torch.tensor([3.0, 1, 2], dtype=F64)):
        best, _ = tilted(rewards, EVEN, BETA)
        due = slope(lambda x, rewards=rewards: objective(x.softmax(0), rewards, EVEN, BETA), best.log())  # type: ignore[misc]
        assert float(due.abs().max()) < 1e-15
        h = (rewards[0] - rewards[1]) / BETA
        pull = BETA * (-BETA * h).sigmoid()
        torch.testing.assert_close(slope(first, best.log()), torch.stack([pull, -pull, 0 * pull]), rtol=0, atol=1e-15)
        assert float(pull) > 0.05
    values = [first(torch.tensor([x, -x, 0], dtype=F64)) for x in (1.0, 4.0, 16.0, 64.0)]
    assert all(later > earlier for earlier, later in itertools.pairwise(values))


# ---- pairs or rankings


def test_c38_rankings_and_their_pairs_have_the_same_optimum_in_the_population_and_not_in_a_sample() -> None:
    orders = torch.tensor(list(itertools.permutations(range(3))))
    both = {name: create("reward_model", name) for name in ("plackett_luce", "pairwise_of_k")}

    def fitted(name: str, weights: Tensor) -> Tensor:
        start = torch.zeros(2, dtype=F64)  # the third score is 0
        return minimised(lambda s: weights @ both[name](Scores(torch.cat([s, s.new_zeros(1)])[orders])).values, start)

    # eleven rankings, some of them drawn twice or more
    sample = torch.tensor([1.0, 2, 0, 1, 3, 4], dtype=F64)
    listwise, pairwise = (fitted(name, sample / 11) for name in both)
    assert float((listwise - pairwise).abs().max()) > 0.01
    # the population: exact Plackett-Luce probabilities, product by product
    truth = torch.tensor([-0.7, -1.9, 0], dtype=F64)
    mass = truth[orders].exp()
    population = torch.stack([mass[:, k] / mass[:, k:].sum(1) for k in range(3)]).prod(0)
    assert float(population.sum()) == pytest.approx(1, abs=1e-14)
    for name in both:
        torch.testing.assert_close(fitted(name, population), truth[:2], rtol=0, atol=1e-6)


@FAST
@given(THREE)
def test_c38_the_true_order_is_the_most_probable_ranking(rewards: Tensor) -> None:
    orders = torch.tensor(list(itertools.permutations(range(3))))
    losses = create("reward_model", "plackett_luce")(Scores(rewards[orders])).values
    sorted_ = rewards.argsort(descending=True)
    right = create("reward_model", "plackett_luce")(Scores(rewards[sorted_][None])).values[0]
    assert float(losses.min()) == pytest.approx(float(right), abs=1e-14)
    assert float((-losses).exp().sum()) == pytest.approx(1, abs=1e-13)


# ---- displacement


@FAST
@given(THREE, THREE, SCALES)
def test_c39_with_logits_of_their_own_the_chosen_response_always_rises(
    logits: Tensor, reference_logits: Tensor, beta: float
) -> None:
    # One pair (w, l): with c = β σ(-β h) > 0 descent moves logit w by c and logit l by -c, so
    # d log π_w / dt = c (1 - π_w + π_l) > 0.
    reference, pair = reference_logits.softmax(0), torch.tensor([[0, 1]])
    step = -slope(lambda x: dpo(x.log_softmax(0), reference, pair, beta)[0], logits)
    policy = logits.softmax(0)
    h = (policy / reference).log()[0] - (policy / reference).log()[1]
    c = beta * (-beta * h).sigmoid()
    rise = step[0] - policy @ step
    assert float(rise) == pytest.approx(float(c * (1 - policy[0] + policy[1])), abs=1e-12)
    assert float(rise) > 0


FEATURE = torch.tensor([1.0, 0.5, 2], dtype=F64)  # chosen, rejected, never seen
PAIR = torch.tensor([[0, 1]])


def shared(theta: Tensor) -> Tensor:
    """Return log π, an even reference moved along one feature that all three responses share."""
    return (theta * FEATURE).log_softmax(0)


def test_c39_with_a_shared_feature_both_fall_and_the_mass_goes_to_what_nobody_ranked() -> None:
    theta = torch.zeros(1, dtype=F64)
    seen = []
    for _ in range(4):
        seen.append(shared(theta))
        theta = flow(lambda x: dpo(shared(x), EVEN, PAIR, 0.1)[0], theta, 10.0, 500)
    path = torch.stack([*seen, shared(theta)])
    assert bool((path[1:, :2] < path[:-1, :2]).all())  # chosen and rejected both fall
    assert float(path[-1, 2].exp()) > 0.99
    losses = torch.stack([dpo(each, EVEN, PAIR, 0.1)[0] for each in path])
    assert bool((losses[1:] < losses[:-1]).all())  # while the loss falls


def test_e47_the_likelihoods_of_both_fall_and_the_loss_of_dpo_falls_as_well() -> None:
    # Printed: "the loss of good and of bad answers rises". What rises is the negative log-likelihood of each.
    theta, start = torch.zeros(1, dtype=F64), shared(torch.zeros(1, dtype=F64))
    for _ in range(20):
        before, theta = theta, flow(lambda x: dpo(shared(x), EVEN, PAIR, 0.1)[0], theta, 10.0, 10)
        chosen, rejected, _ = (shared(before) - shared(theta)).tolist()  # by how much -log π rose
        assert 0 < chosen < rejected
        assert dpo(shared(theta), EVEN, PAIR, 0.1) < dpo(shared(before), EVEN, PAIR, 0.1)
    assert float((start - shared(theta))[:2].min()) > 1


def test_c40_who_tells_every_pair_right_may_play_worse_than_who_has_learned_nothing() -> None:
    # The pair is right, and what is never seen is bad: rewards 1, 0, -5. Accuracy 1 on the records, J below the start.
    rewards = torch.tensor([1.0, 0, -5], dtype=F64)
    theta = flow(lambda x: dpo(shared(x), EVEN, PAIR, 0.1)[0], torch.zeros(1, dtype=F64), 10.0, 2000)
    margin = 0.1 * (shared(theta)[0] - shared(theta)[1])
    assert float(margin) > 0
    assert float(shared(theta).exp() @ rewards) < -4.9 < float(EVEN @ rewards)
    # The same loss on the policy's own pairs, as many per step, ranks what it plays: the third response is driven out.
    pairs = ordered_pairs()

    def online(x: Tensor) -> Tensor:
        weights = chances(rewards, pairs, shared(x).detach().exp())
        return weights @ dpo(shared(x), EVEN, pairs, 0.1)

    played = flow(online, torch.zeros(1, dtype=F64), 10.0, 2000)
    assert float(shared(played).exp()[2]) < 0.1
    assert float(shared(played).exp() @ rewards) > float(EVEN @ rewards)


@FAST
@given(THREE, NUMBERS)
def test_c40_implicit_rewards_of_a_free_policy_rank_and_play_alike(rewards: Tensor, shift: float) -> None:
    # Where every policy is possible and every response is seen, DPO's optimum ranks by the true reward and is π*.
    pairs = ordered_pairs()
    best, _ = tilted(rewards + shift, EVEN, BETA)
    found = slope(lambda x: chances(rewards, pairs, EVEN) @ dpo(x.log_softmax(0), EVEN, pairs), best.log())
    assert float(found.abs().max()) < 1e-14
