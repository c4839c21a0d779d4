"""Preference data of token strings: the exact distribution against formulas, and what is drawn against both."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Scored, rankings
from rlhf_lab_bandit import GaussianBandit
from rlhf_lab_sequences import Population, Sampled, Sequences, TableReward
from rlhf_lab_sequences.draws import draw_responses

F64 = torch.float64
LABELS = ("valid", "desirable", "targets", "gains", "ranks", "preference_prob", "margins", "weights")


class Reference:
    """The policy before training: random tables that belong to the seed."""

    def __init__(self, built, seeds, spread=1.0):
        streams = Streams(seeds)["reference"]
        self.logits = spread * streams.normals(0, built.spaces.states, built.spaces.actions, dtype=torch.float32)

    def action_log_probs(self, observations, mask=None):
        wide = observations[..., None].expand(*observations.shape, self.logits.shape[-1])
        return self.logits.gather(1, wide).log_softmax(-1)


def small(seeds=(3,), **fields):
    """Two prompts, V = 2, L = 2: four responses each; and the reference."""
    built = Sequences(**{"vocabulary": 2, "length": 2, "prompts": 2} | fields).build(len(seeds), 1, Streams(seeds))
    return built, Reference(built, seeds)


def data_streams(seeds=(3,)):
    return Streams(seeds)["data"]


def make(data, built, reference, seeds=(3,)):
    return data.build(built, reference, data_streams(seeds))


def behaviour(built, reference, run=0, strength=0.0, base="reference"):
    """b(y|x) in proportion to base(y|x) exp(strength r), before coverage, ``[x][y]``."""
    states = torch.arange(built.spaces.states).expand(len(reference.logits), -1)
    world = built.exact()
    probs = world.response_probs(reference.action_log_probs(states).double().exp())[run]
    probs = (torch.ones_like(probs) if base == "uniform" else probs) * (strength * built.true_rewards[run]).exp()
    return (probs / probs.sum(-1, keepdim=True)).tolist()


def rows_of(built, found, run=0):
    """Each row as (prompt, responses best first, ranks or labels)."""
    tree = built.tree
    edges = found.inputs["prefixes"] * tree.vocabulary + found.inputs["tokens"]
    numbers = tree.response_of[edges.gather(-1, found.lengths[..., None] - 1)[..., 0]][run].tolist()
    prompts = (found.inputs["prompts"] // tree.prefixes)[run].tolist()
    labels = found.ranks if found.ranks is not None else found.desirable
    said = [None] * len(prompts) if labels is None else [tuple(x) for x in labels[run].tolist()]
    return [(x, tuple(y), label) for x, y, label in zip(prompts, numbers, said, strict=True)]


def weighed(built, found, run=0):
    """The weight of each row of population data."""
    total = {}
    for row, weight in zip(rows_of(built, found, run), found.weights[run].tolist(), strict=True):
        assert row not in total  # every row stands there once
        total[row] = weight
    return total


def assert_frequencies(counts, due):
    """Every count within 4.5 standard errors of its probability; what has none never occurs."""
    n = sum(counts.values())
    assert set(counts) <= {row for row, p in due.items() if p > 0}
    for row, p in due.items():
        assert abs(counts.get(row, 0) - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-9, (row, p)


def counted(rows):
    return {row: rows.count(row) for row in set(rows)}


# ---- the exact distribution


def test_the_population_of_pairs_by_its_formula():
    # p(x) b(i) b(j) / Σ_{i<j} b(i) b(j) times σ((r_i - r_j) / T), both orders of every two responses
    built, reference = small()
    found = weighed(built, make(Population(temperature=0.5, strength=0.7), built, reference))
    due = {}
    for x, b in enumerate(behaviour(built, reference, strength=0.7)):
        pairs = sum(b[i] * b[j] for i, j in itertools.combinations(range(4), 2))
        for i, j in itertools.permutations(range(4), 2):
            r = built.true_rewards[0, x]
            due[x, (i, j), None] = b[i] * b[j] / pairs / 2 / (1 + math.exp(-float(r[i] - r[j]) / 0.5))
    assert found == pytest.approx(due, rel=1e-12)


def test_the_population_of_longer_rankings_is_plackett_luce():
    built, reference = small()
    found = weighed(built, make(Population(candidates=3), built, reference))
    due = {}
    for x, b in enumerate(behaviour(built, reference)):
        triples = sum(b[i] * b[j] * b[k] for i, j, k in itertools.combinations(range(4), 3))
        for i, j, k in itertools.permutations(range(4), 3):
            p = built.true_rewards[0, x].exp().tolist()
            ranked = p[i] / (p[i] + p[j] + p[k]) * p[j] / (p[j] + p[k])
            due[x, (i, j, k), None] = b[i] * b[j] * b[k] / triples / 2 * ranked
    assert found == pytest.approx(due, rel=1e-12)


def test_the_population_of_ties_is_that_of_rao_and_kupper():
    built, reference = small()
    found = weighed(built, make(Population(ties=2.0), built, reference))
    pairs = weighed(built, make(Population(), built, reference))
    for x, (i, j) in itertools.product(range(2), itertools.permutations(range(4), 2)):
        both = pairs[x, (i, j), None] + pairs[x, (j, i), None]
        p, q = built.true_rewards[0, x, [i, j]].exp().tolist()
        assert found[x, (i, j), (0, 1)] == pytest.approx(both * p / (p + 2 * q), rel=1e-12)
        tie = 3 * p * q / ((p + 2 * q) * (q + 2 * p))
        assert found[x, (i, j), (0, 0)] == pytest.approx(both * tie / 2, rel=1e-12)


def test_players_of_several_strengths_are_mixed_in_equal_shares():
    # b = (b_1 + b_2) / 2, each normalised over the covered responses first: here without the best one
    built, reference = small()
    found = weighed(built, make(Population(strength=(2.0, -1.0), coverage=0.75, uncovered="best"), built, reference))
    players = [behaviour(built, reference, strength=strength) for strength in (2.0, -1.0)]
    for x in range(2):
        left = built.true_rewards[0, x].argsort()[:3].tolist()
        b = {y: sum(p[x][y] / sum(p[x][z] for z in left) for p in players) / 2 for y in left}
        pairs = sum(b[i] * b[j] for i, j in itertools.combinations(left, 2))
        for i, j in itertools.combinations(left, 2):
            both = found[x, (i, j), None] + found[x, (j, i), None]
            assert both == pytest.approx(b[i] * b[j] / pairs / 2, rel=1e-12)


@pytest.mark.parametrize("strengths", [(0.0,), (2.0, -1.0)])
def test_the_population_of_single_labels(strengths):
    # liked with probability σ((r - E_b r) / T)
    built, reference = small()
    found = weighed(built, make(Population(form="unpaired", temperature=2.0, strength=strengths), built, reference))
    players = [behaviour(built, reference, strength=strength) for strength in strengths]
    due = {}
    for x in range(2):
        b = [sum(p[x][y] for p in players) / len(players) for y in range(4)]
        r = built.true_rewards[0, x].tolist()
        mean = sum(p * q for p, q in zip(b, r, strict=True))
        for y in range(4):
            liked = 1 / (1 + math.exp(-(r[y] - mean) / 2))
            due |= {(x, (y,), (True,)): b[y] / 2 * liked, (x, (y,), (False,)): b[y] / 2 * (1 - liked)}
    assert found == pytest.approx(due, rel=1e-12)


def test_the_population_of_scores_has_every_set_once():
    built, reference = small()
    data = make(Population(form="scored", candidates=3), built, reference)
    found = weighed(built, data)
    b = behaviour(built, reference)[1]
    triples = {c: math.prod(b[y] for y in c) for c in itertools.combinations(range(4), 3)}
    due = {(1, c, None): p / sum(triples.values()) / 2 for c, p in triples.items()}
    assert {row: p for row, p in found.items() if row[0] == 1} == pytest.approx(due, rel=1e-12)
    rewards = [built.true_rewards[0, x, list(y)].tolist() for x, y, _ in rows_of(built, data)]
    assert data.targets[0].tolist() == rewards


@pytest.mark.parametrize(
    "data",
    [
        Population(),
        Population(candidates=3, temperature=0.0),
        Population(ties=3.0),
        Population(coverage=0.6, strength=(1.0, -1.0)),
        Population(coverage=0.6, uncovered="best"),
        Population(form="unpaired"),
        Population(form="scored", candidates=1),
    ],
    ids=lambda d: d.form,
)
def test_weights_are_a_distribution_for_each_run(data):
    seeds = (3, 4, 5)
    built, reference = small(seeds, length=3, eos=0)
    found = make(data, built, reference, seeds)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(3, dtype=F64), rtol=0, atol=1e-13)
    assert bool((found.weights >= 0).all())


@pytest.mark.parametrize("candidates", [2, 3])
def test_the_true_reward_is_where_the_likelihood_of_the_population_is_flat(candidates):
    # Plackett-Luce of the right scores is the distribution of the labels, whatever the behaviour: a proper score
    built, reference = small()
    found = make(Population(candidates=candidates, temperature=0.5, strength=1.0), built, reference)
    scores = (built.true_rewards[0] / 0.5).requires_grad_()
    loss = torch.zeros((), dtype=F64)
    for (x, y, _), weight in zip(rows_of(built, found), found.weights[0], strict=True):
        z = scores[x, list(y)]
        loss = loss - weight * sum(z[i] - z[i:].logsumexp(0) for i in range(candidates))
    loss.backward()
    assert scores.grad is not None and float(scores.grad.abs().max()) < 1e-15


def test_data_that_all_runs_share_are_not_copied():
    seeds = (3, 4, 5)
    built, reference = small(seeds)
    found = make(Population(), built, reference, seeds)
    assert all(x.shape[0] == 3 and x.stride(0) == 0 for x in [*found.inputs.values(), found.lengths])
    assert not torch.equal(found.weights[0], found.weights[1])  # rewards and references are their own


# ---- what is drawn


SETTINGS = [
    ({}, {}),
    ({"temperature": 0.3, "strength": 1.5}, {}),
    ({"strength": (2.0, 0.0, -2.0)}, {}),
    ({"behaviour": "uniform", "strength": -1.0}, {}),
    ({"coverage": 0.75}, {}),
    ({"coverage": 0.75, "uncovered": "best"}, {}),
    ({"candidates": 3}, {}),
    ({"candidates": 4, "temperature": 2.0}, {}),
    ({"ties": 2.0}, {}),
    ({"form": "unpaired", "temperature": 0.5}, {}),
    ({}, {"eos": 1, "length": 3}),
]


@pytest.mark.parametrize(("fields", "world"), SETTINGS, ids=lambda x: ",".join(map(str, x)))
def test_what_is_drawn_has_the_frequencies_of_the_population(fields, world):
    built, reference = small(**world)
    due = weighed(built, make(Population(**fields), built, reference))
    found = make(Sampled(rows=20_000, **fields), built, reference)
    assert_frequencies(counted(rows_of(built, found)), due)


def test_noise_turns_rankings_round():
    built, reference = small()
    clean = weighed(built, make(Population(candidates=3), built, reference))
    found = make(Sampled(rows=20_000, candidates=3, noise=0.3), built, reference)
    due = {(x, y, z): 0.7 * p + 0.3 * clean[x, y[::-1], z] for (x, y, z), p in clean.items()}
    assert_frequencies(counted(rows_of(built, found)), due)


def test_noise_turns_ties_and_single_labels_round():
    built, reference = small()
    for fields in ({"ties": 2.0}, {"form": "unpaired"}):
        clean = weighed(built, make(Population(**fields), built, reference))
        found = make(Sampled(rows=20_000, noise=0.25, **fields), built, reference)
        due = {}
        for (x, y, label), p in clean.items():
            turned = (x, y, (not label[0],)) if len(y) == 1 else (x, y[::-1], label)
            due[x, y, label] = 0.75 * p + 0.25 * clean[turned]
        assert_frequencies(counted(rows_of(built, found)), due)


def test_answers_of_a_row_may_be_equal_where_that_is_asked_for():
    # p(x) b(i) b(j) σ(r_i - r_j) for i != j, and p(x) b(i)² for equal ones
    built, reference = small()
    found = make(Sampled(rows=20_000, distinct=False), built, reference)
    due = {}
    for x, b in enumerate(behaviour(built, reference)):
        r = built.true_rewards[0, x].tolist()
        for i, j in itertools.product(range(4), repeat=2):
            due[x, (i, j), None] = b[i] * b[j] / 2 * (1 if i == j else 1 / (1 + math.exp(r[j] - r[i])))
            if i != j:
                due[x, (i, j), None] *= 2  # drawn in either order
    assert_frequencies(counted(rows_of(built, found)), due)


def test_ties_of_longer_rankings_join_neighbours():
    # threshold θ: neighbours tie where r + g differ by less than log θ; a huge one ties everything, in random order
    built, reference = small()
    found = make(Sampled(rows=5000, candidates=3, ties=1e12), built, reference)
    assert not bool(found.ranks.any())
    rows = rows_of(built, found)
    orders = counted([tuple(sorted(y).index(i) for i in y) for _, y, _ in rows])
    assert_frequencies(orders, dict.fromkeys(itertools.permutations(range(3)), 1 / 6))
    some = make(Sampled(rows=5000, candidates=3, ties=1.5), built, reference).ranks[0]
    assert {tuple(x) for x in some.tolist()} == {(0, 1, 2), (0, 0, 1), (0, 1, 1), (0, 0, 0)}


def test_at_temperature_zero_the_better_one_always_wins_and_equals_take_turns():
    reward = TableReward(values=((0.0, 1.0, 1.0, 2.0),))
    built, reference = small(prompts=1, reward=reward)
    found = rows_of(built, make(Sampled(rows=4000, temperature=0.0, candidates=3), built, reference))
    values = (0.0, 1.0, 1.0, 2.0)
    assert all(values[y[0]] >= values[y[1]] >= values[y[2]] for _, y, _ in found)
    due = weighed(built, make(Population(temperature=0.0, candidates=3), built, reference))
    assert_frequencies(counted(found), due)


def test_scores_are_the_reward_and_an_error():
    built, reference = small()
    found = make(Sampled(rows=20_000, form="scored", score_noise=0.5), built, reference)
    rewards = torch.tensor([built.true_rewards[0, x, list(y)].tolist() for x, y, _ in rows_of(built, found)])
    errors = (found.targets[0] - rewards).flatten()
    n = len(errors)  # standard errors of mean and variance: 0.5 / √n, 0.25 √(2/n)
    assert abs(float(errors.mean())) < 4.5 * 0.5 / math.sqrt(n)
    assert abs(float(errors.var()) - 0.25) < 4.5 * 0.25 * math.sqrt(2 / n)
    exact = make(Sampled(rows=50, form="scored"), built, reference)
    due = [built.true_rewards[0, x, list(y)].tolist() for x, y, _ in rows_of(built, exact)]
    assert exact.targets[0].tolist() == due


def test_candidates_are_those_of_the_world():
    built, reference = small(eos=1, length=3)
    found = make(Sampled(rows=40, candidates=3), built, reference)
    for row, (x, y, _) in enumerate(rows_of(built, found)):
        assert int(found.inputs["prompts"][0, row]) == x * built.spaces.prefixes
        assert torch.equal(found.inputs["tokens"][0, row], built.tree.tokens[list(y)])
        assert torch.equal(found.inputs["prefixes"][0, row], built.tree.prefix[list(y)])
        assert torch.equal(found.inputs["counted"][0, row], built.tree.valid[list(y)])
        assert torch.equal(found.lengths[0, row], built.tree.lengths[list(y)])
    assert found.valid is None


def test_the_covered_responses_are_one_set_per_run_and_prompt():
    # 0.5 of 8 responses; both kinds of data of a run leave the same ones out
    seeds = (1, 2)
    built, reference = small(seeds, length=3)
    drawn = make(Sampled(rows=4000, coverage=0.5), built, reference, seeds)
    known = make(Population(coverage=0.5), built, reference, seeds)
    sets = []
    for run, x in itertools.product(range(2), range(2)):
        seen = {y for prompt, ys, _ in rows_of(built, drawn, run) for y in ys if prompt == x}
        assert seen == {y for prompt, ys, _ in rows_of(built, known, run) for y in ys if prompt == x}
        assert len(seen) == 4
        sets.append(frozenset(seen))
    assert len(set(sets)) > 1


@pytest.mark.parametrize(("uncovered", "descending"), [("best", False), ("worst", True)])
def test_the_best_or_the_worst_responses_can_be_left_out(uncovered, descending):
    built, reference = small(length=3)
    found = make(Population(coverage=0.5, uncovered=uncovered), built, reference)
    for x in range(2):
        seen = {y for prompt, ys, _ in rows_of(built, found) for y in ys if prompt == x}
        assert seen == set(built.true_rewards[0, x].argsort(descending=descending)[:4].tolist())


# ---- seeds


@pytest.mark.parametrize(
    "data", [Sampled(rows=50, candidates=3, ties=1.5, noise=0.2, coverage=0.8), Sampled(rows=50, form="unpaired")]
)
def test_a_seed_is_bit_equal_alone_and_among_others(data):
    built, reference = small((5, 17, 2))
    crowd = make(data, built, reference, (5, 17, 2))
    built, reference = small((17,))
    alone = make(data, built, reference, (17,))
    for name, x in alone.inputs.items():
        assert torch.equal(crowd.inputs[name][1:2], x)
    for name in ("lengths", *LABELS):
        one, other = getattr(crowd, name), getattr(alone, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one[1:2], other)
    assert not torch.equal(crowd.inputs["tokens"][0], crowd.inputs["tokens"][1])


def test_a_larger_budget_begins_with_the_smaller_one():
    built, reference = small()
    few, many = (make(Sampled(rows=n, candidates=3, noise=0.2), built, reference) for n in (30, 100))
    assert all(torch.equal(x, many.inputs[name][:, :30]) for name, x in few.inputs.items())


# ---- labels


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({}, set()),
        ({"candidates": 3}, set()),
        ({"ties": 2.0}, {"ranks"}),
        ({"form": "unpaired"}, {"desirable"}),
        ({"form": "scored"}, {"targets"}),
    ],
)
def test_it_says_which_labels_it_gives(fields, labels):
    built, reference = small()
    for component, extra in ((Sampled, set()), (Population, {"weights"})):
        data = component(**fields)
        found = make(data, built, reference)
        assert {name for name in LABELS if getattr(found, name) is not None} == labels | extra
        assert data.gives() == {"lengths"} | labels | extra
        assert data.gives() <= component.provides
        rankings(found, Scored(torch.zeros(found.lengths.shape)))  # a sound batch


# ---- drawing


def test_a_response_without_probability_is_never_drawn():
    weights = torch.tensor([[[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]], dtype=F64)
    uniforms = torch.tensor([1e-10, 0.49, 0.51, 1 - 1e-10], dtype=F64)
    one = draw_responses(weights, torch.zeros(1, 4, dtype=torch.int64), uniforms.view(1, 4, 1), False)
    assert sorted(set(one.flatten().tolist())) == [1, 3]
    two = draw_responses(weights, torch.zeros(1, 4, dtype=torch.int64), uniforms.view(1, 4, 1).repeat(1, 1, 2), True)
    assert two.tolist() == [[[1, 3]] * 4]


def test_extreme_weights_are_drawn_without_loss():
    # weights 1, e^-800, e^-801: the second place is taken in proportion to e : 1, though both underflow
    weights = torch.tensor([[[0.0, -800.0, -801.0]]], dtype=F64)
    uniforms = Streams([0]).uniforms(0, 20_000, 2)
    found = draw_responses(weights, torch.zeros(1, 20_000, dtype=torch.int64), uniforms, True)[0].tolist()
    share = 1 / (1 + math.exp(-1))
    assert_frequencies(counted([tuple(y) for y in found]), {(0, 1): share, (0, 2): 1 - share})


# ---- what makes no data


@pytest.mark.parametrize(
    "data", [Sampled(), Sampled(form="unpaired"), Sampled(strength=(1.0, 2.0)), Population(form="scored")]
)
def test_a_resolved_component_can_be_read_again(data):
    fields = data.model_dump(mode="json")
    assert fields.pop("name") == data.name
    assert type(data)(**fields) == data


@pytest.mark.parametrize(
    ("component", "fields", "message"),
    [
        (Sampled, {"candidates": 1}, "candidates: a ranking needs 2 or more"),
        (Sampled, {"form": "unpaired", "candidates": 2}, "candidates: unpaired data has one answer per row"),
        (Sampled, {"form": "unpaired", "ties": 2.0}, "ties: only rankings have ties, and form is 'unpaired'"),
        (Sampled, {"form": "scored", "temperature": 2.0}, "temperature: scores are not drawn with one"),
        (Sampled, {"form": "scored", "noise": 0.1}, "noise: scores have no label to turn round; use score_noise"),
        (Sampled, {"score_noise": 0.1}, "score_noise: form 'rankings' has no scores; use noise"),
        (Sampled, {"ties": 2.0, "temperature": 0.0}, "ties: at temperature 0 there is no threshold"),
        (Sampled, {"uncovered": "best"}, "uncovered: coverage is 1, so that nothing is left out"),
        (Sampled, {"uncovered": "worst"}, "uncovered: coverage is 1"),
        (Sampled, {"strength": ()}, "strength: give at least one number"),
        (Sampled, {"coverage": 0.0}, "coverage\n  Input should be greater than 0"),
        (Sampled, {"rows": 0}, "rows\n  Input should be greater than or equal to 1"),
        (Population, {"ties": 2.0, "candidates": 3}, "ties: exact probabilities of ties are known for pairs only"),
        (Population, {"rows": 5}, "rows"),
    ],
)
def test_impossible_data_are_refused(component, fields, message):
    with pytest.raises(ValidationError, match=message):
        component(**fields)


def test_data_that_do_not_fit_the_world_are_refused():
    built, reference = small()
    message = r"data\.candidates: 5 different responses to a prompt are needed, but only 4 can occur"
    for data in (Sampled(candidates=5), Population(candidates=5)):
        with pytest.raises(LabError, match=message):
            make(data, built, reference)
    with pytest.raises(LabError, match="3 different responses to a prompt are needed, but only 2 can occur"):
        make(Sampled(candidates=3, coverage=0.5), built, reference)
    assert make(Sampled(candidates=5, distinct=False, rows=3), built, reference).lengths.shape == (1, 3, 5)
    large, reference = small(vocabulary=4, length=5)
    message = r"data\.population: 2,095,104 rows of 2 answers are more than 300,000; lower candidates, coverage or"
    with pytest.raises(LabError, match=message):
        make(Population(), large, reference)


@pytest.mark.parametrize(
    ("fields", "seeds", "says"),
    [
        # 32 bytes of each of 2 tokens and 48 more of each answer: 112
        ({"rows": 200_000_000}, (3,), r"200,000,000 rows \(seeds at once: 1, answers per row: 2, .* 44.8 GB"),
        ({"rows": 10**15, "form": "unpaired"}, (3,), "answers per row: 1, .* 112,000,000.0 GB"),
        ({"rows": 10**7, "candidates": 4}, (1, 2, 3), "seeds at once: 3, answers per row: 4, .* 13.4 GB"),
    ],
)
def test_data_that_do_not_fit_into_memory_are_refused_before_they_are_drawn(fields, seeds, says):
    built, reference = small(seeds)
    rest = "and sampled data may take 4 GB; lower rows or candidates, or run fewer seeds"
    with pytest.raises(LabError, match=rf"data\.rows: .*{says}, {rest}"):
        make(Sampled(**fields), built, reference, seeds)


def test_other_environments_have_no_such_data():
    built = GaussianBandit().build(1, 1, Streams([0]))
    with pytest.raises(LabError, match="'sampled' is made from the rewards of the environment 'sequences'"):
        Sampled().build(built, None, data_streams())
