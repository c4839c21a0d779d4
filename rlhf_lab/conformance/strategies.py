"""Hypothesis strategies for the inputs of every role: small, in float64, and adversarial.

- Numbers are dyadic rationals, so that sums are exact and a counterexample can be checked by hand.
- Rows are ragged, with padding left, right and inside (observations), and may have no valid step; episodes terminate,
  are truncated, both, or run off the row's edge. What stands at invalid steps is junk, never 0.
- Most numbers are near 0, some far away, so that a bound that was slipped in shows itself.
- Values behind an end differ from those of the next episode, and no number is special by being 0 everywhere.
- Ratios of probabilities lie on both sides of the usual clip edges, for advantages of both signs.
- Groups are interleaved, of sizes from one, also with all scores equal, or nearly equal around a common offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.conformance.inputs import Estimated, LogProbs, Masks, Observed
from rlhf_lab.types import PolicyBatch, Trajectories, ValueBatch

__all__ = [
    "JUNK",
    "consistent_next_values",
    "estimated",
    "log_probs",
    "masks",
    "numbers",
    "observed",
    "policy_batches",
    "ragged_mask",
    "trajectories",
    "value_batches",
]

JUNK: Final = 64.0  # what invalid steps hold, unless a law writes something else there
MAX_ROWS: Final = 4
MAX_STEPS: Final = 5
_LOG_RATIOS: Final = (0.0, 0.125, -0.125, 0.25, -0.25, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)
_POSITIVE: Final = tuple(i / 4 for i in range(9))
_UNIFORMS: Final = tuple(i / 16 for i in range(16))
_LOG_PROBS: Final = (-1.0, -0.5, -0.25, -2.0, -4.0, -8.0, -1e-9)


def numbers(largest: int = 4, far: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Return the multiples of a quarter from ``-largest`` to ``largest``, plain ones first, and those ``far`` away."""
    quarters = [i / 4 for i in range(-4 * largest, 4 * largest + 1)]
    return (*sorted(quarters, key=lambda x: (x % 1 != 0, x % 0.5 != 0, abs(x), x < 0)), *far)


_NUMBERS: Final = numbers(far=(100.0, -100.0))


def table(draw: st.DrawFn, elements: Sequence[float] | Sequence[int] | Sequence[bool], rows: int, steps: int) -> Tensor:
    """Draw a tensor ``[rows, steps]`` of elements; one draw for all of them, as drawing is what costs time."""
    raw = np.frombuffer(draw(st.binary(min_size=rows * steps, max_size=rows * steps)), dtype=np.uint8)
    kind = torch.float64 if isinstance(elements[0], float) else None
    return torch.tensor(elements, dtype=kind)[torch.from_numpy(raw.astype(np.int64)) % len(elements)].view(rows, steps)


def ragged_mask(draw: st.DrawFn, rows: int, steps: int) -> Tensor:
    """Draw a mask: mostly full, else padding at either side, or holes."""
    valid = torch.ones(rows, steps, dtype=torch.bool)
    for row in range(rows):
        kind = draw(st.sampled_from(("full", "full", "right", "left", "holes", "empty")))
        if kind == "right":
            valid[row, draw(st.integers(1, steps)) :] = False
        elif kind == "left":
            valid[row, : draw(st.integers(0, steps - 1))] = False
        elif kind == "holes":
            valid[row] = table(draw, (True, False), 1, steps)[0]
        elif kind == "empty":
            valid[row] = False
    return valid


def _last(valid: Tensor) -> Tensor:
    return valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1)


def _junk(x: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, x, JUNK)


