"""Hypothesis strategies for role kl beyond ``log_probs``: odds to enumerate, edges, impossible actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.batch import Batch, BatchError, optional, required
from rlhf_lab.conformance.inputs import LogProbs, tensors
from rlhf_lab.conformance.strategies import table

__all__ = ["Odds", "far_apart", "impossible_actions", "odds"]

_ODDS: Final = (1.0, 2.0, 3.0, 0.5, 4.0, 8.0, 0.25, 64.0)
_GAPS: Final = (0.0, 30.0, -30.0, 15.0, -15.0)


@dataclass(frozen=True, eq=False)
class Odds(Batch):
    """Three policies for one state, each as numbers proportional to its probabilities, ``[1, actions]``.

    Samples are of ``old`` where given, else of ``policy``. Odds can be checked by hand, and fewer or plainer ones are
    odds too.
    """

    axes: ClassVar[str] = "action"

    policy: Tensor = required("float", "same")
    reference: Tensor = required("float", "same")
    old: Tensor | None = optional("float", "same")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, _, numbers in tensors(self):
            if not bool((numbers > 0).all()):
                raise BatchError(f"Odds.{name}: expected numbers above 0, found {numbers.tolist()}")

    def chances(self, name: str) -> list[float]:
        """Return the probabilities of one policy."""
        numbers: list[float] = getattr(self, name)[0].tolist()
        return [each / math.fsum(numbers) for each in numbers]


@st.composite
def odds(draw: st.DrawFn, *, old: bool | None = None) -> Odds:
    """Draw odds of two to four actions, with or without an old policy; None: either."""
    actions = draw(st.integers(2, 4))
    given = draw(st.booleans()) if old is None else old
    policy, reference, older = (table(draw, _ODDS, 1, actions) for _ in range(3))
    return Odds(policy, reference, older if given else None)


@st.composite
def far_apart(draw: st.DrawFn, *, distributions: bool = False, old: bool = True) -> LogProbs:
    """Draw log-probabilities up to 30 apart, of actions also such whose exp underflows; ``old`` ones now and then."""
    if distributions:
        actions = draw(st.integers(2, 3))
        policy, reference, older = (table(draw, _GAPS, 1, actions).log_softmax(-1)[None] for _ in range(3))
    else:
        policy = table(draw, (-30.0, -1e-9, -64.0, -1024.0), 1, 2)
        reference, older = (policy + table(draw, _GAPS, 1, 2) for _ in range(2))
    return LogProbs(policy, reference, older if old and draw(st.booleans()) else None)


@st.composite
def impossible_actions(draw: st.DrawFn) -> LogProbs:
    """Draw distributions ``[1, 1, actions]`` some of whose actions have probability 0, though never the first."""
    actions = draw(st.integers(2, 3))
    logits = [table(draw, (0.0, -math.inf, 1.0, -math.inf, -1.0), 1, actions) for _ in range(3)]
    for each in logits:
        each[:, 0] = 0
    policy, reference, old = (each.log_softmax(-1)[None] for each in logits)
    return LogProbs(policy, reference, old if draw(st.booleans()) else None)
