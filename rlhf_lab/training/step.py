"""From a component's per-step loss to one optimiser step per run: aggregation, clipping, freezing of diverged runs.

Runs never mix: every parameter has a leading run axis, the summed loss has one term per run, norms are taken per run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from rlhf_lab.calling import apply
from rlhf_lab.components import Aggregation
from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import Actor, BuiltEnvironment, Setup, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Loss, clean

__all__ = [
    "REWARD",
    "GuardedOptimizer",
    "Reduction",
    "as_state",
    "from_state",
    "initial_actor",
    "largest_output",
    "make_actor",
    "make_environment",
    "mean_metrics",
    "per_run",
    "per_run_all",
    "shares",
]

DIVERGED: Final = 1e12  # a weight or output beyond this is no learning any more; such a run is frozen, not averaged
REWARD: Final = "reward."  # what the names of a reward model's weights begin with, beside those of policies
SUSPICIOUS: Final = 1e3  # norm of weights below which ten layers of them do not overflow float32


def make_environment(setup: Setup, envs: int) -> BuiltEnvironment:
    """Return the setup's environment, which takes over what earlier stages have learned where it can."""
    environment = setup.environment.build(setup.runs, envs, setup.streams["environment"])
    if setup.parameters and hasattr(environment, "adopt"):
        environment.adopt(setup.parameters)
    return environment


def initial_actor(setup: Setup, spaces: Spaces) -> Actor:
    """Return the setup's policy for these spaces as it is before any training, that of earlier stages included."""
    return setup.policy.build(spaces, setup.runs, setup.streams["policy"])


