"""Laws that role preference and role reward_model share beside the common ones: of rows that count, and of labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import tensors
from rlhf_lab.conformance.properties.losses import answered
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Subject

__all__ = ["better", "empty_rows_do_not_count"]


def empty_rows_do_not_count(role: str) -> Property:
    """Return the law that a row without a valid candidate has weight 0."""

    def check(subject: Subject, case: Any) -> None:
        weights = subject(case)["weights"]
        due = torch.where(case.valid.any(-1), weights.clamp(min=0), 0)
        expect_equal({"weights": weights}, {"weights": due}, note="where no candidate is valid, and nowhere below 0")

    statement = "a row without a valid candidate has weight 0, and no weight is negative"
    return Property("empty-rows-do-not-count", role, statement, "torchrl issue 3886", False, answered(check), share=0.5)


def better(subject: Subject, case: Any) -> Tensor:
    """Return which candidate ``[rows, k, k]`` the labels that the component reads put before which other."""
    needs, k = subject.component.needs(), next(x for _, _, x in tensors(case)).shape[-1]
    both: Tensor = case.valid[:, :, None] & case.valid[:, None, :]
    for name in ("desirable", "targets", "gains"):
        label = getattr(case, name, None)
        if name in needs and label is not None:
            above: Tensor = label[:, :, None] > label[:, None, :]
            return both & above
    before = (torch.arange(k)[:, None] < torch.arange(k)).expand_as(both)
    if "ranks" in needs and case.ranks is not None:
        before = case.ranks[:, :, None] < case.ranks[:, None, :]
    if "preference_prob" in needs and case.preference_prob is not None:
        sure = case.preference_prob[:, None, None] - 0.5
        before = torch.where(before, sure > 0, (sure < 0) & before.mT)
    return both & before
