"""Policies: probabilities, sampling, masks, gradients, isolation of runs, and the reference."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from rlhf_lab.components import Policy
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import BatchError, Trajectories
from rlhf_lab_policies import MLP, LinearSoftmax, TabularSoftmax
from rlhf_lab_policies.actor import StackedActor
from rlhf_lab_policies.distributions import Categorical
from rlhf_lab_policies.stacked import orthogonal

FEATURES = torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.25, 2.0], [-1.0, 1.0]])
ACTION_FEATURES = torch.linspace(-1, 1, 4 * 3 * 5).square().reshape(4, 3, 5)
FINITE = Spaces(3, states=4)
VECTORS = Spaces(3, observation=(2, 3))
CONTINUOUS = Spaces(0, observation=(5,), action_size=2)

CASES: dict[str, tuple[Policy, Spaces]] = {
    "tabular": (TabularSoftmax(), FINITE),
    "linear-one-hot": (LinearSoftmax(), FINITE),
    "linear-features": (LinearSoftmax(), Spaces(3, states=4, features=FEATURES)),
    "linear-action-features": (LinearSoftmax(), Spaces(3, states=4, action_features=ACTION_FEATURES)),
    "linear-vectors": (LinearSoftmax(), VECTORS),
    "mlp": (MLP(hidden=(7, 6)), VECTORS),
    "mlp-states": (MLP(hidden=(7, 6)), FINITE),
    "mlp-shared-relu": (MLP(hidden=(7, 6), shared=True, activation="relu"), VECTORS),
    "mlp-linear": (MLP(hidden=()), VECTORS),
    "mlp-continuous": (MLP(hidden=(7, 6)), CONTINUOUS),
    "mlp-continuous-shared": (MLP(hidden=(7,), shared=True), CONTINUOUS),
}
DISCRETE = [name for name, (_, spaces) in CASES.items() if spaces.actions]


def make(name: str, seeds: tuple[int, ...] = (3, 1)) -> StackedActor:
    """Return an actor in float64 whose weights are not the symmetric initial ones."""
    policy, spaces = CASES[name]
    actor = policy.build(spaces, len(seeds), Streams(seeds))
    assert isinstance(actor, StackedActor)
    with torch.no_grad():
        for key, parameter in actor.named_parameters():
            parameter += 0.5 * Streams(seeds)["test"][key].normals(0, *parameter.shape[1:]).to(parameter)
    return actor.double()


def batch(
    name: str,
    seeds: tuple[int, ...] = (3, 1),
    rows: int = 3,
    steps: int = 2,
    masked: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Samples:
    """Return samples ``[runs, rows, steps]`` that depend on each run's seed alone; the actions taken are legal."""
    spaces = CASES[name][1]
    streams, shape = Streams(seeds), (rows, steps)
    if spaces.states is None:
        observations = streams["observations"].normals(0, *shape, *spaces.observation, dtype=dtype)
    else:
        observations = (streams["observations"].uniforms(0, *shape) * spaces.states).long()
    if spaces.actions:
        actions = (streams["actions"].uniforms(0, *shape) * spaces.actions).long()
    else:
        actions = streams["actions"].normals(0, *shape, spaces.action_size, dtype=dtype)
    inputs = {"observations": observations, "actions": actions}
    if masked:
        inputs["mask"] = streams["mask"].uniforms(0, *shape, spaces.actions) < 0.4
        inputs["mask"].scatter_(-1, actions[..., None], True)
    rewards = streams["rewards"].normals(0, *shape, dtype=dtype)
    no = torch.zeros_like(rewards, dtype=torch.bool)
    return Samples(Trajectories(rewards, no, no, ~no), inputs)


def flat(samples: Samples) -> tuple[Tensor, Tensor, Tensor | None]:
    observations, actions, *mask = (x.flatten(1, 2) for x in samples.inputs.values())
    return observations, actions, mask[0] if mask else None


# Probabilities


def test_tabular_probabilities_are_the_softmax_of_the_state_s_logits() -> None:
    actor = TabularSoftmax().build(Spaces(2, states=2), 1, Streams([0]))
    with torch.no_grad():
        actor.get_parameter("logits")[0] = torch.tensor([[math.log(3), 0.0], [math.log(0.25), math.log(0.5)]])
    found = actor.action_log_probs(torch.tensor([[0, 1]])).exp()
    # e^{ln 3} : e^0 = 3 : 1, and 1/4 : 1/2 = 1 : 2
    assert torch.allclose(found, torch.tensor([[[3 / 4, 1 / 4], [1 / 3, 2 / 3]]]))


