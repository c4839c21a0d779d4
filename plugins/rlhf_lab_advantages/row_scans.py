"""The recursions on CPU: compiled code that runs over the steps of each row, in float64 whatever the batch's dtype.

Most recursions are three loops over a row. The first prepares ``base`` and ``decay``, the last writes the answers;
their steps are independent and the compiler vectorises them. Only the middle one, x_t = base_t + decay_t·x_{t+1},
waits for its own result. An invalid step has base 0 and decay 1, so that the carry crosses it unchanged; an
episode's end has decay 0.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numba
import numpy as np
import torch
from torch import Tensor

from rlhf_lab.types import Trajectories
from rlhf_lab_advantages.layout import given

__all__ = ["gae", "n_step", "reward_to_go", "v_trace"]

_FUSED: Final = {"contract"}  # multiply and add in one instruction halves that wait; no other liberty with rounding


def reward_to_go(batch: Trajectories, gamma: float, bootstrap: bool) -> Tensor:
    """Return G_t = r_t + γ·G_{t+1}; with ``bootstrap``, G after a truncation or live edge is ``next_values``."""
    following = given(batch, "next_values") if bootstrap else batch.rewards  # not read without bootstrap
    (returns,) = _call(_reward_to_go, batch, [following], gamma, bootstrap, outputs=1)
    return returns


def gae(batch: Trajectories, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return A_t = δ_t + γλ·A_{t+1} and A + V, where δ_t = r_t + γ·V(s_{t+1}) − V(s_t)."""
    fields = [given(batch, name) for name in ("values", "next_values")]
    advantages, returns = _call(_gae, batch, fields, gamma, gamma * lam)
    return advantages, returns


def n_step(batch: Trajectories, gamma: float, n: int) -> tuple[Tensor, Tensor]:
    """Return G_t − V(s_t) and the n-step return G_t, shortened at the end of an episode."""
    fields = [given(batch, name) for name in ("values", "next_values")]
    window = max(1, min(n, batch.rewards.shape[-1]))  # no window holds more than a row
    advantages, returns = _call(_n_step, batch, fields, gamma, window)
    return advantages, returns


def v_trace(batch: Trajectories, gamma: float, lam: float, rho_bar: float, c_bar: float) -> tuple[Tensor, Tensor]:
    """Return ρ_t·(r_t + γ·v_{t+1} − V(s_t)) and the V-trace targets v_t."""
    fields = [given(batch, name) for name in ("values", "next_values", "log_probs", "target_log_probs")]
    advantages, returns = _call(_v_trace, batch, fields, gamma, lam, rho_bar, c_bar)
    return advantages, returns


def _call(kernel: Any, batch: Trajectories, fields: list[Tensor], *parameters: float, outputs: int = 2) -> list[Tensor]:
    """Call ``kernel(terminated, truncated, valid, rewards, *fields, *parameters, *outputs)``, arrays ``[rows, t]``."""
    shape, dtype = batch.rewards.shape, batch.rewards.dtype
    inputs = [batch.terminated, batch.truncated, batch.valid, batch.rewards, *fields]
    if dtype not in (torch.float32, torch.float64):
        inputs = [x.float() if x.is_floating_point() else x for x in inputs]
    rows = (math.prod(shape[:-1]), shape[-1])
    arrays = [np.ascontiguousarray(x.numpy()).reshape(rows) for x in inputs]
    # NumPy's plain malloc, once: on Linux torch's aligned blocks are often given back to the system when freed, and
    # touching fresh pages then takes longer than the recursion.
    answers = np.empty((outputs, *rows), dtype=arrays[3].dtype)
    kernel(*arrays, *parameters, *answers)
    return [torch.from_numpy(x).view(shape).to(dtype) for x in answers]


@numba.njit(cache=True, fastmath=_FUSED)
def _scan(base: Any, decay: Any) -> None:
    """Solve x_t = base_t + decay_t·x_{t+1} backwards, in place of ``base``."""
    carry = 0.0
    for t in range(base.shape[0] - 1, -1, -1):
        carry = base[t] + decay[t] * carry
        base[t] = carry


@numba.njit(cache=True, fastmath=_FUSED)
def _reward_to_go(
    terminated: Any, truncated: Any, valid: Any, rewards: Any, following: Any, gamma: float, bootstrap: bool, out: Any
) -> None:
    rows, steps = rewards.shape
    base, decay = np.empty(steps), np.empty(steps)
    for row in range(rows):
        dead, cut, ok, reward, after = terminated[row], truncated[row], valid[row], rewards[row], following[row]
        last = steps - 1
        while last >= 0 and not ok[last]:
            last -= 1
        for t in range(steps):
            open_end = bootstrap & (cut[t] | (t == last)) & (not dead[t])
            x = np.float64(reward[t]) + gamma * (np.float64(after[t]) if open_end else 0.0)
            base[t] = x if ok[t] else 0.0
            decay[t] = (0.0 if dead[t] | cut[t] else gamma) if ok[t] else 1.0
        _scan(base, decay)
        answer = out[row]
        for t in range(steps):
            answer[t] = base[t] if ok[t] else 0.0


