"""Aggregations: hand tables, and laws about splits, packing and padding with the mutants that these must reject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from rlhf_lab.types import Weights
from rlhf_lab_objectives import Constant, SequenceMean, SequenceSum, TokenMean

Aggregate = Callable[[Tensor, Tensor], Weights]

ALL = [TokenMean(), SequenceMean(), SequenceSum(), Constant(length=8)]


def name_of(part: Any) -> str | None:
    return getattr(part, "name", None) or getattr(part, "__name__", None)


def loss_of(aggregation: Aggregate, values: Tensor, valid: Tensor, ends: Tensor, parts: list[list[int]]) -> float:
    """What the optimiser sees when the rows are worked through in micro-batches of the given rows."""
    answers = [aggregation(valid[rows], ends[rows]) for rows in parts]
    top = sum((w.weights * values[rows]).sum() for w, rows in zip(answers, parts, strict=True))
    return float(top / sum(w.total.sum() for w in answers))


def whole(aggregation: Aggregate, values: Tensor, valid: Tensor, ends: Tensor) -> float:
    return loss_of(aggregation, values, valid, ends, [list(range(len(valid)))])


def bools(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


# Four rows. Losses 1, 2, 3, ... in reading order, so that every weight shows.
# row 0: an episode of 3; row 1: episodes of 1 and 2, then padding; row 2: one episode of 2, with padding before, a hole
# and a live edge; row 3: nothing valid, though it has two ends.
VALID = bools([[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
ENDS = bools([[0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
VALUES = torch.arange(1.0, 17.0, dtype=torch.float64).view(4, 4)
# Sequences: (1 2 3), (5), (6 7), (10 12): 8 steps, 4 sequences.
TABLE = {
    "token_mean": 46 / 8,  # 6 + 5 + 13 + 22
    "sequence_mean": (2 + 5 + 6.5 + 11) / 4,
    "sequence_sum": 46 / 4,
    "constant": 46 / (4 * 8),
}


def law_table(aggregation: Any, name: str) -> None:
    assert whole(aggregation, VALUES, VALID, ENDS) == pytest.approx(TABLE[name], abs=1e-12)


def law_splits(aggregation: Aggregate, name: str = "") -> None:
    """Any split and order of the rows into micro-batches gives the same loss."""
    expected = whole(aggregation, VALUES, VALID, ENDS)
    for parts in ([[0], [1], [2], [3]], [[0, 1, 2], [3]], [[3, 0], [2, 1]], [[1], [3, 2, 0]]):
        assert loss_of(aggregation, VALUES, VALID, ENDS, parts) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("law", [law_table, law_splits], ids=name_of)
@pytest.mark.parametrize("aggregation", ALL, ids=name_of)
def test_laws_hold(law: Callable[[Aggregate, str], None], aggregation: Any) -> None:
    law(aggregation, aggregation.name)


def mean_of_micro_batch_means(valid: Tensor, ends: Tensor) -> Weights:  # G01
    ones = torch.zeros(valid.shape, dtype=torch.float64)
    ones.view(-1)[0] = 1
    return Weights(valid.double() / valid.sum().clamp(min=1), ones)


def token_sum_divided_by_length(valid: Tensor, ends: Tensor) -> Weights:  # G08, as sequence_sum
    return SequenceMean()(valid, ends)


def sequence_means_summed_per_micro_batch(valid: Tensor, ends: Tensor) -> Weights:  # G09
    answer = SequenceMean()(valid, ends)
    return Weights(answer.weights / answer.total.sum().clamp(min=1), answer.total)


def divided_by_the_longest_row(valid: Tensor, ends: Tensor) -> Weights:  # G12, as constant
    return Constant(length=max(1.0, float(valid.sum(-1).max())))(valid, ends)


def one_sequence_per_row(valid: Tensor, ends: Tensor) -> Weights:  # blind to packing
    return SequenceMean()(valid, torch.zeros_like(ends))


def ends_counted_valid_or_not(valid: Tensor, ends: Tensor) -> Weights:  # G15
    return Weights(valid.double(), ends.double())


@pytest.mark.parametrize(
    ("law", "mutant", "name"),
    [
        (law_splits, mean_of_micro_batch_means, "token_mean"),
        (law_table, token_sum_divided_by_length, "sequence_sum"),
        (law_splits, sequence_means_summed_per_micro_batch, "sequence_mean"),
        (law_splits, divided_by_the_longest_row, "constant"),
        (law_table, divided_by_the_longest_row, "constant"),
        (law_table, one_sequence_per_row, "sequence_mean"),
        (law_table, ends_counted_valid_or_not, "sequence_sum"),
    ],
    ids=name_of,
)
def test_laws_reject_mutants(law: Callable[[Aggregate, str], None], mutant: Aggregate, name: str) -> None:
    with pytest.raises(AssertionError):
        law(mutant, name)


def test_weights_by_hand() -> None:
    # Episodes of 2 and 1, then padding: 1/2 1/2 | 1 | 0.
    valid, ends = bools([[1, 1, 1, 0]])[0], bools([[0, 1, 1, 0]])[0]
    steps, shares = [1, 1, 1, 0], [0.5, 0.5, 1, 0]
    expected = {
        "token_mean": (steps, steps),
        "sequence_mean": (shares, shares),
        "sequence_sum": (steps, shares),
        "constant": (steps, [4.0, 4.0, 8.0, 0.0]),
    }
    for aggregation in ALL:
        answer = aggregation(valid, ends)
        assert (answer.weights.tolist(), answer.total.tolist()) == expected[aggregation.name]


def test_equal_lengths_make_all_agree_up_to_a_factor() -> None:
    # Three sequences of 2: token mean = sequence mean = sequence sum / 2 = constant * 8 / 2.
    valid = bools([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    values = torch.arange(1.0, 10.0, dtype=torch.float64).view(3, 3)
    found = [whole(a, values, valid, torch.zeros_like(valid)) for a in ALL]
    assert [found[0], found[1], found[2] / 2, found[3] * 4] == pytest.approx([found[0]] * 4, abs=1e-12)


@pytest.mark.parametrize("aggregation", ALL, ids=name_of)
def test_packed_episodes_weigh_as_in_rows_of_their_own(aggregation: Aggregate) -> None:
    # Lengths 3, 1, 2 packed into one row, and the same in three padded rows.
    packed_valid, packed_ends = bools([[1] * 6]), bools([[0, 0, 1, 1, 0, 1]])
    packed = torch.tensor([[1.0, 2, 3, 4, 5, 6]], dtype=torch.float64)
    valid, ends = bools([[1, 1, 1], [1, 0, 0], [1, 1, 0]]), bools([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    values = torch.tensor([[1.0, 2, 3], [4, 0, 0], [5, 6, 0]], dtype=torch.float64)
    found = whole(aggregation, packed, packed_valid, packed_ends)
    assert found == pytest.approx(whole(aggregation, values, valid, ends), abs=1e-12)


@pytest.mark.parametrize("aggregation", ALL, ids=name_of)
def test_padding_columns_and_empty_rows_are_inert(aggregation: Aggregate) -> None:
    wide = [torch.zeros(6, 9, dtype=x.dtype) for x in (VALUES, VALID, ENDS)]
    for padded, x in zip(wide, (VALUES, VALID, ENDS), strict=True):
        padded[1:5, 3:7] = x
    assert whole(aggregation, *wide) == pytest.approx(whole(aggregation, VALUES, VALID, ENDS), abs=1e-12)


@pytest.mark.parametrize("aggregation", ALL, ids=name_of)
def test_nothing_valid_weighs_nothing(aggregation: Aggregate) -> None:
    answer = aggregation(torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool))
    assert float(answer.weights.sum()) == float(answer.total.sum()) == 0


@pytest.mark.parametrize("aggregation", ALL, ids=name_of)
def test_leading_axes_do_not_matter(aggregation: Aggregate) -> None:
    torch.manual_seed(0)
    valid, ends = torch.rand(2, 4, 7) > 0.3, torch.rand(2, 4, 7) > 0.6
    stacked = aggregation(valid, ends)
    for run in range(2):
        single = aggregation(valid[run, 3], ends[run, 3])
        assert torch.equal(stacked.weights[run, 3], single.weights)
        assert torch.equal(stacked.total[run, 3], single.total)


def sequences_of(values: Tensor, valid: Tensor, ends: Tensor) -> list[list[float]]:
    """The losses of each sequence, by walking the rows step by step."""
    found: list[list[float]] = []
    for row in range(len(valid)):
        current: list[float] = []
        for t in range(valid.shape[1]):
            if valid[row, t]:
                current.append(float(values[row, t]))
            if ends[row, t] or t == valid.shape[1] - 1:
                found, current = [*found, current], []
    return [steps for steps in found if steps]


masks = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=5), min_size=1, max_size=4)


@settings(derandomize=True, max_examples=50, deadline=None, database=None)
@given(masks)
def test_every_aggregation_is_what_a_walk_over_the_sequences_says(rows: list[list[tuple[bool, bool]]]) -> None:
    valid, ends = torch.tensor(rows).unbind(-1)
    values = torch.arange(1.0, valid.numel() + 1, dtype=torch.float64).view(valid.shape)
    sequences = sequences_of(values, valid, ends)
    assume(sequences)
    total, steps, count = sum(map(sum, sequences)), sum(map(len, sequences)), len(sequences)
    expected = [total / steps, sum(sum(s) / len(s) for s in sequences) / count, total / count, total / (8 * count)]
    assert [whole(a, values, valid, ends) for a in ALL] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("length", [0, -1, float("inf"), float("nan")])
def test_constant_refuses_a_length_that_is_none(length: float) -> None:
    with pytest.raises(ValidationError):
        Constant(length=length)


def test_constant_divides_by_nothing_unless_told() -> None:
    assert Constant() == Constant(length=1)


def test_only_the_token_mean_may_be_cut_inside_an_episode() -> None:
    assert [a.scope for a in ALL] == ["step", "episode", "episode", "episode"]
