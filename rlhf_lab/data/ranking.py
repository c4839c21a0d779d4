"""One row of preference data: a prompt, responses to it, and what somebody said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Ranking", "Text"]

Text = str | tuple[Mapping[str, str], ...]  # words, or the turns of a conversation: {"role": ..., "content": ...}


@dataclass(frozen=True)
class Ranking:
    """Responses to a prompt, best first; where ``labels`` is given they are in no order.

    ``ranks`` (from 0, equal = tie) is None where no two responses are equally good. ``labels`` tells of each response
    whether it is desirable. ``place`` says where the row stands, for messages.
    """

    prompt: Text
    responses: tuple[Text, ...]
    ranks: tuple[int, ...] | None = None
    labels: tuple[bool, ...] | None = None
    margin: float | None = None
    place: str = ""
