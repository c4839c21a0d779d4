"""Prompts and responses as files have them: texts, or lists of messages with a role and a content."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any, Final

from rlhf_lab.data.errors import BadRowError, shown
from rlhf_lab.data.ranking import Text, Turn

__all__ = ["apart", "check_response", "text_of"]

_DUE: Final = "write a text, or a list of {role, content}"
_ANSWER: Final = "\n\nAssistant:"  # where an answer begins in dialogues written as one text (Bai et al. 2022)
_ASKING: Final = ("user", "system")  # the roles of a prompt


def text_of(value: Any, field: str, notes: Counter[str]) -> Text:
    """Return a column's value as a text; raises ``BadRowError`` where it is none, or says nothing."""
    if isinstance(value, str):
        text: Text = value
    elif isinstance(value, list):
        text = tuple(_turn(message, f"{field}[{i}]", notes) for i, message in enumerate(value))
    else:
        raise BadRowError(field, "is no text", found=shown(value), due=_DUE)
    if _blank(text):
        raise BadRowError(field, "is empty", due="give it words, or remove the row")
    return text


def _blank(text: Text) -> bool:
    """Return whether nothing is said."""
    if isinstance(text, str):
        return not text or text.isspace()
    return not any(turn.content.strip() for turn in text)


def _turn(message: Any, field: str, notes: Counter[str]) -> Turn:
    if not isinstance(message, dict):
        raise BadRowError(field, "is no message", found=shown(message), due="write {role, content}")
    for key in ("role", "content"):
        value = message.get(key)
        if not isinstance(value, str):
            reason, found = ("is missing", "") if value is None else ("is no text", shown(value))
            raise BadRowError(f"{field}.{key}", reason, found=found, due="write {role, content}, both texts")
    if len(message) > 2 and any(value is not None for key, value in message.items() if key not in ("role", "content")):
        notes["a message says more than role and content, which is not read"] += 1
    return Turn(message["role"], message["content"])


def check_response(text: Text, field: str) -> None:
    """Raise ``BadRowError`` where a response begins with a turn of somebody who asks."""
    if not isinstance(text, str) and text[0].role in _ASKING:
        raise BadRowError(
            field,
            f"begins with the role {text[0].role!r}",
            due="a response begins with the assistant's turn; if the prompt stands in it, leave the prompt out of one",
        )


def apart(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Return the beginning that two different whole conversations share, and the rest of each.

    Messages are shared where they are equal. Of texts the prompt is what both begin with, up to the last
    ``\\n\\nAssistant:`` in it, or else without the word in which they part and the blanks before it; TRL's
    ``extract_prompt`` cuts at the first different character, within a word too.

    Raises ``BadRowError`` where they share no beginning, or one ends with it.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        end = _shared_words(chosen, rejected)
    elif isinstance(chosen, tuple) and isinstance(rejected, tuple):
        pairs = zip(chosen, rejected, strict=False)
        end = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    else:
        raise BadRowError("rejected", "is not written like chosen", due="write both as texts, or both as messages")
    if not end:
        raise BadRowError(
            "chosen",
            "shares no beginning with rejected, so there is no prompt",
            due="give the prompt a column of its own",
        )
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if _blank(text[end:]):
            raise BadRowError(field, "is empty behind the beginning that both share", due="remove the row")
    return chosen[:end], chosen[end:], rejected[end:]


def _shared_words(a: str, b: str) -> int:
    """Return how long the prompt is that two texts share."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # by halves: comparing slices is far faster than comparing characters
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    if (answer := a.rfind(_ANSWER, 0, low)) >= 0:
        return answer + len(_ANSWER)
    end = low
    if any(_spells(text[low]) for text in (a, b) if low < len(text)):  # they may part within a word
        while end and _spells(a[end - 1]):
            end -= 1
    return len(a[:end].rstrip())


def _spells(character: str) -> bool:
    """Return whether a character is part of a word that blanks or signs end; Chinese, for one, has no such words."""
    return character.isalnum() and unicodedata.east_asian_width(character) not in "WF"