def test_tabular_gives_the_same_for_few_rows_as_for_many() -> None:
    actor = make("tabular")
    states = torch.arange(4).expand(2, 4)
    many = actor.action_log_probs(states.repeat(1, 5))
    assert torch.equal(many, actor.action_log_probs(states).repeat(1, 5, 1))


def test_linear_preferences_are_theta_times_action_features() -> None:
    # x(s, right) = (1, 0), x(s, left) = (0, 1) in every state: p(right) = e^a / (e^a + e^b) = 0.05 for a - b = ln(1/19)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).expand(3, 2, 2)
    policy = LinearSoftmax(initial=(math.log(1 / 19), 0.0))
    actor = policy.build(Spaces(2, states=3, action_features=features), 2, Streams([0, 1]))
    found = actor.action_log_probs(torch.arange(3).expand(2, 3)).exp()
    assert torch.allclose(found, torch.tensor([0.05, 0.95]).expand(2, 3, 2))


def test_linear_without_action_features_has_one_block_of_weights_per_action() -> None:
    # features (2, 1), theta rows (ln 2, 0) and (0, ln 3): preferences (2 ln 2, ln 3), probabilities 4 : 3
    policy = LinearSoftmax(initial=(math.log(2), 0.0, 0.0, math.log(3)))
    actor = policy.build(Spaces(2, observation=(2,)), 1, Streams([0]))
    found = actor.action_log_probs(torch.tensor([[[2.0, 1.0]]])).exp()
    assert torch.allclose(found, torch.tensor([[[4 / 7, 3 / 7]]]))


def test_linear_on_one_hot_features_is_tabular() -> None:
    actor = make("linear-one-hot")
    tabular = TabularSoftmax().build(FINITE, 2, Streams([3, 1])).double()
    tabular.load_state_dict({"logits": actor.get_parameter("theta"), "critic": actor.get_parameter("critic")})
    samples = batch("tabular")
    a, b = actor.evaluate(samples), tabular.evaluate(samples)
    assert torch.allclose(a.log_probs, b.log_probs)
    assert torch.allclose(a.values, b.values)
    assert torch.allclose(actor.score_norms(samples), tabular.score_norms(samples))


def test_mlp_is_the_hand_written_network() -> None:
    actor = make("mlp")
    x = torch.linspace(-1, 1, 2 * 4 * 6, dtype=torch.float64).view(2, 4, 2, 3)
    w = dict(actor.named_parameters())
    for run in range(2):
        h = x[run].reshape(4, 6)
        for i in range(2):
            h = torch.tanh(h @ w[f"actor_{i}_weight"][run] + w[f"actor_{i}_bias"][run])
        logits = h @ w["actor_head_weight"][run] + w["actor_head_bias"][run]
        probs = logits.exp() / logits.exp().sum(1, keepdim=True)
        assert torch.allclose(actor.action_log_probs(x)[run].exp(), probs)
        g = x[run].reshape(4, 6)
        for i in range(2):
            g = torch.tanh(g @ w[f"critic_{i}_weight"][run] + w[f"critic_{i}_bias"][run])
        assert torch.allclose(
            actor.values(x)[run], (g @ w["critic_head_weight"][run] + w["critic_head_bias"][run])[:, 0]
        )


def test_tabular_initial_preferences_hold_in_every_state_and_run() -> None:
    actor = TabularSoftmax(initial=(0.0, math.log(19))).build(Spaces(2, states=3), 2, Streams([5, 6]))
    found = actor.action_log_probs(torch.arange(3).expand(2, 3)).exp()
    assert torch.allclose(found, torch.tensor([0.05, 0.95]).expand(2, 3, 2))


# Sampling


