"""How a row becomes a ``Ranking``; each function raises ``BadRowError`` with the field, what is wrong and what is due.

``notes`` counts what was read in another way than it was written, for the summary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Final

from rlhf_lab.data.errors import BadRowError, shown
from rlhf_lab.data.ranking import Ranking, Text, Turn
from rlhf_lab.data.texts import apart, check_response, text_of

__all__ = ["Notes", "Row", "read_implicit_pair", "read_label", "read_pair", "read_ranking"]

Row = Mapping[str, Any]
Notes = Counter[str]

_RANKS: Final = "give each response its rank: 1 is the best, equal ranks are a tie"
_ALIKE: Final = "write both as texts, or both as messages"


def read_pair(row: Row, place: str, notes: Notes) -> Ranking:
    """Return a row with prompt, chosen and rejected."""
    chosen, rejected = _two(row, notes)
    prompt = text_of(row["prompt"], "prompt", notes)
    if isinstance(prompt, str) and not isinstance(chosen, str):
        prompt, chosen, rejected = _taken_apart(prompt, chosen, rejected, notes)
    elif isinstance(prompt, tuple) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        notes["the prompt's messages stand in chosen and rejected again, and are taken once"] += 1
        prompt, chosen, rejected = apart(chosen, rejected)
    _check_response(prompt, chosen, "chosen")
    _check_response(prompt, rejected, "rejected")
    return _judged(prompt, chosen, rejected, row, place, notes)


def read_implicit_pair(row: Row, place: str, notes: Notes) -> Ranking:
    """Return a row with chosen and rejected, whose common beginning is the prompt."""
    prompt, chosen, rejected = apart(*_two(row, notes))
    _check_response(prompt, chosen, "chosen")
    _check_response(prompt, rejected, "rejected")
    return _judged(prompt, chosen, rejected, row, place, notes)


def read_ranking(row: Row, place: str, notes: Notes) -> Ranking:
    """Return a row with prompt, responses and the rank of each."""
    prompt, given = text_of(row["prompt"], "prompt", notes), row["responses"]
    if not isinstance(given, list):
        raise BadRowError("responses", "is no list", found=shown(given), due="write a list of responses")
    if len(given) < 2:
        raise BadRowError("responses", "cannot be ranked", found=f"only {len(given)}", due="give two or more")
    responses = [text_of(value, f"responses[{i}]", notes) for i, value in enumerate(given)]
    for i, response in enumerate(responses):
        _check_response(prompt, response, f"responses[{i}]")
    if len(set(responses)) < len(responses):
        twice = next(i for i, response in enumerate(responses) if response in responses[:i])
        raise BadRowError(f"responses[{twice}]", "is the same as one before it", due="keep one, with its rank")
    ranks = _dense(row["ranking"], len(responses))
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    best_first = tuple(responses[i] for i in order)
    ties = len(set(ranks)) < len(ranks)
    return Ranking(prompt, best_first, tuple(ranks[i] for i in order) if ties else None, place=place)


def read_label(row: Row, place: str, notes: Notes) -> Ranking:
    """Return a row with prompt, completion and whether the completion is desirable."""
    prompt, completion = text_of(row["prompt"], "prompt", notes), text_of(row["completion"], "completion", notes)
    _check_response(prompt, completion, "completion")
    if not isinstance(row["label"], bool):
        raise BadRowError("label", "is neither true nor false", found=shown(row["label"]))
    return Ranking(prompt, (completion,), labels=(row["label"],), place=place)


def _two(row: Row, notes: Notes) -> tuple[Text, Text]:
    chosen, rejected = text_of(row["chosen"], "chosen", notes), text_of(row["rejected"], "rejected", notes)
    if chosen == rejected:
        raise BadRowError("rejected", "is the same as chosen", due="nothing is preferred here; remove the row")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRowError("rejected", "is not written like chosen", due=_ALIKE)
    return chosen, rejected


def _taken_apart(prompt: str, chosen: Text, rejected: Text, notes: Notes) -> tuple[Text, Text, Text]:
    """Return whole conversations taken apart, where one of the shared messages is what the column ``prompt`` says."""
    shared, chosen, rejected = apart(chosen, rejected)
    if not any(isinstance(turn, Turn) and turn.content.strip() == prompt.strip() for turn in shared):
        raise BadRowError(
            "prompt",
            "is a text, but none of the messages that chosen and rejected share",
            found=shown(prompt),
            due="mend it, or read the form implicit_pairs, which takes the shared messages alone",
        )
    notes["chosen and rejected are whole conversations; the prompt is all messages that both share"] += 1
    return shared, chosen, rejected


def _judged(prompt: Text, chosen: Text, rejected: Text, row: Row, place: str, notes: Notes) -> Ranking:
    """Return a pair with the numbers that its row gives."""
    margin = _number(row["margin"], "margin") if "margin" in row else None
    if "score_chosen" not in row:
        return Ranking(prompt, (chosen, rejected), margin=margin, place=place)
    scores = _number(row["score_chosen"], "score_chosen"), _number(row["score_rejected"], "score_rejected")
    if scores[0] <= scores[1]:
        notes["score_chosen is not above score_rejected"] += 1
    return Ranking(prompt, (chosen, rejected), margin=margin, scores=scores, place=place)


def _check_response(prompt: Text, response: Text, field: str) -> None:
    if isinstance(prompt, str) != isinstance(response, str):
        raise BadRowError(field, "is not written like prompt", due=_ALIKE)
    check_response(response, field)


def _dense(given: Any, responses: int) -> list[int]:
    """Return the rank of each response, 0 = best, without gaps."""
    if not isinstance(given, list):
        raise BadRowError("ranking", "is no list", found=shown(given), due=_RANKS)
    if len(given) != responses:
        found = f"{len(given)} for {responses} responses"
        raise BadRowError("ranking", "does not fit the responses", found=found, due=_RANKS)
    ranks = [_number(value, f"ranking[{i}]", _RANKS) for i, value in enumerate(given)]
    if min(ranks) < 1:
        raise BadRowError("ranking", "is below 1", found=shown(given), due=_RANKS)
    values, counts = zip(*sorted(Counter(ranks).items()), strict=True)
    before = [0, *accumulate(counts)][:-1]
    conventions = (
        [*range(1, len(values) + 1)],  # 1, 1, 2
        [n + 1 for n in before],  # 1, 1, 3
        [n + (count + 1) / 2 for n, count in zip(before, counts, strict=True)],  # 1.5, 1.5, 3
    )
    if [*values] not in conventions:
        raise BadRowError("ranking", "leaves ranks out", found=shown(given), due=_RANKS)
    return [values.index(rank) for rank in ranks]


def _number(value: Any, field: str, due: str = "") -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRowError(field, "is no finite number", found=shown(value), due=due)
    return number
