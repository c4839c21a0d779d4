"""Hypothesis strategies for role preference: responses to prompts, with every label that they may have.

- Rows are ragged: missing candidates anywhere, rows of one valid candidate, rows of none. What stands at invalid
  candidates is junk, lengths of 0 among it.
- Log-probabilities are at most 0, also -1e-9, where the odds of a response are 1e9. Policy and reference differ by
  ratios either way, not at all now and then, and now and then by thousands, as those of long responses may; candidates
  are duplicates now and then.
- Labels are of both kinds, or of one only. Lengths go from 1 to 8 tokens; where tokens have log-probabilities of their
  own, those of a response add up to its own.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.conformance.strategies import JUNK, numbers, ragged_mask, table
from rlhf_lab.types import Rankings

__all__ = ["rankings"]

_MAX_ROWS: Final = 4
_MAX_CANDIDATES: Final = 4
_MAX_TOKENS: Final = 3
_NEAR: Final = (-1.0, -0.5, -2.0, -0.25, -4.0, -8.0)
# not dyadic: a margin of 1 - 1e-9 stands beside a kink at 1, and in float32 on it
_CERTAIN: Final = (-1e-9, -3.0, -0.3)
_FAR: Final = (-3.0, -8003.0, -1e-9, -4000.0, -0.3)
_RATIOS: Final = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.125, -0.125, 4.0, -4.0)
_LENGTHS: Final = (2, 1, 3, 8, 4, 5)
_ROW_LABELS: Final = {
    "preference_prob": (0.75, 1.0, 0.5, 0.0, 0.25, 0.875),
    "margins": (1.0, 0.0, 0.5, 2.0, 0.25, 3.0),
    "weights": (1.0, 0.5, 2.0, 0.25, 3.0),
    "uniforms": tuple(i / 16 for i in range(16)),
}


@st.composite
def rankings(
    draw: st.DrawFn, fields: frozenset[str] = frozenset(), *, most: int | None = None, full: bool = False
) -> Rankings:
    """Draw ``Rankings [rows, k]`` with the optional ``fields``; ``most`` = 2 draws pairs, None one to four candidates.

    With ``full`` there are two candidates or more, all of them valid, and no extremes.
    """
    n = draw(st.integers(1, _MAX_ROWS))
    k = 2 if most == 2 else draw(st.sampled_from((2, 3, 4) if full else (2, 3, 1, 4)))
    valid = torch.ones(n, k, dtype=torch.bool) if full else ragged_mask(draw, n, k)
    found = _per_token(draw, n, k) if fields & {"token_log_probs", "token_ref_log_probs", "token_valid"} else {}
    if not found:
        found["log_probs"], found["ref_log_probs"] = _policy_and_reference(draw, n, k, far=not full)
    if "mismatched_log_probs" in fields or "mismatched_ref_log_probs" in fields:
        policy, reference = _policy_and_reference(draw, n, k, far=not full)
        found |= {"mismatched_log_probs": policy, "mismatched_ref_log_probs": reference}
    for name, choices in (("targets", numbers()), ("gains", numbers()), ("token_kl", _NEAR)):
        if name in fields:
            found[name] = table(draw, choices, n, k).abs() if name == "token_kl" else table(draw, choices, n, k)
    if "lengths" in fields and "lengths" not in found:
        found["lengths"] = table(draw, _LENGTHS, n, k)
    if "desirable" in fields:
        kind = draw(st.sampled_from(((True, False), (True, False), (True, False), (True,), (False,))))
        found["desirable"] = table(draw, kind, n, k)
    if "ranks" in fields:
        found["ranks"] = table(draw, (1, 0), n, k).cumsum(-1)
    found = {name: _junk(x, valid) for name, x in found.items() if name in fields or name == "log_probs"}
    found |= {name: table(draw, x, n, 1)[:, 0] for name, x in _ROW_LABELS.items() if name in fields}
    return Rankings(valid=valid, **found)


def _policy_and_reference(draw: st.DrawFn, n: int, k: int, *, far: bool) -> tuple[Tensor, Tensor]:
    """Draw log-probabilities of the same responses under two policies."""
    kind = draw(st.sampled_from(("any", "any", "any", "equal", "twins", *(("far", "certain") if far else ()))))
    if kind in ("far", "certain"):
        choices = _FAR if kind == "far" else _CERTAIN
        return table(draw, choices, n, k), table(draw, choices, n, k)
    base = table(draw, _NEAR, n, k)
    ratio = torch.zeros_like(base) if kind == "equal" else table(draw, _RATIOS, n, k)
    if kind == "twins":  # the same response several times
        base, ratio = (x[:, :1].expand(n, k).clone() for x in (base, ratio))
    return base + ratio.clamp(max=0), base - ratio.clamp(min=0)


def _per_token(draw: st.DrawFn, n: int, k: int) -> dict[str, Any]:
    """Draw the log-probabilities of tokens ``[n, k, t]``, and what follows from them."""
    t = draw(st.integers(1, _MAX_TOKENS))
    lengths = table(draw, tuple(range(1, t + 1)), n, k)
    counted = torch.arange(t) < lengths[..., None]
    policy, reference = (x.view(n, k, t) for x in _policy_and_reference(draw, n * k, t, far=False))
    return {
        "log_probs": policy.masked_fill(~counted, 0).sum(-1),
        "ref_log_probs": reference.masked_fill(~counted, 0).sum(-1),
        "lengths": lengths,
        "token_log_probs": policy.masked_fill(~counted, JUNK),
        "token_ref_log_probs": reference.masked_fill(~counted, JUNK),
        "token_valid": counted,
    }


def _junk(x: Tensor, valid: Tensor) -> Tensor:
    """Return what may stand at invalid candidates there; their tokens too are not to be read."""
    if x.ndim > valid.ndim:
        valid = valid[..., None].expand_as(x)
    if x.dtype == torch.bool:
        return x | ~valid
    return torch.where(valid, x, 0 if not x.is_floating_point() else JUNK)
