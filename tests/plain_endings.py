"""Endings of a queen or rook against a bare king in plain Python, from the definition of the pieces: an oracle.

A square is a pair (file, rank), a position the squares of white's king, the man and black's king. Mates are found
first; distances then spread backwards, move by move, as in a breadth-first search.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Ending", "Position", "Square"]

Square = tuple[int, int]
Position = tuple[Square, Square, Square]

STRAIGHT = [(0, 1), (1, 0), (0, -1), (-1, 0)]
OBLIQUE = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
LINES = {"R": STRAIGHT, "Q": STRAIGHT + OBLIQUE}


@dataclass(frozen=True)
class Ending:
    """White's king and ``man``, Q or R, against black's king on ``side`` x ``side``."""

    side: int
    man: str

    @cached_property
    def squares(self) -> set[Square]:
        return {(file, rank) for file in range(self.side) for rank in range(self.side)}

    def around(self, king: Square) -> set[Square]:
        """Return the squares that a king attacks."""
        file, rank = king
        return {(file + x, rank + y) for x, y in LINES["Q"]} & self.squares

    def attacked(self, man: Square, blockers: set[Square]) -> set[Square]:
        """Return the squares that the man attacks, those of the blockers that it sees counted."""
        found = set()
        for x, y in LINES[self.man]:
            file, rank = man[0] + x, man[1] + y
            while (file, rank) in self.squares:
                found.add((file, rank))
                if (file, rank) in blockers:
                    break
                file, rank = file + x, rank + y
        return found

    def positions(self) -> tuple[set[Position], set[Position]]:
        """Return the legal positions with white, and with black to move."""
        black = {
            (king, man, bare)
            for king in self.squares
            for bare in self.squares - self.around(king) - {king}
            for man in self.squares - {king, bare}
        }
        return {(king, man, bare) for king, man, bare in black if bare not in self.attacked(man, {king})}, black

    def white_moves(self, position: Position) -> dict[tuple[Square, Square], Position]:
        """Return the position behind each of white's legal moves, by the squares that it leaves and reaches."""
        king, man, bare = position
        steps = self.around(king) - self.around(bare) - {man}
        lines = self.attacked(man, {king, bare}) - {king, bare}
        return {(king, to): (to, man, bare) for to in steps} | {(man, to): (king, to, bare) for to in lines}

    def black_moves(self, position: Position) -> dict[Square, Position | None]:
        """Return the position behind each of black's legal moves, by the king's new square; None takes the man."""
        king, man, bare = position
        safe = self.around(bare) - self.around(king)
        fled = safe - self.attacked(man, {king}) - {man}
        taken: dict[Square, Position | None] = {man: None} if man in safe else {}
        return taken | {to: (king, man, to) for to in fled}

    def distances(self) -> tuple[dict[Position, int], dict[Position, int]]:
        """Return the plies to mate of the positions that white wins, with white, and with black to move."""
        white, black = self.positions()
        before: dict[Position, list[Position]] = defaultdict(list)  # with white to move, by a position behind them
        asked: dict[Position, list[Position]] = defaultdict(list)  # with black to move, likewise
        for position in white:
            for behind in self.white_moves(position).values():
                before[behind].append(position)
        open_answers, lost, won = {}, {}, {}
        for position in black:
            answers = self.black_moves(position).values()
            open_answers[position] = len(answers)  # one that takes the man stays open for ever
            for behind in answers:
                if behind is not None:
                    asked[behind].append(position)
            king, man, bare = position
            if not answers and bare in self.attacked(man, {king}):
                lost[position] = 0
        queue = deque((0, False, position) for position in lost)
        while queue:
            plies, whites, position = queue.popleft()
            if whites:
                for earlier in asked[position]:
                    open_answers[earlier] -= 1
                    if not open_answers[earlier]:
                        lost[earlier] = plies + 1
                        queue.append((plies + 1, False, earlier))
            else:
                for earlier in before[position]:
                    if earlier not in won:
                        won[earlier] = plies + 1
                        queue.append((plies + 1, True, earlier))
        return won, lost
