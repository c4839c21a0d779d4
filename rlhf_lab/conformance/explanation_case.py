"""The case that ``explain`` takes apart: an example of its own, or a YAML or JSON file.

A file has the arrays of ``Trajectories`` for one row ``[t]`` or several ``[rows, t]``; ``rewards`` must be there, flags
default to false and ``valid`` to true. ``next_values`` is read only where an episode is cut, other places may be null.
``at: [row, step]`` says which advantage, ``parameters`` with which hyper-parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.strategies import consistent_next_values
from rlhf_lab.errors import LabError, describe, did_you_mean, located
from rlhf_lab.types import BatchError, Trajectories
from rlhf_lab.yaml_file import Positions, load_yaml

__all__ = ["ExplainedCase", "example_case", "read_case"]

_FIELDS: Final = {f.name: f.metadata for f in fields(Trajectories)}
_KINDS: Final = {"float": torch.float64, "bool": torch.bool, "int": torch.int64}


@dataclass(frozen=True)
class ExplainedCase:
    """A batch ``[rows, t]``, which of its advantages is meant, and hyper-parameters."""

    batch: Trajectories
    row: int
    step: int
    parameters: dict[str, Any]


def example_case(component: type[Component]) -> ExplainedCase:
    """Return an example that shows what there is to see: several responses, or a cut episode with an observation."""
    if component.scope in ("group", "batch"):
        rewards = torch.tensor([[0.0, 1.0], [0.5, 0.0], [2.0, 1.0]], dtype=torch.float64)
        valid = torch.ones(3, 2, dtype=torch.bool)
        terminated = torch.tensor([[False, True]] * 3)
        truncated = torch.zeros_like(terminated)
        values = torch.tensor([[0.5, 1.0], [0.25, 0.0], [1.0, 0.5]], dtype=torch.float64)
        outside = torch.zeros_like(rewards)
    else:
        rewards = torch.tensor([[1.0, 0.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
        valid = torch.tensor([[True, True, False, True, True]])
        truncated = torch.tensor([[False, False, False, True, False]])
        terminated = torch.tensor([[False, False, False, False, True]])
        values = torch.tensor([[0.5, 1.0, 0.0, 0.25, 2.0]], dtype=torch.float64)
        outside = torch.full_like(rewards, 4.0)
    rows = len(rewards)
    extras = {
        "values": values,
        "next_values": consistent_next_values(values, outside, valid, terminated | truncated),
        "log_probs": torch.full_like(rewards, -1.0),
        "target_log_probs": torch.full_like(rewards, -1.25),
        "ref_log_probs": torch.full_like(rewards, -1.5),
        "group_ids": torch.zeros(rows, dtype=torch.int64),
        "baseline_scores": torch.full((rows,), 0.5, dtype=torch.float64),
        "score_norms": torch.ones_like(rewards),
    }
    return ExplainedCase(Trajectories(rewards, terminated, truncated, valid, **extras), 0, 0, {})


def read_case(path: Path, component: type[Component], registry: Any = None) -> ExplainedCase:
    """Return the case in a YAML or JSON file; raises ``LabError`` with the place of what is wrong."""
    data, where = load_yaml(path)
    possible = [*_FIELDS, "parameters", "at"]
    for key in data:
        if key not in possible:
            raise _error(key, f"is no field of a case. {did_you_mean(key, possible)}", where)
    if "rewards" not in data:
        raise _error("", "a case needs rewards", where)
    found = {key: _tensor(key, x, where) for key, x in data.items() if key in _FIELDS and key != "next_values"}
    rewards = found["rewards"]
    for name, default in (("terminated", False), ("truncated", False), ("valid", True)):
        found.setdefault(name, torch.full(rewards.shape, default))
    for name, x in found.items():
        due = rewards.shape[:1] if _FIELDS[name]["axes"] == "row" else rewards.shape
        if x.shape != due:
            raise _error(name, f"has shape {list(x.shape)}; rewards ask for {list(due)}", where)
    for name in ("terminated", "truncated"):
        if bool((found[name] & ~found["valid"]).any()):
            raise _error(
                name, "an episode ends at a step that does not count; store its end on its last valid step", where
            )
    parameters = _parameters(data.get("parameters", {}), component, where, registry)
    needs = component(**parameters).needs()
    if "next_values" in needs and "values" in found:
        found["next_values"] = _next_values(data.get("next_values"), found, where)
    missing = sorted(needs - found.keys())
    if missing:
        raise _error("", f"{component.name} needs {', '.join(missing)}", where)
    try:
        batch = Trajectories(**found)
    except BatchError as error:  # a number that is not finite
        key, _, message = str(error).removeprefix("Trajectories.").partition(": ")
        raise _error(key, message, where) from None
    row, step = _at(data.get("at", [0, 0]), rewards, where)
    return ExplainedCase(batch, row, step, parameters)


def _error(key: str, message: str, where: Positions) -> LabError:
    return LabError(located(f"{key}: {message}" if key else message, (key,) if key else (), where))


def _tensor(key: str, value: Any, where: Positions) -> Tensor:
    """Return a list of numbers or flags as ``[rows, t]``, or ``[rows]`` for what a row has once."""
    kind = _FIELDS[key]["dtype"]
    rows = value if isinstance(value, list) else [value]
    nested = all(isinstance(row, list) for row in rows) and bool(rows)
    flat = [x for row in rows for x in row] if nested else rows
    fits = {"bool": (bool,), "int": (int,), "float": (int, float)}[kind]
    wrong = [x for x in flat if not isinstance(x, fits) or (isinstance(x, bool) and kind != "bool")]
    if wrong or not flat:
        due = {"bool": "true or false", "int": "integers", "float": "numbers"}[kind]
        raise _error(key, f"expected lists of {due}, found {wrong[0] if wrong else value!r}", where)
    if nested and len({len(row) for row in rows}) > 1:
        raise _error(key, "rows have different lengths; fill them up and mark what does not count in valid", where)
    found = torch.tensor(rows, dtype=_KINDS[kind])
    return found if nested or _FIELDS[key]["axes"] == "row" else found[None]


def _next_values(value: Any, found: dict[str, Tensor], where: Positions) -> Tensor:
    """Return ``next_values``: as given where an episode is cut, and the value of the next step inside of it."""
    values, valid, ends = found["values"], found["valid"], found["terminated"] | found["truncated"]
    given = torch.full_like(values, torch.nan)
    if value is not None:
        rows = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
        known = [[torch.nan if x is None else x for x in row] if isinstance(row, list) else row for row in rows]
        given = _tensor("next_values", known, where)
        if given.shape != values.shape:
            raise _error("next_values", f"has shape {list(given.shape)}; rewards ask for {list(values.shape)}", where)
    linked = consistent_next_values(values, torch.full_like(values, torch.nan), valid, ends)
    contradicted = ~linked.isnan() & ~given.isnan() & (linked != given)
    for row, step in contradicted.nonzero().tolist():
        message = f"step {step} of row {row} is inside an episode; its next value is values at the next step"
        raise _error("next_values", f"{message}, {float(linked[row, step]):g}. Write null", where)
    linked = torch.where(linked.isnan(), given, linked)
    for row, step in (linked.isnan() & valid & ~found["terminated"]).nonzero().tolist():
        message = f"step {step} of row {row} is truncated, or the row stops there; say the critic's value behind it"
        raise _error("next_values", message, where)
    return linked.nan_to_num(0.0)


def _parameters(value: Any, component: type[Component], where: Positions, registry: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error("parameters", f"expected a mapping, found {value!r}", where)
    try:
        component.model_validate(value, context={"registry": registry})
    except ValidationError as error:
        below = {keys[1:]: place for keys, place in where.items() if keys[:1] == ("parameters",)}
        raise LabError(describe(error, ("parameters",), component.model_fields, below)) from None
    return value


def _at(value: Any, rewards: Tensor, where: Positions) -> tuple[int, int]:
    pair = [0, value] if isinstance(value, int) and not isinstance(value, bool) else value
    if not (isinstance(pair, list) and len(pair) == 2 and all(type(x) is int for x in pair)):
        raise _error("at", f"expected [row, step], found {value!r}", where)
    if not all(0 <= x < n for x, n in zip(pair, rewards.shape, strict=True)):
        raise _error("at", f"{pair} is outside of {rewards.shape[0]} rows of {rewards.shape[1]} steps", where)
    return pair[0], pair[1]