def test_sampling_inverts_the_distribution_function() -> None:
    # p = 1/4, 1/4, 1/2: actions change at u = 1/4 and u = 1/2, where the cumulative sum must strictly exceed u
    log_probs = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log().expand(1, 7, 3)
    uniforms = torch.tensor([[0.0, 0.2499, 0.25, 0.4999, 0.5, 0.75, 1 - 2**-53]], dtype=torch.float64)
    assert Categorical(log_probs).sample(uniforms).tolist() == [[0, 0, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_action_of_probability_zero_is_never_sampled(dtype: torch.dtype) -> None:
    logits = Streams([1])["logits"].normals(0, 2000, 7, dtype=dtype)
    mask = Streams([1])["mask"].uniforms(0, 2000, 7) < 0.5
    mask[..., 3] = True
    mask[..., -1] = False
    distribution = Categorical.from_logits(logits, mask)
    for u in (0.0, 2**-33, 0.5, 1 - torch.finfo(dtype).eps / 2, 1 - 2**-53):
        actions = distribution.sample(torch.full((1, 2000), u, dtype=dtype if u < 1 - 2**-30 else torch.float64))
        assert bool(mask.gather(-1, actions[..., None]).all())


def test_sampled_frequencies_are_the_probabilities() -> None:
    # n uniforms on an even grid: each action is met p n times, up to one cell at either border
    n = 1000
    log_probs = torch.log_softmax(torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64), 0)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    actions = Categorical(log_probs.expand(1, n, 4)).sample(grid[None])
    counts = torch.bincount(actions[0], minlength=4)
    assert bool(((counts - n * log_probs.exp()).abs() <= 1).all())


@pytest.mark.parametrize("name", DISCRETE)
def test_act_agrees_with_evaluate_under_the_same_weights(name: str) -> None:
    actor, samples = make(name), batch(name, masked=True)
    observations, _, mask = flat(samples)
    actions, log_probs = actor.act(observations, Streams([3, 1])["act"].uniforms(0, 6), mask)
    samples.inputs["actions"].copy_(actions.view(2, 3, 2))  # type: ignore[attr-defined]
    assert actions.dtype == torch.int64
    assert not log_probs.requires_grad
    assert torch.allclose(actor.evaluate(samples).log_probs.flatten(1), log_probs, rtol=1e-12)


def test_continuous_act_is_mean_plus_std_times_the_normal_quantile() -> None:
    actor, samples = make("mlp-continuous"), batch("mlp-continuous")
    observations = flat(samples)[0]
    u = Streams([3, 1])["act"].uniforms(0, 6, 2)
    actions, log_probs = actor.act(observations, u)
    middle, _ = actor.act(observations, torch.full_like(u, 0.5))  # the median of a normal is its mean
    std = actor.get_parameter("actor_log_std").exp()
    assert torch.allclose(actions, middle + std * torch.from_numpy(stats.norm.ppf(u.numpy())))
    samples.inputs["actions"].copy_(actions.view(2, 3, 2, 2))
    assert torch.allclose(actor.evaluate(samples).log_probs.flatten(1), log_probs, rtol=1e-12)


# Masks


def test_illegal_actions_have_probability_zero_and_the_rest_is_renormalised() -> None:
    # logits ln 1, ln 2, ln 4 with the middle one illegal: 1/5, 0, 4/5; entropy -(1/5 ln 1/5 + 4/5 ln 4/5)
    logits = torch.tensor([[[1.0, 2.0, 4.0]]], dtype=torch.float64).log()
    found = Categorical.from_logits(logits, torch.tensor([[[True, False, True]]]))
    assert torch.allclose(found.action_log_probs.exp(), torch.tensor([[[0.2, 0.0, 0.8]]], dtype=torch.float64))
    assert found.action_log_probs[0, 0, 1] == -math.inf
    assert float(found.entropy()) == pytest.approx(-(0.2 * math.log(0.2) + 0.8 * math.log(0.8)))


def test_no_gradient_reaches_illegal_logits_and_none_is_nan() -> None:
    logits = torch.tensor([[[0.5, 1.0, -2.0], [3.0, 0.0, 0.0]]], requires_grad=True)
    mask = torch.tensor([[[True, False, True], [True, False, False]]])
    found = Categorical.from_logits(logits, mask)
    (found.log_prob(torch.tensor([[0, 0]])) + found.entropy()).sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad[~mask] == 0).all())
    assert bool((logits.grad[0, 0, [0, 2]] != 0).all())


def test_the_score_of_an_illegal_action_s_logit_is_zero() -> None:
    found = Categorical.from_logits(torch.zeros(1, 1, 3), torch.tensor([[[True, False, True]]]))
    assert torch.allclose(found.score(torch.tensor([[0]])), torch.tensor([[[0.5, 0.0, -0.5]]]))


