"""Calling code that is not trusted: it may never return, and may use randomness that nobody can repeat."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = ["Guard", "TimeLimitError", "random_states", "seeded"]

T = TypeVar("T")


class TimeLimitError(BaseException):
    """A component did not return in time. Not an ``Exception``: plugin code must not swallow it."""


class Guard:
    """A time limit for each call of a component.

    Once it was exceeded, later calls get a fiftieth of it: whoever hangs once hangs often. On systems without interval
    timers, and outside the main thread, there is no limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left = seconds
        self._possible = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what the function returns; raises ``TimeLimitError``."""
        if not self._possible:
            return function(*arguments)
        signal.setitimer(signal.ITIMER_REAL, self._left)
        try:
            return function(*arguments)
        except TimeLimitError:
            self._left = self.seconds / 50
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen for the timer inside a ``with`` block."""
        if not self._possible:
            yield
            return

        def stop(_: int, __: FrameType | None) -> None:
            raise TimeLimitError

        before = signal.signal(signal.SIGALRM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, before)


def random_states() -> tuple[Any, ...]:
    """Return the states of the global random generators, to be compared."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    return random.getstate(), (name, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators inside a ``with`` block, so that even who uses them gets the same verdicts."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
