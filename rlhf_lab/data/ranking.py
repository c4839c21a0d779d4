"""One row of preference data: a prompt, responses to it, and what somebody said of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Ranking", "Text", "Turn", "length"]


class Turn(NamedTuple):
    """What one side says in a conversation."""

    role: str
    content: str


Text = str | tuple[Turn, ...]  # words, or the turns of a conversation


def length(text: Text) -> int:
    """Return how many characters a text has; roles do not count."""
    return len(text) if isinstance(text, str) else sum(len(turn.content) for turn in text)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Responses to a prompt, best first; where ``labels`` is given they are in no order.

    ``ranks`` (from 0, equal = tie) is None where no two responses are equally good. ``labels`` tells of each response
    whether it is desirable, ``scores`` what somebody gave it, ``margin`` how far apart the two of a pair should be.
    ``place`` says where the row stands, for messages.
    """

    prompt: Text
    responses: tuple[Text, ...]
    ranks: tuple[int, ...] | None = None
    labels: tuple[bool, ...] | None = None
    scores: tuple[float, ...] | None = None
    margin: float | None = None
    place: str = field(default="", compare=False)
