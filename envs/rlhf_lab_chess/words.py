"""Rankings of moves in words, as any preference data: the prompt is a position in FEN, a response a move in UCI.

{"prompt": "3k/4/4/KR2 w - - 0 1", "chosen": "b1b4", "rejected": "a1a2"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_lab.data.errors import BadRowError, shown
from rlhf_lab.data.ranking import Ranking, Text
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.moves import side_by_side
from rlhf_lab_chess.records import write_lines
from rlhf_lab_chess.states import read_move, read_state, write_move, write_state

__all__ = ["encode", "write_rankings"]


def encode(rankings: Sequence[Ranking], ending: Ending) -> Candidates:
    """Return rankings in words as candidates ``[1, rows, k]``, rows of fewer moves filled up as not valid.

    The side with the man may be white or black. What is said of the moves is left to who reads the rows.

    Raises ``BadRowError`` with the row's place for a position of another ending and for an illegal move, and
    ``LabError`` where there is no row.
    """
    if not rankings:
        raise LabError("encode: there are no rows; give one at least")
    read = [_read(row, ending) for row in rankings]
    most = max(len(slots) for _, slots in read)
    counts = torch.tensor([len(slots) for _, slots in read])
    states = torch.tensor([[state for state, _ in read]])
    # a legal move stands where there is none
    slots = torch.tensor([[[*slots, *slots[:1] * (most - len(slots))] for _, slots in read]])
    valid = torch.arange(most) < counts[None, :, None]
    return side_by_side(states, slots, valid=None if bool(valid.all()) else valid)


def write_rankings(path: str | Path, ending: Ending, candidates: Candidates, run: int = 0) -> None:
    """Write the rankings of one run as JSON Lines; the file is whole or not there.

    Pairs without ties become ``prompt``, ``chosen`` and ``rejected``, all else ``prompt``, ``responses`` and
    ``ranking`` (1 is the best, equal is a tie). Rows of a single move say nothing and are left out.

    Raises ``LabError`` where no row is left, and where the file cannot be written.
    """
    rows = list(_rows(ending, candidates, run))
    if not rows:
        raise LabError(f"cannot write {path}: no position has two moves to be compared")
    write_lines(path, map(json.dumps, rows))


def _read(row: Ranking, ending: Ending) -> tuple[int, list[int]]:
    """Return the state and the slots of a row."""
    where = "prompt"
    try:
        state, white = read_state(ending, _plain(row.prompt, "a position in FEN"))
        where = "response"
        slots = [read_move(ending, state, _plain(move, "a move in UCI"), white=white) for move in row.responses]
    except BadRowError as error:
        error.place, error.field = row.place, f"{where}, {error.field}"
        raise
    return state, slots


def _plain(text: Text, due: str) -> str:
    if not isinstance(text, str):
        raise BadRowError("messages", "are no chess", found=shown(text), due=f"write {due} as plain text")
    return text.strip()


def _rows(ending: Ending, candidates: Candidates, run: int) -> Iterator[dict[str, Any]]:
    states, slots = (candidates.inputs[name][run] for name in ("prompts", "tokens"))
    places = torch.arange(slots.shape[1]).expand(slots.shape[:2]) if candidates.ranks is None else candidates.ranks[run]
    valid = torch.ones_like(places, dtype=torch.bool) if candidates.valid is None else candidates.valid[run]
    pairs = slots.shape[1] == 2 and candidates.ranks is None
    columns = (x.tolist() for x in (states, slots[..., 0], places + 1, valid))
    for state, row, ranks, there in zip(*columns, strict=True):
        moves = [write_move(ending, state, slot) for slot, real in zip(row, there, strict=True) if real]
        said = [rank for rank, real in zip(ranks, there, strict=True) if real]
        if len(moves) < 2:
            continue
        prompt = {"prompt": write_state(ending, state)}
        if pairs:
            yield prompt | {"chosen": moves[0], "rejected": moves[1]}
        else:
            yield prompt | {"responses": moves, "ranking": said}
