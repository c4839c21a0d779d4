"""Cases of the claims on policy objectives, and what is done to them.

``crossed`` are full batches in which ratios on both sides of the usual clip edges meet advantages of both signs. Where
a component may mix the steps of an episode, they share one advantage, as only then sequence forms are defined.
``Choices`` are whole decisions: over all actions, expectations are exact sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.batch import Batch, required
from rlhf_lab.components import Component, PolicyObjective
from rlhf_lab.conformance.inputs import level, with_fields
from rlhf_lab.conformance.property import Violation, expect_equal
from rlhf_lab.conformance.strategies import numbers, table
from rlhf_lab.conformance.subject import Answer, Subject
from rlhf_lab.types import PolicyBatch

__all__ = [
    "Choices",
    "choices",
    "crossed",
    "decisions",
    "expect_slope",
    "expected_slope",
    "kinks",
    "log_ratio",
    "on_policy",
    "shifted",
    "with_advantages",
]

_LOG_RATIOS: Final = (0.0, 0.125, -0.125, 0.25, -0.25, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)
_OTHERS: Final = ("old_log_probs", "behaviour_log_probs", "ref_log_probs")
_ALL: Final = frozenset({*_OTHERS, "entropy", "uniforms", "group_ids"})
_NEARBY: Final = 2.0**-20


@dataclass(frozen=True, eq=False)
class Choices(Batch):
    """One decision per row: logits of the policy and of the one that sampled, an advantage for every action."""

    axes: ClassVar[str] = "action"

    logits: Tensor = required("float", "same")
    old_logits: Tensor = required("float", "same")
    advantages: Tensor = required("float", "same")


def crossed(component: Component) -> st.SearchStrategy[PolicyBatch]:
    """Return full batches ``[2, 6]`` with the optional fields that some setting of the component may read."""
    varies = type(component).needs is not PolicyObjective.needs
    return _crossed(_ALL if varies else component.needs(), component.scope == "episode")


@cache
def _crossed(fields: frozenset[str], by_episode: bool) -> st.SearchStrategy[PolicyBatch]:
    batches = _batches(fields)
    return batches.map(lambda batch: level(batch, "advantages")) if by_episode else batches


@st.composite
def _batches(draw: st.DrawFn, fields: frozenset[str]) -> PolicyBatch:
    old = table(draw, (-1.0, -0.5, -0.25, -2.0, -4.0, -8.0), 2, 6)
    found: dict[str, Any] = {"log_probs": old + table(draw, _LOG_RATIOS, 2, 6)}
    found["advantages"] = table(draw, numbers(), 2, 6)
    found["ends"] = table(draw, (False, False, True), 2, 6)
    found["valid"] = torch.ones(2, 6, dtype=torch.bool)
    for name in _OTHERS:
        if name in fields:
            found[name] = old if name == "old_log_probs" else old + table(draw, _LOG_RATIOS, 2, 6)
    if "entropy" in fields:
        found["entropy"] = table(draw, numbers(), 2, 6).abs()
    if "uniforms" in fields:
        found["uniforms"] = table(draw, tuple(i / 16 for i in range(16)), 2, 6)
    if "group_ids" in fields:
        found["group_ids"] = table(draw, (0, 1), 2, 1)[:, 0]
    return PolicyBatch(**found)


def on_policy(case: PolicyBatch) -> PolicyBatch:
    """Return the batch with all other policies equal to the current one."""
    same = {name: case.log_probs.clone() for name in _OTHERS if getattr(case, name) is not None}
    return with_fields(case, same)


def with_advantages(case: PolicyBatch, advantages: Tensor) -> PolicyBatch:
    """Return the batch with other advantages."""
    return with_fields(case, {"advantages": advantages})


def shifted(case: PolicyBatch, by: float, *names: str) -> PolicyBatch:
    """Return the batch with ``by`` added to some log-probabilities, where given."""
    given = {name: getattr(case, name) for name in names}
    return with_fields(case, {name: x + by for name, x in given.items() if x is not None})


def log_ratio(subject: Subject, case: PolicyBatch) -> Tensor:
    """Return ``log ρ`` against the policy that sampled: the behaviour's where the component reads it, else the old."""
    name = "behaviour_log_probs" if "behaviour_log_probs" in subject.component.needs() else "old_log_probs"
    sampler = getattr(case, name)
    if sampler is None:
        raise Violation(f"{name} not read", "a component that compares with the policy that sampled")
    difference: Tensor = case.log_probs - sampler
    return difference


def expect_slope(subject: Subject, case: PolicyBatch, due: Tensor, where: Tensor | None = None, *, note: str) -> None:
    """Raise ``Violation`` unless ``dL/dlog π`` is what is due; at a kink of the loss every answer will do."""
    where = case.valid if where is None else where & case.valid
    answer = subject(case)
    try:
        expect_equal(answer, {"dL/dlog_probs": due}, where, note=note)
    except Violation:
        expect_equal(answer, {"dL/dlog_probs": due}, where & ~kinks(subject, case), note=note)


def kinks(subject: Subject, case: PolicyBatch) -> Tensor:
    """Return where the gradient jumps: a clip edge, at which its value is a matter of form."""
    above, below = (subject(shifted(case, by, "log_probs"))["dL/dlog_probs"] for by in (_NEARBY, -_NEARBY))
    return (above - below).abs() > 1e-3 * above.abs().clamp(min=1)


@cache
def choices(actions: int = 3) -> st.SearchStrategy[Choices]:
    """Return decisions between so many actions, two per case, of two different policies."""
    return _choices(actions)


@st.composite
def _choices(draw: st.DrawFn, actions: int) -> Choices:
    logits, old = (table(draw, numbers(2), 2, actions) for _ in range(2))
    return Choices(logits, old, table(draw, numbers(), 2, actions))


def decisions(case: Choices, *, sampler: Tensor, reference: Tensor | None = None) -> PolicyBatch:
    """Return the batch ``[rows, actions]`` in which every action is an episode of one step.

    ``sampler`` and ``reference`` are log-probabilities; without a reference it is the policy itself.
    """
    policy = case.logits.log_softmax(-1)
    full = torch.ones(policy.shape, dtype=torch.bool)
    entropy = -(policy.exp() * policy).sum(-1, keepdim=True).expand(policy.shape).contiguous()
    return PolicyBatch(
        log_probs=policy,
        advantages=case.advantages,
        valid=full,
        ends=full.clone(),
        old_log_probs=sampler,
        behaviour_log_probs=sampler.clone(),
        ref_log_probs=policy.clone() if reference is None else reference,
        entropy=entropy,
        uniforms=torch.full_like(policy, 0.5),
        group_ids=torch.zeros(len(policy), dtype=torch.int64),
    )


def expected_slope(answer: Answer, batch: PolicyBatch, sampler: Tensor) -> Tensor:
    """Return the exact expectation under the sampler of dL/dlogits, by d log π(a)/dlogits = e_a − π."""
    weighted = sampler.exp() * answer["dL/dlog_probs"]
    return weighted - batch.log_probs.exp() * weighted.sum(-1, keepdim=True)