@numba.njit(cache=True, fastmath=_FUSED)
def _gae(
    terminated: Any, truncated: Any, valid: Any, rewards: Any, values: Any, following: Any,
    gamma: float, rate: float, advantages: Any, returns: Any,
) -> None:  # fmt: skip
    rows, steps = rewards.shape
    base, decay = np.empty(steps), np.empty(steps)
    for row in range(rows):
        dead, cut, ok, reward = terminated[row], truncated[row], valid[row], rewards[row]
        value, after = values[row], following[row]
        for t in range(steps):
            bootstrap = 0.0 if dead[t] else np.float64(after[t])
            error = np.float64(reward[t]) + gamma * bootstrap - np.float64(value[t])
            base[t] = error if ok[t] else 0.0
            decay[t] = (0.0 if dead[t] | cut[t] else rate) if ok[t] else 1.0
        _scan(base, decay)
        advantage, target = advantages[row], returns[row]
        for t in range(steps):
            advantage[t] = base[t] if ok[t] else 0.0
            target[t] = base[t] + np.float64(value[t]) if ok[t] else 0.0


@numba.njit(cache=True, fastmath=_FUSED)
def _v_trace(
    terminated: Any, truncated: Any, valid: Any, rewards: Any, values: Any, following: Any, behaviour: Any, policy: Any,
    gamma: float, lam: float, rho_bar: float, c_bar: float, advantages: Any, returns: Any,
) -> None:  # fmt: skip
    rows, steps = rewards.shape
    base, decay, weight = np.empty(steps), np.empty(steps), np.empty(steps)
    for row in range(rows):
        dead, cut, ok, reward = terminated[row], truncated[row], valid[row], rewards[row]
        value, after, old, new = values[row], following[row], behaviour[row], policy[row]
        for t in range(steps):
            ratio = np.exp(np.float64(new[t]) - np.float64(old[t]))
            rho = min(rho_bar, ratio)
            bootstrap = 0.0 if dead[t] else np.float64(after[t])
            error = np.float64(reward[t]) + gamma * bootstrap - np.float64(value[t])
            carried = 0.0 if dead[t] | cut[t] else gamma
            base[t] = rho * error if ok[t] else 0.0
            decay[t] = carried * lam * min(c_bar, ratio) if ok[t] else 1.0
            weight[t] = carried * rho
        carry = 0.0  # v − V at the next valid step
        for t in range(steps - 1, -1, -1):
            weight[t] = base[t] + weight[t] * carry
            carry = base[t] + decay[t] * carry
            base[t] = carry
        advantage, target = advantages[row], returns[row]
        for t in range(steps):
            advantage[t] = weight[t] if ok[t] else 0.0
            target[t] = base[t] + np.float64(value[t]) if ok[t] else 0.0


@numba.njit(cache=True, fastmath=_FUSED)
def _n_step(
    terminated: Any, truncated: Any, valid: Any, rewards: Any, values: Any, following: Any,
    gamma: float, n: int, advantages: Any, returns: Any,
) -> None:  # fmt: skip
    """Slide a window over the valid steps, backwards in time: constant work per step, and nothing is ever subtracted.

    The steps of an episode are cut into blocks of n, counted from its end. A window is the part of a block that is
    already behind us (``inner``, grown step by step) and the latest steps of the block before, whose sums ``outer``
    are made once, when that block is full: ``outer[k]`` is the discounted sum of its rewards without the k latest
    steps.
    """
    rows, steps = rewards.shape
    outer = np.zeros(n + 1)  # slots below ``place`` hold the rewards of the block in the making
    bootstraps = np.empty(n)  # V(s') of the n latest valid steps, a ring
    gamma_n = gamma**n
    for row in range(rows):
        dead, cut, ok, reward = terminated[row], truncated[row], valid[row], rewards[row]
        value, after, advantage, target = values[row], following[row], advantages[row], returns[row]
        count = place = 0  # valid steps of this episode so far; count modulo n
        inner, weight = 0.0, 1.0
        for t in range(steps - 1, -1, -1):
            if not ok[t]:
                advantage[t] = target[t] = 0.0
                continue
            if dead[t] | cut[t]:
                count = place = 0
            if place == 0:
                inner, weight = 0.0, 1.0
            bootstraps[place] = 0.0 if dead[t] else after[t]
            outer[place] = reward[t]
            inner = np.float64(reward[t]) + gamma * inner
            weight *= gamma
            place += 1
            if count < n:
                x = inner + weight * bootstraps[0]
            else:
                x = inner + weight * outer[place] + gamma_n * bootstraps[place if place < n else 0]
            count += 1
            if place == n:
                place = 0
                total, power = 0.0, 1.0
                for k in range(n - 1, -1, -1):
                    total += power * outer[k]
                    outer[k] = total
                    power *= gamma
            target[t] = x
            advantage[t] = x - np.float64(value[t])
