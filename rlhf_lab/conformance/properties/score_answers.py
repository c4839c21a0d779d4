"""What claims on reward-model losses share: their cases, other scores for a case, and the loss of every outcome.

``rankings`` and ``pairs`` are full batches without overflow, so that a claim can be told in its plainest form; that
padding and extremes change nothing is for the laws to say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import Component, RewardObjective
from rlhf_lab.conformance.inputs import map_fields, take_rows, with_fields
from rlhf_lab.conformance.properties.losses import answered
from rlhf_lab.conformance.property import Property, Violation
from rlhf_lab.conformance.score_cases import scores
from rlhf_lab.conformance.subject import Answer, Subject
from rlhf_lab.types import Scores

__all__ = [
    "any_order",
    "bradley_terry",
    "claim",
    "difference",
    "every_order",
    "given",
    "pairs",
    "rankings",
    "with_scores",
    "without_ties",
]

_LABELS: Final = frozenset({"targets", "ranks", "preference_prob", "margins", "uniforms"})


def rankings(component: Component) -> st.SearchStrategy[Scores]:
    """Return full batches of two candidates a row or more, of as many as the component takes."""
    return _full(_fields(component), component.most_candidates() if isinstance(component, RewardObjective) else None)


def pairs(component: Component) -> st.SearchStrategy[Scores]:
    """Return full batches of two candidates a row."""
    return _full(_fields(component), 2)


def _fields(component: Component) -> frozenset[str]:
    return component.needs() if type(component).needs is RewardObjective.needs else _LABELS


@cache
def _full(fields: frozenset[str], most: int | None) -> st.SearchStrategy[Scores]:
    return scores(fields, most=most, full=True)


def bradley_terry(apart: Tensor) -> Answer:
    """Return what ``bradley_terry`` answers to pairs ``r_w − r_l``."""
    slope = torch.sigmoid(-apart)
    return {"L": -logsigmoid(apart), "dL/dscores": torch.stack([-slope, slope], dim=-1)}


def difference(case: Scores) -> Tensor:
    """Return ``r_w − r_l`` of pairs."""
    return case.scores[:, 0] - case.scores[:, 1]


def with_scores(case: Scores, changed: Tensor) -> Scores:
    """Return the batch with other scores; what stands at invalid candidates stays."""
    kept = changed if case.valid is None else torch.where(case.valid, changed, case.scores)
    return map_fields(case, lambda name, _, x: kept if name == "scores" else x)


def given(case: Scores, name: str) -> Tensor:
    """Return an optional field; raises ``Violation`` where the component does not read it."""
    found: Tensor | None = getattr(case, name)
    if found is None:
        raise Violation(f"{name} not read", f"a component that reads {name}")
    return found


def without_ties(case: Scores) -> Scores:
    """Return the batch with ranks, where it has any, that tell every two candidates apart."""
    if case.ranks is None:
        return case
    return with_fields(case, {"ranks": torch.arange(case.ranks.shape[-1]).expand_as(case.ranks).contiguous()})


def every_order(subject: Subject, case: Scores) -> tuple[Tensor, Tensor]:
    """Return the losses ``[rows, orders]`` of a full batch's candidates in every order, and the orders ``[orders, k]``.

    Only scores change places: a label that is told of a place stays there.
    """
    rows, k = case.scores.shape
    orders = torch.tensor(list(permutations(range(k))))
    many = take_rows(case, [row for row in range(rows) for _ in orders])
    moved = case.scores[:, orders].reshape(-1, k)
    return subject(with_scores(many, moved))["L"].view(rows, -1), orders


def any_order(case: Scores, order: list[int]) -> Scores:
    """Return the batch with its candidates, and all that is told of them, in another order."""
    return map_fields(case, lambda _, axes, x: x[..., order] if axes == "same" else x)


def claim(id_: str, statement: str, reference: str, check: Callable[[Subject, Any], None], **options: Any) -> Property:
    """Return a claim on reward-model losses; its cases are ``rankings`` unless it says otherwise."""
    chosen = {"cases": rankings, "share": 0.25, **options}
    full = None if chosen["cases"] is None else _told_of_full(check, exactly=2 if chosen["cases"] is pairs else None)
    return Property(id_, "reward_model", statement, reference, True, answered(full or check), **chosen)


def _told_of_full(check: Callable[[Subject, Any], None], exactly: int | None) -> Callable[[Subject, Any], None]:
    """Return the check with nothing to say of batches that are no longer full once they were made smaller."""

    def checked(subject: Subject, case: Scores) -> None:
        k = case.scores.shape[-1]
        if (k < 2 if exactly is None else k != exactly) or not bool(case.valid is None or case.valid.all()):
            return
        check(subject, case)

    return checked
