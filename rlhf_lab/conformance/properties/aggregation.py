"""Laws of role aggregation: weights are weights, and micro-batches, rows and episodes add up.

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
from rlhf_lab.conformance.inputs import Masks, segments, take_rows, take_steps
from rlhf_lab.conformance.properties.aggregation_claims import CLAIMS, appended, expect_shares, share_of
from rlhf_lab.conformance.property import Check, Property, always, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["PROPERTIES"]

_CONTRACT: Final = "contract of rlhf_lab: loss = Σ weights · values / Σ total over all micro-batches"


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
        expect_shares(torch.cat(parts), share_of(subject, case), case.valid, note)


def _steps_apart(subject: Subject, case: Masks) -> None:
    parts = _together(subject, (take_steps(case, [step]) for step in range(case.valid.shape[1])))
    expect_shares(
        torch.cat(parts, dim=1), share_of(subject, case), case.valid, "as for every step in a batch of its own"
    )


def _episodes_apart(subject: Subject, case: Masks) -> None:
    sequences = segments(case)
    if not sequences:
        return
    alone = torch.zeros(len(sequences), case.valid.shape[1], dtype=torch.bool)
    for row, each in enumerate(sequences):
        alone[row, list(each.steps)] = True
    rows = [each.row for each in sequences]
    apart = Masks(case.losses[rows], alone, alone & case.ends[rows])
    found, due = share_of(subject, apart), torch.zeros(case.valid.shape, dtype=torch.float64)
    for row, each in enumerate(sequences):
        due[each.row, list(each.steps)] = found[row, list(each.steps)]
    expect_shares(share_of(subject, case), due, case.valid, "as with a row for each episode")


def _empty_rows(subject: Subject, case: Masks) -> None:
    found = share_of(subject, appended(case, torch.zeros_like(case.valid[:1]), 0))[:-1]
    expect_shares(found, share_of(subject, case), case.valid, "as without one more row that has no step")


def _scope(*scopes: str) -> Any:
    def applies(component: Component) -> str | None:
        return None if component.scope in scopes else f"its scope is {component.scope}"

    return applies


_BY_EPISODE: Final = _scope("step", "item", "episode")


def _law(id_: str, statement: str, reference: str, check: Check, applies: Any = always) -> Property:
    return Property(id_, "aggregation", statement, reference, False, check, applies=applies)


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
    *CLAIMS,
]