def make_actor(setup: Setup, spaces: Spaces) -> Actor:
    """Return the setup's policy for these spaces, with an earlier stage's weights where it names them.

    Those of a reward model (``REWARD``) are no policy's. Raises ``LabError`` where weights of one name have another
    shape, and where it names none of them: the stages' policies do not fit together.
    """
    actor = initial_actor(setup, spaces)
    state = actor.state_dict()
    for name, value in setup.parameters.items():
        if name in state and state[name].shape != value.shape:
            raise LabError(
                f"policy {setup.policy.name!r}: the earlier stage's {name} has shape {list(value.shape)}, "
                f"this one's has {list(state[name].shape)}; give both stages one policy"
            )
    earlier = [name for name in setup.parameters if not name.startswith(REWARD)]
    if earlier and not state.keys() & setup.parameters.keys():
        raise LabError(
            f"policy {setup.policy.name!r} has none of the earlier stage's weights: {', '.join(earlier)}; "
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
    Metrics are weighted means, with the same weights: their unit does not depend on the aggregation.
    """

    def __init__(self, aggregation: Aggregation, valid: Tensor, ends: Tensor) -> None:
        self.aggregation = aggregation
        self.valid = valid
        self.ends = ends
        self._weights: tuple[Tensor, Tensor] | None = None  # of losses without weights of their own, made once

    def weigh(self, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses and metrics of each step; summed over a run they are its loss and its metrics."""
        if loss.weights is not None:
            weights, shares = self._normalised(self.valid & (loss.weights != 0), loss.values.dtype, loss.weights)
        else:
            if self._weights is None:
                self._weights = self._normalised(self.valid, loss.values.dtype)
            weights, shares = self._weights
        return weights * loss.values, {name: shares * metric for name, metric in loss.metrics.items()}

    def __call__(self, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[runs]`` and its metrics, reduced with the same weights."""
        values, metrics = self.weigh(loss)
        return per_run(values), {name: per_run(metric) for name, metric in metrics.items()}

    def _normalised(self, counted: Tensor, dtype: torch.dtype, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weights of losses, and those of metrics, which sum to 1."""
        answer = apply(self.aggregation, counted, self.ends)
        weights = _divided(answer.weights, answer.total).to(dtype)
        if own is None and answer.weights is answer.total:
            return weights, weights
        raw = answer.weights if own is None else answer.weights * own
        return weights if own is None else weights * own, _divided(raw, raw).to(dtype)


def shares(weights: Tensor) -> Tensor:
    """Return ``weights [runs, ...]`` divided by their sum over the run; all 0 where nothing weighs anything."""
    return _divided(weights, weights)


def mean_metrics(points: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean ``[runs]`` of each metric over the optimiser steps for which it is defined."""
    if len(points) == 1:
        return dict(points[0])
    found = {}
    for name in points[0]:
        stacked = torch.stack([point[name] for point in points], dim=1)
        known = ~stacked.isnan()
        found[name] = per_run(clean(stacked, known)) / known.sum(1)
    return found


def _divided(x: Tensor, parts: Tensor) -> Tensor:
    """Return ``x [runs, ...]`` divided by its run's sum of ``parts``."""
    return x / _beside(per_run(parts).clamp(min=torch.finfo(torch.float32).tiny), x)


def _beside(numbers: Tensor, x: Tensor) -> Tensor:
    """Return ``numbers [runs]`` as ``[runs, 1, ...]``, to be multiplied with ``x [runs, ...]``."""
    return numbers.view(-1, *[1] * (x.ndim - 1))


def largest_output(actor: Actor, samples: Samples) -> Tensor:
    """Return ``[runs]``: the largest absolute log-probability or value that the actor gives to valid steps."""
    with torch.no_grad():
        found = actor.evaluate(samples)
    outputs = [x for x in (found.log_probs, found.values) if x is not None]
    valid = samples.trajectories.valid
    return torch.stack([clean(x, valid).abs().flatten(1).amax(1) for x in outputs]).amax(0)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return ``[runs]``: the Euclidean norm over all of ``[runs, ...]`` tensors together."""
    runs = len(tensors[0])
    norms = [torch.linalg.vector_norm(x.detach().reshape(runs, -1), dim=1) for x in tensors]
    together: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return together


class GuardedOptimizer:
    """A torch optimizer that clips gradients per run and freezes a run whose loss, gradient or weights diverge.

    ``alive [runs]`` tells which runs have not diverged. A frozen run keeps finite weights that no longer move, as does
    one that rests; the others go on.

    Raises ``LabError`` where ``optimizer`` is no torch optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, runs: int, max_grad_norm: float = 0.0) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise LabError(f"optimizer: its build() returned {type(optimizer).__name__}, not a torch.optim.Optimizer")
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self.alive = torch.ones(runs, dtype=torch.bool, device=self.parameters[0].device)
        self.all_alive = True  # whether no run has diverged, known without asking the tensor
        self._resting: Tensor | None = None
        self._fractions: Tensor | None = None  # of each run's step, where runs are not equally far in their schedule
        self._rates = [group["lr"] for group in optimizer.param_groups]
        step = type(optimizer).step
        # Torch's own optimisers stand behind layers for its profiler, which cost more than a small step does.
        self._step: Any = inspect.unwrap(step) if step.__module__.startswith("torch.optim.") else step

    def anneal(self, rate: Callable[[float], float], progress: float | Tensor) -> None:
        """Scale every learning rate to ``rate(progress)`` of its first value, run by run where ``progress [runs]``."""
        fraction = 1.0
        if isinstance(progress, Tensor):
            found = [rate(part) for part in progress.tolist()]
            self._fractions = None if all(part == 1 for part in found) else torch.tensor(found)
        else:
            fraction = rate(progress)
        for group, first in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = first * fraction

    def rest(self, resting: Tensor) -> None:
        """Keep the weights of these runs ``[runs]`` as they are from now on."""
        self._resting = resting if bool(resting.any()) else None

    def forget(self) -> None:
        """Begin anew: without the moments of earlier gradients. What has diverged stays frozen."""
        self.optimizer.state.clear()

    def step(self, loss: Tensor) -> Tensor:
        """Minimise the sum over each run of ``loss [runs, ...]`` by one step; return the gradient norms ``[runs]``.

        The norms are those before clipping. Raises ``LabError`` where the loss depends on no weight.
        """
        for parameter in self.parameters:
            parameter.grad = None
        total = loss.sum()
        if not total.requires_grad:
            raise LabError(
                "the loss has no gradient, so that there is nothing to learn by; is a tensor detached too early?"
            )
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = _norms(gradients)
        if not math.isfinite(total.detach() + norms.sum()):  # a finite sum proves finite losses and norms
            self._freeze(norms.isfinite() & per_run(loss.detach()).isfinite())
        if self.max_grad_norm > 0:
            scale = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(_beside(scale, gradient))
        with torch.no_grad():
            if self.all_alive and self._resting is None and self._fractions is None:
                self._step(self.optimizer)
            else:
                self._partial_step(gradients)
        return norms

    def _partial_step(self, gradients: Sequence[Tensor]) -> None:
        """Step, and then take back what runs are not to move by."""
        moving = self.alive if self._resting is None else self.alive & ~self._resting
        kept = [p.detach().clone() for p in self.parameters]
        for gradient in gradients:
            gradient[~moving] = 0  # no NaN enters the optimiser's moments
        self._step(self.optimizer)
        for parameter, old in zip(self.parameters, kept, strict=True):
            if self._fractions is not None:  # every optimiser here moves weights in proportion to its learning rate
                parameter.copy_(old + _beside(self._fractions, parameter) * (parameter - old))
            parameter[~moving] = old[~moving]

    def _freeze(self, sound: Tensor) -> None:
        """Freeze the runs that are not ``sound``."""
        self.alive &= sound
        self.all_alive = bool(self.alive.all())

    def check_weights(self, largest_outputs: Callable[[], Tensor]) -> None:
        """Freeze the runs whose weights, or outputs ``[runs]`` with these weights, left the sound range.

        Their weights are shrunk, so that nothing that is computed with them overflows. ``largest_outputs`` is asked
        only where weights are so large that layers of them could overflow.
        """
        with torch.no_grad():
            if sum(float(torch.linalg.vector_norm(p)) for p in self.parameters) <= SUSPICIOUS:
                return  # no run's norm is larger than the sum of all norms
            norms = _norms(self.parameters)
            if bool((norms <= SUSPICIOUS).all()):
                return
            sound = (norms <= DIVERGED) & (largest_outputs() <= DIVERGED)  # False for NaN
            if bool(sound.all()):
                return
            self._freeze(sound)
            for parameter in self.parameters:
                finite = parameter[~sound].nan_to_num(0, DIVERGED, -DIVERGED).clamp(-DIVERGED, DIVERGED)
                parameter[~sound] = finite / _beside(_norms([finite]).clamp(min=1.0), finite)

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
