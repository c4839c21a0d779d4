"""The environment of token strings: what it collects, pays and tells, its rewards, and responses in words."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rlhf_lab.components import Policy, RewardFunction
from rlhf_lab.data.ranking import Ranking
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start
from rlhf_lab.training.protocols import BuiltEnvironment, RankedEnvironment, Size
from rlhf_lab.types import link_values
from rlhf_lab_sequences import LearnedReward, RandomReward, RewardError, Sequences, TableReward, TokenReward
from rlhf_lab_sequences.words import spell

EPISODES = Size(6, "episodes")


class Table:
    """An actor given by tables: logits [runs, states, tokens], values [runs, states]."""

    def __init__(self, logits, values=None):
        self.logits, self.table = logits, values

    def action_log_probs(self, observations, mask=None):
        wide = observations[..., None].expand(*observations.shape, self.logits.shape[-1])
        return self.logits.gather(1, wide).log_softmax(-1)

    def values(self, observations):
        return None if self.table is None else self.table.gather(1, observations)


def actor_for(built, seeds, spread=1.0):
    """A random policy and critic that belong to the seed."""
    spaces, streams = built.spaces, Streams(seeds)["actor"]
    logits = spread * streams.normals(0, spaces.states, spaces.actions, dtype=torch.float32)
    return Table(logits, streams.normals(1, spaces.states, dtype=torch.float32))


def numbers_of(built, samples):
    """Prompt and response of each row, by reading the tokens that were taken."""
    tree, found = built.tree, []
    answers = {
        tuple(y[:n]): i for i, (y, n) in enumerate(zip(tree.tokens.tolist(), tree.lengths.tolist(), strict=True))
    }
    valid = samples.trajectories.valid
    for tokens, counts in zip(samples.inputs["actions"].flatten(0, 1), valid.flatten(0, 1), strict=True):
        found.append(answers[tuple(tokens[counts].tolist())])
    prompts = samples.inputs["observations"][..., 0] // built.spaces.prefixes
    return prompts, torch.tensor(found).view(prompts.shape)


# ---- what an actor is told


def test_states_are_prompts_and_the_tokens_so_far():
    # V = 2, L = 2: prefixes "", 0, 1; states 3 prompt + prefix, then the terminal one; prompts are tokens 2 and 3
    spaces = Sequences(vocabulary=2, length=2, prompts=2).build(1, 1, Streams([0])).spaces
    assert (spaces.actions, spaces.states, spaces.prefixes, spaces.masked) == (2, 7, 3, False)
    assert spaces.tokens.tolist() == [
        *([2, -1, -1], [2, 0, -1], [2, 1, -1]),
        *([3, -1, -1], [3, 0, -1], [3, 1, -1]),
        [-1, -1, -1],
    ]


def test_it_keeps_the_protocols():
    built = Sequences().build(1, 1, Streams([0]))
    assert isinstance(built, BuiltEnvironment) and isinstance(built, RankedEnvironment)
    assert built.beta == Sequences().beta


# ---- rollouts


@pytest.mark.parametrize("eos", [None, 1])
def test_responses_are_drawn_from_the_policy(eos):
    # 4.5 standard errors for each prompt and response, of 24,000 autoregressive samples against the enumeration
    built = Sequences(vocabulary=3, length=3, prompts=2, eos=eos).build(1, 100, Streams([1]))
    actor = actor_for(built, [1])
    samples = built.collect(actor, Size(240, "episodes"))
    table = actor.action_log_probs(torch.arange(built.spaces.states)[None]).double().exp()
    world = built.exact()
    due = (world.prompt_probs[:, None] * world.response_probs(table)[0]).flatten()
    prompts, numbers = numbers_of(built, samples)
    counts = (prompts * built.tree.responses + numbers).flatten().bincount(minlength=len(due))
    n = counts.sum()
    assert bool(((counts - n * due).abs() <= 4.5 * (n * due * (1 - due)).sqrt()).all())


@pytest.mark.parametrize("eos", [None, 1])
def test_a_response_is_paid_at_its_last_token(eos):
    built = Sequences(vocabulary=3, length=3, prompts=2, eos=eos).build(2, 20, Streams([1, 2]))
    samples = built.collect(actor_for(built, [1, 2]), EPISODES)
    batch = samples.trajectories
    prompts, numbers = numbers_of(built, samples)
    last = torch.arange(3) == (batch.valid.sum(-1) - 1)[..., None]
    assert torch.equal(batch.terminated, last) and not bool(batch.truncated.any())
    due = built.true_rewards[torch.arange(2)[:, None], prompts, numbers].float()
    assert torch.equal(batch.rewards.sum(-1), due)
    assert bool((batch.rewards[~last] == 0).all())


@pytest.mark.parametrize("eos", [None, 1])
def test_log_probs_and_values_are_those_of_the_actor(eos):
    built = Sequences(vocabulary=3, length=3, eos=eos).build(2, 4, Streams([1, 2]))
    actor = actor_for(built, [1, 2])
    for size in (EPISODES, Size(11)):
        samples = built.collect(actor, size)
        batch, states = samples.trajectories, samples.inputs["observations"]
        table = actor.action_log_probs(states.flatten(1)).view(*states.shape, 3)
        due = table.gather(-1, samples.inputs["actions"][..., None])[..., 0]
        assert torch.equal(batch.log_probs[batch.valid], due[batch.valid])
        linked = link_values(batch.values, batch.terminated, batch.truncated, batch.valid, batch.next_values)
        assert torch.equal(linked, batch.next_values)


@pytest.mark.parametrize("component", [Sequences(), Sequences(eos=0, prompts=3, responses=2)], ids=["plain", "ragged"])
def test_a_seed_is_bit_equal_alone_and_among_others(component):
    together, alone = component.build(3, 4, Streams([5, 17, 2])), component.build(1, 4, Streams([17]))
    assert torch.equal(together.true_rewards[1:2], alone.true_rewards)
    for _ in range(2):
        crowd = together.collect(actor_for(together, [5, 17, 2]), EPISODES)
        single = alone.collect(actor_for(alone, [17]), EPISODES)
        steps = single.trajectories.valid.shape[-1]
        assert torch.equal(crowd.inputs["actions"][1:2, :, :steps], single.inputs["actions"])
        assert torch.equal(crowd.trajectories.rewards[1:2, :, :steps], single.trajectories.rewards)
        one, other = together.candidates(crowd), alone.candidates(single)
        assert all(torch.equal(x[1:2], other.inputs[name]) for name, x in one.inputs.items())


def test_two_windows_are_one_long_window():
    one, two = (Sequences(eos=0, prompts=2).build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for(one, [1, 2])
    whole, parts = one.collect(actor, Size(30)), [two.collect(actor, Size(n)) for n in (11, 19)]
    for name in ("observations", "actions"):
        assert torch.equal(whole.inputs[name], torch.cat([part.inputs[name] for part in parts], -1))
    assert torch.equal(whole.trajectories.rewards, torch.cat([part.trajectories.rewards for part in parts], -1))


def test_a_restored_environment_goes_on_as_if_nothing_had_happened():
    one, other = (Sequences(eos=0, prompts=2).build(2, 3, Streams([1, 2])) for _ in range(2))
    actor = actor_for(one, [1, 2])
    one.collect(actor, Size(7))
    one.collect(actor, EPISODES)
    saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    other.load_state_dict(saved)
    for size in (Size(9), EPISODES):
        due, found = one.collect(actor, size), other.collect(actor, size)
        assert torch.equal(due.inputs["actions"], found.inputs["actions"])
        assert torch.equal(due.trajectories.rewards, found.trajectories.rewards)


# ---- groups


def test_consecutive_responses_share_a_prompt():
    built = Sequences(prompts=5, responses=4).build(3, 8, Streams([1, 2, 3]))
    samples = built.collect(actor_for(built, [1, 2, 3]), EPISODES)
    ids = samples.trajectories.group_ids
    assert torch.equal(ids, (torch.arange(48) // 4).expand(3, -1))
    prompts = (samples.inputs["observations"][..., 0] // built.spaces.prefixes).view(3, 12, 4)
    assert bool((prompts == prompts[..., :1]).all())
    assert len(prompts.unique()) == 5 and not torch.equal(prompts[0], prompts[1])
    actions = samples.inputs["actions"].view(3, 12, 4, -1)
    assert bool((actions[:, :, 1:] != actions[:, :, :1]).any(-1).any(-1).all())  # a group's responses are independent


def test_prompts_of_groups_are_equally_frequent():
    built = Sequences(prompts=4, responses=3).build(1, 300, Streams([7]))
    samples = built.collect(actor_for(built, [7]), Size(30, "episodes"))
    counts = (samples.inputs["observations"][0, ::3, 0] // built.spaces.prefixes).bincount(minlength=4)
    n = int(counts.sum())
    assert n == 3000
    assert bool(((counts - n / 4).abs() <= 4.5 * math.sqrt(n * 3 / 16)).all())


def test_groups_need_whole_episodes_and_a_multiple_of_their_size():
    built = Sequences(responses=4).build(1, 3, Streams([0]))
    actor = actor_for(built, [0])
    with pytest.raises(LabError, match=r"environment\.responses: 4 responses share a prompt only where whole episodes"):
        built.collect(actor, Size(8))
    with pytest.raises(LabError, match=r"6 episodes per collect \(envs x episodes\) are no multiple of 4"):
        built.collect(actor, Size(2, "episodes"))


def test_group_ids_are_given_only_where_there_are_groups():
    assert Sequences().gives() == {"log_probs"}
    assert Sequences(responses=2).gives() == {"log_probs", "group_ids"}
    built = Sequences().build(1, 2, Streams([0]))
    assert built.collect(actor_for(built, [0]), EPISODES).trajectories.group_ids is None


def test_the_loops_train_on_it():
    # REINFORCE with a group baseline on 2 tokens x length 2: the exact return rises to nearly the optimum
    spec, _ = make_spec(
        {
            "environment": {
                "name": "sequences", "vocabulary": 2, "length": 2, "prompts": 2, "responses": 4,
                "reward": {"name": "table_reward", "values": ((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))},
            },
            "policy": {"name": "tabular_softmax", "critic": False},
            "trainer": {"name": "online", "envs": 8, "episodes": 4},
            "advantage": "rloo",
            "objective": "reinforce",
            "optimizer": {"name": "sgd", "lr": 2.0},
            "gamma": 1.0,
        },
        load_plugins(),
    )  # fmt: skip
    learner = start(spec, [0, 1])
    for _ in range(60):
        learner.step(0.0)
    world = learner.environment.exact()
    states = torch.arange(len(world.terminal)).expand(2, -1)
    policy = learner.actor.action_log_probs(states).detach().exp()
    assert bool((world.expected_return(policy) > 0.9).all())


# ---- truth and proxy


def test_the_proxy_is_paid_and_the_truth_is_told():
    built = Sequences(vocabulary=2, length=2, proxy=RewardError(scale=5.0)).build(2, 10, Streams([1, 2]))
    samples = built.collect(actor_for(built, [1, 2]), EPISODES)
    prompts, numbers = numbers_of(built, samples)
    paid = built.paid_rewards[torch.arange(2)[:, None], prompts, numbers].float()
    assert torch.equal(samples.trajectories.rewards.sum(-1), paid)
    assert torch.equal(built.exact().reward, built.true_rewards)
    assert not torch.equal(built.paid_rewards, built.true_rewards)


def test_without_a_proxy_the_truth_is_paid():
    built = Sequences().build(2, 1, Streams([1, 2]))
    assert built.paid_rewards is built.true_rewards


def test_what_both_draw_is_drawn_alike():
    reward = RandomReward(scale=2.0)
    alone = Sequences(reward=reward).build(2, 1, Streams([1, 2]))
    built = Sequences(reward=reward, proxy=RewardError(reward=reward, scale=0.0)).build(2, 1, Streams([1, 2]))
    assert torch.equal(built.paid_rewards, alone.true_rewards)


# ---- rewards


def test_random_rewards_are_standard_normal_times_scale():
    rewards = Sequences(prompts=4, reward=RandomReward(scale=3.0)).build(20, 1, Streams(range(20))).true_rewards
    n = rewards.numel()  # standard errors of mean and variance: 3 / √n, 9 √(2/n)
    assert rewards.shape == (20, 4, 256) and rewards.dtype == torch.float64
    assert abs(float(rewards.mean())) < 4.5 * 3 / math.sqrt(n)
    assert abs(float(rewards.var()) - 9) < 4.5 * 9 * math.sqrt(2 / n)
    assert not torch.equal(rewards[0], rewards[1])


@pytest.mark.parametrize("reward", [RandomReward(per_run=False), TokenReward(per_run=False, by_position=True)])
def test_shared_rewards_are_the_same_for_every_seed(reward):
    rewards = Sequences(reward=reward).build(3, 1, Streams([4, 5, 6])).true_rewards
    assert torch.equal(rewards[0], rewards[2])
    assert torch.equal(rewards[:1], Sequences(reward=reward).build(1, 1, Streams([99])).true_rewards)


@pytest.mark.parametrize("eos", [None, 1])
def test_token_rewards_add_up(eos):
    values = ((1.0, 10.0), (100.0, 1000.0), (0.5, 0.25))
    for given in (values[0], values):
        built = Sequences(vocabulary=2, length=3, eos=eos, prompts=2, reward=TokenReward(values=given))
        built = built.build(2, 1, Streams([0, 1]))
        for number, (tokens, length) in enumerate(zip(built.tree.tokens.tolist(), built.tree.lengths, strict=True)):
            rows = values if given is values else (values[0],) * 3
            due = sum(rows[t][tokens[t]] for t in range(length))
            assert built.true_rewards[:, :, number].tolist() == [[due] * 2] * 2


def test_drawn_token_rewards_are_additive_in_the_positions():
    # r(a b) + r(c d) = r(a d) + r(c b) for every two positions
    table = Sequences(vocabulary=3, length=2, reward=TokenReward(by_position=True)).build(2, 1, Streams([0, 1]))
    square = table.true_rewards.view(2, 3, 3)
    for a, b, c, d in itertools.product(range(3), repeat=4):
        torch.testing.assert_close(square[:, a, b] + square[:, c, d], square[:, a, d] + square[:, c, b])
    assert not torch.equal(square, square.mT)
    plain = Sequences(vocabulary=3, length=2, reward=TokenReward()).build(2, 1, Streams([0, 1])).true_rewards
    torch.testing.assert_close(plain.view(2, 3, 3), plain.view(2, 3, 3).mT)


def test_errors_are_of_the_kind_asked_for():
    def errors(**fields):
        world = Sequences(prompts=8, proxy=RewardError(**fields)).build(10, 1, Streams(range(10)))
        return (world.paid_rewards - world.true_rewards).flatten()

    n = 8 * 256 * 10
    normal = errors(scale=2.0)
    assert abs(float(normal.var()) - 4) < 4.5 * 4 * math.sqrt(2 / n)
    # Student's t with 3 degrees of freedom: P(|t| > 3.182) = 0.05, against 0.0015 of a normal number
    heavy = (errors(error="student_t", df=3, scale=2.0) / 2).abs() > 3.182446
    assert abs(float(heavy.double().mean()) - 0.05) < 4.5 * math.sqrt(0.05 * 0.95 / n)
    biased = errors(error="biased", share=0.1, scale=7.0)
    assert set(biased.round(decimals=9).tolist()) == {0.0, 7.0}
    assert abs(float((biased > 1).double().mean()) - 0.1) < 4.5 * math.sqrt(0.09 / n)


def test_errors_are_independent_of_the_truth():
    # the correlation of n independent pairs is within 4.5 / √n of 0
    built = Sequences(prompts=8, proxy=RewardError()).build(10, 1, Streams(range(10)))
    truth, error = built.true_rewards.flatten(), (built.paid_rewards - built.true_rewards).flatten()
    assert abs(float(torch.corrcoef(torch.stack([truth, error]))[0, 1])) < 4.5 / math.sqrt(len(truth))


# ---- a learned reward


class Judge(nn.Module):
    """A reward model with a score per token."""

    def __init__(self, runs: int, tokens: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(runs, tokens))

    def rewards(self, candidates) -> Tensor:
        tokens, counted = candidates.inputs["tokens"], candidates.inputs["counted"]
        found = self.scores.gather(1, tokens.flatten(1)).view(tokens.shape)
        return (found * counted).sum(-1)

    def score(self, candidates, fields=frozenset()): ...
    def act(self, observations, uniforms, mask=None): ...
    def action_log_probs(self, observations, mask=None): ...
    def values(self, observations): ...
    def evaluate(self, samples): ...
    def keep_reference(self): ...
    def score_norms(self, samples): ...


class JudgePolicy(Policy):
    """Builds judges."""

    name = "judge"

    def build(self, spaces, runs, streams):
        return Judge(runs, spaces.actions)


class Mute(Policy):
    """Builds actors that cannot judge."""

    name = "mute"

    def build(self, spaces, runs, streams):
        return nn.Linear(1, 1)


def learned(policy=None, **fields):
    return Sequences(vocabulary=2, length=2, proxy=LearnedReward(policy=policy), **fields).build(2, 3, Streams([1, 2]))


def test_a_learned_reward_is_paid_once_it_is_adopted():
    # scores 1 and 10 in the first run, 2 and -1 in the second; responses 00, 01, 10, 11
    built = learned(JudgePolicy(), prompts=2)
    built.adopt({"reward.scores": torch.tensor([[1.0, 10.0], [2.0, -1.0]]), "logits": torch.zeros(3)})
    assert built.paid_rewards.tolist() == [[[2, 11, 11, 20]] * 2, [[4, 1, 1, -2]] * 2]
    samples = built.collect(actor_for(built, [1, 2]), EPISODES)
    prompts, numbers = numbers_of(built, samples)
    paid = built.paid_rewards[torch.arange(2)[:, None], prompts, numbers].float()
    assert torch.equal(samples.trajectories.rewards.sum(-1), paid)


def test_a_later_stage_replaces_the_reward_model():
    built = learned(JudgePolicy())
    actor = actor_for(built, [1, 2])
    for value in (1.0, 3.0):
        built.adopt({"reward.scores": torch.full((2, 2), value)})
        assert built.collect(actor, EPISODES).trajectories.rewards.sum(-1).unique().tolist() == [2 * value]
    built.adopt({"logits": torch.zeros(3)})  # a stage without a reward model leaves the last one in its place
    assert bool((built.paid_rewards == 6).all())


def test_a_reward_that_nobody_has_learned_is_refused():
    built = learned(JudgePolicy())
    with pytest.raises(LabError, match="no reward model has been trained yet; put a stage with the trainer"):
        built.collect(actor_for(built, [1, 2]), EPISODES)
    assert built.exact().reward.shape == (2, 1, 4)  # the truth does not wait for it


@pytest.mark.parametrize(
    ("policy", "weights", "message"),
    [
        (None, {"reward.scores": torch.zeros(2, 2)}, r"learned_reward\.policy: name the policy"),
        (Mute(), {"reward.scores": torch.zeros(2, 2)}, "'mute' cannot score responses"),
        (
            JudgePolicy(),
            {"reward.scores": torch.zeros(2, 3)},
            r"expected a reward model of policy 'judge', with the weights scores \[2\] per seed; the earlier stage's "
            r"has scores \[3\]; name the policy of that stage, with its parameters$",
        ),
        (JudgePolicy(), {"reward.other": torch.zeros(2, 4, 2)}, r"the earlier stage's has other \[4, 2\]; name"),
    ],
)
def test_a_reward_model_that_does_not_fit_is_refused(policy, weights, message):
    built = learned(policy)
    built.adopt(weights)
    with pytest.raises(LabError, match=message):
        _ = built.paid_rewards


# ---- candidates


@pytest.mark.parametrize("eos", [None, 2])
def test_samples_are_candidates_side_by_side(eos):
    built = Sequences(vocabulary=3, length=3, prompts=2, eos=eos, responses=2).build(2, 4, Streams([1, 2]))
    samples = built.collect(actor_for(built, [1, 2]), Size(3, "episodes"))
    found = built.candidates(samples)
    prompts, numbers = (x.view(2, 6, 2) for x in numbers_of(built, samples))
    tree = built.tree
    assert torch.equal(found.inputs["prompts"], prompts[..., 0] * tree.prefixes)
    assert torch.equal(found.inputs["tokens"], tree.tokens[numbers])
    assert torch.equal(found.inputs["prefixes"], tree.prefix[numbers])
    assert torch.equal(found.inputs["counted"], tree.valid[numbers])
    assert torch.equal(found.lengths, tree.lengths[numbers])
    assert torch.equal(found.targets, samples.trajectories.rewards.sum(-1).view(2, 6, 2))
    assert found.valid is None
    # states and actions of the tokens are those that were seen and taken
    states = found.inputs["prompts"][..., None, None] + found.inputs["prefixes"]
    valid = samples.trajectories.valid
    assert torch.equal(states[found.inputs["counted"]], samples.inputs["observations"][valid])
    assert torch.equal(found.inputs["tokens"][found.inputs["counted"]], samples.inputs["actions"][valid])


def test_single_responses_are_rows_of_one():
    built = Sequences().build(2, 4, Streams([1, 2]))
    found = built.candidates(built.collect(actor_for(built, [1, 2]), Size(3, "episodes")))
    assert found.lengths.shape == (2, 12, 1)


def test_what_is_no_row_of_whole_responses_is_refused():
    built = Sequences(vocabulary=2, length=3).build(1, 4, Streams([0]))
    with pytest.raises(LabError, match="every row must be one whole response; collect episodes, not steps"):
        built.candidates(built.collect(actor_for(built, [0]), Size(5)))
    grouped = Sequences(prompts=3, responses=2).build(1, 4, Streams([0]))
    samples = grouped.collect(actor_for(grouped, [0]), EPISODES)
    for order in (torch.arange(24).view(2, 12).T.flatten(), torch.arange(23)):
        with pytest.raises(LabError, match=r"expected the 2 responses to a prompt .* in consecutive rows"):
            grouped.candidates(samples.select(order[None]))


def test_every_response_of_every_prompt_can_be_asked_about():
    built = Sequences(vocabulary=3, length=2, prompts=2, eos=0).build(2, 1, Streams([1, 2]))
    everything = built.all_responses()
    assert everything.lengths.shape == (2, 2, 7)
    assert everything.inputs["prompts"].tolist() == [[0, 4]] * 2
    assert torch.equal(everything.inputs["tokens"][1, 1], built.tree.tokens)


# ---- words


@pytest.mark.parametrize("component", [Sequences(vocabulary=3, length=3, eos=1), Sequences(alphabet="+-*/")])
def test_words_are_read_as_they_are_written(component):
    built = component.build(1, 1, Streams([0]))
    words = [spell(built.tree, y, component.alphabet) for y in range(built.tree.responses)]
    assert len(set(words)) == len(words)
    found = built.encode([Ranking("0", tuple(words))])
    due = built.all_responses()
    assert all(torch.equal(x, due.inputs[name]) for name, x in found.inputs.items())
    assert torch.equal(found.lengths, due.lengths) and found.valid is None and found.ranks is None


def test_rows_in_words_keep_their_order_and_lengths():
    built = Sequences(vocabulary=3, length=2, prompts=2, eos=2).build(3, 1, Streams([0, 1, 2]))
    found = built.encode([Ranking("1", ("ab", "c")), Ranking(" 0 ", ("bb", "bc", "c"), place="x:2")])
    assert found.inputs["prompts"].tolist() == [[4, 0]]
    assert found.inputs["tokens"][0, 0, :2].tolist() == [[0, 1], [2, 0]]
    assert found.lengths[0, 0, :2].tolist() == [2, 1]
    assert found.valid.tolist() == [[[True, True, False], [True, True, True]]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "encode: there are no rows"),
        ([Ranking("2", ("ab", "bb"), place="f.jsonl:7")], r"f\.jsonl:7: prompt '2': prompts are numbered '0' to '1'"),
        ([Ranking("hello", ("ab", "bb"))], "^prompt 'hello': prompts are numbered '0' to '1'"),
        ([Ranking(({"role": "user", "content": "0"},), ("ab", "bb"))], "prompts are numbered"),
        ([Ranking("0", ("ax", "bb"), place="f:1")], "f:1: response 'ax': 'x' is no token; tokens: abc"),
        ([Ranking("0", ("", "bb"))], "response '': a response ends with 'c' or after 2 tokens, and only there"),
        ([Ranking("0", ("a", "bb"))], "response 'a': a response ends with 'c' or after 2 tokens, and only there"),
        ([Ranking("0", ("ca", "bb"))], "response 'ca': a response ends"),
        ([Ranking("0", ("abb", "bb"))], "response 'abb': a response ends"),
        ([Ranking("0", (({"role": "assistant", "content": "ab"},), "bb"))], "expected plain text"),
    ],
)
def test_words_that_are_no_responses_are_refused(rows, message):
    built = Sequences(vocabulary=3, length=2, prompts=2, eos=2).build(1, 1, Streams([0]))
    with pytest.raises(LabError, match=message):
        built.encode(rows)


# ---- what makes no environment


class Foreign(RewardFunction):
    """A reward of something else."""

    name = "foreign"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eos": 4}, "eos: expected None or a token from 0 to 3, found 4"),
        ({"vocabulary": 10, "length": 7}, "expected at most 1,000,000 strings"),
        ({"alphabet": "abc"}, "alphabet: expected 4 different characters, one per token, found 'abc'"),
        ({"alphabet": "abca"}, "alphabet: expected 4 different characters"),
        ({"reward": Foreign()}, "reward: 'foreign' does not pay whole responses of token strings"),
        ({"proxy": Foreign()}, "proxy: 'foreign' does not pay whole responses"),
        ({"beta": 0.0}, "beta\n  Input should be greater than 0"),
        ({"reward": RandomReward(), "rewards": 1}, "rewards"),
    ],
)
def test_an_impossible_environment_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Sequences(**fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenReward(values=(1.0,), scale=2.0), "scale: nothing is drawn where values are given"),
        (lambda: RewardError(df=3), "df: belongs to error: student_t, and error is 'normal'; leave it out"),
        (lambda: RewardError(error="normal", share=0.1), "share: belongs to error: biased"),
        (lambda: RewardError(reward=Foreign()), "reward: 'foreign' does not pay whole responses"),
        (lambda: RandomReward(scale=math.inf), "scale"),
    ],
)
def test_an_impossible_reward_is_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


@pytest.mark.parametrize("reward", [TokenReward(values=(1.0, 2.0)), RewardError(), RewardError(error="biased")])
def test_a_resolved_reward_can_be_read_again(reward):
    fields = reward.model_dump(mode="json")
    assert fields.pop("name") == reward.name
    assert type(reward)(**fields) == reward


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (TableReward(), "table_reward.values: expected numbers, or rows of equally many numbers"),
        (TableReward(values=((1.0, 2.0), (1.0,))), "table_reward.values: expected numbers, or rows of equally many"),
        (TableReward(values=(1.0, 2.0, 3.0)), r"expected 1 rows \(one per prompt\) of 4 numbers .*, found 1 of 3"),
        (TokenReward(values=(1.0, 2.0, 3.0)), r"token_reward.values: expected 2 numbers, one per token, or 2 rows"),
        (TokenReward(values=((1.0, 2.0),) * 3), r"token_reward.values: expected .* found \[3, 2\]"),
        (RewardError(), "adds an error to the true reward, and cannot be that itself"),
    ],
)
def test_a_reward_that_does_not_fit_the_world_is_refused(reward, message):
    built = Sequences(vocabulary=2, length=2, reward=reward).build(1, 1, Streams([0]))
    with pytest.raises(LabError, match=message):
        built.exact()


def test_many_tokens_need_an_alphabet_for_words():
    built = Sequences(vocabulary=70, length=1).build(1, 1, Streams([0]))
    with pytest.raises(LabError, match="70 tokens are more than the 62 characters"):
        built.encode([Ranking("0", ("a", "b"))])
