"""Laws and claims of role aggregation: micro-batches add up, and which steps and sequences weigh alike.

All is said of a step's share = weight / Σ total, since a common factor of weights and totals has no meaning. A sequence
is an episode with a valid step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import Masks, Segment, segments, take_rows, take_steps
from rlhf_lab.conformance.property import Check, Property, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["PROPERTIES"]

_FLOAT32: Final = 1e-6  # masks know no dtype, so that weights may be rounded to float32
_CONTRACT: Final = "contract of rlhf_lab: loss = Σ weights · values / Σ total over all micro-batches"
_GRPO: Final = "Shao et al. 2024 (GRPO), eq. 3"
_DR_GRPO: Final = "Liu et al. 2025 (Dr. GRPO), section 3.2"


def _share(subject: Subject, case: Masks) -> Tensor:
    return subject(case)["share"].double()


def _same(found: Tensor, due: Tensor, where: Tensor, note: str) -> None:
    expect_equal({"share": found}, {"share": due}, where, note=note, tolerance=_FLOAT32)


def _together(subject: Subject, parts: Iterable[Masks]) -> list[Tensor]:
    """Return the shares of each part's steps in the loss of all parts, which were asked for one by one."""
    answers = [subject(part) for part in parts]
    total = sum(float(each["total"].double().sum()) for each in answers)
    return [each["weights"].double() / (total or 1) for each in answers]


def _invalid_weigh_nothing(subject: Subject, case: Masks) -> None:
    weights = subject(case)["weights"]
    expect_equal({"weights": weights}, {"weights": torch.zeros_like(weights)}, ~case.valid, note="at an invalid step")


def _never_negative(subject: Subject, case: Masks) -> None:
    answer = subject(case)
    for symbol in ("weights", "total"):
        least = float(answer[symbol].min())
        expect_true(least >= 0 and math.isfinite(least), f"{symbol} of {show_number(least)}", "none below 0")


def _no_weight_without_total(subject: Subject, case: Masks) -> None:
    answer = subject(case)
    if float(answer["weights"].sum()) > 0:
        total = float(answer["total"].sum())
        expect_true(total > 0, f"Σ total = {show_number(total)} though steps weigh", "a sum to divide by")


def _micro_batches(subject: Subject, case: Masks) -> None:
    rows = case.valid.shape[0]
    splits = [[[row] for row in range(rows)], [[*range(min(2, rows))], [*range(2, rows)]]]
    for split in splits[: 1 if rows < 3 else 2]:
        parts = _together(subject, (take_rows(case, part) for part in split))
        note = f"whatever the micro-batches, here rows {' | '.join(str(part)[1:-1] for part in split)}"
        _same(torch.cat(parts), _share(subject, case), case.valid, note)


def _steps_apart(subject: Subject, case: Masks) -> None:
    parts = _together(subject, (take_steps(case, [step]) for step in range(case.valid.shape[1])))
    _same(torch.cat(parts, dim=1), _share(subject, case), case.valid, "as for every step in a batch of its own")


def _episodes_apart(subject: Subject, case: Masks) -> None:
    sequences = segments(case)
    if not sequences:
        return
    alone = torch.zeros(len(sequences), case.valid.shape[1], dtype=torch.bool)
    for row, each in enumerate(sequences):
        alone[row, list(each.steps)] = True
    rows = [each.row for each in sequences]
    apart = Masks(case.losses[rows], alone, alone & case.ends[rows])
    found, due = _share(subject, apart), torch.zeros(case.valid.shape, dtype=torch.float64)
    for row, each in enumerate(sequences):
        due[each.row, list(each.steps)] = found[row, list(each.steps)]
    _same(_share(subject, case), due, case.valid, "as with a row for each episode")


def _empty_rows(subject: Subject, case: Masks) -> None:
    nothing = torch.zeros_like(case.valid[:1])
    longer = Masks(*(torch.cat([x, y]) for x, y in _pairs(case, nothing)))
    _same(_share(subject, longer)[:-1], _share(subject, case), case.valid, "as without one more row that has no step")


def _pairs(case: Masks, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(case.losses, torch.ones(mask.shape, dtype=torch.float64)), (case.valid, mask), (case.ends, mask)]


