"""Calling a plain function with a batch: which argument gets what, in which layout and form, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.calling import default_dtype
from rlhf_lab.conformance.function.arguments import Arguments
from rlhf_lab.conformance.function.batches import pseudo_fields
from rlhf_lab.conformance.function.limits import Limits
from rlhf_lab.conformance.guard import Guard, TimeLimitError
from rlhf_lab.errors import LabError
from rlhf_lab.types import Refused

__all__ = ["Adapter", "Form", "Layout", "ScalarAnswerError"]

Layout = Literal["rows", "time-first", "row"]


class ScalarAnswerError(LabError):
    """The function averages its answer, so that single steps cannot be judged."""


@dataclass(frozen=True)
class Form:
    """What tensors become before the function sees them."""

    arrays: bool = False  # NumPy arrays
    numeric_flags: bool = False  # flags as 0.0 and 1.0

    def __call__(self, x: Tensor) -> Any:
        x = x.to(torch.float64) if self.numeric_flags and x.dtype == torch.bool else x
        return x.detach().numpy() if self.arrays else x

    def told(self) -> str:
        """Return what a user should know of it."""
        parts = ["NumPy arrays"] * self.arrays + ["flags as numbers"] * self.numeric_flags
        return f"called with {' and '.join(parts)}, since it fails otherwise" if parts else ""


FORMS: Final = (Form(), Form(numeric_flags=True), Form(arrays=True), Form(arrays=True, numeric_flags=True))


@dataclass(frozen=True)
class Adapter:
    """A function as the batches of a role see it.

    ``trailing`` is the number of axes that belong to one row; ``drops_last_axis`` says that answers lack the last one.
    """

    function: Callable[..., Any]
    arguments: Arguments
    limits: Limits
    layout: Layout
    trailing: int
    drops_last_axis: bool = False

    def ask(self, given: Mapping[str, Tensor], parameters: Mapping[str, Any], form: Form) -> tuple[Tensor, ...]:
        """Return the function's answers for a batch of any leading axes, each of the batch's shape.

        Raises ``Refused`` for what the arguments cannot express, ``LabError`` for an answer that is none.
        """
        first = _first(given)
        trailing = first.shape[first.ndim - self.trailing :]
        flat = {
            name: x.reshape(-1, *trailing) if x.shape == first.shape else x.reshape(-1) for name, x in given.items()
        }
        self.limits.check(flat)
        told = flat | pseudo_fields(self.limits.role, self.limits.takes, flat)
        if self.layout == "row":
            rows = [
                self._call({name: x[i] for name, x in told.items()}, parameters, form) for i in range(len(_first(flat)))
            ]
            answers = tuple(torch.stack(parts) for parts in zip(*(self._read(row, first) for row in rows), strict=True))
        else:
            turned = {name: self._turn(x) for name, x in told.items()}
            answers = tuple(self._turn(x) for x in self._read(self._call(turned, parameters, form), first))
        due = first.shape[:-1] if self.drops_last_axis else first.shape
        return tuple(self._shaped(x, due) for x in answers)

    def _call(self, told: Mapping[str, Tensor], parameters: Mapping[str, Any], form: Form) -> Any:
        named: dict[str, Any] = {}
        for argument, source in self.arguments.sources.items():
            if source in parameters:
                named[argument] = parameters[source]
            elif source in told:
                named[argument] = form(told[source])
            elif argument not in self.arguments.defaults:
                raise Refused(f"batches without {source}")
        with default_dtype(_first(told).dtype):
            return self.function(*(named.pop(name) for name in self.arguments.positional if name in named), **named)

    def _turn(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1) if self.layout == "time-first" and x.ndim > 1 else x

    @staticmethod
    def _read(answer: Any, like: Tensor) -> tuple[Tensor, ...]:
        parts = answer if isinstance(answer, tuple) else (answer,)
        try:
            found = [x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x, dtype=np.float64)) for x in parts]
        except (TypeError, ValueError):
            raise LabError(f"returned {type(answer).__name__}; expected a tensor or an array") from None
        return tuple(x.to(like.dtype) for x in found)

    @staticmethod
    def _shaped(x: Tensor, due: torch.Size) -> Tensor:
        if x.numel() == 1 and due.numel() > 1:
            raise ScalarAnswerError(
                f"returns one number for a batch of shape {list(due)}, and only answers of single steps can be judged; "
                "let it return them before the mean or sum"
            )
        if x.numel() != due.numel():
            raise LabError(f"returned shape {list(x.shape)} for inputs of shape {list(due)}")
        return x.reshape(due)

    def first_form(
        self, cases: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Any]]], seconds: float
    ) -> tuple[Form, int]:
        """Return the first form in which the function answers every case, and how many answers it gives to each.

        Where there is none, the one with most answers: what goes wrong is for verification to tell. Raises ``LabError``
        for a function that no case can be put to, and for one that averages.
        """
        best, most, parts = FORMS[0], 0, 1
        refusal: str | None = None
        guard, cases = Guard(seconds), list(cases)
        for form in FORMS:
            answered = failed = refused = 0
            for given, parameters in cases:
                try:
                    with guard.installed():
                        found = len(guard.call(self.ask, given, parameters, form))
                except Refused as error:
                    refused, refusal = refused + 1, str(error)
                except ScalarAnswerError:
                    raise
                except (Exception, TimeLimitError):
                    failed += 1
                else:
                    answered, parts = answered + 1, found
            if refused == len(cases):
                raise LabError(f"no batch can be put to it: {refusal}")
            if answered > most:
                best, most = form, answered
            if not failed:
                break
        return best, parts


def _first(given: Mapping[str, Tensor]) -> Tensor:
    return next(iter(given.values()))
