"""Runs one arm: all its seeds at once, recorded, checkpointed, resumed to the same numbers."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import Registry
from rlhf_lab.spec import Budget, RunSpec
from rlhf_lab.study import measures
from rlhf_lab.study.arms import Arm
from rlhf_lab.study.results import ArmResult, Array
from rlhf_lab.study.store import Store, fingerprint
from rlhf_lab.training.protocols import Learner, Setup
from rlhf_lab.types import BatchError

__all__ = ["run_arm", "start"]

CHECKPOINT_SECONDS: Final = 5.0
Progress = Callable[[float], None]


def start(spec: RunSpec, seeds: list[int], parameters: Mapping[str, Tensor] | None = None) -> Learner:
    """Return a learner for the spec, one run per seed, with an earlier stage's weights where given."""
    if spec.trainer is None:
        raise LabError("trainer: the spec has none; add `trainer: NAME`")
    setup = Setup(spec.environment, spec.policy, spec.components, Streams(seeds), parameters or {})
    return spec.trainer.build(setup)


def run_arm(
    arm: Arm,
    spec: RunSpec,
    measure: frozenset[str],
    seeds: list[int],
    *,
    registry: Registry,
    store: Store | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    known: Mapping[str, Mapping[Any, float]] = MappingProxyType({}),
    warnings: tuple[str, ...] = (),
    progress: Progress = lambda fraction: None,
) -> ArmResult:
    """Return what the arm measures; a finished arm is read from the store, an unfinished one goes on where it was.

    ``parameters`` are weights of an earlier stage to begin with, each with the seed axis first; ``known`` are
    reference levels by metric that override the world's own.
    """
    if store is not None and (finished := store.result(arm.name)) is not None:
        return finished
    began = time.perf_counter()
    resolved = spec.model_dump(mode="json")
    _tell(registry.hook.rlhf_lab_run_start, arm=arm.name, spec=resolved, seeds=seeds)
    exact = measures.exact_quantities(measure, spec) if measure & measures.STATIC else {}
    curves: dict[str, Array] = {}
    x: dict[str, Array] = {}
    failed = np.zeros(len(seeds), dtype=np.bool_)
    references: dict[str, dict[str, float]] = {}
    weights: dict[str, np.ndarray[Any, Any]] = {}
    try:
        if "first_update" in measure:
            curves = {k: v.numpy()[None] for k, v in measures.first_update(start(spec, seeds), spec).items()}
            x = {"iteration": np.zeros(1)}
        if measure & measures.ALONG:
            learner = start(spec, seeds, parameters)
            recorder = _train(arm.name, learner, spec, measure, seeds, registry, store, progress)
            weights = {name: value.numpy() for name, value in learner.actor.state_dict().items()}
            curves |= recorder.curves()
            x |= recorder.axes()
            failed, references = ~recorder.alive, recorder.references
    except (BatchError, LabError) as error:
        raise LabError(f"arm {arm.name!r}: {error}") from None
    result = ArmResult(
        name=arm.name,
        spec=resolved,
        parameters=arm.parameters,
        seeds=tuple(seeds),
        x=x,
        curves=curves,
        exact=exact,
        failed=failed,
        references={k: references.get(k, {}) | dict(known.get(k, {})) for k in references.keys() | known.keys()},
        weights=weights,
        warnings=warnings,
        seconds=time.perf_counter() - began,
    )
    if store is not None:
        store.finish(result)
    _tell(registry.hook.rlhf_lab_run_end, arm=arm.name, metrics={k: v[-1] for k, v in curves.items()})
    progress(1.0)
    return result


def _tell(hook: Callable[..., Any], **facts: Any) -> None:
    """Tell the observers; whatever one raises becomes a ``LabError`` with its line."""
    try:
        hook(**facts)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        raise LabError(f"an observer raised {type(error).__name__}: {error} ({place})") from error


