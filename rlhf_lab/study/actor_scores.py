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
        mask = None if legal is None else legal[states][:, None]
        parts = [slice(first, first + step) for first in range(0, len(states), step)]
        return torch.cat(
            [_gradients(actor, run, states[p], actions[p], None if mask is None else mask[p]) for p in parts]
        )

    return rows


def _gradients(actor: Any, run: int, states: Tensor, actions: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``[m,p]`` for states and actions ``[m]`` and ``mask [m,1,a]``."""
    many = copy.deepcopy(actor).double()
    parameters = list(many.parameters())
    for weights in parameters:
        weights.data = weights.data[run].expand(len(states), *weights.shape[1:])
    log_probs = many.action_log_probs(states[:, None], mask)[:, 0].gather(1, actions[:, None])
    gradients = torch.autograd.grad(log_probs.sum(), parameters, allow_unused=True)
    return torch.cat([gradient.flatten(1) for gradient in gradients if gradient is not None], dim=1)
