"""Claims of estimators that compare a response with the others to its prompt."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject, UnjudgedError

__all__ = ["GROUP_CLAIMS"]


def _first(case: Any) -> Tensor:
    """Return True at the first valid step of each row."""
    found: Tensor = case.valid & (case.valid.cumsum(-1) == 1)
    return found


def _per_row(case: Any, advantages: Tensor) -> list[tuple[int, int, float]]:
    """Return row, group and advantage of every response: a row with a valid step."""
    rows, steps = _first(case).nonzero(as_tuple=True)
    ids = case.group_ids.tolist()
    return [(int(r), ids[int(r)], float(advantages[r, t])) for r, t in zip(rows, steps, strict=True)]


def _groups(case: Any, advantages: Tensor) -> dict[int, list[tuple[int, float]]]:
    found: dict[int, list[tuple[int, float]]] = {}
    for row, group, advantage in _per_row(case, advantages):
        found.setdefault(group, []).append((row, advantage))
    return found


def _raised(case: Any, amounts: Tensor) -> Any:
    """Return the case with each row's score raised by ``amounts [rows]``, on its first valid step."""
    return with_fields(case, {"rewards": case.rewards + _first(case) * amounts[:, None]})


def _scores(case: Any) -> Tensor:
    """Return the score of each row, ``[rows]``."""
    found: Tensor = case.rewards.masked_fill(~case.valid, 0).sum(-1)
    return found


def _score_is_sum(subject: Subject, case: Any) -> None:
    scores = _scores(case)
    nothing = with_fields(case, {"rewards": torch.where(case.valid, 0.0, case.rewards)})
    before = subject(case)
    expect_equal(subject(_raised(nothing, scores)), before, case.valid, note="as with the score spread over the row")
    same = {"A": (before["A"] * _first(case)).sum(-1, keepdim=True).expand_as(case.rewards)}
    expect_equal(before, same, case.valid, note="on every valid step of the row")


def _shift(subject: Subject, case: Any) -> None:
    moved = _raised(case, 2.0 + case.group_ids.double())
    note = "as before all scores of a group rose by one number"
    expect_equal(subject(moved), subject(case), case.valid, note=note, tolerance=1e-7)


def _scale(subject: Subject, case: Any) -> None:
    eps = float(subject.parameter("eps", 0.0))
    if eps and not subject.has("eps"):
        raise UnjudgedError(f"its eps is fixed at {eps:g}, so that it cannot grow with the scores")
    judge = subject.of(eps=4 * eps) if eps else subject
    larger = with_fields(case, {"rewards": case.rewards * 4})
    expect_equal(judge(larger), subject(case), case.valid, note="as before all scores, and eps, were multiplied by 4")


def _sums_to_zero(subject: Subject, case: Any) -> None:
    for group, members in _groups(case, subject(case)["A"]).items():
        total = torch.tensor(sum(advantage for _, advantage in members), dtype=torch.float64)
        name = f"Σ A of group {group}"
        expect_equal({name: total}, {name: torch.zeros_like(total)})


def _own_score_counts_once(subject: Subject, case: Any) -> None:
    before = subject(case)["A"]
    for members in _groups(case, before).values():
        row, own = members[0]
        if len(members) < 2:
            continue
        amounts = torch.zeros(len(case.rewards), dtype=torch.float64)
        amounts[row] = 1.0
        after = dict(_groups(case, subject(_raised(case, amounts))["A"])[int(case.group_ids[row])])[row]
        name = f"A of row {row}"
        found, due = ({name: torch.tensor(x, dtype=torch.float64)} for x in (after, own + 1))
        expect_equal(found, due, note="= 1 more, as its own score rose by 1")


def _constant_is_zero(subject: Subject, case: Any) -> None:
    equal = with_fields(case, {"rewards": torch.where(case.valid, 0.0, case.rewards)})
    answer = subject(_raised(equal, torch.full((len(case.rewards),), 0.7, dtype=torch.float64)))
    expect_equal(answer, {"A": torch.zeros_like(case.rewards)}, case.valid, note="where all scores are 0.7")


def _alone_is_zero(subject: Subject, case: Any) -> None:
    apart = with_fields(case, {"group_ids": torch.arange(len(case.rewards))})
    expect_equal(subject(apart), {"A": torch.zeros_like(case.rewards)}, case.valid, note="for one response alone")


def _unit_deviation(subject: Subject, case: Any) -> None:
    ddof, eps = int(subject.parameter("ddof", 1)), float(subject.parameter("eps", 0.0))
    scores = _scores(case).tolist()
    for group, members in _groups(case, subject(case)["A"]).items():
        before, after = (_deviation(x, ddof) for x in zip(*((scores[row], a) for row, a in members), strict=True))
        if before:
            name, note = f"deviation of A in group {group}", f"= std / (std + eps), ddof {ddof}"
            found, due = ({name: torch.tensor(x, dtype=torch.float64)} for x in (after, before / (before + eps)))
            expect_equal(found, due, note=note)


def _deviation(x: Sequence[float], ddof: int) -> float:
    """Return the standard deviation, 0 of numbers that are equal or too few."""
    if len(x) <= ddof or min(x) == max(x):
        return 0.0
    return math.sqrt(statistics.pvariance(x) * len(x) / (len(x) - ddof))


def _order_kept(subject: Subject, case: Any) -> None:
    scores = _scores(case).tolist()
    for members in _groups(case, subject(case)["A"]).values():
        for row, own in members:
            for other, theirs in members:
                if scores[row] > scores[other] + 1e-6:
                    name = f"A of row {row} - A of row {other}"
                    found = {name: torch.tensor(own - theirs, dtype=torch.float64)}
                    due = {name: torch.tensor(max(own - theirs, 1e-6), dtype=torch.float64)}
                    expect_equal(found, due, note="or more: its score is higher", tolerance=0.0)


def _claim(id_: str, statement: str, reference: str, check: Callable[[Subject, Any], None]) -> Property:
    return Property(
        id_, "advantage", statement, reference, True, check, applies=about("group_ids"), reads=frozenset({"group_ids"})
    )


_RLOO: Final = "Kool et al. 2019"
_GRPO: Final = "Shao et al. 2024, section 4.1.2"

GROUP_CLAIMS: Final[list[Property]] = [
    _claim(
        "score-is-the-sum",
        "only the sum of a row's valid rewards counts; A is one number on its valid steps",
        _GRPO,
        _score_is_sum,
    ),
    _claim("shift-invariant-scores", "raising all scores of a group by one number changes nothing", _GRPO, _shift),
    _claim(
        "scale-invariant-scores",
        "multiplying all scores, and eps, by a positive number changes nothing",
        _GRPO,
        _scale,
    ),
    _claim("sums-to-zero", "the advantages of a group's responses sum to zero", _RLOO, _sums_to_zero),
    _claim(
        "own-score-counts-once",
        "∂A / ∂(own score) = 1 in a group of two or more: the baseline leaves it out",
        _RLOO,
        _own_score_counts_once,
    ),
    _claim("constant-group-is-zero", "equal scores give A = 0", _GRPO, _constant_is_zero),
    _claim("one-response-is-zero", "one response alone gets A = 0", _RLOO, _alone_is_zero),
    _claim(
        "unit-deviation",
        "the standard deviation of a group's advantages, with `ddof`, is std / (std + eps) of its scores",
        _GRPO,
        _unit_deviation,
    ),
    _claim("order-kept", "within a group, a higher score gets a higher advantage", _GRPO, _order_kept),
]
