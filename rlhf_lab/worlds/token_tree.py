"""The tree of all token strings up to a length: its inner nodes are prefixes, its branches responses.

Numbering. The prefixes are all strings of 0 to length - 1 tokens, by length and then as numbers in base V: prefix
a_1 ... a_t has the number (V^t - 1) / (V - 1) + Σ_i a_i V^(t-i). An edge is a prefix and the token that follows it,
with the number ``prefix * V + token``. Prefixes behind an end token are numbered too, and never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.worlds.checks import demand

__all__ = ["MAX_STRINGS", "TokenTree"]

MAX_STRINGS: Final = 1_000_000


@dataclass(frozen=True)
class TokenTree:
    """All responses of at most ``length`` tokens 0 .. ``vocabulary`` - 1, in lexicographic order.

    A response ends with the token ``eos``, which is one of its tokens, or after ``length`` tokens. Tables over
    responses are ``[y]`` and ``[y,t]``, t < length; what stands behind a response's end is 0 or False.

    Raises ``WorldError`` for an impossible number and for more than ``MAX_STRINGS`` strings.
    """

    vocabulary: int
    length: int
    eos: int | None = None

    def __post_init__(self) -> None:
        demand(self.vocabulary >= 2, "vocabulary", "two tokens or more", self.vocabulary)
        demand(self.length >= 1, "length", "one token or more", self.length)
        possible = f"None or a token from 0 to {self.vocabulary - 1}"
        demand(self.eos is None or 0 <= self.eos < self.vocabulary, "eos", possible, self.eos)
        # the exponent is bounded first, since a power of huge numbers takes for ever
        small = self.length <= MAX_STRINGS.bit_length() and self.vocabulary**self.length <= MAX_STRINGS
        due = f"at most {MAX_STRINGS:,} strings, vocabulary^length"
        demand(small, "vocabulary, length", due, f"{self.vocabulary}^{self.length}")

    @property
    def widths(self) -> list[int]:
        """How many prefixes of each length 0 .. ``length`` - 1 there are."""
        return [self.vocabulary**t for t in range(self.length)]

    @property
    def prefixes(self) -> int:
        """How many prefixes there are."""
        return sum(self.widths)

    @property
    def responses(self) -> int:
        """How many responses there are."""
        return len(self.lengths)

    @cached_property
    def ending(self) -> Tensor:
        """Which tokens end a response before its full length, bool ``[a]``."""
        return torch.arange(self.vocabulary) == (-1 if self.eos is None else self.eos)

    @cached_property
    def _strings(self) -> Tensor:
        """The number in base V of each response, filled up with zeros behind its end: ``[y]``."""
        strings = torch.arange(self.vocabulary**self.length)
        tokens = self._digits(strings, self.length)
        ended = self.ending[tokens].cumsum(1) - self.ending[tokens].long() > 0  # True behind the first end
        return strings[(tokens.masked_fill(~ended, 0) == 0).all(1)]

    @cached_property
    def tokens(self) -> Tensor:
        """The tokens of each response ``[y,t]`` int64."""
        return self._digits(self._strings, self.length)

    @cached_property
    def valid(self) -> Tensor:
        """Where a response has a token, bool ``[y,t]``."""
        return self.ending[self.tokens].cumsum(1) - self.ending[self.tokens].long() == 0

    @cached_property
    def lengths(self) -> Tensor:
        """How many tokens each response has, ``[y]`` int64."""
        return self.valid.sum(1)

    @cached_property
    def prefix(self) -> Tensor:
        """The number of the prefix before each token, ``[y,t]`` int64."""
        powers = torch.tensor([self.vocabulary ** (self.length - t) for t in range(self.length)])
        before = torch.tensor(self.widths).cumsum(0) - torch.tensor(self.widths)
        return (before + self._strings[:, None] // powers).masked_fill(~self.valid, 0)

    @cached_property
    def edges(self) -> Tensor:
        """The number of each response's last edge, ``[y]`` int64."""
        last = self.lengths[:, None] - 1
        return (self.prefix * self.vocabulary + self.tokens).gather(1, last)[:, 0]

    @cached_property
    def response_of(self) -> Tensor:
        """The response that each edge completes, -1 where it completes none: ``[prefixes * vocabulary]`` int64."""
        found = torch.full((self.prefixes * self.vocabulary,), -1)
        found[self.edges] = torch.arange(self.responses)
        return found

    @cached_property
    def children(self) -> Tensor:
        """The prefix that each edge leads to, -1 where a string ends: ``[prefixes * vocabulary]`` int64."""
        inner = self.prefixes - self.widths[-1]
        found = torch.full((self.prefixes, self.vocabulary), -1)
        found[:inner] = torch.arange(1, self.prefixes).view(inner, self.vocabulary)
        return found.masked_fill(self.ending, -1).flatten()

    @cached_property
    def read(self) -> Tensor:
        """The tokens of each prefix, -1 behind them: ``[prefixes, length]`` int64."""
        found = torch.full((self.prefixes, self.length), -1)
        first = 0
        for t, width in enumerate(self.widths):
            found[first : first + width, :t] = self._digits(torch.arange(width), t)
            first += width
        return found

    def _digits(self, numbers: Tensor, count: int) -> Tensor:
        """Return the last ``count`` digits of ``numbers [n]`` in base V, ``[n, count]``."""
        powers = torch.tensor([self.vocabulary ** (count - 1 - t) for t in range(count)], dtype=torch.int64)
        return numbers[:, None] // powers % self.vocabulary
