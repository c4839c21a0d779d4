"""What a plain function cannot be asked, because its arguments cannot express it.

A function that takes no mask cannot be told of padding, one with only a flag ``done`` not of truncations, and so on.
Such batches are refused with the reason, so that it is judged by what its arguments can say and by nothing else; and
cases are mended first, so that most of them can be put to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.function.batches import BEHIND, PAIR, Given, last_steps
from rlhf_lab.conformance.strategies import consistent_next_values
from rlhf_lab.types import Refused

__all__ = ["Limits"]

_FLAGS: Final = frozenset({"terminated", "truncated", "done"})
_EMPTY: Final = "batches without a row or a step"

Where = Callable[[Given], Tensor]


@dataclass(frozen=True)
class _Limit:
    """What cannot be told, where in a batch it stands, and the fields that mend it there, with their values."""

    told: str
    where: Where
    mend: dict[str, bool]


_GO_ON: Final = {"terminated": False, "truncated": False}


@dataclass(frozen=True)
class Limits:
    """The limits of a function that takes these fields and pseudo-fields.

    ``looks_ahead`` says whether what it should compute uses the critic's value behind an end, ``one_sequence`` that a
    row should be one sequence unless the function is told of ``ends``.
    """

    role: str
    takes: frozenset[str]
    looks_ahead: bool = False
    one_sequence: bool = False

    def told(self) -> list[str]:
        """Return what the function is not judged by."""
        found = [limit.told for limit in self._limits()]
        return [*found, *([self._older_policy] if self._older_policy else []), _EMPTY]

    def check(self, given: Given) -> None:
        """Raise ``Refused`` for a batch that the function's arguments cannot express."""
        if any(0 in x.shape for x in given.values()):
            raise Refused(_EMPTY)
        if self._older_policy and "old_log_probs" in given:
            raise Refused(self._older_policy)
        for limit in self._limits():
            if bool(limit.where(given).any()):
                raise Refused(limit.told)

    def mended(self, batch: Any) -> Any:
        """Return a batch of the role that the function can be asked of, as near to the given one as can be."""
        if self._older_policy:
            return replace(batch, old_log_probs=None)
        given = {f.name: getattr(batch, f.name) for f in fields(batch)}
        for limit in self._limits():
            at = limit.where({name: x for name, x in given.items() if x is not None})
            if "valid" in limit.mend:  # what stood at an invalid step is junk
                plain = -1.0 if self.role == "preference" else 0.0  # as a log-probability too
                given |= {
                    name: x.masked_fill(at, plain if x.is_floating_point() else 1)
                    for name, x in given.items()
                    if isinstance(x, Tensor) and x.dtype != torch.bool and x.shape == at.shape
                }
            given |= {name: torch.where(at, torch.tensor(value), given[name]) for name, value in limit.mend.items()}
        if given.get("next_values") is not None and given.get("values") is not None:
            ends = given["terminated"] | given["truncated"]
            given["next_values"] = consistent_next_values(given["values"], given["next_values"], given["valid"], ends)
        return type(batch)(**given)

    @property
    def _older_policy(self) -> str:
        told = "samples of an older policy: it takes no old_log_probs"
        return told if self.role == "kl" and "old_log_probs" not in self.takes else ""

    def _limits(self) -> Iterator[_Limit]:
        if self.role in ("preference", "reward_model"):
            yield from self._candidates()
        elif self.role not in ("kl", "controller") and not self.takes & {"valid", "mask"}:
            told = "steps that do not count: it takes neither valid nor mask"
            yield _Limit(told, lambda given: ~given["valid"], {"valid": True})
        if self.one_sequence and "ends" not in self.takes:
            told = "several sequences in a row: it takes no ends"
            yield _Limit(told, lambda given: given["ends"] & ~last_steps(given["valid"]), {"ends": False})
        if self.role == "advantage":
            yield from self._ahead() if self.looks_ahead else self._ends()

    def _candidates(self) -> Iterator[_Limit]:
        """Yield the limits on how many candidates of a row count; who gives no weights cannot leave a row out."""
        if self.takes & PAIR:
            told = "rows with room for other than two candidates: it takes chosen and rejected"
            yield _Limit(told, lambda given: torch.full_like(given["valid"], given["valid"].shape[-1] != 2), {})
        if not self.takes & {"valid", "mask"}:
            told = "candidates that do not count: it takes neither valid nor mask"
            yield _Limit(told, lambda given: ~given["valid"], {"valid": True})
        told = "rows with fewer than two valid candidates: it gives no weights"
        yield _Limit(
            told, lambda given: (given["valid"].sum(-1, keepdim=True) < 2).expand_as(given["valid"]), {"valid": True}
        )

    def _ends(self) -> Iterator[_Limit]:
        """Yield the limits where an episode just stops at its end, whatever the kind."""
        flags = self.takes & _FLAGS
        if not flags:
            told = "several episodes in a row: it takes no flag"
            yield _Limit(told, _inner(lambda given: given["terminated"] | given["truncated"]), _GO_ON)
        elif "done" not in flags and "terminated" not in flags:
            told = "terminations inside a row: it takes neither terminated nor done"
            yield _Limit(told, _inner(lambda given: given["terminated"] & ~given["truncated"]), _GO_ON)
        elif "done" not in flags and "truncated" not in flags:
            told = "truncations inside a row: it takes neither truncated nor done"
            yield _Limit(told, _inner(_cut), _GO_ON)

    def _ahead(self) -> Iterator[_Limit]:
        """Yield the limits where the kind of an end decides whether the value behind it counts."""
        flags, behind = self.takes & _FLAGS, self.takes & BEHIND
        if not flags & {"terminated", "done"}:
            told = "terminations inside a row: it takes neither terminated nor done"
            yield _Limit(told, _inner(lambda given: given["terminated"]), _GO_ON)
        if flags == {"done", "truncated"}:
            told = "steps with both flags: it takes no terminated"
            yield _Limit(told, lambda given: given["terminated"] & given["truncated"], {"truncated": False})
        if flags == {"done"}:
            yield _Limit("truncations: it takes done, and neither terminated nor truncated", _cut, _GO_ON)
        elif flags <= {"terminated"}:
            yield _Limit("truncations inside a row: it takes no truncated", _inner(_cut), _GO_ON)
        elif "next_values" not in behind:
            yield _Limit("truncations inside a row: it takes no next_values", _inner(_cut), _GO_ON)
        if not behind:
            told = "rows that do not end in a termination: it takes no next_values, last_value or values_with_last"
            yield _Limit(told, _live, {"terminated": True})
        elif behind == {"last_value"} and self.takes & {"valid", "mask"}:
            told = "rows that are cut before the batch's last step: last_value stands behind that one"
            yield _Limit(told, _live_before_the_edge, {"terminated": True})


def _inner(ends: Where) -> Where:
    return lambda given: ends(given) & ~last_steps(given["valid"])


def _cut(given: Given) -> Tensor:
    return given["truncated"] & ~given["terminated"]


def _live(given: Given) -> Tensor:
    return last_steps(given["valid"]) & ~given["terminated"]


def _live_before_the_edge(given: Given) -> Tensor:
    live = _live(given)
    live[:, -1:] = False
    return live
