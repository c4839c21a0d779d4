"""∇_θ log π(a|s) of one run of an actor, for the pairs (s,a) that are asked for."""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.worlds.protocol import ExactWorld, open_actions
from rlhf_lab.worlds.scores import Jacobian

__all__ = ["jacobian_of"]

_CHUNK: Final = 4_000_000  # numbers held at once


def jacobian_of(actor: Any, world: ExactWorld, run: int) -> Jacobian | None:
    """Return ∂ log π(a|s) / ∂θ of one run as a function of states and actions; None for a table of softmax logits.

    Runs never mix. Hence an actor with a run for each pair, all with the weights of ``run``, gives the gradients of all
    pairs in one backward pass. They are computed in float64; weights that π does not depend on (a critic's) are left
    out.
    """
    if getattr(actor, "logit_table", False):
        return None
    legal = open_actions(world)
    table = len(world.terminal) * world.uniform_policy().shape[-1]  # an actor may make one for every run
    step = max(1, _CHUNK // max(table, sum(weights[0].numel() for weights in actor.parameters())))

    def rows(states: Tensor, actions: Tensor) -> Tensor:
        many = copy.deepcopy(actor).double()
        stacked = [*many.parameters(), *_of_runs(many)]
        own = [x.data[run] for x in stacked]
        mask = None if legal is None else legal[states][:, None]
        found = []
        for part in (slice(first, first + step) for first in range(0, len(states), step)):
            for x, value in zip(stacked, own, strict=True):
                x.data = value.expand(len(states[part]), *value.shape)
            found.append(_gradients(many, states[part], actions[part], None if mask is None else mask[part]))
        return torch.cat(found)

    return rows


def _of_runs(actor: Any) -> list[Tensor]:
    """Return the buffers that have a row per run, several runs at least; one row is for any number of runs."""
    named = getattr(actor, "run_buffers", ())
    return [buffer for name, buffer in actor.named_buffers() if name in named and len(buffer) > 1]


def _gradients(actor: Any, states: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``[m,p]`` of an actor of m runs, each asked for one of the ``states`` and ``actions [m]``."""
    log_probs = actor.action_log_probs(states[:, None], mask)[:, 0].gather(1, actions[:, None])
    gradients = torch.autograd.grad(log_probs.sum(), list(actor.parameters()), allow_unused=True)
    return torch.cat([gradient.flatten(1) for gradient in gradients if gradient is not None], dim=1)
