"""What games on a world of turns need of its tables, as arrays, laid out for a step to touch little memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rlhf_lab.worlds.turns import TurnWorld

__all__ = ["GameTables", "game_tables"]


class GameTables(NamedTuple):
    """Tables of a ``TurnWorld``, which see; a number in (0, 1) chooses the first place whose bound exceeds it."""

    moves: Any  # [s,a] int32 position after the action, -1 = illegal
    replies: Any  # [p,3,k] of each reply: its bound, the state after it, and what it pays; side by side in memory
    own_rewards: Any  # [s,a] paid for the action; [0,0] where no action pays
    legal: Any  # [s,a] bool
    terminal: Any  # [s] bool
    starts: Any  # [n] int64 the states in which a game may begin
    start_bounds: Any  # [n]


def game_tables(world: TurnWorld) -> GameTables:
    """Return the tables of a world; those of the states share its memory."""
    possible = world.chances > 0
    last = possible.flip(-1).cumsum(-1).flip(-1) == possible
    bounds = world.chances.cumsum(-1).masked_fill_(last, 2).numpy()  # so that no rounding leads past the last one
    starts = world.start.nonzero()[:, 0]
    start_bounds = world.start[starts].cumsum(0)
    start_bounds[-1] = 2  # likewise
    own = world.own_rewards
    return GameTables(
        world.moves.numpy(),
        np.stack([bounds, world.replies.numpy(), world.reply_rewards.numpy()], axis=1),
        (own if bool(own.any()) else own[:0, :0]).numpy(),
        world.moves.numpy() >= 0,
        world.terminal.numpy(),
        starts.numpy(),
        start_bounds.numpy(),
    )
