"""Chess endings as environments: white learns, black is a known opponent that answers inside the step.

Requirements this file meets:
- what is true and what is paid are two exact worlds over the same positions, so that a policy can be trained on a proxy
  and judged by the truth;
- on small boards the actor is asked once per collect, for all positions, and a compiled walk plays all games; on large
  ones games are played by gathers, and the actor is asked where it stands only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, ClassVar, Final, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import Environment, RewardFunction, Slot
from rlhf_lab.data.errors import BadRowError
from rlhf_lab.data.ranking import Ranking
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.exhibits import Exhibit
from rlhf_lab.training.finite import BuiltFinite
from rlhf_lab.training.protocols import Actor, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.worlds.protocol import open_actions
from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess.ending import Ending, ending
from rlhf_lab_chess.exhibits import exhibits
from rlhf_lab_chess.features import move_features, position_features
from rlhf_lab_chess.gathered import Gathered
from rlhf_lab_chess.opponents import Opponent, RandomReplies
from rlhf_lab_chess.rewards import EndingReward, Outcome
from rlhf_lab_chess.states import read_state
from rlhf_lab_chess.successors import NONE
from rlhf_lab_chess.words import encode
from rlhf_lab_chess.world import make_world

__all__ = ["KPK", "KQK", "KRK", "BuiltEnding", "EndingEnvironment"]

_FEW_STATES: Final = 4096  # up to here asking about all positions costs less than asking at every step


class BuiltEnding:
    """``runs x envs`` games in progress; see ``BuiltEnvironment``. Whole games come one per row, ``envs * count`` rows.

    ``inputs``: ``observations`` (numbers of states) and ``actions`` (slots), ``[runs, rows, t]`` int64, and ``mask
    [runs, rows, t, actions]`` of the legal ones.
    """

    resumable = True

    def __init__(self, component: EndingEnvironment, runs: int, envs: int, streams: Streams) -> None:
        self.component, self.ending = component, component.ending()
        legal = open_actions(self._truth)
        features, rows = move_features(self.ending)
        self.spaces = Spaces(
            self.ending.moves.shape[1],
            states=self.ending.states,
            features=position_features(self.ending),
            action_features=features,
            action_rows=rows,
            masked=True,
            legal=legal,
        )
        self._rollouts = self._play(self.paid(), runs, envs, streams)

    def _play(self, world: TurnWorld, runs: int, envs: int, streams: Streams) -> BuiltFinite | Gathered:
        """Return the games. By the world's size alone, since the two ways round differently."""
        if self.ending.states <= _FEW_STATES:
            return BuiltFinite(world, runs, envs, streams, limit=self.component.max_steps)
        return Gathered(world, runs, envs, streams, self.component.max_steps)

    @cached_property
    def _truth(self) -> TurnWorld:
        return self.component.world(self.component.reward)

    @cached_property
    def _paid(self) -> TurnWorld:
        return self._truth if self.component.proxy is None else self.component.world(self.component.proxy)

    def exact(self) -> TurnWorld:
        """Return the world of the true reward, the same for every run."""
        return self._truth

    def paid(self) -> TurnWorld:
        """Return the world of the reward that is paid in training."""
        return self._paid

    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories; see ``BuiltEnvironment``."""
        return self._rollouts.collect(actor, size)

    def encode(self, rankings: Sequence[Ranking]) -> Candidates:
        """Return rankings in words as candidates ``[1, rows, k]``; see ``encode`` in ``words``."""
        return encode(rankings, self.ending)

    def exhibits(self, policy: Tensor) -> Sequence[Exhibit]:
        """Return positions worth looking at, as ``policy [states, slots]`` plays them."""
        return exhibits(self.ending, self._truth, self._paid, policy)

    def state_dict(self) -> dict[str, Tensor]:
        """Return where every game stands, and the counters of the random numbers."""
        return self._rollouts.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._rollouts.load_state_dict(state)


class EndingEnvironment(Environment):
    """A king and one man against a bare king, whose every move's worth is known: V, Q, A, occupancy, gradients.

    White learns and moves first; black answers inside the step. An action is a slot, a piece x direction x distance
    that means the same in every position; ``inputs["mask"]`` tells the legal ones. An episode ends with mate, with
    stalemate, or where white's man is lost or becomes one that cannot mate, and is truncated after ``max_steps`` moves
    of white's: the position knows no clock and no repetition, and the exact world no truncation. The same position with
    colours exchanged (ranks flipped) is the same state.
    """

    provides = frozenset({"log_probs"})
    training_only = frozenset({"proxy", "max_steps"})
    ending_name: ClassVar[str]
    board: int = Field(default=4, ge=4, le=8, description="ranks and files of the board")
    opponent: Annotated[Opponent, Slot("opponent")] = Field(default=RandomReplies(), description="who plays black")
    reward: Annotated[RewardFunction, Slot("reward")] = Field(default=Outcome(), description="the true reward")
    proxy: Annotated[RewardFunction, Slot("reward")] | None = Field(
        default=None, description="reward that is paid in training instead; None: the true one"
    )
    start: tuple[str, ...] = Field(default=(), description="FENs to begin with, equally likely; none: any position")
    mate_in: tuple[int, int] | None = Field(
        default=None, description="begin only where best play mates in so many moves, from and to; None: anywhere"
    )
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount of the exact values; the spec's own gamma")
    max_steps: int = Field(default=50, ge=1, description="white's moves after which a game is truncated")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for field in ("reward", "proxy"):
            found = getattr(self, field)
            if found is not None and not isinstance(found, EndingReward):
                raise ValueError(f"{field}: {found.name!r} does not pay moves of chess endings")
        if self.start and self.mate_in:
            raise ValueError("start and mate_in both say where to begin; give one of them")
        if self.mate_in is not None and not 1 <= self.mate_in[0] <= self.mate_in[1]:
            raise ValueError(f"mate_in: give the least number of moves, from 1, and the most; found {self.mate_in}")
        return self

    def ending(self) -> Ending:
        """Return the solved ending."""
        return ending(self.ending_name, self.board)

    def starts(self) -> Tensor:
        """Return the start distribution ``[states]``; raises ``LabError`` where no position fits."""
        solved = self.ending()
        open_states = torch.from_numpy((solved.moves != NONE).any(1))
        chosen = torch.zeros(solved.states, dtype=torch.float64)
        if self.start:
            for number, fen in enumerate(self.start):
                try:
                    state = read_state(solved, fen)[0]
                    if not open_states[state]:
                        raise BadRowError("placement", "is stalemate", found=fen, due="begin where there is a move")
                except BadRowError as error:
                    error.place = f"environment.start[{number}]"
                    raise
                chosen[state] += 1
            return chosen / chosen.sum()
        possible = open_states & torch.from_numpy(solved.white_man == 0)  # with the ending's own man
        if self.mate_in is not None:
            low, high = self.mate_in
            moves = torch.from_numpy((solved.won.astype(np.int64) + 1) // 2)  # 0 where it is a draw
            longest = int(moves[possible].max())
            possible &= (moves >= low) & (moves <= high)
            if not bool(possible.any()):
                raise LabError(
                    f"environment.mate_in: no position of {self.ending_name} on {self.board} x {self.board} is mate in "
                    f"{low} to {high}; the longest is mate in {longest}"
                )
        chosen[: len(possible)] = possible.double()
        return chosen / chosen.sum()

    def world(self, reward: RewardFunction | None = None) -> TurnWorld:
        """Return the exact world of ``reward``, the true one without."""
        plain = {name: type(self).model_fields[name].default for name in self.training_only}
        told = self.model_copy(update={**plain, "reward": self.reward if reward is None else reward})
        return _world(told)

    def build(self, runs: int, envs: int, streams: Streams) -> BuiltEnding:
        """Return ``runs x envs`` games in progress."""
        return BuiltEnding(self, runs, envs, streams)


class KQK(EndingEnvironment):
    """King and queen against king: mate in at most 10 moves on 8 x 8, 4 on 4 x 4."""

    name = "kqk"
    ending_name = "KQK"


class KRK(EndingEnvironment):
    """King and rook against king: mate in at most 16 moves on 8 x 8, 7 on 4 x 4."""

    name = "krk"
    ending_name = "KRK"


class KPK(EndingEnvironment):
    """King and pawn against king on 8 x 8, with the endings that a promotion leads to; 76.5 % of positions are won."""

    name = "kpk"
    ending_name = "KPK"
    board: int = Field(default=8, ge=8, le=8, description="ranks and files of the board; a pawn needs eight")


@lru_cache(maxsize=2)  # the true one stays while arms differ in what they pay; those of a pawn take half a gigabyte
def _world(component: EndingEnvironment) -> TurnWorld:
    """Return the world of a component's ``reward``."""
    solved, reward = component.ending(), component.reward
    assert isinstance(reward, EndingReward)  # the component was refused otherwise
    return make_world(solved, component.opponent(solved), reward, component.starts(), component.gamma)
