"""The world of token strings, against strings written out one by one and a dense table of the same tree."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.worlds import ExactWorld, SequenceWorld, TabularMDP, WorldError, gradient_error
from rlhf_lab.worlds.token_tree import TokenTree
from rlhf_lab_advantages import MonteCarlo
from rlhf_lab_objectives import Reinforce

F64 = torch.float64
SHAPES = [(2, 1, None), (3, 1, None), (2, 3, None), (3, 3, None), (3, 3, 1), (2, 4, 0), (4, 2, 3)]
ENDS = [None, 0, 2]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def strings(vocabulary: int, length: int, eos: int | None) -> list[tuple[int, ...]]:
    """Every response, by growing strings until they end; depth first, hence in lexicographic order."""

    def grow(prefix: tuple[int, ...]):
        if prefix and (prefix[-1] == eos or len(prefix) == length):
            yield prefix
            return
        for token in range(vocabulary):
            yield from grow((*prefix, token))

    return list(grow(()))


def number(prefix: tuple[int, ...], vocabulary: int) -> int:
    """The agreed number of a prefix: those that are shorter, and then the tokens as a number in base V."""
    shorter = sum(vocabulary**t for t in range(len(prefix)))
    return shorter + int("0" + "".join(map(str, prefix)), vocabulary) if prefix else 0


def make(
    vocabulary: int = 3, length: int = 3, eos: int | None = None, runs: tuple[int, ...] = (), prompts: int = 2
) -> SequenceWorld:
    tree = TokenTree(vocabulary, length, eos)
    weights = torch.arange(1, prompts + 1, dtype=F64)
    return SequenceWorld(
        vocabulary, length, noise(*runs, prompts, tree.responses, seed=1), weights / weights.sum(), eos
    )


def policy_for(world: SequenceWorld, *runs: int, seed: int = 5) -> Tensor:
    return noise(*runs, len(world.terminal), world.vocabulary, seed=seed).softmax(-1)


def dense(world: SequenceWorld) -> TabularMDP:
    """The same world as a table, filled string by string; behind an end token strings grow on, unpaid."""
    vocabulary, length = world.vocabulary, world.length
    answers = {y: i for i, y in enumerate(strings(vocabulary, length, world.eos))}
    prefixes = sum(vocabulary**t for t in range(length))
    prompts = world.reward.shape[-2]
    states = prompts * prefixes + 1
    transition = torch.zeros(states, vocabulary, states, dtype=F64)
    reward = torch.zeros(*world.reward.shape[:-2], states, vocabulary, states, dtype=F64)
    for x in range(prompts):
        for t in range(length):
            for prefix in itertools.product(range(vocabulary), repeat=t):
                state = x * prefixes + number(prefix, vocabulary)
                for token in range(vocabulary):
                    grown = (*prefix, token)
                    over = token == world.eos or len(grown) == length
                    following = states - 1 if over else x * prefixes + number(grown, vocabulary)
                    transition[state, token, following] = 1
                    if grown in answers:
                        reward[..., state, token, following] = world.reward[..., x, answers[grown]]
    start = torch.zeros(states, dtype=F64)
    start[torch.arange(prompts) * prefixes] = world.prompts
    return TabularMDP(transition, reward, start, torch.arange(states) == states - 1)


# ---- the tree


@pytest.mark.parametrize(("vocabulary", "length", "eos"), SHAPES)
def test_the_tree_has_every_response_once_in_lexicographic_order(vocabulary, length, eos):
    tree, due = TokenTree(vocabulary, length, eos), strings(vocabulary, length, eos)
    found = [tuple(row[:n]) for row, n in zip(tree.tokens.tolist(), tree.lengths.tolist(), strict=True)]
    assert found == due == sorted(due)
    assert tree.valid.sum(1).tolist() == [len(y) for y in due]
    assert bool((tree.tokens[~tree.valid] == 0).all())


@pytest.mark.parametrize(("vocabulary", "length", "eos"), SHAPES)
def test_prefixes_have_the_agreed_numbers(vocabulary, length, eos):
    tree = TokenTree(vocabulary, length, eos)
    for y, row in zip(strings(vocabulary, length, eos), tree.prefix.tolist(), strict=True):
        assert row == [number(y[:t], vocabulary) for t in range(len(y))] + [0] * (length - len(y))
    known = [p for t in range(length) for p in itertools.product(range(vocabulary), repeat=t)]
    assert [number(p, vocabulary) for p in known] == list(range(tree.prefixes))
    assert tree.read.tolist() == [list(p) + [-1] * (length - len(p)) for p in known]


@pytest.mark.parametrize(("vocabulary", "length", "eos"), SHAPES)
def test_edges_lead_to_longer_prefixes_or_complete_a_response(vocabulary, length, eos):
    tree = TokenTree(vocabulary, length, eos)
    answers = {y: i for i, y in enumerate(strings(vocabulary, length, eos))}
    for t in range(length):
        for prefix in itertools.product(range(vocabulary), repeat=t):
            for token in range(vocabulary):
                edge, grown = number(prefix, vocabulary) * vocabulary + token, (*prefix, token)
                ends = token == eos or len(grown) == length
                assert tree.children[edge] == (-1 if ends else number(grown, vocabulary))
                assert tree.response_of[edge] == answers.get(grown, -1)


# ---- an exact world, against the dense table


@pytest.mark.parametrize(("vocabulary", "length", "eos"), SHAPES)
@pytest.mark.parametrize("runs", [(), (2,)])
def test_everything_is_that_of_the_dense_table(vocabulary, length, eos, runs):
    world = make(vocabulary, length, eos, runs)
    table, policy = dense(world), policy_for(world, *runs)
    for name in ("state_values", "action_values", "advantages", "expected_return", "occupancy", "policy_gradient"):
        torch.testing.assert_close(getattr(world, name)(policy), getattr(table, name)(policy), rtol=0, atol=1e-13)
    for name in ("optimal_values", "optimal_action_values", "optimal_return"):
        torch.testing.assert_close(getattr(world, name)(), getattr(table, name)(), rtol=0, atol=1e-13)
    assert torch.equal(world.uniform_policy(), table.uniform_policy())
    assert torch.equal(world.start, table.start) and torch.equal(world.terminal, table.terminal)


@pytest.mark.parametrize("eos", ENDS)
def test_the_branches_are_those_of_the_dense_table(eos):
    world = make(eos=eos, runs=(2,))
    found, due = world.branches, dense(world).branches
    for name in ("offsets", "successors", "probabilities", "rewards"):
        assert torch.equal(getattr(found, name), getattr(due, name))


@pytest.mark.parametrize("eos", ENDS)
@pytest.mark.parametrize("horizon", [2, 3])
def test_enumeration_is_that_of_the_dense_table(eos, horizon):
    world = make(eos=eos)
    policy = policy_for(world)
    found, due = world.enumerate(policy, horizon), dense(world).enumerate(policy, horizon)
    for name in ("states", "actions", "probabilities"):
        assert torch.equal(getattr(found, name), getattr(due, name))
    assert torch.equal(found.trajectories.rewards, due.trajectories.rewards)
    assert torch.equal(found.trajectories.truncated, due.trajectories.truncated)


def test_it_is_an_exact_world():
    assert isinstance(make(), ExactWorld)


@pytest.mark.parametrize("eos", ENDS)
def test_the_policy_gradient_is_the_derivative_of_the_expected_reward(eos):
    # for tabular softmax logits w(s,a) is the gradient itself
    world = make(eos=eos)
    logits = noise(len(world.terminal), 3, seed=3).requires_grad_()
    probs, weights = world.response_probs(logits.softmax(-1)), world.prompts[:, None]
    (gradient,) = torch.autograd.grad((weights * probs * world.reward).sum(), logits)
    torch.testing.assert_close(world.policy_gradient(logits.detach().softmax(-1)), gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("eos", ENDS)
def test_reinforce_follows_the_true_gradient(eos):
    # the exact error of an estimator by enumeration knows this world as it knows any other
    world = make(3, 2, eos)
    error = gradient_error(world, policy_for(world), MonteCarlo(gamma=1.0), Reinforce(), None, horizon=2)
    assert error.bias < 1e-15 and float(error.true.norm()) > 0.01


# ---- responses


@pytest.mark.parametrize("eos", ENDS)
def test_a_response_is_as_probable_as_its_tokens_one_after_the_other(eos):
    world = make(eos=eos)
    policy, prefixes = policy_for(world), world.tree.prefixes
    probs = world.response_probs(policy)
    for x, (i, y) in itertools.product(range(2), enumerate(strings(3, 3, eos))):
        states = [x * prefixes + number(y[:t], 3) for t in range(len(y))]
        due = math.prod(float(policy[s, a]) for s, a in zip(states, y, strict=True))
        assert float(probs[x, i]) == pytest.approx(due, rel=1e-14)
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, dtype=F64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("eos", ENDS)
def test_responses_are_the_episodes_of_the_enumeration(eos):
    # an outcome's probability is p(x) π(y|x), and episodes come sorted by prompt and response
    world = make(eos=eos)
    policy = policy_for(world)
    outcomes = world.enumerate(policy, 3)
    joint = world.prompts[:, None] * world.response_probs(policy)
    torch.testing.assert_close(outcomes.probabilities, joint.flatten(), rtol=1e-14, atol=0)
    assert torch.equal(outcomes.trajectories.rewards.sum(-1), world.reward.flatten())


def test_a_token_that_is_never_taken_gives_no_nan():
    world = make(2, 2, prompts=1)
    policy = torch.tensor([[1.0, 0.0]] * 4, dtype=F64, requires_grad=True)
    log_probs = world.response_log_probs(policy)
    assert log_probs.tolist() == [[0, -math.inf, -math.inf, -math.inf]]
    (world.kl(policy, world.uniform_policy()) + world.expected_return(policy)).backward()
    assert policy.grad is not None and bool(policy.grad.isfinite().all())


def test_an_improbable_response_keeps_its_logarithm():
    # each of two tokens with probability 1e-200: the product underflows, the sum of logarithms does not
    world = make(2, 2, prompts=1)
    policy = torch.tensor([[1e-200, 1.0]] * 4, dtype=F64)
    assert float(world.response_log_probs(policy)[0, 0]) == pytest.approx(2 * math.log(1e-200), rel=1e-14)
    assert float(world.response_probs(policy)[0, 0]) == 0


# ---- KL


@pytest.mark.parametrize("eos", ENDS)
def test_the_kl_of_responses_is_the_sum_of_the_kl_of_tokens(eos):
    world = make(eos=eos)
    policy, reference = policy_for(world, seed=1), policy_for(world, seed=2)
    p, q = world.response_probs(policy), world.response_probs(reference)
    whole = (world.prompts[:, None] * p * (p / q).log()).sum()
    tokens = (world.occupancy(policy) * (policy * (policy / reference).log()).sum(-1)).sum()
    torch.testing.assert_close(world.kl(policy, reference), whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(world.kl(policy, reference), tokens, rtol=1e-13, atol=0)
    due = (policy * (policy / reference).log()).sum(-1)[:-1]
    torch.testing.assert_close(world.state_kl(policy, reference)[:-1], due)


def test_the_kl_of_a_policy_to_itself_is_zero_and_infinite_outside_the_reference():
    world = make(2, 2, prompts=1)
    policy, narrow = policy_for(world), torch.tensor([[1.0, 0.0]] * 4, dtype=F64)
    assert float(world.kl(policy, policy)) == 0
    assert float(world.kl(policy, narrow)) == math.inf
    # from the narrow one: log of the inverse of the only response's probability
    due = -float(policy[0, 0].log() + policy[1, 0].log())
    assert float(world.kl(narrow, policy)) == pytest.approx(due, rel=1e-14)


def test_what_is_never_visited_adds_nothing_to_the_kl():
    # the policy never takes token 1, so that behind it two policies may part as they like
    world = make(2, 2, prompts=1)
    policy = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], dtype=F64)
    reference = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]], dtype=F64)
    assert float(world.kl(policy, reference)) == 0


# ---- the KL-regularised optimum


def test_the_optimum_of_a_bandit_by_hand():
    # π_ref = (1/2, 1/4, 1/4), r = (0, ln 2, ln 4), β = 1: π_ref e^r = (1/2, 1/2, 1), Z = 2, π* = (1/4, 1/4, 1/2)
    world = SequenceWorld(3, 1, torch.tensor([[0.0, math.log(2), math.log(4)]], dtype=F64))
    reference = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0, 0]], dtype=F64)
    optimum = world.optimum(reference, 1.0)
    assert optimum.policy[0].tolist() == pytest.approx([0.25, 0.25, 0.5], abs=1e-15)
    assert optimum.response_probs[0].tolist() == pytest.approx([0.25, 0.25, 0.5], abs=1e-15)
    assert float(optimum.objective) == pytest.approx(math.log(2), abs=1e-15)
    # J(π_ref) = E r = (ln 2 + ln 4) / 4
    assert float(world.objective(reference, reference, 1.0)) == pytest.approx(0.75 * math.log(2), abs=1e-15)


@pytest.mark.parametrize("eos", ENDS)
@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0, 100.0])
def test_both_forms_of_the_optimum_are_one_distribution(eos, beta):
    world = make(eos=eos, runs=(2,))
    reference = policy_for(world)
    optimum = world.optimum(reference, beta)
    assert bool(optimum.log_policy.isfinite().all()) and bool(optimum.log_response_probs.isfinite().all())
    ones = torch.ones(2, len(world.terminal), dtype=F64)
    torch.testing.assert_close(optimum.policy.sum(-1), ones, rtol=0, atol=1e-11)
    torch.testing.assert_close(world.response_probs(optimum.policy), optimum.response_probs, rtol=1e-10, atol=1e-300)
    if beta >= 0.1:  # by the formula itself, which overflows for smaller ones
        tilted = world.response_probs(reference) * (world.reward / beta).exp()
        torch.testing.assert_close(optimum.response_probs, tilted / tilted.sum(-1, keepdim=True))
        torch.testing.assert_close(world.log_partition(reference, beta), tilted.sum(-1).log())


worlds = st.tuples(st.integers(2, 3), st.integers(1, 3), st.sampled_from([None, 0, 1]), st.integers(1, 3))


@given(worlds, st.floats(1e-3, 1e2), st.floats(0.1, 10), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_falling_short_of_the_optimum_is_a_kl(shape, beta, spread, seed):
    # J(π*) - J(π) = β KL(π || π*), J(π*) = β E log Z
    world = make(*shape[:3], prompts=shape[3])
    world = replace(world, reward=world.reward * spread)
    policy, reference = (spread * noise(len(world.terminal), shape[0], seed=seed + i) for i in range(2))
    policy, reference = policy.softmax(-1), reference.softmax(-1)
    optimum, value = world.optimum(reference, beta), world.objective(policy, reference, beta)
    scale = max(1.0, float(world.reward.abs().max()), beta * float(world.kl(policy, reference)))
    gap = world.objective_gap(policy, reference, beta)
    torch.testing.assert_close(optimum.objective - value, gap, rtol=0, atol=1e-12 * scale)
    best = world.objective(optimum.policy, reference, beta)
    torch.testing.assert_close(optimum.objective, best, rtol=0, atol=1e-12 * scale)
    assert float(gap) >= 0


def test_the_gap_is_exact_where_the_difference_of_objectives_is_rounding():
    # π = π* tilted by 1e-9 on one token: KL is about 1e-18 / 2 times a probability, far below the objectives' rounding
    world = make()
    reference = policy_for(world)
    optimum = world.optimum(reference, 0.5)
    logits = optimum.log_policy.clone()
    logits[0, 0] += 1e-7
    policy = logits.softmax(-1)
    p = float(optimum.policy[0, 0])
    # KL between categoricals whose logit differs by d is d² p (1 - p) / 2, in the root of the first prompt
    due = 0.5 * float(world.prompts[0]) * p * (1 - p) * 1e-14 / 2
    assert float(world.objective_gap(policy, reference, 0.5)) == pytest.approx(due, rel=0.1)


@pytest.mark.parametrize("eos", ENDS)
def test_the_objective_is_flat_at_the_optimum(eos):
    world = make(eos=eos)
    reference = policy_for(world)
    logits = world.optimum(reference, 0.3).log_policy.requires_grad_()
    world.objective(logits.softmax(-1), reference, 0.3).backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-15


def test_a_shift_of_a_prompts_rewards_moves_log_z_and_nothing_else():
    world, shift = make(), torch.tensor([[2.0], [-3.0]], dtype=F64)
    moved, reference = replace(world, reward=world.reward + shift), policy_for(world)
    torch.testing.assert_close(moved.optimum(reference, 0.5).policy, world.optimum(reference, 0.5).policy)
    difference = moved.log_partition(reference, 0.5) - world.log_partition(reference, 0.5)
    torch.testing.assert_close(difference, shift[:, 0] / 0.5)


def test_the_reward_can_be_read_from_the_optimum():
    # r = β log(π*/π_ref) + β log Z
    world = make()
    reference = policy_for(world)
    optimum = world.optimum(reference, 0.2)
    ratio = world.response_log_probs(optimum.policy) - world.response_log_probs(reference)
    torch.testing.assert_close(0.2 * (ratio + optimum.log_partition[:, None]), world.reward)


def test_where_the_reference_never_comes_the_optimum_never_comes():
    world = make(2, 2, prompts=1)
    reference = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]], dtype=F64)
    optimum = world.optimum(reference, 0.1)
    assert optimum.response_probs[0, 2:].tolist() == [0, 0]
    assert not bool(optimum.policy.isnan().any())
    assert optimum.policy[2].tolist() == [0, 1]
    assert float(world.objective_gap(optimum.policy, reference, 0.1)) == pytest.approx(0, abs=1e-15)


# ---- the run axis


@pytest.mark.parametrize("eos", ENDS)
def test_a_run_is_bit_equal_alone_and_beside_others(eos):
    world, policies = make(4, 4, eos, runs=(7,)), noise(7, 171, 4, seed=3).softmax(-1)
    reference = policies[0]
    single = world.of_run(3)
    for name in ("state_values", "action_values", "expected_return", "occupancy", "response_log_probs"):
        assert torch.equal(getattr(world, name)(policies)[3], getattr(single, name)(policies[3]))
    assert torch.equal(world.kl(policies, reference)[3], single.kl(policies[3], reference))
    gap = world.objective_gap(policies, reference, 0.1)
    assert torch.equal(gap[3], single.objective_gap(policies[3], reference, 0.1))


def test_a_world_without_a_run_axis_is_the_world_of_every_run():
    world = make()
    assert world.of_run(2) is world
    several = make(runs=(3,))
    assert torch.equal(several.of_run(1).reward, several.reward[1])
    assert torch.equal(several.of_run(1).prompts, several.prompts)


# ---- what makes no world


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 1}, "vocabulary: expected two tokens or more, found 1"),
        ({"length": 0}, "length: expected one token or more, found 0"),
        ({"eos": 3}, "eos: expected None or a token from 0 to 2, found 3"),
        ({"length": 13}, r"expected at most 1,000,000 strings, vocabulary\^length, found '3\^13'"),
        ({"length": 10**9}, "expected at most 1,000,000 strings"),
        ({"reward": torch.zeros(2, 26)}, r"reward: expected shape \[\*b,x,27\], one number per prompt and response"),
        ({"reward": torch.zeros(27)}, r"reward: expected shape .* found shape \[27\]"),
        (
            {"reward": torch.full((2, 27), math.nan)},
            r"reward: expected finite numbers, found otherwise at index \[0, 0\]",
        ),
        ({"prompts": torch.tensor([1.0])}, r"prompts: expected shape \[2\], one probability per prompt"),
        ({"prompts": torch.tensor([0.5, 0.6])}, "prompts: expected sum 1, found 1.1"),
        ({"prompts": torch.tensor([1.5, -0.5])}, r"prompts: expected probabilities, found otherwise at index \[1\]"),
    ],
)
def test_numbers_that_make_no_world_are_refused(change, message):
    fields = {"vocabulary": 3, "length": 3, "reward": torch.zeros(2, 27)} | change
    with pytest.raises(WorldError, match=message):
        SequenceWorld(**fields)


def test_a_policy_that_is_none_is_refused():
    world = make()
    with pytest.raises(WorldError, match=r"policy: expected shape \[\*b,27,3\], found shape \[26, 3\]"):
        world.expected_return(torch.zeros(26, 3))
    with pytest.raises(WorldError, match="policy: expected probabilities that sum to one over actions"):
        world.response_probs(torch.ones(27, 3))
    with pytest.raises(WorldError, match="reference: expected probabilities that sum to one over actions"):
        world.kl(world.uniform_policy(), torch.ones(27, 3))


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_price_that_is_not_positive_is_refused(beta):
    world = make()
    uniform = world.uniform_policy()
    for ask in (world.log_partition, world.optimum):
        with pytest.raises(WorldError, match="beta: expected a number above 0, the price of the KL"):
            ask(uniform, beta)
    with pytest.raises(WorldError, match="beta: expected a number above 0"):
        world.objective(uniform, uniform, beta)


@pytest.mark.parametrize(("scale", "reaches"), [(1.7e308, "inf"), (1e307, r"1e\+308"), (2e9, r"2e\+10")])
def test_rewards_too_large_for_the_optimum_are_told_as_that(scale, reaches):
    rewards = torch.zeros(2, 27, dtype=F64)
    rewards[1, 3] = -scale
    world = SequenceWorld(3, 3, rewards)
    uniform = world.uniform_policy()
    for ask in (world.log_partition, world.optimum):
        with pytest.raises(WorldError, match=rf"too large for exp\(r / beta\): r / beta reaches {reaches}, and above"):
            ask(uniform, 0.1)
    assert world.expected_return(uniform).isfinite()  # which asks for no exponential


def test_equal_rewards_as_large_as_allowed_leave_the_reference_as_it_is():
    world = SequenceWorld(3, 3, torch.full((1, 27), 1e9, dtype=F64))
    found = world.optimum(world.uniform_policy(), 0.1).response_probs
    assert found.flatten().tolist() == pytest.approx([1 / 27] * 27, rel=2e-6)


def test_enumeration_takes_one_world_and_one_policy():
    with pytest.raises(WorldError, match="takes one world and one policy"):
        make(runs=(2,)).enumerate(make().uniform_policy(), 3)
