"""Which implementation of the recursions runs: compiled row scans on CPU, scans of whole tensors everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Final, Literal, Protocol

from torch import Tensor

from rlhf_lab.types import Trajectories
from rlhf_lab_advantages import row_scans, tensor_scans

__all__ = ["BACKENDS", "Scans", "backend", "scans"]

_forced: ContextVar[Literal["numba", "torch"] | None] = ContextVar("advantages_backend", default=None)


class Scans(Protocol):
    """The recursions that every backend offers; ``[*b,t]`` in and out, 0 where not valid."""

    def reward_to_go(self, batch: Trajectories, gamma: float, bootstrap: bool) -> Tensor: ...
    def gae(self, batch: Trajectories, gamma: float, lam: float) -> tuple[Tensor, Tensor]: ...
    def n_step(self, batch: Trajectories, gamma: float, n: int) -> tuple[Tensor, Tensor]: ...
    def v_trace(
        self, batch: Trajectories, gamma: float, lam: float, rho_bar: float, c_bar: float
    ) -> tuple[Tensor, Tensor]: ...


@contextmanager
def backend(name: Literal["numba", "torch"]) -> Iterator[None]:
    """Force one backend inside a ``with`` block, so that a machine without GPU can check the code that a GPU runs."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


BACKENDS: Final = {"numba": partial(backend, "numba"), "torch": partial(backend, "torch")}
"""What forces each backend, by name: the ``implementations`` of every estimator that scans."""


def scans(batch: Trajectories) -> Scans:
    """Return the backend for a batch: the forced one, else by the device of its rewards."""
    name = _forced.get() or ("numba" if batch.rewards.device.type == "cpu" else "torch")
    return row_scans if name == "numba" else tensor_scans