def _is_a_mean(subject: Subject, case: Masks) -> None:
    if bool(case.valid.any()):
        total = float(_share(subject, case)[case.valid].sum())
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
    _alike(each for sequence in segments(case) for each in _named(_share(subject, case), sequence))


def _steps_of_a_sequence_alike(subject: Subject, case: Masks) -> None:
    for sequence in segments(case):
        _alike(_named(_share(subject, case), sequence))


def _sequences_alike(subject: Subject, case: Masks) -> None:
    share = _share(subject, case)
    names = [(f"the sequence that ends at step {each.steps[-1]} of row {each.row}", each) for each in segments(case)]
    _alike((name, float(share[each.row, list(each.steps)].sum())) for name, each in names)


def _sums_averaged(subject: Subject, case: Masks) -> None:
    due = torch.full(case.valid.shape, 1 / max(1, len(segments(case))), dtype=torch.float64)
    _same(_share(subject, case), due, case.valid, "= 1 / number of sequences")


def _length_free(subject: Subject, case: Masks) -> None:
    longer = Masks(*(torch.cat([y, x], dim=1) for x, y in _pairs(case, case.valid.any(1, keepdim=True))))
    longer = Masks(longer.losses, longer.valid, longer.ends & (torch.arange(longer.ends.shape[1]) > 0))
    found = _share(subject, longer)[:, 1:]
    _same(found, _share(subject, case), case.valid, "as before each row's first sequence got one more step")


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
    found = _share(subject, Masks(case.losses, case.valid, flipped))
    _same(found, _share(subject, case), case.valid, "whether or not the row's last step is flagged as an end")


def _inverse_to_length(subject: Subject, case: Masks) -> None:
    length = subject.parameter("length", 1.0)
    found = _share(subject.of(length=4 * length), case)
    _same(4 * found, _share(subject, case), case.valid, "for four times the share at four times the `length`")


def _length_one(subject: Subject, case: Masks) -> None:
    due = torch.full(case.valid.shape, 1 / max(1, len(segments(case))), dtype=torch.float64)
    _same(_share(subject.of(length=1.0), case), due, case.valid, "= 1 / number of sequences at `length` 1")


def _scope(*scopes: str) -> Any:
    def applies(component: Component) -> str | None:
        return None if component.scope in scopes else f"its scope is {component.scope}"

    return applies


_BY_EPISODE: Final = _scope("step", "item", "episode")


def _law(id_: str, statement: str, reference: str, check: Check, applies: Any = None) -> Property:
    options = {} if applies is None else {"applies": applies}
    return Property(id_, "aggregation", statement, reference, False, check, **options)


def _claim(id_: str, statement: str, reference: str, check: Check) -> Property:
    return Property(id_, "aggregation", statement, reference, True, check)


PROPERTIES: list[Property] = [
    _law("invalid-steps-weigh-nothing", "the weight of an invalid step is 0", _CONTRACT, _invalid_weigh_nothing),
    _law("weights-never-negative", "weights and totals are numbers of at least 0", _CONTRACT, _never_negative),
    _law(
        "no-weight-without-total",
        "where a step weighs, Σ total > 0, so that there is something to divide by",
        f"{_CONTRACT}; verl issue 3741",
        _no_weight_without_total,
    ),
    _law(
        "micro-batches-add-up",
        "rows in several micro-batches have the shares that they have in one: Σ weights · values / Σ total is the same",
        f"{_CONTRACT}; transformers issue 34191; verl issues 6957, 5983",
        _micro_batches,
        _BY_EPISODE,
    ),
    _law(
        "steps-weigh-apart",
        "a step has the share that it has when every step is a batch of its own",
        "contract of rlhf_lab: scope step",
        _steps_apart,
        _scope("step"),
    ),
    _law(
        "episodes-weigh-apart",
        "episodes in one row have the shares that they have in rows of their own",
        "contract of rlhf_lab: scope episode",
        _episodes_apart,
        _BY_EPISODE,
    ),
    _law(
        "empty-rows-weigh-nothing",
        "a row without a valid step changes no share: it is no sequence",
        "TRL pull request 6439",
        _empty_rows,
    ),
    _claim("is-a-mean", "shares sum to 1, so that equal losses are the loss", "Schulman et al. 2017, eq. 7", _is_a_mean),
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
    _claim("sequence-sums-averaged", "the share of every valid step is 1 / number of sequences", "Williams 1992", _sums_averaged),
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
