"""What verification says of one property of one component."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import tensors
from rlhf_lab.conformance.property import Property, show_number

__all__ = ["Counterexample", "Status", "Verdict", "shown_inputs"]

Status = Literal["passed", "failed", "not_claimed", "skipped"]
_HIDDEN: Final = frozenset({"valid"})  # shown only where a step does not count


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found: hyper-parameters, inputs (None where a step does not count), what was got and is due."""

    parameters: dict[str, Any]
    inputs: dict[str, Any]
    got: str
    expected: str


@dataclass(frozen=True)
class Verdict:
    """Whether a property holds: ``examples`` counts the cases that were judged, ``message`` says what was seen."""

    property: Property
    status: Status
    message: str = ""
    counterexample: Counterexample | None = None
    examples: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict for JSON."""
        return {
            "property": self.property.id,
            "status": self.status,
            "message": self.message,
            "counterexample": None if self.counterexample is None else asdict(self.counterexample),
            "examples": self.examples,
            "seconds": round(self.seconds, 3),
        }


def shown_inputs(inputs: Any) -> dict[str, Any]:
    """Return inputs as nested lists of plain numbers; a single row is shown without its brackets."""
    if isinstance(inputs, Mapping):
        return {name: _plain(x, None) for name, x in inputs.items()}
    valid = getattr(inputs, "valid", None)
    found = {}
    for name, _, x in tensors(inputs):
        if name in _HIDDEN and bool(x.all()):
            continue
        if x.dtype == torch.bool and name != "valid" and not bool(x.any()) and name == "truncated":
            continue
        hide = valid if valid is not None and name != "valid" and x.shape == valid.shape else None
        found[name] = _plain(x, hide)
    return found


def _plain(x: Any, valid: Tensor | None) -> Any:
    if not isinstance(x, Tensor):
        return x
    rows = x.tolist()
    mask = None if valid is None else valid.tolist()
    shown = _round(rows, mask)
    return shown[0] if x.ndim > 1 and len(shown) == 1 else shown


def _round(value: Any, mask: Any) -> Any:
    if isinstance(value, list):
        return [_round(v, None if mask is None else mask[i]) for i, v in enumerate(value)]
    if mask is False:
        return None
    if isinstance(value, float):
        return float(show_number(value, 12)) if math.isfinite(value) else str(value)
    return value
