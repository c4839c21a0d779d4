"""From a component's per-step loss to one optimiser step per run: aggregation, clipping, freezing of diverged runs.

Runs never mix: every parameter has a leading run axis, the summed loss has one term per run, norms are taken per run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from rlhf_lab.calling import call
from rlhf_lab.components import Aggregation
from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import Actor, Setup, Spaces
from rlhf_lab.types import Loss

__all__ = ["GuardedOptimizer", "Reduction", "as_state", "from_state", "make_actor", "per_run", "per_run_all"]

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
    if setup.parameters and not state.keys() & setup.parameters.keys():
        raise LabError(
            f"policy {setup.policy.name!r} has none of the earlier stage's weights: {', '.join(setup.parameters)}; "
            "give both stages one policy"
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
    """Return ``[runs]`` sums of ``x [runs, ...]``; floats are added one by one, so that padding zeros change no bit."""
    flat = x.reshape(x.shape[0], -1)
    return flat.cumsum(1)[:, -1] if x.is_floating_point() else flat.sum(1)


def per_run_all(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``per_run`` of several tensors of one shape and dtype at once."""
    stacked = torch.stack(list(parts.values()))
    totals = stacked.reshape(*stacked.shape[:2], -1).cumsum(2)[..., -1]
    return dict(zip(parts, totals, strict=True))


class Reduction:
    """Weighs per-step losses ``[runs, rows, t]`` so that their sum over a run is the run's loss.

    One aggregation over one set of steps. A step of weight 0 does not count: neither in the sum nor in the normaliser.
    """

    def __init__(self, aggregation: Aggregation, valid: Tensor, ends: Tensor) -> None:
        self.aggregation = aggregation
        self.valid = valid
        self.ends = ends
        self._weights: Tensor | None = None  # of losses without weights of their own, made once

    def weigh(self, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses and metrics of each step; summed over a run they are its loss and its metrics."""
        if loss.weights is not None:
            weights = self._normalised(self.valid & (loss.weights != 0), loss.values.dtype) * loss.weights
        else:
            if self._weights is None:
                self._weights = self._normalised(self.valid, loss.values.dtype)
            weights = self._weights
        return weights * loss.values, {name: weights * metric for name, metric in loss.metrics.items()}

    def __call__(self, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[runs]`` and its metrics, reduced with the same weights."""
        values, metrics = self.weigh(loss)
        return per_run(values), {name: per_run(metric) for name, metric in metrics.items()}

    def _normalised(self, counted: Tensor, dtype: torch.dtype) -> Tensor:
        answer = call(self.aggregation, counted, self.ends)
        total = per_run(answer.total).clamp(min=torch.finfo(torch.float32).tiny)
        weights: Tensor = answer.weights / total.view(-1, *[1] * (counted.ndim - 1))
        return weights.to(dtype)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return ``[runs]``: the Euclidean norm over all of ``[runs, ...]`` tensors together."""
    runs = len(tensors[0])
    norms = [torch.linalg.vector_norm(x.detach().reshape(runs, -1), dim=1) for x in tensors]
    together: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return together


class GuardedOptimizer:
    """A torch optimizer that clips gradients per run and freezes a run whose loss, gradient or weights diverge.

    ``alive [runs]`` tells which runs still learn. A frozen run keeps finite weights that no longer move; the others
    go on.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, runs: int, max_grad_norm: float = 0.0) -> None:
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self.alive = torch.ones(runs, dtype=torch.bool, device=self.parameters[0].device)
        self.all_alive = True  # whether no run has diverged, known without asking the tensor
        self._rates = [group["lr"] for group in optimizer.param_groups]
        step = type(optimizer).step
        # Torch's own optimisers stand behind layers for its profiler, which cost more than a small step does.
        self._step: Any = inspect.unwrap(step) if step.__module__.startswith("torch.optim.") else step

    def anneal(self, fraction: float) -> None:
        """Scale every learning rate to ``fraction`` of its first value."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * fraction

    def step(self, loss: Tensor) -> Tensor:
        """Minimise the sum over each run of ``loss [runs, ...]`` by one step; return the gradient norms ``[runs]``.

        The norms are those before clipping.
        """
        for parameter in self.parameters:
            parameter.grad = None
        total = loss.sum()
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = _norms(gradients)
        if not math.isfinite(total.detach() + norms.sum()):  # a finite sum proves finite losses and norms
            self._freeze(norms.isfinite() & per_run(loss.detach()).isfinite())
        kept = None if self.all_alive else [p.detach().clone() for p in self.parameters]
        if self.max_grad_norm > 0:
            scale = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
        if kept is not None:
            for gradient in gradients:
                gradient[~self.alive] = 0  # no NaN enters the optimiser's moments
        with torch.no_grad():
            self._step(self.optimizer)
            if kept is not None:
                for parameter, old in zip(self.parameters, kept, strict=True):
                    parameter[~self.alive] = old[~self.alive]
        return norms

    def _freeze(self, sound: Tensor) -> None:
        """Freeze the runs that are not ``sound``."""
        self.alive &= sound
        self.all_alive = bool(self.alive.all())

    def check_weights(self) -> None:
        """Freeze the runs whose weights left the sound range, and bring those weights back to its edge."""
        with torch.no_grad():
            if sum(float(torch.linalg.vector_norm(p)) for p in self.parameters) <= DIVERGED:
                return  # no run's norm is larger than the sum of all norms; False for NaN
            sound = _norms(self.parameters) <= DIVERGED
            self._freeze(sound)
            for parameter in self.parameters:
                edge = parameter[~sound].nan_to_num(0, DIVERGED, -DIVERGED).clamp(-DIVERGED, DIVERGED)
                parameter[~sound] = edge

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
        self.all_alive = bool(self.alive.all())
        for key, value in state.items():
            index, _, name = key.partition(".")
            if name:
                self.optimizer.state[self.parameters[int(index)]][name] = value.clone()