@st.composite
def trajectories(
    draw: st.DrawFn,
    fields: frozenset[str] = frozenset(),
    *,
    one_episode: bool = False,
    masked: bool = True,
    rows: int | None = None,
) -> Trajectories:
    """Draw ``Trajectories [rows, t]`` with the optional ``fields``; every ``next_values`` is consistent.

    ``one_episode`` puts at most one episode into a row, as group estimators ask; without ``masked`` all steps count.
    """
    most = MAX_ROWS + 2 if one_episode else MAX_ROWS  # room for two groups of several responses
    n, t = rows or draw(st.integers(1, most)), draw(st.integers(1, MAX_STEPS))
    valid = ragged_mask(draw, n, t) if masked else torch.ones(n, t, dtype=torch.bool)
    ends = table(draw, (0, 0, 1, 2, 3), n, t)
    can_end = _last(valid) if one_episode else valid
    terminated, truncated = can_end & (ends & 1 > 0), can_end & (ends & 2 > 0)
    found: dict[str, Any] = {"rewards": _rewards(draw, n, t, offset=one_episode)}
    if fields & {"values", "next_values"}:
        found["values"] = table(draw, _NUMBERS, n, t)
        outside = table(draw, numbers(8), n, t) + 16.0 * terminated  # large where it must not count
        found["next_values"] = consistent_next_values(found["values"], outside, valid, terminated | truncated)
    for name in ("log_probs", "target_log_probs", "ref_log_probs"):
        if name in fields or (name == "log_probs" and "target_log_probs" in fields):
            if name == "log_probs":
                found[name] = table(draw, _LOG_PROBS, n, t)
            else:
                base = found.get("log_probs", torch.full((n, t), -4.0, dtype=torch.float64))
                found[name] = base + table(draw, _LOG_RATIOS, n, t)
    if "score_norms" in fields:
        found["score_norms"] = table(draw, _POSITIVE, n, t)
    found = {name: _junk(x, valid) for name, x in found.items()}
    if "group_ids" in fields:
        found["group_ids"] = table(draw, (0, 1, 0, 1, 2), n, 1)[:, 0]
    if "baseline_scores" in fields:
        found["baseline_scores"] = table(draw, _NUMBERS, n, 1)[:, 0]
    return Trajectories(terminated=terminated, truncated=truncated, valid=valid, **found)


def _rewards(draw: st.DrawFn, n: int, t: int, *, offset: bool) -> Tensor:
    """Draw rewards; for group estimators now and then all equal, or almost equal around 1."""
    kind = draw(st.sampled_from(("any", "any", "any", "equal", "close"))) if offset else "any"
    if kind == "equal":
        row = torch.zeros(n, t, dtype=torch.float64)
        row[:] = draw(st.sampled_from(_NUMBERS))
        return row
    rewards = table(draw, _NUMBERS, n, t)
    return 1 + rewards * 2.0**-17 if kind == "close" else rewards


def consistent_next_values(values: Tensor, outside: Tensor, valid: Tensor, ends: Tensor) -> Tensor:
    """Return ``values`` at the next valid step inside episodes, and ``outside`` elsewhere, ``[rows, t]``."""
    steps = valid.shape[-1]
    index = torch.arange(steps).expand(valid.shape)
    nearest = torch.where(valid, index, steps).flip(-1).cummin(-1).values.flip(-1)
    following = torch.cat([nearest[:, 1:], torch.full((len(valid), 1), steps)], dim=1)
    inside = valid & ~ends & (following < steps)
    return torch.where(inside, values.gather(1, following.clamp(max=steps - 1)), outside)


@st.composite
def estimated(draw: st.DrawFn, fields: frozenset[str] = frozenset()) -> Estimated:
    """Draw what a normaliser is called with; advantages are 0 where not valid, as estimators return them."""
    grouped = "group_ids" in fields
    rows = draw(st.sampled_from((4, 3, 4, 2, 1))) if grouped else None  # only three rows or more can interleave groups
    batch = draw(trajectories(fields, one_episode=grouped, rows=rows))
    n, t = batch.rewards.shape
    kind = draw(st.sampled_from(("any", "any", "any", "equal", "close")))
    raw = table(draw, _NUMBERS, 1, 1).expand(n, t) if kind == "equal" else table(draw, _NUMBERS, n, t)
    raw = 1 + raw * 2.0**-17 if kind == "close" else raw
    if batch.group_ids is not None:
        batch = replace(batch, group_ids=torch.tensor(draw(st.permutations((0, 0, 1, 1, 2)))[:n]))
    returns = table(draw, numbers(8), n, t) if draw(st.booleans()) else None
    given = {item.name: getattr(batch, item.name) for item in dataclass_fields(batch)}
    return Estimated(**given, advantages=raw.masked_fill(~batch.valid, 0), returns=returns)


