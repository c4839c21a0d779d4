"""A component with a second implementation of its math, which a mutant makes a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

__all__ = ["TwoForms"]


class TwoForms:
    """Knows which implementation is asked for."""

    _asked: ClassVar[list[str]] = []

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        @contextmanager
        def other() -> Iterator[None]:
            cls._asked.append("other")
            yield
            cls._asked.pop()

        return {"other": other}

    @property
    def second(self) -> bool:
        return bool(self._asked)