def test_a_row_without_a_legal_action_is_an_error() -> None:
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[1, 2] = False
    with pytest.raises(BatchError, match="run 1, row 2 has no legal action"):
        make("tabular").act(torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 0.5), mask)


def test_a_mask_of_another_shape_is_an_error() -> None:
    with pytest.raises(BatchError, match=r"mask: expected bool \[2, 3, 3\]"):
        make("tabular").act(
            torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 0.5), torch.ones(2, 3, 1, dtype=torch.bool)
        )


def test_a_mask_for_the_whole_table() -> None:
    actor = make("tabular")
    legal = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
    found = actor.action_log_probs(torch.arange(4).expand(2, 4), legal.expand(2, 4, 3)).exp()
    assert torch.equal(found == 0, ~legal.expand(2, 4, 3))
    assert torch.allclose(found.sum(-1), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("name", ["tabular", "linear-action-features", "linear-vectors", "mlp", "mlp-continuous"])
def test_content_at_invalid_steps_does_not_matter(name: str) -> None:
    actor, samples = make(name), batch(name, masked=name in DISCRETE)
    actor.keep_reference()
    clean = actor.evaluate(samples)
    samples.trajectories.valid[1, 2, 1] = False
    for key, poison in (("observations", -7), ("actions", -3), ("mask", False)):
        if key in samples.inputs:
            x = samples.inputs[key]
            x[1, 2, 1] = math.nan if x.is_floating_point() else poison
    dirty = actor.evaluate(samples)
    valid = samples.trajectories.valid
    for field in ("log_probs", "values", "entropy", "ref_log_probs"):
        assert torch.allclose(getattr(dirty, field)[valid], getattr(clean, field)[valid], rtol=1e-12)
        assert bool(getattr(dirty, field).isfinite().all())
    (dirty.log_probs + dirty.values + dirty.entropy).masked_fill(~valid, 0).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in actor.parameters() if p.grad is not None)
    assert bool(actor.score_norms(samples).isfinite().all())


# Evaluation and gradients


@pytest.mark.parametrize(("name", "masked"), [*((n, False) for n in CASES), *((n, True) for n in DISCRETE)])
def test_gradients_equal_finite_differences(name: str, masked: bool) -> None:
    actor, samples = make(name), batch(name, masked=masked)
    names = [key for key, _ in actor.named_parameters()]
    weights = [w.detach().clone().requires_grad_() for w in actor.parameters()]

    def outputs(*new: Tensor) -> tuple[Tensor, ...]:
        found = torch.func.functional_call(
            _Evaluate(actor), {f"actor.{n}": w for n, w in zip(names, new, strict=True)}, samples
        )
        return found.log_probs, found.entropy, found.values

    assert torch.autograd.gradcheck(outputs, weights, fast_mode=True)


class _Evaluate(torch.nn.Module):
    def __init__(self, actor: StackedActor) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, samples: Samples) -> object:
        return self.actor.evaluate(samples)


@pytest.mark.parametrize("name", CASES)
def test_evaluation_keeps_rows_and_steps(name: str) -> None:
    actor, samples = make(name), batch(name, rows=3, steps=2)
    whole = actor.evaluate(samples)
    assert whole.log_probs.shape == whole.values.shape == whole.entropy.shape == (2, 3, 2)
    one = {key: x[:, 1:2, 1:2] for key, x in samples.inputs.items()}
    t = samples.trajectories
    no = t.terminated[:, 1:2, 1:2]
    part = actor.evaluate(Samples(Trajectories(t.rewards[:, 1:2, 1:2], no, no, ~no), one))
    for field in ("log_probs", "values", "entropy"):
        assert torch.allclose(getattr(part, field)[:, 0, 0], getattr(whole, field)[:, 1, 1], rtol=1e-12)


@pytest.mark.parametrize("name", DISCRETE)
def test_log_probs_and_entropy_follow_from_the_whole_distribution(name: str) -> None:
    actor, samples = make(name), batch(name, masked=True)
    actor.keep_reference()
    found = actor.evaluate(samples)
    p = found.action_log_probs.exp()
    assert torch.allclose(p.sum(-1), torch.ones_like(found.log_probs))
    assert torch.allclose(found.log_probs.exp(), p.gather(-1, samples.inputs["actions"][..., None])[..., 0])
    assert torch.allclose(found.entropy, torch.special.entr(p).sum(-1))


