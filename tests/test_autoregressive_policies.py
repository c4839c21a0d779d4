"""Policies for worlds of token sequences: their probabilities by hand, first weights, options, and training online."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from token_worlds import LINEAR, OWN, WORLD, changed, make, random_candidates, state_of, token_world, whole_table
from torch import Tensor
from torch.nn import functional

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.protocols import Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Trajectories
from rlhf_lab_policies import LinearFeatures, TabularAutoregressive, Transformer, transformer
from rlhf_lab_policies.prefixes import chains, tree
from rlhf_lab_policies.token_policy import TokenPolicy

STATES = len(WORLD.tokens)


def samples_of(world: Spaces, seeds: tuple[int, ...] = (3, 1), rows: int = 4) -> Samples:
    """Return responses as the trajectories that an environment would collect, junk where a response has ended."""
    prompts, prefixes, tokens, counted = random_candidates(world, seeds, rows).inputs.values()
    states = torch.where(counted, prompts[..., None, None] + prefixes, -5)[:, :, 0]
    valid = counted[:, :, 0]
    no = torch.zeros_like(valid)
    inputs = {"observations": states, "actions": torch.where(valid, tokens[:, :, 0], 99)}
    return Samples(Trajectories(torch.zeros(valid.shape, dtype=torch.float64), no, no, valid), inputs)


# Tables


def test_a_tabular_policy_is_uniform_at_first() -> None:
    found = whole_table(TabularAutoregressive().build(WORLD, 2, Streams([0, 1])))
    assert torch.allclose(found.exp(), torch.full((2, STATES, 3), 1 / 3))


def test_scale_is_the_standard_deviation_of_the_first_logits() -> None:
    world, seeds = token_world(5, 4, 4), (0, 1, 2)
    logits = [
        TabularAutoregressive(scale=s, precision="float64").build(world, 3, Streams(seeds)).get_parameter("logits")
        for s in (1.0, 2.5)
    ]
    assert torch.equal(2.5 * logits[0], logits[1])
    numbers = logits[0].detach().flatten()  # 3 x 625 x 5 of them, so that p < 1e-3 tells a wrong law
    assert stats.kstest(numbers.numpy(), stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", OWN)
def test_seeds_draw_their_own_first_weights_unless_shared(name: str) -> None:
    own = OWN[name].build(WORLD, 3, Streams([4, 5, 6]))
    alone = OWN[name].build(WORLD, 1, Streams([5]))
    together = changed(name, shared=True).build(WORLD, 3, Streams([4, 5, 6]))
    zero = OWN[name].build(WORLD, 1, Streams([0]))
    assert all(torch.equal(x[1], alone.state_dict()[key][0]) for key, x in own.state_dict().items())
    found = whole_table(own), whole_table(together), whole_table(zero)
    assert not torch.allclose(found[0][0, :-1], found[0][1, :-1])
    assert all(torch.equal(found[1][run], found[2][0]) for run in range(3))


# Features


def by_hand(**fields: Any) -> tuple[Tensor, Tensor]:
    """Return the weights ``[1 or prompts, d]`` and probabilities ``[states, tokens]`` of one run of linear_features."""
    policy = LinearFeatures(scale=1.0, precision="float64", **fields)
    actor = policy.build(WORLD, 1, Streams([7]))
    return actor.get_parameter("theta").detach()[0], whole_table(actor).exp()[0]


@pytest.mark.parametrize("prompt", [0, 1])
@pytest.mark.parametrize("per_prompt", [False, True])
def test_features_of_tokens_positions_and_bigrams(prompt: int, per_prompt: bool) -> None:
    row = prompt if per_prompt else 0
    state = state_of(WORLD, prompt, (2, 1))  # the third token is to be chosen, after a 1
    empty = state_of(WORLD, prompt, ())

    theta, probs = by_hand(features="token", per_prompt=per_prompt)
    assert theta.shape == (2 if per_prompt else 1, 3)
    assert torch.allclose(probs[state], theta[row].softmax(0))
    assert torch.allclose(probs[empty], theta[row].softmax(0))

    theta, probs = by_hand(features="position", per_prompt=per_prompt)
    assert theta.shape == (2 if per_prompt else 1, 9)
    assert torch.allclose(probs[state], theta[row].view(3, 3)[2].softmax(0))
    assert torch.allclose(probs[empty], theta[row].view(3, 3)[0].softmax(0))

    theta, probs = by_hand(features="bigram", per_prompt=per_prompt)
    assert theta.shape == (2 if per_prompt else 1, 12)
    assert torch.allclose(probs[state], theta[row].view(4, 3)[1 + 1].softmax(0))  # row 0 is the start
    assert torch.allclose(probs[empty], theta[row].view(4, 3)[0].softmax(0))

    theta, probs = by_hand(features="table", table=((1.0, 0.0), (0.5, -1.0), (2.0, 3.0)), per_prompt=per_prompt)
    table = torch.tensor([[1.0, 0.0], [0.5, -1.0], [2.0, 3.0]], dtype=torch.float64)
    assert torch.allclose(probs[state], (table @ theta[row]).softmax(0))


def test_one_shared_feature_moves_mass_to_the_answer_that_is_in_no_pair() -> None:
    # Features 1 (chosen), 1/2 (rejected), 2 (unseen): theta = 2 ln 2 gives weights 4 : 2 : 16. A gradient step on
    # log pi(chosen) - log pi(rejected) raises theta by phi_chosen - phi_rejected = 1/2, which the unseen gains from.
    world = token_world(3, 1, 1)
    policy = LinearFeatures(features="table", table=((1.0,), (0.5,), (2.0,)), precision="float64")
    actor = policy.build(world, 1, Streams([0]))
    theta = actor.get_parameter("theta")
    with torch.no_grad():
        theta.fill_(2 * math.log(2))
    log_probs = actor.action_log_probs(torch.tensor([[0]]))[0, 0]
    assert torch.allclose(log_probs.exp(), torch.tensor([4 / 22, 2 / 22, 16 / 22], dtype=torch.float64))
    (log_probs[0] - log_probs[1]).backward()
    assert theta.grad is not None
    assert float(theta.grad) == pytest.approx(0.5)
    with torch.no_grad():
        theta += 0.1 * theta.grad
    after = actor.action_log_probs(torch.tensor([[0]])).detach()[0, 0]
    assert bool((after[:2] < log_probs[:2]).all())
    assert after[2] > log_probs[2]


def test_random_features_are_normal_numbers_of_every_state_and_token() -> None:
    # with one feature and theta = 1 logits are features, and the difference of two of them is normal with variance 2
    world = token_world(5, 4, 4)
    policy = LinearFeatures(features="random", size=1, precision="float64", shared=False)
    actor = policy.build(world, 2, Streams([1, 2]))
    with torch.no_grad():
        actor.get_parameter("theta").fill_(1.0)
    table = whole_table(actor, world)[:, :-1]
    differences = (table[..., 1] - table[..., 0]) / math.sqrt(2)
    assert stats.kstest(differences.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    assert len(differences.flatten().unique()) == differences.numel()  # no two runs, prompts or prefixes alike
    alone = policy.build(world, 1, Streams([2]))
    with torch.no_grad():
        alone.get_parameter("theta").fill_(1.0)
    assert torch.equal(whole_table(alone, world)[0, :-1], table[1])


def test_with_weights_per_prompt_random_features_are_those_of_prefixes() -> None:
    policy = LinearFeatures(features="random", size=4, per_prompt=True, precision="float64")
    actor = policy.build(WORLD, 1, Streams([1]))
    with torch.no_grad():
        actor.get_parameter("theta").copy_(torch.tensor([1.0, -2.0, 0.5, 1.0]))
    first, second = whole_table(actor)[0, :-1].view(2, WORLD.prefixes, 3)
    assert torch.equal(first, second)
    with torch.no_grad():
        actor.get_parameter("theta")[:, 1] *= -1  # the second prompt's alone
    first, second = whole_table(actor)[0, :-1].view(2, WORLD.prefixes, 3)
    assert torch.allclose(first - first[:, :1], second[:, :1] - second)


def test_linear_features_in_a_world_of_one_token_are_the_log_linear_class() -> None:
    # pi(v|x) prop. to exp(theta . phi_v), three prompts, each state its own
    world = token_world(4, 1, 3)
    rows = ((1.0, 2.0), (0.0, -1.0), (3.0, 0.5), (-1.0, 1.0))
    actor = LinearFeatures(features="table", table=rows, scale=1.0, precision="float64").build(
        world, 2, Streams([1, 2])
    )
    theta = actor.get_parameter("theta").detach()
    due = (theta @ torch.tensor(rows, dtype=torch.float64).T).softmax(-1)
    assert torch.allclose(whole_table(actor, world).exp()[:, :3], due.expand(2, 3, 4))


# The transformer


def one_string(actor: Any, run: int, string: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return logits and value behind a string, by a forward over this string alone with torch's own attention."""
    w = {key: x[run] for key, x in actor.named_parameters()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}_weight"] + w[f"{name}_bias"]

    def normal(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    x = w["tokens"][list(string)] + w["positions"][: len(string)]
    for i in range(2):
        parts = [linear(f"{part}_{i}", normal(x)) for part in ("query", "key", "value")]
        q, k, v = (part.view(-1, 2, 3).transpose(0, 1) for part in parts)  # [heads, t, 3]
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(f"mixed_{i}", attended.transpose(0, 1).flatten(1))
        wide = linear(f"wide_{i}", normal(x))
        x = x + linear(f"narrow_{i}", wide * normal_cdf(wide))
    return linear("head", normal(x))[-1], linear("critic", normal(x))[-1, 0]


def normal_cdf(x: Tensor) -> Tensor:
    """Return the normal distribution function, of which GELU is x times."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("few", [True, False])
def test_the_shared_forward_equals_one_forward_per_prefix(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not few:
        monkeypatch.setattr(transformer, "FEW_STATES", 0)
    actor = make("transformer")
    table, values = whole_table(actor), actor.values(torch.arange(STATES).expand(2, -1))
    for state, row in enumerate(WORLD.tokens.tolist()[:-1]):
        for run in range(2):
            logits, value = one_string(actor, run, tuple(token for token in row if token >= 0))
            assert torch.allclose(table[run, state], logits.log_softmax(0), rtol=1e-10)
            assert torch.allclose(values[run, state], value, rtol=1e-9)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("token", [0, 1, 4])  # two of the vocabulary, and the second prompt's own
def test_a_token_matters_only_where_it_has_been_read(few: bool, token: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not few:
        monkeypatch.setattr(transformer, "FEW_STATES", 0)
    actor = make("transformer")
    before = whole_table(actor)
    with torch.no_grad():
        actor.get_parameter("tokens")[:, token] += torch.linspace(-1, 1, 6)
    changed = (whole_table(actor) != before).any(-1)[:, :-1]
    assert torch.equal(changed, (WORLD.tokens[:-1] == token).any(-1).expand(2, -1))


@pytest.mark.parametrize("few", [True, False])
def test_a_position_matters_only_from_there_on(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not few:
        monkeypatch.setattr(transformer, "FEW_STATES", 0)
    actor = make("transformer")
    before = whole_table(actor)
    with torch.no_grad():
        actor.get_parameter("positions")[:, 1] += torch.linspace(-1, 1, 6)
    changed = (whole_table(actor) != before).any(-1)[:, :-1]
    assert torch.equal(changed, (WORLD.tokens[:-1, 1] >= 0).expand(2, -1))


def test_a_tree_of_prefixes_by_hand() -> None:
    # one prompt (token 2), two tokens, length 2: states (), (0), (1), terminal; nodes fill 32 lanes
    nodes = tree(token_world(2, 2, 1).tokens)
    assert nodes.tokens.tolist() == [2, 0, 1] + [0] * 29
    assert nodes.positions.tolist() == [0, 1, 1] + [0] * 29
    assert nodes.seen.tolist() == [[True] * 32, [False, True, True] + [False] * 29]
    assert nodes.before is not None
    assert nodes.before[:, :3].tolist() == [[0, 0, 0], [0, 1, 2]]


def test_strings_one_by_one_end_at_their_last_token() -> None:
    nodes, last = chains(torch.tensor([[[2, -1], [2, 1]]]))
    assert nodes.tokens.tolist() == [[2, 0, 2, 1]]
    assert last.tolist() == [[0, 3]]
    x = torch.arange(4.0).view(1, 4, 1)
    # node by node, those of its own string: nodes 0 and 1 see 0 and 1, nodes 2 and 3 see 2 and 3, if not later ones
    assert nodes.seen_by_each(x)[0, ..., 0].tolist() == [[0, 0, 2, 2], [1, 1, 3, 3]]
    assert nodes.seen.tolist() == [[True] * 4, [False, True, False, True]]


def test_a_transformer_is_nearly_uniform_at_first_and_uniform_with_scale_zero() -> None:
    nearly = whole_table(Transformer().build(WORLD, 2, Streams([0, 1]))).exp()
    assert bool(((nearly - 1 / 3).abs() < 0.03).all())
    exactly = whole_table(Transformer(scale=0.0).build(WORLD, 2, Streams([0, 1]))).exp()
    assert torch.allclose(exactly, torch.full((2, STATES, 3), 1 / 3))


def test_first_weights_of_a_transformer_have_the_documented_gains() -> None:
    actor = Transformer(layers=3, width=8, critic=True, precision="float64").build(WORLD, 2, Streams([0, 1]))
    w = dict(actor.named_parameters())
    # columns (or rows) are orthonormal times the gain, so the squared Frobenius norm is gain^2 min(in, out)
    due = {"query_1": 8.0, "key_0": 8.0, "value_2": 8.0, "wide_1": 8.0, "head": 3 * 1e-4, "critic": 1.0}
    due |= {"mixed_0": 8 / 6, "narrow_2": 8 / 6}  # gain 1 / sqrt(2 * 3)
    for name, square in due.items():
        found = w[f"{name}_weight"].detach().square().sum((1, 2))
        assert torch.allclose(found, torch.full((2,), square, dtype=torch.float64))
    assert all(bool((x == 0).all()) for key, x in w.items() if key.endswith("bias"))
    assert w["tokens"].shape == (2, 5, 8)  # three tokens, two prompts
    assert w["positions"].shape == (2, 3, 8)
    for name in ("tokens", "positions"):  # standard normal numbers, times the root of the variance 1/2
        numbers = Streams([0, 1])[name].normals(0, *w[name].shape[1:])
        assert torch.allclose(w[name], numbers / math.sqrt(2), rtol=1e-14)


def test_a_transformer_has_no_score_norms() -> None:
    assert "score_norms" not in Transformer().gives()
    with pytest.raises(LabError, match="does not provide score_norms; use tabular_autoregressive or linear_features"):
        make("transformer").score_norms(samples_of(WORLD))


# All of them


@pytest.mark.parametrize("name", OWN)
def test_evaluation_and_acting_agree_with_the_table(name: str) -> None:
    actor, samples = make(name), samples_of(WORLD)
    actor.keep_reference()
    found, valid = actor.evaluate(samples), samples.trajectories.valid
    table = whole_table(actor)
    states, tokens = (samples.inputs[key][valid] for key in ("observations", "actions"))
    chosen = table[valid.nonzero()[:, 0], states]
    assert torch.allclose(found.log_probs[valid], chosen.gather(1, tokens[:, None])[:, 0], rtol=1e-12)
    assert torch.allclose(found.entropy[valid], torch.special.entr(chosen.exp()).sum(-1), rtol=1e-12)
    assert torch.allclose(found.ref_log_probs[valid], found.log_probs[valid])
    assert torch.allclose(found.action_log_probs[valid], chosen, rtol=1e-12)
    everywhere = torch.arange(STATES).expand(2, -1)
    actions, log_probs = actor.act(everywhere, Streams([3, 1])["act"].uniforms(0, STATES))
    assert torch.allclose(log_probs, table.gather(2, actions[..., None])[..., 0], rtol=1e-12)


@pytest.mark.parametrize("name", OWN)
def test_masked_tokens_have_probability_zero(name: str) -> None:
    actor = make(name)
    mask = torch.tensor([True, False, True]).expand(2, STATES, 3)
    found = actor.action_log_probs(torch.arange(STATES).expand(2, -1), mask).exp()
    free = whole_table(actor).exp() * mask
    assert torch.allclose(found, free / free.sum(-1, keepdim=True))
    assert bool((found[..., 1] == 0).all())


@pytest.mark.parametrize("name", ["tabular", *LINEAR])
def test_score_norms_equal_the_gradient_of_each_single_log_prob(name: str) -> None:
    actor, samples = make(name), samples_of(WORLD)
    found, log_probs = actor.score_norms(samples), actor.evaluate(samples).log_probs
    parameter = next(actor.parameters())
    for run, row, step in samples.trajectories.valid.nonzero().tolist():
        gradient = torch.autograd.grad(log_probs[run, row, step], parameter, retain_graph=True)[0]
        assert float(found[run, row, step]) == pytest.approx(float(gradient.square().sum()), rel=1e-9)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("critic", [True, False])
def test_a_critic_only_where_it_is_asked_for(name: str, critic: bool) -> None:
    policy = changed(name, critic=critic)
    assert ("values" in policy.gives()) == critic
    actor = policy.build(WORLD, 2, Streams([0, 1]))
    found = actor.evaluate(samples_of(WORLD)).values
    assert (found is not None) == critic
    assert any(key.startswith("critic") for key, _ in actor.named_parameters()) == critic
    if found is not None:
        before = whole_table(actor)
        found.sum().backward()
        with torch.no_grad():
            for key, parameter in actor.named_parameters():
                if key.startswith("critic"):
                    parameter += 1
        values = actor.values(torch.arange(STATES - 1).expand(2, -1))
        assert bool((values != 0).all())
        assert torch.equal(whole_table(actor), before)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_everything_has_the_precision_asked_for(name: str, precision: str) -> None:
    actor, due = changed(name, precision=precision).build(WORLD, 2, Streams([0, 1])), getattr(torch, precision)
    actor.keep_reference()
    found = actor.score(random_candidates(WORLD, (0, 1), 3), frozenset({"token_kl"}))
    numbers = [*actor.parameters(), found.log_probs, found.ref_log_probs, found.token_kl, whole_table(actor)]
    assert {x.dtype for x in numbers} == {due}
    double = whole_table(changed(name, precision="float64").build(WORLD, 2, Streams([0, 1])))
    assert torch.allclose(whole_table(actor).double(), double, atol=1e-5)  # the same numbers, rounded


# Errors


@pytest.mark.parametrize("policy", [TabularAutoregressive(), LinearFeatures(), Transformer()])
@pytest.mark.parametrize("spaces", [Spaces(3, states=4), Spaces(3, observation=(5,)), Spaces(0, observation=(5,))])
def test_other_worlds_are_refused(policy: TokenPolicy, spaces: Spaces) -> None:
    with pytest.raises(LabError, match=rf"{policy.name} needs a world of token sequences.*: tabular_softmax, linear_s"):
        policy.build(spaces, 1, Streams([0]))


def test_options_that_cannot_work_are_refused() -> None:
    for option in ({"features": "random"}, {"size": 3}):
        with pytest.raises(ValidationError, match="size: belongs to features: random; give both or neither"):
            LinearFeatures.model_validate(option)
    for option in ({"features": "table"}, {"table": [[1.0]]}):
        with pytest.raises(ValidationError, match="table: belongs to features: table; give both or neither"):
            LinearFeatures.model_validate(option)
    for table in ((), ((1.0,), (1.0, 2.0)), ((), ())):
        with pytest.raises(ValidationError, match="table: needs one row per token, and as many numbers in each"):
            LinearFeatures(features="table", table=table)
    with pytest.raises(LabError, match=r"linear_features\.table: expected 3 rows, one per token, found 2"):
        LinearFeatures(features="table", table=((1.0,), (2.0,))).build(WORLD, 1, Streams([0]))
    with pytest.raises(ValidationError, match="width 6 cannot be split among 4 heads"):
        Transformer(width=6, heads=4)


# Online

ONLINE: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2},
    "trainer": {"name": "online", "envs": 64, "episodes": 1},
    "advantage": {"name": "monte_carlo", "gamma": 1.0},
    "normalizer": "batch",
    "objective": "reinforce",
    "gamma": 1.0,
}
LEARNERS: dict[str, dict[str, Any]] = {
    "tabular": {"policy": {"name": "tabular_autoregressive"}, "optimizer": {"name": "sgd", "lr": 20.0}},
    "features": {"policy": {"name": "linear_features"}, "optimizer": {"name": "adam", "lr": 0.1}},
    "transformer": {"policy": {"name": "transformer", "width": 8}, "optimizer": {"name": "adam", "lr": 0.01}},
}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_online_trainer_raises_the_exact_return(name: str) -> None:
    spec, _ = make_spec(ONLINE | LEARNERS[name], load_plugins())
    learner = start(spec, [0, 1])
    world = learner.environment.exact()

    def exact_return() -> Tensor:
        found = learner.actor.action_log_probs(torch.arange(len(world.terminal)).expand(2, -1))
        return world.expected_return(found.detach().double().exp())

    before = exact_return()
    for _ in range(40):
        learner.step(0.0)
    best = world.reward.amax(-1).mean(-1)  # prompts are equally frequent
    assert bool(((exact_return() - before) > 0.5 * (best - before)).all())
