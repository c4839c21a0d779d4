"""Every episode of a finite world, breadth first and vectorised: one gather per step, no recursion per trajectory."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.types import Trajectories
from rlhf_lab.worlds.branches import Branches
from rlhf_lab.worlds.protocol import Enumeration, WorldError

__all__ = ["MAX_OUTCOMES", "enumerate_episodes"]

MAX_OUTCOMES: Final = 1_000_000


def enumerate_episodes(
    branches: Branches, start: Tensor, terminal: Tensor, policy: Tensor, horizon: int, samples: int = 1
) -> Enumeration:
    """Return every outcome that can happen of ``samples`` episodes from one start state, sorted by start and path.

    ``branches`` of one world, ``start`` and ``terminal [s]``, ``policy [s,a]``, all checked by the caller.
    Raises ``WorldError`` where there are more than ``MAX_OUTCOMES``.
    """
    if horizon < 1 or samples < 1:
        raise WorldError(f"enumerate: horizon and samples must be at least 1, found {horizon} and {samples}")
    source, action, target, probability, gain = _edges(branches, terminal, policy)
    degree = torch.bincount(source, minlength=len(start))
    first = degree.cumsum(0) - degree  # edges are sorted by source

    state = start.nonzero()[:, 0]
    probabilities = start[state]
    path = state.new_empty(len(state), 0)  # [n,t] edges taken
    for _ in range(horizon):
        fan = degree[state]
        total = _bounded(int(fan.sum()), horizon, samples)
        parent = torch.repeat_interleave(fan)
        edge = torch.arange(total, device=state.device) + (first[state] - fan.cumsum(0) + fan)[parent]
        path = torch.cat([path[parent], edge[:, None]], dim=1)
        probabilities = probabilities[parent] * probability[edge]
        state = target[edge]
    if samples > 1:
        path, probabilities = _independent(path, probabilities, source[path[:, 0]], start, horizon, samples)

    valid = ~terminal[source]
    terminated = valid & terminal[target]
    log_prob = policy[source, action].masked_fill(~valid, 1).log()
    truncated = torch.zeros_like(path, dtype=torch.bool)
    truncated[..., -1] = (valid & ~terminated)[path[..., -1]]
    outcome = torch.arange(len(path), device=path.device)
    trajectories = Trajectories(
        rewards=gain[path],
        terminated=terminated[path],
        truncated=truncated,
        valid=valid[path],
        log_probs=log_prob[path],
        group_ids=outcome if samples == 1 else outcome[:, None].expand(-1, samples).contiguous(),
    )
    states = torch.cat([source[path], target[path[..., -1:]]], dim=-1)
    return Enumeration(trajectories, states, action[path], probabilities)


def _edges(branches: Branches, terminal: Tensor, policy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return state, action, following state, probability and reward of all that can happen, sorted by state.

    An ended episode waits where it is.
    """
    pair, actions = branches.pairs, policy.shape[1]
    source, action = pair // actions, pair % actions
    chance = policy[source, action] * branches.probabilities
    kept = ((chance > 0) & ~terminal[source]).nonzero()[:, 0]
    at_end = terminal.nonzero()[:, 0]
    waits = torch.zeros_like(at_end)
    columns = [
        (source[kept], at_end),
        (action[kept], waits),
        (branches.successors[kept], at_end),
        (chance[kept], torch.ones_like(at_end, dtype=chance.dtype)),
        (branches.rewards[kept], torch.zeros_like(at_end, dtype=chance.dtype)),
    ]
    found = [torch.cat(column) for column in columns]
    order = found[0].argsort(stable=True)
    source, action, target, probability, reward = (x[order] for x in found)
    return source, action, target, probability, reward


def _bounded(outcomes: int, horizon: int, samples: int) -> int:
    if outcomes > MAX_OUTCOMES:
        raise WorldError(
            f"enumerate: more than {MAX_OUTCOMES:,} outcomes with horizon {horizon} and samples {samples}; lower either"
        )
    return outcomes


def _independent(
    path: Tensor, probabilities: Tensor, origin: Tensor, start: Tensor, horizon: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Return all ``samples``-tuples of episodes from equal start states: ``[n,samples,t]`` and their probabilities."""
    counts = torch.unique_consecutive(origin, return_counts=True)[1]
    _bounded(sum(count**samples for count in counts.tolist()), horizon, samples)
    offsets = (counts.cumsum(0) - counts).tolist()
    rows = [
        torch.cartesian_prod(*[torch.arange(offset, offset + count, device=path.device)] * samples)
        for offset, count in zip(offsets, counts.tolist(), strict=True)
    ]
    index = torch.cat(rows)
    common = start[origin]
    return path[index], (probabilities / common)[index].prod(-1) * common[index[:, 0]]
