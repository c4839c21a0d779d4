"""Scores of whole responses: sums over tokens, references, divergences, rewards, gradients and isolation of runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from token_worlds import (
    ASKED,
    LINEAR,
    OTHERS,
    OWN,
    POLICIES,
    WORLD,
    candidates,
    changed,
    every_response,
    make,
    random_candidates,
    steps,
    token_world,
    whole_table,
)
from torch import Tensor
from torch.nn import functional

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import RankingActor, Spaces
from rlhf_lab_policies import MLP, TabularAutoregressive, scoring, transformer
from rlhf_lab_policies.actor import StackedActor

EVERYTHING = frozenset({"token_log_probs", "token_ref_log_probs", "token_valid", "token_kl"})


def moved(name: str, world: Spaces = WORLD) -> StackedActor:
    """Return an actor with a reference that it has moved away from."""
    actor = make(name, world=world)
    actor.keep_reference()
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter += 0.3 * torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    return actor


# Log-probabilities


@pytest.mark.parametrize("name", POLICIES)
def test_a_response_s_score_is_the_sum_over_its_tokens(name: str) -> None:
    actor = make(name)
    assert isinstance(actor, RankingActor)
    due = torch.zeros(2, 3, 2, dtype=torch.float64)
    for at, state, token in steps(ASKED):  # one state at a time
        due[at] += actor.action_log_probs(torch.full((2, 1), state)).detach()[at[0], 0, token]
    assert torch.allclose(actor.score(ASKED).log_probs, due, rtol=1e-12)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 8), eos=st.sampled_from([None, 0, 2]))
@pytest.mark.parametrize("name", POLICIES)
def test_the_probabilities_of_all_responses_sum_to_one(name: str, seed: int, scale: float, eos: int | None) -> None:
    actor = make(name)
    with torch.no_grad():
        for key, parameter in actor.named_parameters():
            parameter.copy_(scale * Streams([seed, 5])[key].normals(0, *parameter.shape[1:]))
    found = actor.score(every_response(WORLD, eos)).log_probs.exp().sum(-1)
    assert torch.allclose(found, torch.ones(2, 2, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("world", [WORLD, token_world(3, 5, 3)], ids=["27 states", "364 states"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_world_with_many_states_is_asked_about_the_tokens_only(
    name: str, world: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    asked = random_candidates(world, (3, 1), rows=7)
    for few in (scoring.FEW_STATES, 0):
        monkeypatch.setattr(scoring, "FEW_STATES", few)
        monkeypatch.setattr(transformer, "FEW_STATES", few)
        actor = moved(name, world)
        found = actor.score(asked, EVERYTHING)
        rewards = actor.rewards(asked)
        (found.log_probs.square().sum() + found.token_kl.sum() + rewards.square().sum()).backward()
        gradients = [p.grad for p in actor.parameters() if p.grad is not None]
        answers.append([*vars(found).values(), rewards, *gradients])
    for a, b in zip(*answers, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_equal_central_differences(name: str) -> None:
    actor = moved(name)
    names = [key for key, _ in actor.named_parameters()]

    def outputs(*weights: Tensor) -> tuple[Tensor, ...]:
        given = {f"actor.{key}": w for key, w in zip(names, weights, strict=True)}
        found: tuple[Tensor, ...] = torch.func.functional_call(_Outputs(actor), given, ASKED)
        return found

    weights = [w.detach().clone().requires_grad_() for w in actor.parameters()]
    assert torch.autograd.gradcheck(outputs, weights, fast_mode=True)


class _Outputs(torch.nn.Module):
    def __init__(self, actor: StackedActor) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, asked: Candidates) -> tuple[Tensor, ...]:
        found = self.actor.score(asked, EVERYTHING)
        return found.log_probs, found.token_log_probs, found.token_kl, self.actor.rewards(asked)


def test_the_same_token_twice_counts_twice_in_the_gradient() -> None:
    # V = 2, uniform: d log pi(0) / dz = (1/2, -1/2) at every visit; prompt 0's first state is visited by both responses
    actor = TabularAutoregressive(precision="float64").build(token_world(2, 2, 1), 2, Streams([0, 1]))
    actor.score(candidates(token_world(2, 2, 1), [0], [[(0, 0), (0, 1)]])).log_probs.sum().backward()
    grad = actor.get_parameter("logits").grad
    due = torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(grad, due.expand(2, 4, 2))


# What does not count


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("few", [True, False])
def test_what_stands_where_no_token_counts_does_not_matter(
    name: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not few:
        monkeypatch.setattr(scoring, "FEW_STATES", 0)
    answers = []
    for junk in (0, 7**9, -1):
        responses = [[(0, 1, 2), (2,)], [(1, 1), (0, 0, 0)]]
        actor = moved(name)
        asked = candidates(WORLD, [1, 0], responses, junk)
        found = actor.score(asked, EVERYTHING)
        assert bool((found.token_log_probs[~asked.inputs["counted"]] == 0).all())
        rewards = actor.rewards(asked)
        (found.log_probs.sum() + found.token_kl.sum() + rewards.sum()).backward()
        answers.append([*vars(found).values(), rewards, *(p.grad for p in actor.parameters() if p.grad is not None)])
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


@pytest.mark.parametrize("name", ["tabular", "transformer"])
@pytest.mark.parametrize("more", [1, 13, 30])
def test_padding_to_longer_responses_changes_no_bit(name: str, more: int) -> None:
    world = token_world(2, 5, 2)
    asked = random_candidates(world, (4, 5), rows=9)
    padded = {
        key: x if key == "prompts" else functional.pad(x, (0, more), value=False if key == "counted" else 9**9)
        for key, x in asked.inputs.items()
    }
    answers = []
    for each in (asked, replace(asked, inputs=padded)):
        actor = POLICIES[name].build(world, 2, Streams([4, 5]))
        actor.keep_reference()
        found = actor.score(each, frozenset({"token_kl"}))
        found.log_probs.square().sum().backward()
        answers.append([found.log_probs, found.token_kl, actor.rewards(each), *(p.grad for p in actor.parameters())])
    for a, b in zip(*answers, strict=True):
        assert (a is b is None) or torch.equal(a, b)


# The reference


@pytest.mark.parametrize("name", POLICIES)
def test_the_reference_says_what_the_policy_said_when_it_was_kept(name: str) -> None:
    actor = make(name)
    before = actor.score(ASKED, EVERYTHING)
    assert before.ref_log_probs is before.token_ref_log_probs is before.token_kl is None
    actor = moved(name)  # the same weights, kept and moved away from
    for _ in range(2):  # found anew, and remembered
        after = actor.score(ASKED, EVERYTHING)
        assert torch.equal(after.ref_log_probs, before.log_probs)
        assert torch.equal(after.token_ref_log_probs, before.token_log_probs)
        assert not after.ref_log_probs.requires_grad
        assert not torch.allclose(after.log_probs, before.log_probs)


def test_a_reference_that_is_kept_again_is_the_new_one() -> None:
    actor = moved("tabular")
    actor.score(ASKED)
    actor.keep_reference()
    found = actor.score(ASKED, frozenset({"token_kl"}))
    assert torch.equal(found.ref_log_probs, found.log_probs)
    assert bool((found.token_kl == 0).all())


@pytest.mark.parametrize("name", POLICIES)
def test_a_checkpoint_carries_the_reference(name: str) -> None:
    actor = moved(name)
    other = make(name, seeds=(8, 9))
    other.keep_reference()
    other.score(ASKED)  # remembers a reference that is about to be replaced
    if name == "features-random":  # what a seed draws is the seed's, whatever weights it goes on with
        other.features = actor.features
    other.load_state_dict(actor.state_dict())
    a, b = actor.score(ASKED), other.score(ASKED)
    assert torch.equal(a.log_probs, b.log_probs)
    assert torch.equal(a.ref_log_probs, b.ref_log_probs)


def test_a_change_of_precision_reaches_the_reference() -> None:
    actor = moved("tabular")
    actor.score(ASKED)
    found = actor.float().score(ASKED, EVERYTHING)
    assert {x.dtype for x in vars(found).values()} == {torch.float32, torch.bool}


def test_only_what_is_asked_for_is_given() -> None:
    actor = moved("tabular")
    for asked in (frozenset(), frozenset({"token_kl"}), EVERYTHING - {"token_kl"}):
        found = vars(actor.score(ASKED, asked))
        assert {key for key, x in found.items() if x is not None} == {"log_probs", "ref_log_probs", *asked}


def test_tokens_are_given_one_by_one() -> None:
    actor = moved("tabular")
    found = actor.score(ASKED, EVERYTHING)
    assert torch.equal(found.token_valid, ASKED.inputs["counted"])
    assert torch.allclose(found.token_log_probs.sum(-1), found.log_probs, rtol=1e-14)
    assert torch.allclose(found.token_ref_log_probs.sum(-1), found.ref_log_probs, rtol=1e-14)
    last = actor.action_log_probs(torch.full((2, 1), WORLD.prefixes))[:, 0, 2]  # prompt 1, no token yet, token 2
    assert torch.allclose(found.token_log_probs[:, 0, 1], functional.pad(last[:, None], (0, 2)), rtol=1e-14)


# KL


@pytest.mark.parametrize("name", POLICIES)
def test_the_kl_of_a_response_is_that_at_each_of_its_prefixes_over_all_tokens(name: str) -> None:
    actor = moved(name)
    policy = whole_table(actor).exp().numpy()
    actor.load_state_dict({key: actor.get_buffer(f"reference_{key}") for key, _ in actor.named_parameters()}, False)
    reference = whole_table(actor).exp().numpy()
    due = torch.zeros(2, 3, 2, dtype=torch.float64)
    for at, state, _ in steps(ASKED):
        due[at] += stats.entropy(reference[at[0], state], policy[at[0], state])
    found = moved(name).score(ASKED, EVERYTHING).token_kl
    assert found.requires_grad
    assert torch.allclose(found, due, rtol=1e-9)


@pytest.mark.parametrize("eos", [None, 1])
def test_the_reference_s_expected_kl_is_that_of_whole_responses(eos: int | None) -> None:
    # the chain rule: E_{y ~ ref} sum_t KL(ref(.|y_<t) || pi(.|y_<t)) = sum_y ref(y) log(ref(y) / pi(y))
    found = moved("tabular").score(every_response(WORLD, eos), EVERYTHING)
    probability = found.ref_log_probs.exp()
    due = (probability * (found.ref_log_probs - found.log_probs)).sum(-1)
    assert torch.allclose((probability * found.token_kl).sum(-1), due, rtol=1e-12)


def test_at_the_reference_the_kl_is_zero_and_flat() -> None:
    actor = make("transformer")
    actor.keep_reference()
    found = actor.score(ASKED, EVERYTHING).token_kl
    assert bool((found == 0).all())
    found.sum().backward()
    assert all(bool((p.grad.abs() < 1e-13).all()) for p in actor.parameters() if p.grad is not None)


# Rewards


def test_a_tabular_policy_s_rewards_are_sums_of_its_logits() -> None:
    actor = make("tabular")
    logits = actor.get_parameter("logits").detach()
    due = torch.zeros(2, 3, 2, dtype=torch.float64)
    for at, state, token in steps(ASKED):
        due[at] += logits[at[0], state, token]
    assert torch.allclose(actor.rewards(ASKED), due, rtol=1e-14)


@pytest.mark.parametrize("name", POLICIES)
def test_rewards_of_responses_that_differ_in_the_last_token_differ_as_their_scores_do(name: str) -> None:
    # log pi(v|s) = z(s,v) - log sum_u exp z(s,u), whose last term is the same for both
    actor = make(name)
    asked = candidates(WORLD, [0, 1], [[(0, 1, 2), (0, 1, 0)], [(2,), (1,)]])
    assert torch.allclose(actor.rewards(asked).diff(), actor.score(asked).log_probs.diff(), rtol=1e-10)


def test_a_tabular_policy_expresses_every_reward() -> None:
    # r(x, y) stands at the last token of y, and 0 at all others
    asked, due = every_response(WORLD), Streams([1])["reward"].normals(0, 2, 27)[0]
    actor = TabularAutoregressive(precision="float64").build(WORLD, 2, Streams([1, 2]))
    last = {at[1:]: (state, token) for at, state, token in steps(asked)}
    with torch.no_grad():
        for at, (state, token) in last.items():
            actor.get_parameter("logits")[:, state, token] = due[at]
    assert torch.equal(actor.rewards(asked), due.expand(2, 2, 27))


@pytest.mark.parametrize("name", LINEAR)
def test_rewards_of_linear_preferences_are_linear_in_the_weights(name: str) -> None:
    actor = make(name)
    theta = actor.get_parameter("theta")
    at_first = actor.rewards(ASKED)
    slopes = torch.autograd.grad(at_first.sum(), theta)[0]
    assert torch.allclose((slopes * theta).sum(), at_first.sum(), rtol=1e-12)
    with torch.no_grad():
        theta *= -2.5
    assert torch.allclose(actor.rewards(ASKED), -2.5 * at_first, rtol=1e-12)


# Runs

SEEDS = (11, 4, 0, 7, 2)
SIZES = ((3, 3, 2), (4, 4, 1), (5, 2, 1))  # 27, 86 and 7 states


def train(name: str, seeds: tuple[int, ...], world: Spaces, updates: int) -> dict[str, Tensor]:
    """Return weights and answers after some updates on candidates that depend on each run's seed alone."""
    policy = POLICIES[name]
    if name == "features-table":
        policy = changed(name, table=[(float(v), v * v - 3.0) for v in range(world.actions)])
    actor = policy.build(world, len(seeds), Streams(seeds))
    actor.keep_reference()
    optimizer = torch.optim.Adam(actor.parameters(), lr=0.01)
    asked = random_candidates(world, seeds, rows=33)
    for _ in range(updates):
        found = actor.score(asked, EVERYTHING)
        ratios = found.log_probs - found.ref_log_probs
        loss = -functional.logsigmoid(ratios[..., 0] - ratios[..., 1] - found.token_kl.sum(-1))
        optimizer.zero_grad()
        (loss + actor.rewards(asked).square().sum(-1)).sum().backward()
        optimizer.step()
    found = actor.score(asked, EVERYTHING)
    answers = {key: x for key, x in vars(found).items() if x is not None}
    return {**actor.state_dict(), **answers, "rewards": actor.rewards(asked)}


