"""What all tensor batches share: their fields are checked once, where a batch is built, and never again.

A check costs less than one tensor operation per field where nothing is wrong, since small worlds build many batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

__all__ = ["Batch", "BatchError", "Refused", "clean", "optional", "required", "true_somewhere", "unchecked"]

_INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


class BatchError(ValueError):
    """A tensor batch breaks its contract; the message names batch, field, what was found and what is due."""


class Refused(BatchError):  # noqa: N818
    """A component does not take this batch, which is sound; raised by the component, with the reason.

    Verification does not judge a component by what it refuses.
    """


def clean(x: Tensor, valid: Tensor) -> Tensor:
    """Return ``x`` with zeros where not ``valid``, so that no NaN of padding reaches values or gradients."""
    return x.masked_fill(~valid, 0)


def true_somewhere(mask: Tensor) -> bool:
    """Return whether any element is True; of a CPU bool tensor ``amax`` is four times faster than ``any``."""
    return bool(mask.amax()) if mask.numel() else False


def required(dtype: str, axes: str) -> Any:
    """Return a dataclass field that must be a tensor of kind ``dtype`` (float, int, bool) and shape ``axes``.

    ``axes``: ``same`` as the first field, ``row`` without its trailing axes, ``token`` with one axis more.
    """
    return field(metadata={"dtype": dtype, "axes": axes})


def optional(dtype: str, axes: str) -> Any:
    """Return a dataclass field like ``required`` that may also be None."""
    return field(default=None, metadata={"dtype": dtype, "axes": axes})


class Batch:
    """Base of the batches. The first field fixes shape, dtype and device of all others."""

    axes: ClassVar[str]  # names of the first field's trailing axes, for messages
    trailing: ClassVar[int] = 1  # how many axes of the first field are not leading axes
    finite: ClassVar[tuple[str, ...]] = ()  # fields without NaN and infinity where valid
    finite_everywhere: ClassVar[tuple[str, ...]] = ()
    _layout: ClassVar[list[tuple[str, str, str, bool]]]  # of each tensor field: name, dtype, axes, whether optional

    def __post_init__(self) -> None:
        cls, values = type(self), self.__dict__
        if "_layout" not in cls.__dict__:
            found = [f for f in fields(cls) if "axes" in f.metadata]  # type: ignore[arg-type]
            cls._layout = [(f.name, f.metadata["dtype"], f.metadata["axes"], f.default is None) for f in found]
        name = cls._layout[0][0]
        first = values[name]
        if not isinstance(first, Tensor) or first.ndim < self.trailing:
            raise self._error(name, f"a tensor [*b,{self.axes}]", first)
        if not first.is_floating_point():
            raise self._error(name, "a floating-point tensor", first)
        shape, device, floating, boolean = first.shape, first.device, first.dtype, torch.bool
        for name, dtype, axes, may_miss in cls._layout:
            value = values[name]
            if value is None and may_miss:
                continue
            if not isinstance(value, Tensor):
                raise self._error(name, "a tensor", value)
            if axes != "same" or value.shape != shape:
                self._check_shape(name, value, axes, first)
            if value.device != device:
                raise self._error(name, f"device {device}", value.device)
            if value.dtype is not (floating if dtype == "float" else boolean):
                self._check_dtype(name, value, dtype, first)
        for name in self.finite:
            self._check_finite(name, values["valid"])
        for name in self.finite_everywhere:
            self._check_finite(name, None, "everywhere")

    def _error(self, name: str, due: str, found: object) -> BatchError:
        what = f"shape {list(found.shape)} {found.dtype}" if isinstance(found, Tensor) else repr(found)
        return BatchError(f"{type(self).__name__}.{name}: expected {due}, found {what}")

    def _check_shape(self, name: str, value: Tensor, axes: str, first: Tensor) -> None:
        if axes == "token":
            if value.shape[:-1] != first.shape or value.ndim != first.ndim + 1:
                raise self._error(name, f"shape {[*first.shape, 't']}", value)
            return
        due = first.shape if axes == "same" else first.shape[: first.ndim - self.trailing]
        if value.shape != due:
            raise self._error(name, f"shape {list(due)}", value)

    def _check_dtype(self, name: str, value: Tensor, dtype: str, first: Tensor) -> None:
        """Refuse a dtype that is not the one due; every integer dtype will do where integers are due."""
        if dtype == "float":
            due = (
                f"dtype {first.dtype} as in the first field" if value.is_floating_point() else "a floating-point tensor"
            )
            raise self._error(name, due, value)
        if dtype == "bool":
            raise self._error(name, "a bool tensor (True = counts)", value)
        if value.dtype not in _INTEGERS:
            raise self._error(name, "an integer tensor", value)

    def _is_finite(self, name: str) -> bool:
        """Return whether one pass proves all terms finite, since their sum is."""
        value = self.__dict__[name]
        return value is None or math.isfinite(value.detach().sum())

    def _check_finite(self, name: str, where: Tensor | None, place: str = "where valid") -> None:
        """Refuse NaN and infinity where they would count."""
        if self._is_finite(name):
            return
        value = getattr(self, name).detach()
        bad = ~torch.isfinite(value)
        if where is not None:
            bad &= where
        if true_somewhere(bad):
            at = [int(i) for i in bad.nonzero()[0]]
            raise BatchError(
                f"{type(self).__name__}.{name}: {float(value[tuple(at)])} at index {at}; must be finite {place}. "
                "Find where it arises, or mark the step invalid"
            )


_AnyBatch = TypeVar("_AnyBatch", bound=Batch)


def unchecked(batch: _AnyBatch, changes: Mapping[str, Any]) -> _AnyBatch:
    """Return the batch with other fields and without a second check, for changes that cannot break its contract."""
    changed: _AnyBatch = object.__new__(type(batch))
    changed.__dict__.update(batch.__dict__, **changes)
    return changed