def test_continuous_log_prob_and_entropy_equal_scipy_s() -> None:
    actor, samples = make("mlp-continuous"), batch("mlp-continuous")
    observations, actions, _ = flat(samples)
    mean = actor.act(observations, torch.full((2, 6, 2), 0.5, dtype=torch.float64))[0].numpy()
    std = actor.get_parameter("actor_log_std").detach().exp().expand(2, 6, 2).numpy()
    actor.keep_reference()
    found = actor.evaluate(samples)
    assert found.action_log_probs is None
    assert torch.allclose(found.log_probs.flatten(1), torch.from_numpy(stats.norm.logpdf(actions, mean, std).sum(-1)))
    assert torch.allclose(found.entropy.flatten(1), torch.from_numpy(stats.norm.entropy(mean, std).sum(-1)))
    with pytest.raises(TypeError, match="continuous"):
        actor.action_log_probs(observations)


@pytest.mark.parametrize("name", CASES)
def test_score_norms_equal_the_gradient_of_each_single_log_prob(name: str) -> None:
    actor, samples = make(name), batch(name, masked=name in DISCRETE)
    found = actor.score_norms(samples)
    assert not found.requires_grad
    log_probs = actor.evaluate(samples).log_probs
    for at in [(run, row, step) for run in range(2) for row in range(3) for step in range(2)]:
        gradients = torch.autograd.grad(log_probs[at], list(actor.parameters()), retain_graph=True, allow_unused=True)
        norm = sum(float(g.square().sum()) for g in gradients if g is not None)
        assert float(found[at]) == pytest.approx(norm, rel=1e-9)


def test_score_norms_work_without_gradient_mode() -> None:
    actor, samples = make("mlp"), batch("mlp")
    with torch.no_grad():
        inside = actor.score_norms(samples)
    assert torch.equal(inside, actor.score_norms(samples))


# Runs


@pytest.mark.parametrize("name", CASES)
def test_no_gradient_crosses_runs(name: str) -> None:
    actor, samples = make(name), batch(name)
    found = actor.evaluate(samples)
    (found.log_probs + found.entropy + found.values)[0].sum().backward()
    for parameter in actor.parameters():
        assert parameter.shape[0] == 2
        assert bool((parameter.grad[1] == 0).all())
    assert any(bool((p.grad[0] != 0).any()) for p in actor.parameters())


SEEDS = (11, 4, 0, 7, 2)
BIG = {
    "tabular": (TabularSoftmax(), FINITE),
    "linear-action-features": (LinearSoftmax(), CASES["linear-action-features"][1]),
    "linear-vectors": (LinearSoftmax(), VECTORS),
    "mlp": (MLP(), VECTORS),
    "mlp-shared-relu": (MLP(hidden=(33, 17), shared=True, activation="relu"), VECTORS),
    "mlp-continuous": (MLP(hidden=(9,)), Spaces(0, observation=(5,), action_size=1)),
}


def train(name: str, seeds: tuple[int, ...], optimizer: str, updates: int = 20) -> dict[str, Tensor]:
    """Return weights, actions and score norms after some updates on samples that depend on each run's seed alone."""
    policy, spaces = BIG[name]
    actor = policy.build(spaces, len(seeds), Streams(seeds))
    steps = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](actor.parameters(), lr=0.01)
    samples = batch(name, seeds, rows=128, steps=1, dtype=torch.float32)
    if not spaces.actions:
        samples = Samples(samples.trajectories, {**samples.inputs, "actions": samples.inputs["actions"][..., :1]})
    observations, actions, _ = flat(samples)
    for _ in range(updates):
        found = actor.evaluate(samples)
        loss = samples.trajectories.rewards * found.log_probs + found.values.square() - found.entropy
        steps.zero_grad()
        (loss.flatten(1).sum(1) / 128).sum().backward()
        steps.step()
    actions, log_probs = actor.act(observations, Streams(seeds)["act"].uniforms(0, *actions.shape[1:]))
    return {**actor.state_dict(), "actions": actions, "acted": log_probs, "norms": actor.score_norms(samples)}


