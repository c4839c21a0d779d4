"""From a component's per-step loss to one optimiser step per run: aggregation, clipping, freezing of diverged runs.

Runs never mix: every parameter has a leading run axis, the summed loss has one term per run, norms are taken per run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from rlhf_lab.calling import call
from rlhf_lab.components import Aggregation
from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import Actor, Setup, Spaces
from rlhf_lab.types import Loss

__all__ = ["GuardedOptimizer", "Reduction", "as_state", "from_state", "make_actor", "per_run"]

DIVERGED: Final = 1e12  # a weight beyond this overflows float32 two products later; such a run is frozen, not averaged


def make_actor(setup: Setup, spaces: Spaces) -> Actor:
    """Return the setup's policy for these spaces, with an earlier stage's weights where it names them.

    Raises ``LabError`` where weights of the same name have another shape: the stages' policies do not fit together.
    """
    actor = setup.policy.build(spaces, setup.runs, setup.streams["policy"])
    state = actor.state_dict()
    for name, value in setup.parameters.items():
        if name in state and state[name].shape != value.shape:
            raise LabError(
                f"policy {setup.policy.name!r}: the earlier stage's {name} has shape {list(value.shape)}, "
                f"this one's has {list(state[name].shape)}; give both stages one policy"
            )
    actor.load_state_dict({name: setup.parameters.get(name, value) for name, value in state.items()})
    return actor


def as_state(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with ``prefix/`` before every key."""
    return {f"{prefix}/{name}": value for name, value in state.items()}


def from_state(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``as_state`` put under ``prefix``."""
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(f"{prefix}/")}


def per_run(x: Tensor) -> Tensor:
    """Return ``[runs]`` sums of ``x [runs, ...]``, added one by one, so that padding zeros change no bit."""
    return x.reshape(x.shape[0], -1).cumsum(1)[:, -1]


class Reduction:
    """Turns per-step losses ``[runs, rows, t]`` into one loss per run, by one aggregation over one set of steps.

    A step of weight 0 does not count: neither in the sum nor in the normaliser.
    """

    def __init__(self, aggregation: Aggregation, valid: Tensor, ends: Tensor) -> None:
        self.aggregation = aggregation
        self.valid = valid
        self.ends = ends
        self._weights: Tensor | None = None  # of losses without weights of their own, made once

    def __call__(self, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[runs]`` and its metrics, reduced with the same weights."""
        if loss.weights is not None:
            weights = self._normalised(self.valid & (loss.weights != 0), loss.values.dtype) * loss.weights
        else:
            if self._weights is None:
                self._weights = self._normalised(self.valid, loss.values.dtype)
            weights = self._weights
        metrics = {name: per_run(weights * metric) for name, metric in loss.metrics.items()}
        return per_run(weights * loss.values), metrics

    def _normalised(self, counted: Tensor, dtype: torch.dtype) -> Tensor:
        answer = call(self.aggregation, counted, self.ends)
        total = per_run(answer.total).clamp(min=torch.finfo(torch.float32).tiny)
        weights: Tensor = answer.weights / total.view(-1, *[1] * (counted.ndim - 1))
        return weights.to(dtype)


class GuardedOptimizer:
    """A torch optimizer that clips gradients per run and freezes a run whose loss, gradient or weights diverge.

    ``alive [runs]`` tells which runs still learn. A frozen run keeps its last finite weights; the others go on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, runs: int, max_grad_norm: float = 0.0) -> None:
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self.alive = torch.ones(runs, dtype=torch.bool, device=self.parameters[0].device)
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def anneal(self, fraction: float) -> None:
        """Scale every learning rate to ``fraction`` of its first value."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * fraction

    def step(self, loss: Tensor) -> Tensor:
        """Minimise ``loss [runs]`` by one step and return the gradient norms ``[runs]`` before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        squares = torch.stack([per_run(g.square()) for g in gradients]).sum(0)
        norms = squares.sqrt()
        self.alive &= squares.isfinite() & loss.detach().isfinite()
        frozen = None if bool(self.alive.all()) else [p.detach().clone() for p in self.parameters]
        if self.max_grad_norm > 0:
            scale = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
        if frozen is not None:
            for gradient in gradients:
                gradient[~self.alive] = 0  # no NaN enters the optimiser's moments
        self.optimizer.step()
        if frozen is not None:
            self._restore(frozen)
        return norms

    def check_weights(self, before: list[Tensor]) -> None:
        """Freeze the runs whose weights left the finite range, at the weights ``before`` (from ``snapshot``)."""
        runs = len(self.alive)
        largest = torch.stack([p.detach().reshape(runs, -1).abs().amax(1) for p in self.parameters]).amax(0)
        sound = largest <= DIVERGED  # False for NaN
        if not bool(sound.all()):
            self.alive &= sound
            self._restore(before)

    def snapshot(self) -> list[Tensor]:
        """Return a copy of all weights."""
        return [p.detach().clone() for p in self.parameters]

    def _restore(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, old in zip(self.parameters, weights, strict=True):
                parameter[~self.alive] = old[~self.alive]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's moments and ``alive`` as flat tensors."""
        state: dict[str, Tensor] = {"alive": self.alive}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    state[f"{i}.{name}"] = torch.as_tensor(value)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.alive = state["alive"].clone()
        for key, value in state.items():
            index, _, name = key.partition(".")
            if name:
                self.optimizer.state[self.parameters[int(index)]][name] = value.clone()
