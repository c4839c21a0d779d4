"""Hypothesis strategies for role reward_model: scores of ranked candidates, with every label that they may have.

- Rows are ragged: padding left, right or between, rows of one valid candidate, rows of none. A loss on pairs gets rows
  with at most two valid candidates, in rows of two and in longer ones. What stands at invalid candidates is junk.
- Scores repeat, are all equal now and then, and now and then so far apart that their odds overflow.
- Labels fit the order, best first: ranks never fall, with and without ties. Probabilities are 0, 1 and between; targets
  are sometimes probabilities too. Margins are those of ratings, from 0 up.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.conformance.strategies import JUNK, numbers, ragged_mask, table
from rlhf_lab.types import Scores

__all__ = ["EXTREME", "scores"]

EXTREME: Final = 8000.0  # a score that a reward model without a bound has reached; float32 has no digits left there
_MAX_ROWS: Final = 4
_MAX_CANDIDATES: Final = 5
_NEAR: Final = numbers()
_FAR: Final = (400.0, -400.0, 1.0, 100.0, -100.0, 0.0)  # exponentials and probabilities of differences leave float64
_WIDE: Final = (30.0, -30.0, 0.0, 1.0, 15.0, -15.0)  # where sigmoids round to 0 and 1
_CHANCES: Final = (0.75, 1.0, 0.5, 0.0, 0.25, 0.875)
_RATINGS: Final = (0.0, 1.0, 0.5, 2.0, 0.25, 3.0)


@st.composite
def scores(
    draw: st.DrawFn, fields: frozenset[str] = frozenset(), *, most: int | None = None, full: bool = False
) -> Scores:
    """Draw ``Scores [rows, k]`` with the optional ``fields``, at most ``most`` valid candidates in a row.

    With ``full`` there are two candidates or more, all of them valid, and differences of at most 60.
    """
    n = draw(st.integers(1, _MAX_ROWS))
    if most == 2:
        k = 2 if full else draw(st.sampled_from((2, 2, 2, 3, 4)))
    else:
        k = draw(st.integers(2 if full else 1, _MAX_CANDIDATES))
    valid = torch.ones(n, k, dtype=torch.bool) if full else ragged_mask(draw, n, k)
    if most is not None:
        valid = valid & (valid.cumsum(-1) <= most)
    found: dict[str, Any] = {"scores": _scores(draw, n, k, _WIDE if full else _FAR)}
    if "targets" in fields:
        found["targets"] = _targets(draw, n, k)
    found = {name: torch.where(valid, x, JUNK) for name, x in found.items()}
    if "ranks" in fields:
        steps = table(draw, (1, 0), n, k)
        steps[:, 0] = 0
        found["ranks"] = torch.where(valid, steps.cumsum(-1), int(JUNK))
    for name, choices in (("preference_prob", _CHANCES), ("margins", _RATINGS), ("weights", _RATINGS[1:])):
        if name in fields:
            found[name] = table(draw, choices, n, 1)[:, 0]
    if "uniforms" in fields:
        found["uniforms"] = table(draw, tuple(i / 16 for i in range(16)), n, 1)[:, 0]
    return Scores(valid=valid, **found)


def _scores(draw: st.DrawFn, n: int, k: int, far: tuple[float, ...]) -> Tensor:
    kind = draw(st.sampled_from(("near", "near", "near", "near", "equal", "far")))
    if kind == "equal":
        return table(draw, _NEAR, n, 1).expand(n, k).clone()
    return table(draw, far if kind == "far" else _NEAR, n, k)


def _targets(draw: st.DrawFn, n: int, k: int) -> Tensor:
    kind = draw(st.sampled_from(("chances", "chances", "any")))
    return table(draw, _CHANCES if kind == "chances" else _NEAR, n, k)
