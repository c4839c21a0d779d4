"""Whole responses from distributions per state: which states candidates ask about, and sums over their tokens.

States of a world of token sequences are few and tokens many: where that is so, a policy is evaluated once per state and
its numbers are looked up by ``gather``, whose gradient is summed run by run in a fixed order.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.types import clean

__all__ = ["FEW_STATES", "Responses"]

FEW_STATES: Final = 4096  # up to here a policy is asked about every state, beyond it about those of the tokens only
_INPUTS: Final = ("prompts", "prefixes", "tokens", "counted")


class Responses:
    """The tokens of candidates: ``states [runs, m]`` to ask a policy about, and how to look its answers up.

    ``counted [runs, rows, k, t]`` tells the tokens that count; what stands at others may be anything.

    Raises ``LabError`` where the candidates are not token sequences of a world of ``states`` states.
    """

    def __init__(self, candidates: Candidates, states: int | None) -> None:
        missing = [name for name in _INPUTS if name not in candidates.inputs]
        if states is None or missing:
            what = f"candidates without {', '.join(missing)}" if missing else "a policy that reads observation vectors"
            raise LabError(
                f"scoring responses: found {what}; needs candidates of a world of token sequences and a policy built "
                "for that world"
            )
        prompts, prefixes, tokens, self.counted = (candidates.inputs[name] for name in _INPUTS)
        sound = bool(self.counted.all())
        runs = prompts.shape[0]
        asked = _columns(prompts[..., None, None] + prefixes, self.counted, sound)
        self._tokens = _columns(tokens, self.counted, sound)
        self._unsound = None if sound else ~_by_time(self.counted)
        # by the world's size alone, never by how many tokens there are, which grows with other runs' responses
        if states <= FEW_STATES:
            self.states = torch.arange(states, device=asked.device).expand(runs, states)
            self._at = asked
        else:
            self.states = asked
            self._at = torch.arange(asked.shape[1], device=asked.device).expand(runs, -1)

    def of_tokens(self, table: Tensor) -> Tensor:
        """Return what ``table [runs, m, actions]`` says of each token, ``[runs, t, rows, k]``; 0 where not counted."""
        return self._look_up(table, torch.add(self._tokens, self._at, alpha=table.shape[2]))

    def of_steps(self, table: Tensor) -> Tensor:
        """Return what ``table [runs, m]`` says of each token's state, ``[runs, t, rows, k]``; 0 where not counted."""
        return self._look_up(table, self._at)

    def _look_up(self, table: Tensor, place: Tensor) -> Tensor:
        runs, rows, k, steps = self.counted.shape
        found = table.flatten(1).gather(1, place).view(runs, steps, rows, k)
        return found if self._unsound is None else found.masked_fill(self._unsound, 0)


def _by_time(x: Tensor) -> Tensor:
    """Return ``x [runs, rows, k, t]`` as ``[runs, t, rows, k]``: sums over the steps are then sums of whole rows."""
    return x.permute(0, 3, 1, 2)


def _columns(x: Tensor, counted: Tensor, sound: bool) -> Tensor:
    """Return ``x [runs, rows, k, t]`` as ``[runs, t * rows * k]``, 0 where not counted."""
    return _by_time(x if sound else clean(x, counted)).flatten(1)