@dataclass
class _Recorder:
    """The points recorded so far; between points the trainer's metrics are averaged over iterations."""

    points: list[dict[str, Array]] = field(default_factory=list)  # metric -> [seeds]
    iterations: list[int] = field(default_factory=list)
    alive: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    references: dict[str, dict[str, float]] = field(default_factory=dict)
    _names: tuple[str, ...] = ()
    _sums: Array | None = None  # [metrics, seeds]
    _counts: Array | None = None

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one iteration's metrics to the sums since the last point; what is not finite does not count."""
        values = np.stack([value.detach().numpy() for value in metrics.values()]).astype(np.float64)
        known = np.isfinite(values)
        values = np.where(known, values, 0.0)
        self._names = tuple(metrics)
        self._sums = values if self._sums is None else self._sums + values
        self._counts = known.astype(np.float64) if self._counts is None else self._counts + known

    def close(self, iteration: int, latest: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, Array]:
        """Record a point: means of the trainer's metrics, and the exact quantities as they are now."""
        assert self._sums is not None and self._counts is not None
        means = np.full_like(self._sums, np.nan)
        np.divide(self._sums, self._counts, out=means, where=self._counts > 0)
        point = dict(zip(self._names, means, strict=True))
        for name in ("steps", "episodes"):
            point[name] = latest[name].double().numpy()
        point |= {k: np.where(self.alive, v.double().numpy(), np.nan) for k, v in exact.items()}
        self.points.append(point)
        self.iterations.append(iteration)
        self._sums = self._counts = None
        return point

    def curves(self) -> dict[str, Array]:
        """Return ``[points, seeds]`` per metric, without the counts, which are axes."""
        names = [name for name in self.points[0] if name not in ("steps", "episodes")] if self.points else []
        return {name: np.stack([point[name] for point in self.points]) for name in names}

    def axes(self) -> dict[str, Array]:
        """Return ``[points]``: iterations, and steps and episodes as their mean over seeds."""
        counts = {name: np.stack([p[name] for p in self.points]).mean(1) for name in ("steps", "episodes")}
        return {"iteration": np.array(self.iterations, dtype=float), **counts}

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return everything as arrays, for a checkpoint taken right after a point."""
        names = self.points[0] if self.points else {}
        return {f"point/{name}": np.stack([p[name] for p in self.points]) for name in names}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]], iterations: list[int]) -> None:
        """Take up what ``arrays`` returned."""
        columns = {name[6:]: array for name, array in arrays.items() if name.startswith("point/")}
        self.points = [{name: array[i] for name, array in columns.items()} for i in range(len(iterations))]
        self.iterations = iterations


def _train(
    arm: str,
    learner: Learner,
    spec: RunSpec,
    measure: frozenset[str],
    seeds: list[int],
    registry: Registry,
    store: Store | None,
    progress: Progress,
) -> _Recorder:
    recorder = _Recorder(alive=learner.alive.numpy().copy(), references=measures.references(learner))
    identity = fingerprint([spec.model_dump(mode="json"), seeds])
    done = 0.0
    if store is not None and getattr(learner.environment, "resumable", True):
        done = _resume(arm, learner, recorder, store, identity)
    saved = time.monotonic()
    while done < spec.budget.amount:
        metrics = learner.step(done / spec.budget.amount)
        recorder.add({k: v for k, v in metrics.items() if k not in ("steps", "episodes")})
        done = _spent(spec.budget, learner, metrics)
        recorder.alive = learner.alive.numpy().copy()
        if learner.iteration % spec.record_every == 0 or done >= spec.budget.amount:
            last = {k: torch.from_numpy(v) for k, v in recorder.points[-1].items()} if recorder.points else {}
            since = learner.iteration - (recorder.iterations[-1] if recorder.iterations else 0)
            point = recorder.close(learner.iteration, metrics, measures.along(measure, learner, last, since))
            _tell(registry.hook.rlhf_lab_run_step, arm=arm, iteration=learner.iteration, metrics=point)
            if store is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(arm, learner, recorder, store, identity, done)
                saved = time.monotonic()
        progress(min(done / spec.budget.amount, 1.0))
    return recorder


def _spent(budget: Budget, learner: Learner, metrics: Mapping[str, Tensor]) -> float:
    if budget.unit == "iterations":
        return learner.iteration
    return float(metrics[budget.unit].min())


def _save(arm: str, learner: Learner, recorder: _Recorder, store: Store, identity: str, done: float) -> None:
    state = {f"state/{name}": value.detach().numpy() for name, value in learner.state_dict().items()}
    meta = {"identity": identity, "iterations": recorder.iterations, "done": done}
    store.save_checkpoint(arm, state | recorder.arrays(), meta)


def _resume(arm: str, learner: Learner, recorder: _Recorder, store: Store, identity: str) -> float:
    found = store.checkpoint(arm)
    if found is None:
        return 0.0
    arrays, meta = found
    if meta["identity"] != identity:
        raise LabError(f"the checkpoint of arm {arm!r} in {store.directory} belongs to another spec; remove it")
    learner.load_state_dict({k[6:]: torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith("state/")})
    recorder.restore(arrays, list(meta["iterations"]))
    recorder.alive = learner.alive.numpy().copy()
    return float(meta["done"])
