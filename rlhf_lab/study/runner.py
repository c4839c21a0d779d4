"""Runs one arm: all its seeds at once, recorded, checkpointed, resumed to the same numbers."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from rlhf_lab.study.arms import Arm, Stage
from rlhf_lab.study.exhibit_measure import exhibits_of
from rlhf_lab.study.first_update import first_update
from rlhf_lab.study.measures import ALONG, Along
from rlhf_lab.study.recorder import Recorder
from rlhf_lab.study.results import ArmResult, Array
from rlhf_lab.study.static_measures import STATIC, exact_quantities, untrained
from rlhf_lab.study.store import Store, fingerprint
from rlhf_lab.training.exhibits import Exhibit
from rlhf_lab.training.protocols import Actor, Learner, Setup
from rlhf_lab.training.step import initial_actor
from rlhf_lab.types import BatchError
from rlhf_lab.worlds.protocol import WorldError

__all__ = ["label", "probe", "run_arm", "start", "told"]

CHECKPOINT_SECONDS: Final = 5.0
Progress = Callable[[float], None]


def label(arm: Arm, stage: Stage) -> str:
    """Return what a stage is called: as its arm where it is the only one."""
    return f"{arm.name}/{stage.name}" if stage.name else arm.name


def _setup(spec: RunSpec, seeds: list[int], parameters: Mapping[str, Tensor] | None) -> Setup:
    return Setup(spec.environment, spec.policy, spec.components, Streams(seeds), parameters or {})


def start(spec: RunSpec, seeds: list[int], parameters: Mapping[str, Tensor] | None = None) -> Learner:
    """Return a learner for the spec, one run per seed, with earlier stages' weights where given."""
    if spec.trainer is None:
        raise LabError("trainer: the spec has none; add `trainer: NAME`")
    return spec.trainer.build(_setup(spec, seeds, parameters))


@contextmanager
def told(arm: str, registry: Registry) -> Iterator[None]:
    """Turn what a user can mend into a ``LabError`` with the arm's name: bad data, too much of it, a plugin's error."""
    try:
        yield
    except (BatchError, LabError, WorldError) as error:
        raise LabError(f"arm {arm!r}: {error}") from None
    except MemoryError as error:
        raise LabError(f"arm {arm!r}: does not fit into memory ({error}); ask for fewer seeds or steps") from None
    except Exception as error:
        blamed = registry.blame(error)
        if blamed is None:
            raise
        raise LabError(f"arm {arm!r}: {blamed}") from error


def _along(spec: RunSpec, measure: frozenset[str], seeds: list[int], learner: Learner, needed: bool) -> Along:
    def first() -> Actor:
        return initial_actor(_setup(spec, seeds, None), learner.environment.spaces)

    return Along(measure, spec, learner, first, needed=needed)


def probe(
    spec: RunSpec, measure: frozenset[str], seed: int, parameters: Mapping[str, Tensor], last: bool
) -> dict[str, Tensor]:
    """Build a stage for one seed and return its weights, so that what does not fit is told before anything runs.

    Raises ``LabError`` for what shows only once environment, policy and trainer are built.
    """
    if not measure & ALONG and "first_update" not in measure:
        return {}
    learner = start(spec, [seed], parameters)
    if measure & ALONG:
        _along(spec, measure, [seed], learner, last)()
        if last and "exhibits" in measure:
            exhibits_of(learner.environment, learner.actor)
    return dict(learner.actor.state_dict())


