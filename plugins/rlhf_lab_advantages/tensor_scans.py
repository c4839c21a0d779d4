"""The recursions on any device, as scans of whole tensors: O(log t) operations, no loop over rows or steps.

A step is an affine map of what follows it, x ↦ base + decay·x. Maps compose associatively, so windows of 2, 4, 8
... steps come from composing neighbours (Blelloch 1990, "Prefix sums and their applications"). An invalid step is
the identity (0, 1), an episode's end ignores what follows (decay 0).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_lab.types import Trajectories, clean
from rlhf_lab_advantages.layout import episode_ends, given

__all__ = ["gae", "n_step", "reward_to_go", "v_trace"]


def reward_to_go(batch: Trajectories, gamma: float, bootstrap: bool) -> Tensor:
    """Return G_t = r_t + γ·G_{t+1}; with ``bootstrap``, G after a truncation or live edge is ``next_values``."""
    base = _wide(batch.rewards, batch.valid)
    if bootstrap:
        base = base + gamma * _bootstraps(batch) * episode_ends(batch)
    return clean(_solve(base, _decay(batch, gamma)), batch.valid).to(batch.rewards.dtype)


def gae(batch: Trajectories, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return A_t = δ_t + γλ·A_{t+1} and A + V, where δ_t = r_t + γ·V(s_{t+1}) − V(s_t)."""
    values = _wide(given(batch, "values"), batch.valid)
    errors = _wide(batch.rewards, batch.valid) + gamma * _bootstraps(batch) - values
    advantages = _solve(errors, _decay(batch, gamma * lam))
    return _answers(batch, advantages, advantages + values)


def n_step(batch: Trajectories, gamma: float, n: int) -> tuple[Tensor, Tensor]:
    """Return G_t − V(s_t) and the n-step return G_t, shortened at the end of an episode."""
    order = (~batch.valid).long().argsort(dim=-1, stable=True)  # valid steps first, so that windows have no holes
    ends = episode_ends(batch)
    bootstraps = _bootstraps(batch)
    base = (_wide(batch.rewards, batch.valid) + gamma * bootstraps * ends).gather(-1, order)
    decay = gamma * (batch.valid & ~ends).to(base.dtype).gather(-1, order)  # a float times bool would be float32
    window = max(1, min(n, base.shape[-1]))  # no window holds more than a row
    base, decay = _power(base, decay, window)
    packed = base + decay * _later(bootstraps.gather(-1, order), window - 1)
    targets = torch.empty_like(packed).scatter_(-1, order, packed)
    return _answers(batch, targets - _wide(given(batch, "values"), batch.valid), targets)


def v_trace(batch: Trajectories, gamma: float, lam: float, rho_bar: float, c_bar: float) -> tuple[Tensor, Tensor]:
    """Return ρ_t·(r_t + γ·v_{t+1} − V(s_t)) and the V-trace targets v_t."""
    valid = batch.valid
    values = _wide(given(batch, "values"), valid)
    ratios = (_wide(given(batch, "target_log_probs"), valid) - _wide(given(batch, "log_probs"), valid)).exp()
    rho = ratios.clamp(max=rho_bar)
    errors = rho * (_wide(batch.rewards, valid) + gamma * _bootstraps(batch) - values)
    carried = _decay(batch, gamma)
    decay = torch.where(valid, carried * lam * ratios.clamp(max=c_bar), carried)
    above = _solve(errors, decay)  # v − V, crossing invalid steps
    return _answers(batch, errors + carried * rho * _later(above, 1), above + values)


def _wide(x: Tensor, valid: Tensor) -> Tensor:
    """Return clean ``x`` in the precision of the sums: float64, but for Apple's GPUs, which do not have it."""
    return clean(x, valid).to(torch.float32 if x.device.type == "mps" else torch.float64)


def _bootstraps(batch: Trajectories) -> Tensor:
    return _wide(given(batch, "next_values"), batch.valid & ~batch.terminated)


def _decay(batch: Trajectories, rate: float) -> Tensor:
    """Return ``rate``, 0 at the end of an episode and 1 where not valid."""
    decay = torch.full_like(_wide(batch.rewards, batch.valid), rate)
    return decay.masked_fill_(~batch.valid, 1.0).masked_fill_(batch.terminated | batch.truncated, 0.0)


def _answers(batch: Trajectories, advantages: Tensor, returns: Tensor) -> tuple[Tensor, Tensor]:
    dtype = batch.rewards.dtype
    return clean(advantages, batch.valid).to(dtype), clean(returns, batch.valid).to(dtype)


def _later(x: Tensor, steps: int) -> Tensor:
    """Return ``x`` at t + ``steps``, 0 beyond the row."""
    return pad(x[..., steps:], (0, min(steps, x.shape[-1])))


def _power(base: Tensor, decay: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the composition of n neighbouring maps from each step on, by repeated squaring."""
    result: tuple[Tensor, Tensor] | None = None
    span = 1  # how many steps (base, decay) covers
    while n:
        if n & 1:
            result = (base, decay) if result is None else _compose(base, decay, *result, span)
        n >>= 1
        if n:
            base, decay, span = *_compose(base, decay, base, decay, span), 2 * span
    assert result is not None
    return result


def _compose(base: Tensor, decay: Tensor, next_base: Tensor, next_decay: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Apply the map that starts at t after the one that starts at t + ``span``; beyond a row every map is x ↦ 0."""
    return base + decay * _later(next_base, span), decay * _later(next_decay, span)


def _solve(base: Tensor, decay: Tensor) -> Tensor:
    """Solve x_t = base_t + decay_t·x_{t+1} with x = 0 beyond the row: a window at least as long as the row."""
    return _power(base, decay, 1 << max(base.shape[-1] - 1, 0).bit_length())[0]
