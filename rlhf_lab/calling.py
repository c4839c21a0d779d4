"""How a component is called: it sees the optional fields that it needs, one run at a time where it must, and its errors
are told with its name.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from rlhf_lab.batch import unchecked
from rlhf_lab.errors import LabError
from rlhf_lab.types import Advantages, BatchError, Loss, PolicyBatch, Rankings, Scores, Trajectories, Weights

__all__ = ["Aggregator", "Called", "Estimator", "Normalizer", "Objective", "apply", "call", "default_dtype", "restrict"]

AnyBatch = TypeVar("AnyBatch", Trajectories, PolicyBatch, Rankings, Scores)


_ANSWERS: Final[Mapping[str, type]] = {
    "advantage": Advantages,
    "normalizer": Advantages,
    "objective": Loss,
    "value": Loss,
    "aggregation": Weights,
    "kl": Tensor,
    "controller": Tensor,
    "preference": Loss,
    "reward_model": Loss,
}
_PER_ITEM: Final = frozenset({"preference", "reward_model"})  # one number per ranking, not per candidate


class Called(Protocol):
    """What every component tells of itself (see ``components.Component``)."""

    @property
    def scope(self) -> str: ...
    @property
    def stacked(self) -> bool: ...
    def needs(self) -> frozenset[str]: ...


class Estimator(Called, Protocol):
    """An advantage estimator."""

    def __call__(self, batch: Trajectories) -> Advantages: ...


class Normalizer(Called, Protocol):
    """An advantage normalizer."""

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages: ...


class Objective(Called, Protocol):
    """A policy objective."""

    def __call__(self, batch: PolicyBatch) -> Loss: ...
    def initial_state(self) -> dict[str, Tensor]: ...


class Aggregator(Called, Protocol):
    """An aggregation."""

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights: ...


def restrict(batch: AnyBatch, component: Called) -> AnyBatch:
    """Return the batch with None for every optional field that the component does not need.

    Masks stay: what does not count is nobody's choice.
    """
    kept = component.needs() | {"state", "valid"}
    left_out = {f.name: None for f in fields(batch) if f.default is None and f.name not in kept}
    return unchecked(batch, left_out)


def call(component: Any, *arguments: Any, **options: Any) -> Any:
    """Call a component and check its answer: its type, and that it has the shape of what was asked.

    Whatever the component raises becomes a ``LabError`` that names it and the line of its file.
    """
    try:
        answer = component(*arguments, **options)
    except Exception as error:
        who = f"{component.role} {component.name!r}"
        if isinstance(error, BatchError | LabError):
            raise LabError(f"{who}: {error}") from error
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == inspect.getsourcefile(type(component))]
        frame = (own or frames)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        raise LabError(f"{who} raised {type(error).__name__}: {error} ({place})") from error
    if component.role in _ANSWERS:
        _check(component, answer, _first_tensor(arguments[0]))
    return answer


def _check(component: Any, answer: Any, asked: Tensor) -> None:
    kind = _ANSWERS[component.role]
    if not isinstance(answer, kind):
        raise LabError(
            f"{component.role} {component.name!r} returned {type(answer).__name__}; it must return {kind.__name__}"
        )
    one_less = component.role in _PER_ITEM or getattr(component, "distributions", False)
    shape = asked.shape[:-1] if one_less else asked.shape
    found = _first_tensor(answer).shape
    if found != shape:
        raise LabError(
            f"{component.role} {component.name!r} returned shape {list(found)} for inputs of shape {list(shape)}; "
            "they must be equal, as nothing is broadcast"
        )


def _first_tensor(value: Any) -> Tensor:
    """Return the tensor itself, or the first field of a batch, whose shape all its fields have."""
    first: Tensor = value if isinstance(value, Tensor) else getattr(value, fields(value)[0].name)
    return first


def apply(component: Any, *batches: Any) -> Any:
    """Call a component on batches ``[runs, rows, t]``: at once where it may see several runs, else run by run.

    A component of scope group or batch that is not ``stacked`` must see one run's data per call.
    """
    if component.stacked or component.scope in ("step", "item", "episode"):
        return call(component, *batches)
    runs = len(_first_tensor(batches[0]))
    return _stack([call(component, *(_pick(batch, run) for batch in batches)) for run in range(runs)])


def _pick(value: Any, run: int) -> Any:
    if isinstance(value, Tensor):
        return value[run]
    if isinstance(value, Mapping):
        return {name: _pick(x, run) for name, x in value.items()}
    return (
        None if value is None else replace(value, **{f.name: _pick(getattr(value, f.name), run) for f in fields(value)})
    )


def _stack(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, Mapping):
        return {name: _stack([value[name] for value in values]) for name in first}
    if first is None:
        return None
    return replace(first, **{f.name: _stack([getattr(value, f.name) for value in values]) for f in fields(first)})


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make ``dtype`` torch's default in a ``with`` block, for what foreign code makes anew."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
