"""Laws of role preference, which every sensible loss on responses obeys, and all that one may claim.

Throughout L is the loss of a row of responses and g its gradient dL/dlog π.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import insert, map_fields
from rlhf_lab.conformance.properties import (
    preference_claims,
    preference_directions,
    preference_imitation,
    preference_labels,
    preference_limits,
    preference_optima,
    preference_tokens,
)
from rlhf_lab.conformance.properties.losses import answered, some_gradient
from rlhf_lab.conformance.properties.response_answers import whole_rows
from rlhf_lab.conformance.properties.rows import better, empty_rows_do_not_count
from rlhf_lab.conformance.property import Property, expect_equal, expect_true
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["PROPERTIES"]

_UNLIKELY: Final = -8000.0  # the log-probability of a long response under a policy that would not write it
_CERTAIN: Final = -1e-9
_APART: Final = 64.0  # log-probabilities by which a policy parts responses widely


def _under(case: Rankings, policy: Tensor, reference: Tensor, mismatched: Tensor) -> Rankings:
    """Return the batch with other log-probabilities; where tokens have their own, the first one has all of it."""

    def change(name: str, axes: str, x: Tensor) -> Tensor:
        if not name.endswith("log_probs"):
            return x
        due = reference if "ref_" in name else mismatched if "mismatched" in name else policy
        return (
            due.expand_as(x)
            if axes == "same"
            else insert(due.expand(x.shape[:-1])[..., None], 1, 0, x.shape[-1] - 1, -1)
        )

    return map_fields(case, change)


def _finite(subject: Subject, case: Rankings) -> None:
    odd = torch.arange(case.log_probs.shape[-1]) % 2 == 1
    ends = [torch.where(odd, x, y).to(case.log_probs) for x, y in ((_UNLIKELY, _CERTAIN), (_CERTAIN, _UNLIKELY))]
    certain = torch.full_like(ends[0], _CERTAIN)
    for policy, reference in ((ends[0], ends[1]), (ends[1], ends[0]), (certain, certain), (certain, ends[0])):
        wide = _under(case, policy, reference, policy)
        for batch in (wide, map_fields(wide, lambda _, __, x: x.float() if x.is_floating_point() else x)):
            for symbol, x in subject(batch).items():
                kind = str(batch.log_probs.dtype).removeprefix("torch.")
                due = f"finite numbers at log-probabilities of {_UNLIKELY:g} and {_CERTAIN:g}"
                expect_true(bool(x.isfinite().all()), f"{symbol} not finite in {kind}", due)


def _agrees_with_labels(subject: Subject, case: Rankings) -> None:
    above = better(subject, case).to(case.log_probs)
    place = above.sum(-1) - above.sum(-2)  # how many others it is better than, less how many are better
    follows, inverts = (subject(_spread(case, side * place))["L"] for side in (1, -1))
    note = "at most, which the opposite policy gets: labels are not to be inverted"
    expect_equal({"L": follows}, {"L": torch.minimum(follows, inverts)}, note=note)


def _spread(case: Rankings, place: Tensor) -> Rankings:
    """Return the batch with responses of one token whose probabilities are far apart in this order."""
    policy = _APART * (place - case.log_probs.shape[-1])  # all below 0
    reference = torch.full_like(policy, -_APART * case.log_probs.shape[-1])

    def change(name: str, _: str, x: Tensor) -> Tensor:
        if name == "token_valid":
            return (torch.arange(x.shape[-1]) == 0).expand_as(x)
        return torch.ones_like(x) if name == "lengths" else torch.zeros_like(x) if name == "token_kl" else x

    return map_fields(_under(case, policy, reference, reference), change)


def _law(id_: str, statement: str, reference: str, check: Callable[[Subject, Any], None], **options: Any) -> Property:
    return Property(id_, "preference", statement, reference, False, answered(check), **options)


PROPERTIES: list[Property] = [
    some_gradient("preference"),
    empty_rows_do_not_count("preference"),
    _law(
        "finite-at-extreme-log-probs",
        "values and gradients are finite at margins of ±8000 and at log-probabilities of -1e-9, in float64 and float32",
        "DeepSpeedExamples issues 423 and 501",
        _finite,
        cases=whole_rows,
        share=0.25,
    ),
    _law(
        "labels-are-followed",
        "a policy that widely prefers what the labels do never has a larger loss than one that prefers the opposite",
        "Rafailov et al. 2023, section 4; LLaMA-Factory commit be0a807e8",
        _agrees_with_labels,
        share=0.5,
    ),
    *preference_claims.CLAIMS,
    *preference_directions.CLAIMS,
    *preference_optima.CLAIMS,
    *preference_limits.CLAIMS,
    *preference_imitation.CLAIMS,
    *preference_labels.CLAIMS,
    *preference_tokens.LAWS,
    *preference_tokens.CLAIMS,
]