def assert_same_bits(name: str, optimizer: str, updates: int, groups: tuple[tuple[int, ...], ...]) -> None:
    together = train(name, SEEDS, optimizer, updates)
    for group in groups:
        alone = train(name, tuple(SEEDS[i] for i in group), optimizer, updates)
        for key, found in alone.items():
            assert bool(found.isfinite().all())
            assert torch.equal(found, together[key][list(group)]), (key, group)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", BIG)
def test_a_seed_s_training_has_the_same_bits_whatever_runs_beside_it(name: str, optimizer: str) -> None:
    assert_same_bits(name, optimizer, updates=20, groups=((0,), (3,), (4, 1)))


@pytest.mark.parametrize("length", [1, 7, 100, 129, 500])
@pytest.mark.parametrize("name", BIG)
def test_padding_rows_to_the_episodes_of_other_runs_changes_no_bit(name: str, length: int) -> None:
    # what a run of one row and ``length`` steps computes alone, and beside a run whose row is 600 steps long
    policy, spaces = BIG[name]
    long = batch(name, SEEDS[:2], rows=1, steps=600, dtype=torch.float32)
    if not spaces.actions:
        long = Samples(long.trajectories, {**long.inputs, "actions": long.inputs["actions"][..., :1]})
    long.trajectories.valid[0, :, length:] = False
    t, valid = long.trajectories, torch.ones(1, 1, length, dtype=torch.bool)
    cut = {key: x[:1, :, :length] for key, x in long.inputs.items()}
    short = Samples(Trajectories(t.rewards[:1, :, :length], ~valid, ~valid, valid), cut)
    answers = []
    for seeds, samples in ((SEEDS[:1], short), (SEEDS[:2], long)):
        actor = policy.build(spaces, len(seeds), Streams(seeds))
        found = actor.evaluate(samples)
        loss = samples.trajectories.rewards * found.log_probs + found.values.square() - found.entropy
        loss.masked_fill(~samples.trajectories.valid, 0).sum().backward()
        outputs = [found.log_probs, found.values, found.entropy, actor.score_norms(samples)]
        answers.append([*(p.grad[0] for p in actor.parameters()), *(x[0, :, :length] for x in outputs)])
    for alone, beside in zip(*answers, strict=True):
        assert torch.equal(alone, beside)


def test_a_seed_s_training_has_the_same_bits_on_two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same_bits("mlp", "sgd", updates=1, groups=((0,), (4, 1)))
    finally:
        torch.set_num_threads(before)


# Initial weights


def test_orthogonal_columns_and_gain() -> None:
    for inputs, outputs in ((4, 64), (64, 64), (64, 2), (5, 1)):
        w = orthogonal(Streams([1, 2])["w"], inputs, outputs, 3.0)
        assert w.shape == (2, inputs, outputs)
        gram = w @ w.mT if inputs < outputs else w.mT @ w
        assert torch.allclose(gram, 9 * torch.eye(min(inputs, outputs), dtype=torch.float64).expand_as(gram))


def test_orthogonal_q_spans_the_normals_with_positive_diagonal() -> None:
    # the sign convention: every normal column has a positive component along its own direction of Q
    streams = Streams([5])["w"]
    q, normals = orthogonal(streams, 6, 4, 1.0)[0], streams.normals(0, 6, 4)[0]
    r = q.mT @ normals
    assert bool((r.diagonal() > 0).all())
    assert torch.allclose(r.tril(-1), torch.zeros_like(r), atol=1e-12)


def test_mlp_begins_nearly_uniform_with_the_documented_gains() -> None:
    actor = MLP().build(Spaces(2, observation=(4,)), 2, Streams([0, 1]))
    w = dict(actor.named_parameters())
    # columns (or rows) are orthonormal times the gain, so the squared Frobenius norm is gain^2 min(in, out)
    due = {"0": 2 * 4, "1": 2 * 64}
    for network in ("actor", "critic"):
        for layer, square in due.items():
            found = w[f"{network}_{layer}_weight"].square().sum((1, 2))
            assert torch.allclose(found, torch.full((2,), float(square)))
    assert torch.allclose(w["actor_head_weight"].square().sum((1, 2)), torch.full((2,), 2e-4))
    assert torch.allclose(w["critic_head_weight"].square().sum((1, 2)), torch.ones(2))
    assert all(bool((value == 0).all()) for key, value in w.items() if key.endswith("bias"))
    probs = actor.action_log_probs(torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))).exp()
    assert bool(((probs - 0.5).abs() < 0.02).all())