@st.composite
def policy_batches(draw: st.DrawFn, fields: frozenset[str] = frozenset()) -> PolicyBatch:
    """Draw ``PolicyBatch [rows, t]``: ratios on both sides of the clip edges for advantages of both signs."""
    valid, ends = _masks(draw)
    n, t = valid.shape
    old = table(draw, _LOG_PROBS[:-1], n, t)
    far = draw(st.sampled_from((1.0, 1.0, 1.0, 1.0, 1.0, 6.0)))  # now and then ratios up to exp(24)
    found: dict[str, Any] = {
        "log_probs": old + far * table(draw, _LOG_RATIOS, n, t),
        "advantages": table(draw, _NUMBERS, n, t),
    }
    found["old_log_probs"] = old
    for name in ("ref_log_probs", "behaviour_log_probs"):
        if name in fields:
            found[name] = old + table(draw, _LOG_RATIOS, n, t)
    if "entropy" in fields:
        found["entropy"] = table(draw, _POSITIVE, n, t)
    found = {name: _junk(x, valid) for name, x in found.items()}
    if "uniforms" in fields:
        found["uniforms"] = table(draw, _UNIFORMS, n, t)
    if "group_ids" in fields:
        found["group_ids"] = table(draw, (0, 1, 2), n, 1)[:, 0]
    return PolicyBatch(valid=valid, ends=ends, **found)


@st.composite
def value_batches(draw: st.DrawFn, fields: frozenset[str] = frozenset()) -> ValueBatch:
    """Draw ``ValueBatch [rows, t]``: errors small and large, values that moved little and much, either way."""
    valid, ends = _masks(draw)
    n, t = valid.shape
    found: dict[str, Any] = {"values": table(draw, _NUMBERS, n, t), "returns": table(draw, _NUMBERS, n, t)}
    steps = (0.0, 0.125, -0.125, 0.5, -0.5, 2.0, -2.0, 8.0, -8.0)
    found["old_values"] = found["values"] - table(draw, steps, n, t)
    found = {name: _junk(x, valid) for name, x in found.items()}
    if "uniforms" in fields:
        found["uniforms"] = table(draw, _UNIFORMS, n, t)
    return ValueBatch(valid=valid, ends=ends, **found)


@st.composite
def log_probs(draw: st.DrawFn, *, distributions: bool = False) -> LogProbs:
    """Draw what a KL estimator is called with: of actions ``[rows, t]``, or of distributions ``[rows, t, actions]``.

    With and without ``old_log_probs``; where given they now and then equal ``log_probs``.
    """
    n, t = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if distributions:
        actions = draw(st.integers(2, 3))
        logits = [table(draw, numbers(2), n * t, actions) for _ in range(3)]
        policy, reference, old = (x.log_softmax(-1).view(n, t, actions) for x in logits)
    else:
        policy = table(draw, _LOG_PROBS, n, t)
        reference, old = (policy + table(draw, _LOG_RATIOS[:-2], n, t) for _ in range(2))
    kind = draw(st.sampled_from(("none", "none", "same", "other")))
    return LogProbs(policy, reference, {"none": None, "same": policy.clone(), "other": old}[kind])


@st.composite
def masks(draw: st.DrawFn) -> Masks:
    """Draw what an aggregation is called with, and losses to weigh."""
    valid, ends = _masks(draw)
    return Masks(table(draw, _NUMBERS, *valid.shape), valid, ends)


@st.composite
def observed(draw: st.DrawFn, targets: tuple[float, ...] = (0.01, 6.0)) -> Observed:
    """Draw coefficients and observations of some runs, around each of the likely targets and far away."""
    n = draw(st.integers(1, 4))
    target = table(draw, targets, 1, n)[0]
    scale = table(draw, (1.0, 0.0, 0.5, 2.0, 1.5, 0.75, 1.25, 0.875, 1.125, 16.0, 1 / 16), 1, n)[0]
    coefficient = table(draw, (1.0, 0.0, 0.25, 2.0, 64.0), 1, n)[0]
    return Observed(coefficient, target * scale)


def _masks(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    n, t = draw(st.integers(1, MAX_ROWS)), draw(st.integers(1, MAX_STEPS))
    valid = ragged_mask(draw, n, t)
    flags = table(draw, (False, False, True), n, t)
    return valid, valid & (flags | _last(valid) & table(draw, (True, False), n, 1))