def run_arm(
    arm: Arm,
    specs: Sequence[RunSpec],
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

    ``specs`` are those of the arm's stages. Each begins with the weights of all before it, of two with one name the
    later's. Curves are the last stage's; of earlier ones the last point is shown as ``stage.metric``. ``parameters``
    are weights to begin with, each with the seed axis first; ``known`` are reference levels by metric that override
    the world's own.
    """
    if store is not None and (finished := store.result(arm.name)) is not None:
        return finished
    weights = dict(parameters or {})
    done: list[ArmResult] = []
    for number, (stage, spec) in enumerate(zip(arm.stages, specs, strict=True)):

        def report(fraction: float, number: int = number) -> None:
            progress((number + fraction) / len(specs))

        one = _Run(label(arm, stage), spec, measure, seeds, registry, store, number == len(specs) - 1)
        done.append(_stage(one, weights, report))
        weights |= {name: torch.from_numpy(value) for name, value in done[-1].weights.items()}
    own = done[-1].references
    levels = {name: {**own.get(name, {}), **known.get(name, {})} for name in own.keys() | known.keys()}
    result = replace(_joined(arm, done), warnings=warnings, references=levels)
    if store is not None:
        store.finish(result)
        for stage in arm.stages if len(arm.stages) > 1 else ():
            store.forget(label(arm, stage))
    return result


def _joined(arm: Arm, stages: Sequence[ArmResult]) -> ArmResult:
    """Return the arm's result from those of its stages; a seed that failed in one has no curve."""
    last = replace(stages[-1], name=arm.name, parameters=arm.parameters)
    if len(stages) == 1:
        return last
    named = list(zip((stage.name for stage in arm.stages), stages, strict=True))
    failed = np.logical_or.reduce([stage.failed for stage in stages])
    points = len(next(iter(last.curves.values()), ()))
    curves = dict(last.curves)
    for name, stage in named[:-1]:
        curves |= {f"{name}.{metric}": np.tile(curve[-1], (points, 1)) for metric, curve in stage.curves.items()}
    return replace(
        last,
        spec={**last.spec, "stages": {name: stage.spec for name, stage in named}},
        curves={name: np.where(failed, np.nan, curve) for name, curve in curves.items()},
        failed=failed,
        weights={name: value for stage in stages for name, value in stage.weights.items()},
        seconds=sum(stage.seconds for stage in stages),
    )


@dataclass(frozen=True)
class _Run:
    """One training run of all seeds: an arm's only stage, or one of several."""

    name: str
    spec: RunSpec
    measure: frozenset[str]
    seeds: list[int]
    registry: Registry
    store: Store | None
    last: bool  # of its arm's stages


def _stage(run: _Run, parameters: Mapping[str, Tensor], progress: Progress) -> ArmResult:
    """Return what the stage measures; a finished one that is not its arm's last is read from the store."""
    if not run.last and run.store is not None and (finished := run.store.result(run.name)) is not None:
        return finished
    began = time.perf_counter()
    spec, seeds, measure = run.spec, run.seeds, run.measure
    resolved = spec.model_dump(mode="json")
    _tell(run.registry.hook.rlhf_lab_run_start, arm=run.name, spec=resolved, seeds=seeds)
    exact: dict[str, float] = {}
    curves: dict[str, Array] = {}
    x: dict[str, Array] = {}
    failed = np.zeros(len(seeds), dtype=np.bool_)
    references: dict[str, dict[str, float]] = {}
    weights: dict[str, np.ndarray[Any, Any]] = {}
    exhibits: tuple[Exhibit, ...] = ()
    with told(run.name, run.registry):
        if run.last and measure & (STATIC if measure & ALONG else STATIC | {"exhibits"}):
            first = untrained(spec, seeds[0])
            exact = exact_quantities(measure, first)
            if "exhibits" in measure and not measure & ALONG:
                exhibits = exhibits_of(first.environment, first.actor)
        if run.last and "first_update" in measure:
            curves = {k: v.numpy()[None] for k, v in first_update(start(spec, seeds, parameters)).items()}
            x = {"iteration": np.zeros(1)}
        if measure & ALONG:
            learner = start(spec, seeds, parameters)
            recorder = _train(run, learner, progress)
            weights = {name: value.numpy() for name, value in learner.actor.state_dict().items()}
            curves |= recorder.curves()
            x |= recorder.axes()
            failed, references = ~recorder.alive, recorder.references
            if run.last and "exhibits" in measure and not failed[0]:
                exhibits = exhibits_of(learner.environment, learner.actor)
    result = ArmResult(
        name=run.name,
        spec=resolved,
        parameters={},
        seeds=tuple(seeds),
        x=x,
        curves=curves,
        exact=exact,
        failed=failed,
        references=references,
        weights=weights,
        seconds=time.perf_counter() - began,
        world=spec.environment.model_dump(mode="json", exclude=set(spec.environment.training_only)),
        exhibits=exhibits,
    )
    if not run.last and run.store is not None:
        run.store.finish(result)
    _tell(run.registry.hook.rlhf_lab_run_end, arm=run.name, metrics={k: v[-1] for k, v in curves.items()})
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


def _train(run: _Run, learner: Learner, progress: Progress) -> Recorder:
    spec, store, hook = run.spec, run.store, run.registry.hook
    measured = _along(run.spec, run.measure, run.seeds, learner, run.last)
    recorder = Recorder(alive=learner.alive.numpy().copy(), references=measured.references)
    identity = fingerprint([spec.model_dump(mode="json"), run.seeds])
    amount = spec.budget.amount
    spent: Array = np.zeros(len(run.seeds))
    if store is not None and getattr(learner.environment, "resumable", True):
        spent = _resume(run.name, learner, recorder, store, identity, spent)
    saved = time.monotonic()
    while (spent < amount).any():
        resting = spent >= amount
        if resting.any():
            learner.rest(torch.from_numpy(resting))
        gap = measured.gap()  # of the policy that acts in this iteration
        if gap is not None:
            recorder.regret = recorder.regret + np.where(resting, 0.0, gap.numpy())
        metrics = learner.step(float(spent[0]) / amount if spec.budget.unit == "iterations" else _parts(spent, amount))
        recorder.add({k: v for k, v in metrics.items() if k not in ("steps", "episodes")}, resting)
        spent = _spent(spec.budget, learner, metrics)
        recorder.alive = learner.alive.numpy().copy()
        over = not (spent < amount).any()
        if learner.iteration % spec.record_every == 0 or over:
            now = measured()
            if gap is not None:
                now["regret"] = torch.as_tensor(recorder.regret)
            point = recorder.close(learner.iteration, metrics, now)
            _tell(hook.rlhf_lab_run_step, arm=run.name, iteration=learner.iteration, metrics=point)
            if store is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(run.name, learner, recorder, store, identity, spent)
                saved = time.monotonic()
        progress(min(float(spent.min()) / amount, 1.0))
    return recorder


def _parts(spent: Array, amount: int) -> Tensor:
    """Return ``[seeds]``: the part of the budget that each has spent."""
    return torch.from_numpy(spent / amount).clamp(max=1)


def _spent(budget: Budget, learner: Learner, metrics: Mapping[str, Tensor]) -> Array:
    """Return ``[seeds]``: iterations, steps or episodes so far. Seeds whose episodes are short need more iterations."""
    if budget.unit == "iterations":
        return np.full(len(metrics["steps"]), float(learner.iteration))
    return metrics[budget.unit].double().numpy()


def _save(arm: str, learner: Learner, recorder: Recorder, store: Store, identity: str, spent: Array) -> None:
    state = {f"state/{name}": value.detach().numpy() for name, value in learner.state_dict().items()}
    meta = {"identity": identity, "iterations": recorder.iterations, "spent": spent.tolist()}
    store.save_checkpoint(arm, state | recorder.arrays(), meta)


def _resume(arm: str, learner: Learner, recorder: Recorder, store: Store, identity: str, nothing: Array) -> Array:
    """Take up the arm's checkpoint and return what its seeds have spent, ``nothing`` where there is none."""
    found = store.checkpoint(arm)
    if found is None:
        return nothing
    arrays, meta = found
    if meta["identity"] != identity:
        raise LabError(f"the checkpoint of arm {arm!r} in {store.directory} belongs to another spec; remove it")
    learner.load_state_dict({k[6:]: torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith("state/")})
    recorder.restore(arrays, list(meta["iterations"]))
    recorder.alive = learner.alive.numpy().copy()
    return np.asarray(meta["spent"], dtype=np.float64)