def test_initial_weights_come_from_the_streams_alone() -> None:
    state = torch.random.get_rng_state()
    first = MLP().build(VECTORS, 3, Streams([4, 5, 6])).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    alone = MLP().build(VECTORS, 1, Streams([5])).state_dict()
    assert all(torch.equal(alone[key][0], value[1]) for key, value in first.items())
    assert not torch.equal(first["actor_0_weight"][0], first["actor_0_weight"][1])
    assert not torch.equal(first["actor_0_weight"], first["critic_0_weight"])


def test_a_shared_trunk_serves_both_heads() -> None:
    actor = make("mlp-shared-relu")
    assert {key.rsplit("_", 1)[0] for key, _ in actor.named_parameters()} == {
        "trunk_0", "trunk_1", "actor_head", "critic_head",
    }  # fmt: skip
    samples = batch("mlp-shared-relu")
    found = actor.evaluate(samples)
    assert torch.allclose(found.values.flatten(1), actor.values(flat(samples)[0]), rtol=1e-12)
    found.values.sum().backward()
    assert bool((actor.get_parameter("trunk_0_weight").grad != 0).any())


# The reference


@pytest.mark.parametrize("name", CASES)
def test_the_reference_stays_while_the_policy_moves(name: str) -> None:
    actor, samples = make(name), batch(name)
    before = actor.evaluate(samples)
    assert before.ref_log_probs is None
    count = len(list(actor.parameters()))
    actor.keep_reference()
    assert len(list(actor.parameters())) == count
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter += 0.3 * torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    after = actor.evaluate(samples)
    assert torch.equal(after.ref_log_probs, before.log_probs.detach())
    assert not after.ref_log_probs.requires_grad
    assert not torch.allclose(after.log_probs, before.log_probs)
    if after.action_log_probs is not None:
        p = after.ref_action_log_probs.exp()
        assert torch.allclose(after.ref_log_probs.exp(), p.gather(-1, samples.inputs["actions"][..., None])[..., 0])


def test_a_checkpoint_carries_the_reference() -> None:
    actor, samples = make("mlp"), batch("mlp")
    actor.keep_reference()
    with torch.no_grad():
        actor.get_parameter("actor_head_bias").add_(torch.tensor([1.0, 0.0, -1.0]))
    other = make("mlp", seeds=(8, 9))
    other.load_state_dict(actor.state_dict())
    a, b = actor.evaluate(samples), other.evaluate(samples)
    assert torch.equal(a.log_probs, b.log_probs)
    assert torch.equal(a.ref_log_probs, b.ref_log_probs)


# Options


@pytest.mark.parametrize("name", CASES)
def test_without_a_critic_there_are_no_values(name: str) -> None:
    policy, spaces = CASES[name]
    plain = type(policy).model_validate(
        {k: v for k, v in policy.model_dump(exclude={"name", "shared", "critic"}).items() if k != "name"}
        | {"critic": False}
    )
    assert plain.gives() == policy.gives() - {"values", "next_values"}
    actor = plain.build(spaces, 2, Streams([3, 1])).double()
    assert actor.values(flat(batch(name))[0]) is None
    assert actor.evaluate(batch(name)).values is None
    assert not any(key.startswith("critic") for key, _ in actor.named_parameters())


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="shared needs a critic"):
        MLP(shared=True, critic=False)
    with pytest.raises(LabError, match=r"tabular_softmax\.initial: expected 3 numbers, one per action, found 2"):
        TabularSoftmax(initial=(0.0, 1.0)).build(FINITE, 1, Streams([0]))
    with pytest.raises(LabError, match=r"linear_softmax\.initial: expected 5 numbers"):
        LinearSoftmax(initial=(0.0, 1.0)).build(CASES["linear-action-features"][1], 1, Streams([0]))
    with pytest.raises(LabError, match=r"tabular_softmax needs finitely many states.*observation vectors"):
        TabularSoftmax().build(VECTORS, 1, Streams([0]))
    with pytest.raises(LabError, match="linear_softmax needs finitely many actions"):
        LinearSoftmax().build(CONTINUOUS, 1, Streams([0]))
