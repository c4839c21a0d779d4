"""Claims of role aggregation: which steps and sequences weigh alike, and what lengths change.

All is said of a step's share = weight / Σ total, since a common factor of weights and totals has no meaning. A sequence
is an episode with a valid step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import Masks, Segment, segments
from rlhf_lab.conformance.property import Check, Property, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["CLAIMS", "appended", "expect_shares", "share_of"]

_FLOAT32: Final = 1e-6  # masks know no dtype, so that weights may be rounded to float32
_CONTRACT: Final = "contract of rlhf_lab"
_GRPO: Final = "Shao et al. 2024 (GRPO), eq. 3"
_DR_GRPO: Final = "Liu et al. 2025 (Dr. GRPO), section 3.2"


def share_of(subject: Subject, case: Masks) -> Tensor:
    """Return the share of each step in the loss."""
    return subject(case)["share"].double()


def expect_shares(found: Tensor, due: Tensor, where: Tensor, note: str) -> None:
    """Raise unless shares are equal, up to rounding to float32."""
    expect_equal({"share": found}, {"share": due}, where, note=note, tolerance=_FLOAT32)


def appended(case: Masks, mask: Tensor, dim: int) -> Masks:
    """Return the case with a mask in front of its steps (``dim`` 1) or behind its rows (0); no episode ends there."""
    fields = ((case.losses, torch.ones(mask.shape, dtype=torch.float64)), (case.valid, mask), (case.ends, mask & False))
    return Masks(*(torch.cat([new, old] if dim == 1 else [old, new], dim=dim) for old, new in fields))


def _is_a_mean(subject: Subject, case: Masks) -> None:
    if bool(case.valid.any()):
        total = float(share_of(subject, case)[case.valid].sum())
        expect_true(abs(total - 1) <= _FLOAT32, f"shares that sum to {show_number(total)}", "1")


def _alike(shares: Iterable[tuple[str, float]]) -> None:
    """Raise unless all of the named shares are equal."""
    named = list(shares)
    if named:
        low_name, low = min(named, key=lambda each: each[1])
        high_name, high = max(named, key=lambda each: each[1])
        got = f"{show_number(low)} for {low_name}, {show_number(high)} for {high_name}"
        expect_true(high - low <= _FLOAT32, got, "equal shares")


def _named(share: Tensor, sequence: Segment) -> list[tuple[str, float]]:
    return [(f"step {step} of row {sequence.row}", float(share[sequence.row, step])) for step in sequence.steps]


def _steps_alike(subject: Subject, case: Masks) -> None:
    share = share_of(subject, case)
    _alike(each for sequence in segments(case) for each in _named(share, sequence))


def _steps_of_a_sequence_alike(subject: Subject, case: Masks) -> None:
    for sequence in segments(case):
        _alike(_named(share_of(subject, case), sequence))


def _sequences_alike(subject: Subject, case: Masks) -> None:
    share = share_of(subject, case)
    names = [(f"the sequence that ends at step {each.steps[-1]} of row {each.row}", each) for each in segments(case)]
    _alike((name, float(share[each.row, list(each.steps)].sum())) for name, each in names)


def _sums_averaged(subject: Subject, case: Masks) -> None:
    due = torch.full(case.valid.shape, 1 / max(1, len(segments(case))), dtype=torch.float64)
    expect_shares(share_of(subject, case), due, case.valid, "= 1 / number of sequences")


def _length_free(subject: Subject, case: Masks) -> None:
    longer = appended(case, case.valid.any(1, keepdim=True), 1)
    note = "as before each row's first sequence got one more step"
    expect_shares(share_of(subject, longer)[:, 1:], share_of(subject, case), case.valid, note)


def _equal_lengths_alike(subject: Subject, case: Masks) -> None:
    sequences = segments(case)
    shortest = min((len(each.steps) for each in sequences), default=0)
    kept = torch.zeros_like(case.valid)
    for each in sequences:
        kept[each.row, list(each.steps[-shortest:])] = True
    _steps_alike(subject, Masks(case.losses, kept, case.ends & kept))


def _cut_off_count(subject: Subject, case: Masks) -> None:
    flipped = case.ends.clone()
    for each in segments(case):
        later = case.valid[each.row, each.steps[-1] + 1 :]
        if not bool(later.any()):
            flipped[each.row, each.steps[-1]] ^= True
    found = share_of(subject, Masks(case.losses, case.valid, flipped))
    expect_shares(found, share_of(subject, case), case.valid, "whether or not the row's last step is flagged as an end")


def _inverse_to_length(subject: Subject, case: Masks) -> None:
    length = subject.parameter("length", 1.0)
    found = share_of(subject.of(length=4 * length), case)
    expect_shares(4 * found, share_of(subject, case), case.valid, "for four times the share at four times the `length`")


def _length_one(subject: Subject, case: Masks) -> None:
    due = torch.full(case.valid.shape, 1 / max(1, len(segments(case))), dtype=torch.float64)
    expect_shares(share_of(subject.of(length=1.0), case), due, case.valid, "= 1 / number of sequences at `length` 1")


def _claim(id_: str, statement: str, reference: str, check: Check) -> Property:
    return Property(id_, "aggregation", statement, reference, True, check)


CLAIMS: list[Property] = [
    _claim(
        "is-a-mean", "shares sum to 1, so that equal losses are the loss", "Schulman et al. 2017, eq. 7", _is_a_mean
    ),
    _claim(
        "every-step-weighs-alike",
        "all valid steps have the same share, whatever sequence they are of",
        "Yu et al. 2025 (DAPO), eq. 12",
        _steps_alike,
    ),
    _claim(
        "steps-of-a-sequence-weigh-alike",
        "the valid steps of one sequence have the same share",
        _GRPO,
        _steps_of_a_sequence_alike,
    ),
    _claim(
        "every-sequence-weighs-alike",
        "the shares of a sequence's steps sum to the same number for every sequence, however long",
        _GRPO,
        _sequences_alike,
    ),
    _claim(
        "sequence-sums-averaged",
        "the share of every valid step is 1 / number of sequences",
        "Williams 1992",
        _sums_averaged,
    ),
    _claim(
        "length-free",
        "a step's share stays what it is when a sequence gets one more step",
        _DR_GRPO,
        _length_free,
    ),
    _claim(
        "equal-lengths-weigh-alike",
        "where all sequences have the same number of valid steps, every step has the same share",
        f"{_DR_GRPO}; the aggregations differ by a factor only",
        _equal_lengths_alike,
    ),
    _claim(
        "cut-off-episodes-count",
        "an episode that the row's end cuts off is a sequence like one that ended there",
        _CONTRACT,
        _cut_off_count,
    ),
    _claim(
        "inversely-proportional-to-length",
        "four times the parameter `length` gives a quarter of every share",
        _DR_GRPO,
        _inverse_to_length,
    ),
    _claim(
        "length-one-is-sequence-sum",
        "at `length` 1 the share of every valid step is 1 / number of sequences",
        _DR_GRPO,
        _length_one,
    ),
]
