"""The solved positions of one man against a bare king: made once, kept in the user's cache folder, checked when read.

A file that is missing, damaged or of another layout is made again; where nothing can be kept, that is told once and the
tables are made anew by every process.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rlhf_lab.cache import cache_folder, keep
from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.positions import Positions, positions
from rlhf_lab_chess.retrograde import Distances, distances
from rlhf_lab_chess.successors import KING_SLOTS, Replies, black_replies, slots, white_moves

__all__ = ["PROMOTED", "Solved", "solved"]

LAYOUT: Final = "1"  # of the files; another one is made again
PROMOTED: Final = ("Q", "R")  # what a pawn may become to win
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Solved:
    """Every position with one man, where its moves lead, and its distance to mate.

    ``moves`` are white's by the man behind them, see ``white_moves``; ``won`` is the DTM with white to move and
    ``lost`` the DTM with black to move.
    """

    positions: Positions
    moves: Mapping[str, NDArray[np.int32]]
    replies: Replies
    won: Distances
    lost: Distances


@cache
def solved(board: Board, man: str) -> Solved:
    """Return the solved positions of ``man``; made once per process, and kept between processes where possible."""
    found = positions(board, man)
    path = cache_folder("chess") / f"K{man}K-{board.side}-{LAYOUT}.safetensors"
    kept = _read(path, found)
    if kept is not None:
        moves = {name.removeprefix("moves"): x for name, x in kept.items() if name.startswith("moves")}
        replies = Replies(kept["replies"], kept["checked"])
        return Solved(found, moves, replies, kept["won"], kept["lost"])
    moves, replies = white_moves(found), black_replies(found)
    promoted = {each: solved(board, each).lost for each in PROMOTED} if man == "P" else {}
    won, lost = distances({each: x for each, x in moves.items() if each}, man, replies, promoted)
    arrays: dict[str, NDArray[Any]] = {f"moves{each}": x for each, x in moves.items()}
    arrays |= {"replies": replies.numbers, "checked": replies.checked, "won": won, "lost": lost}
    _keep(path, arrays)
    return Solved(found, moves, replies, won, lost)


def _read(path: Path, found: Positions) -> dict[str, NDArray[Any]] | None:
    """Return what is kept, or None where there is nothing that can be believed."""
    try:
        if not path.is_file():
            return None
    except OSError:
        return None  # what forbids to look forbids to write, too, which is told there
    try:
        with safe_open(path, framework="numpy") as file:
            told = (file.metadata() or {}).get("sha256")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); its tables are made again", path, error)
        return None
    if told != _digest(arrays):
        _log.warning("%s is damaged: its content is not what its checksum says; its tables are made again", path)
        return None
    if {name: (x.dtype, x.shape) for name, x in arrays.items()} != _layout(found):
        _log.warning("%s has other arrays than are due; its tables are made again", path)
        return None
    return arrays


def _layout(found: Positions) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return type and shape of each array in a file."""
    white, black = len(found.white), len(found.black)
    behind = ("", "P", *PROMOTED) if found.man == "P" else (found.man,)
    moves = (np.dtype(np.int32), (white, KING_SLOTS + len(slots(found.board, found.man))))
    return {f"moves{each}": moves for each in behind} | {
        "replies": (np.dtype(np.int32), (black, KING_SLOTS)),
        "checked": (np.dtype(np.bool_), (black,)),
        "won": (np.dtype(np.int8), (white,)),
        "lost": (np.dtype(np.int8), (black,)),
    }


def _keep(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    try:
        keep(path, save(arrays, metadata={"sha256": _digest(arrays)}))
    except IsADirectoryError:
        _tell_once(f"{path} is a folder where a file with tables of chess endings should stand; remove it")
    except OSError as error:
        _tell_once(
            f"tables of chess endings cannot be kept in {path.parent} ({error.strerror or error}); every process makes "
            "them anew, in seconds. Make room or let the folder be written, or set XDG_CACHE_HOME to another one"
        )


@cache
def _tell_once(message: str) -> None:
    _log.warning(message)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
