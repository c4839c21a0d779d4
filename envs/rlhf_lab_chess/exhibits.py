"""Positions worth looking at, with a board and what the table says of every move."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.training.exhibits import Cell, Exhibit
from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess.drawing import Arrow, draw_svg
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.placement import LETTERS
from rlhf_lab_chess.players import BEST, VERDICTS, move_verdicts
from rlhf_lab_chess.retrograde import DRAW
from rlhf_lab_chess.states import position_of, write_move
from rlhf_lab_chess.successors import DEAD

__all__ = ["exhibits"]

_MOST: Final = 12  # moves in a table
_ROUNDING: Final = 1e-9  # a gain or loss below it is none
_COLUMNS: Final = ("move", "verdict", "mate in", "probability", "Q", "A", "Q*", "A*")


def exhibits(ending: Ending, world: TurnWorld, paid: TurnWorld, policy: Tensor) -> list[Exhibit]:
    """Return a few positions of an ending, with what ``policy [states, slots]`` makes of them.

    - where the policy loses most: the largest visits · (V* - E Q*);
    - a bad move in a won position: the move with the largest -Q* · A*, worth much and yet a loss;
    - the longest mate from a first position, where any is won;
    - where ``paid`` is another world: the first position in which the move that is best paid costs most in truth, if
      it costs anything.
    """
    numbers = _Numbers(ending, world, policy)
    best, lost = numbers.best, -numbers.best_advantage
    won = torch.zeros(ending.states, dtype=torch.bool)
    won[: len(ending.won)] = torch.from_numpy(ending.won != DRAW)

    loss = (policy * lost).sum(-1)
    costly = int((world.occupancy(policy) * loss).argmax())
    told = f"On the mean it loses {float(loss[costly]):.2g} here."
    found = [numbers.exhibit(costly, "Where the policy loses most", told)]

    bad = int((best * lost).masked_fill(~(numbers.legal & won[:, None]), -torch.inf).argmax())
    state, slot = divmod(bad, policy.shape[1])
    q, a = float(best[state, slot]), -float(lost[state, slot])
    told = f"{write_move(ending, state, slot)}: Q* = {q:.3g}, A* = {a:.3g}."
    found.append(numbers.exhibit(state, "A bad move in a won position", told, slot))

    plies = torch.from_numpy(ending.won).masked_fill(world.start[: len(ending.won)] == 0, DRAW)
    if bool((plies != DRAW).any()):
        found.append(numbers.exhibit(int(plies.argmax()), "The longest mate"))

    if paid is not world:
        tempting = paid.optimal_action_values().argmax(-1, keepdim=True)
        cost = lost.gather(-1, tempting)[:, 0].masked_fill(world.start == 0, 0)
        worst = int(cost.argmax())
        slot = int(tempting[worst])
        if cost[worst] > _ROUNDING:
            told = f"{write_move(ending, worst, slot)} is best paid, and costs {float(cost[worst]):.3g} in truth."
            found.append(numbers.exhibit(worst, "What the paid reward prefers", told, slot))
    return found


class _Numbers:
    """What is known of every move under a policy, and under best play."""

    def __init__(self, ending: Ending, world: TurnWorld, policy: Tensor) -> None:
        self._ending, self._policy = ending, policy
        self.legal = world.legal
        self.value = world.action_values(policy)
        mean = (policy * self.value.masked_fill(~self.legal, 0)).sum(-1, keepdim=True)  # V, without solving it again
        self.advantage = _rounded(self.value - mean)
        self.best = world.optimal_action_values()
        worth = self.best.amax(-1, keepdim=True)
        self.best_advantage = _rounded((self.best - worth).masked_fill(~self.legal, 0))
        self._verdicts = move_verdicts(ending)

    def exhibit(self, state: int, title: str, caption: str = "", shown: int | None = None) -> Exhibit:
        """Return a position with its moves, the best first; ``shown`` is drawn beside the best and the likeliest."""
        slots = self.legal[state].nonzero()[:, 0]
        order = self.best[state, slots].argsort(descending=True, stable=True)
        ranked = slots[order].tolist()
        kept = ranked[:_MOST] + ([shown] if shown is not None and shown not in ranked[:_MOST] else [])
        likeliest = int(self._policy[state].masked_fill(~self.legal[state], -1).argmax())
        drawn = dict.fromkeys([likeliest, *([] if shown is None else [shown]), ranked[0]])
        arrows = [self._arrow(state, slot, ranked[0]) for slot in drawn]
        moves = self._ending.moves_to_mate(state)
        fate = "a draw" if moves is None else f"mate in {moves}"
        picture = draw_svg(position_of(self._ending, state), arrows, title=f"{title}, {fate}")
        left = len(ranked) - len(kept)
        more = f" {left} further moves are no better." if left else ""
        return Exhibit(
            title,
            f"White to move: {fate}. {caption}{more}".strip(),
            picture,
            _COLUMNS,
            [self._row(state, s) for s in kept],
        )

    def _arrow(self, state: int, slot: int, best: int) -> Arrow:
        origin, target, becomes = self._ending.move(state, slot)
        verdict = int(self._verdicts[state, slot])
        role: Any = "best" if slot == best else "played" if verdict == BEST else VERDICTS[verdict]
        return Arrow(origin, target, role, LETTERS.index(becomes) if becomes else 0)

    def _row(self, state: int, slot: int) -> tuple[Cell, ...]:
        behind = int(self._ending.moves[state, slot])
        plies = DRAW if behind == DEAD else int(self._ending.lost[behind])
        mate = "draw" if plies == DRAW else str(plies // 2 + 1)
        tables = (self._policy, self.value, self.advantage, self.best, self.best_advantage)
        numbers = [float(table[state, slot]) for table in tables]
        return write_move(self._ending, state, slot), VERDICTS[int(self._verdicts[state, slot])], mate, *numbers


def _rounded(advantages: Tensor) -> Tensor:
    """Return advantages without what rounding leaves of equally good moves."""
    return advantages.masked_fill(advantages.abs() < _ROUNDING, 0)