def assert_same_bits(name: str, size: tuple[int, int, int], updates: int) -> None:
    world = token_world(*size)
    together = train(name, SEEDS, world, updates)
    for group in ((0,), (4, 1)):
        alone = train(name, tuple(SEEDS[i] for i in group), world, updates)
        for key, found in alone.items():
            assert bool(found.isfinite().all())
            assert torch.equal(found, together[key][list(group)]), (key, group)


@pytest.mark.parametrize(("name", "size"), [*((n, s) for n in OWN for s in SIZES), *((n, SIZES[0]) for n in OTHERS)])
def test_a_seed_s_training_has_the_same_bits_whatever_runs_beside_it(name: str, size: tuple[int, int, int]) -> None:
    assert_same_bits(name, size, updates=4)


@pytest.mark.parametrize("name", OWN)
def test_a_seed_s_training_has_the_same_bits_where_only_the_tokens_are_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "FEW_STATES", 0)
    monkeypatch.setattr(transformer, "FEW_STATES", 0)
    assert_same_bits(name, (4, 3, 2), updates=3)


def test_a_seed_s_training_has_the_same_bits_on_two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same_bits("transformer", (4, 4, 1), updates=1)
        assert_same_bits("tabular", (4, 4, 1), updates=1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", POLICIES)
def test_no_gradient_crosses_runs(name: str) -> None:
    actor = moved(name)
    found = actor.score(ASKED, EVERYTHING)
    (found.log_probs + found.token_kl + actor.rewards(ASKED))[0].sum().backward()
    gradients = [p.grad for key, p in actor.named_parameters() if not key.startswith("critic")]
    assert all(bool((g[1] == 0).all()) for g in gradients)
    assert any(bool((g[0] != 0).any()) for g in gradients)


# Errors


def test_what_is_no_token_sequence_is_refused() -> None:
    lacking = replace(ASKED, inputs={"prompts": ASKED.inputs["prompts"], "text": ASKED.inputs["tokens"]})
    with pytest.raises(LabError, match="candidates without prefixes, tokens, counted; needs candidates of a world"):
        make("tabular").score(lacking)
    with pytest.raises(LabError, match="the candidates are of 2 runs, the policy of 3"):
        make("tabular", seeds=(1, 2, 3)).score(ASKED)
    vectors = MLP().build(Spaces(3, observation=(5,)), 2, Streams([0, 1]))
    with pytest.raises(LabError, match="a policy that reads observation vectors"):
        vectors.score(ASKED)


def test_continuous_actions_have_no_score_and_no_reward() -> None:
    actor = MLP().build(Spaces(0, states=len(WORLD.tokens), action_size=1), 2, Streams([0, 1]))
    with pytest.raises(LabError, match="score: this policy's actions are continuous"):
        actor.score(ASKED)
    with pytest.raises(LabError, match="rewards: this policy's actions are continuous"):
        actor.rewards(ASKED)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_say_that_they_fill_rankings(name: str) -> None:
    assert POLICIES[name].gives() >= EVERYTHING | {"ref_log_probs"}
