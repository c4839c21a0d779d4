"""``compare`` and ``run``: a study or a single training run, from Python or the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from pydantic import ValidationError

from rlhf_lab.errors import LabError, describe, did_you_mean
from rlhf_lab.registry import Registry, load_plugins
from rlhf_lab.spec import Positions, load_yaml
from rlhf_lab.study.arms import check_stages
from rlhf_lab.study.plan import Plan, make_plan
from rlhf_lab.study.provenance import provenance
from rlhf_lab.study.results import ArmResult, Results, scored, study_to_plain
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store
from rlhf_lab.study.workers import run_arms

__all__ = ["compare", "find_study", "make_study", "run"]

WORTH_SECONDS: Final = 20.0  # starting workers takes some seconds: each imports torch anew

Watch = Callable[[str, int, int, float], None]
"""Called with an arm's name, how many arms are finished, how many there are, and the part of all work that is done."""


def compare(
    study: str | Path | Mapping[str, Any] | Study,
    *,
    plugins: Iterable[str | ModuleType] = (),
    out: str | Path | None = None,
    workers: int | None = 1,
    registry: Registry | None = None,
    name: str = "study",
    where: Positions | None = None,
    chain: bool = False,
    watch: Watch = lambda arm, finished, total, fraction: None,
) -> Results:
    """Run all arms x seeds of a study and return what they found.

    ``study`` is the name of a shipped study, a YAML file, a mapping, or a ``Study``. With ``out`` everything is kept
    in that directory with a report, and a second call goes on where the first one stopped; ``workers`` > 1 then run
    arms side by side, with the same numbers (None: one per core where that saves time). With ``chain`` each arm
    begins with the weights of those before; an arm's own ``stages`` do so in any case.

    Raises ``LabError`` for a bad study, and where ``out`` holds another one or what an edited plugin computed before,
    all before anything runs. A metric that nothing records is refused after the first arm; mend its name, and the arms
    that are finished stay.
    """
    plugins = tuple(plugins)
    registry = registry or load_plugins(plugins)
    if isinstance(study, str | Path):
        name, data, where = find_study(study, registry)
        study = make_study(data, where)
    elif not isinstance(study, Study):
        study = make_study(study, where or {})
    plan = make_plan(study, registry, where)
    plan.probe(chain)  # here and not with the plan, which every worker makes anew
    about = provenance(registry, plan.components, plan.names, study.seed_list)
    store = None
    if out is not None:
        store = Store(Path(out))
        about = store.open(name, study_to_plain(study), about, stages=plan.names if chain else ())
    if workers is None or workers > 1:
        if store is None or chain or not all(isinstance(plugin, str) for plugin in plugins):
            raise LabError("workers: need a run directory (out=) and plugins given by name, and cannot run a chain")
        _side_by_side(plan, store, tuple(map(str, plugins)), workers, watch)
    arms = _one_by_one(plan, store, chain, watch)
    lacking = ", ".join(plan.names[len(arms) :])
    warnings = (f"every seed of {arms[-1].name} failed, so that {lacking} did not begin",) if lacking else ()
    results = Results(name, scored(study, arms), arms, about, warnings, "" if out is None else str(out), chain)
    if out is not None:
        from rlhf_lab.study.report.page import write_report  # imports matplotlib, which no worker needs

        write_report(results, Path(out))
    return results


def _one_by_one(plan: Plan, store: Store | None, chain: bool, watch: Watch) -> tuple[ArmResult, ...]:
    """Run the arms in order, or read them where they are finished; a chain ends with a stage that wholly failed."""
    finished: list[ArmResult] = []
    earlier: dict[str, torch.Tensor] = {}
    total = len(plan.arms)
    for number, arm in enumerate(plan.names):

        def progress(fraction: float, number: int = number, arm: str = arm) -> None:
            watch(arm, number, total, (number + fraction) / total)

        finished.append(plan.run(number, store, progress, earlier))
        if chain:
            if len(finished[-1].failed) and finished[-1].failed.all():
                break
            # of two weights with one name the later stage's are the better trained
            earlier |= {name: torch.from_numpy(value) for name, value in finished[-1].weights.items()}
    return tuple(finished)


def _side_by_side(plan: Plan, store: Store, plugins: tuple[str, ...], workers: int | None, watch: Watch) -> None:
    """Run the arms that are not finished in worker processes; by default only where that saves more than it costs."""
    parts = [0.0 if store.result(arm) is None else 1.0 for arm in plan.names]

    def report(number: int, fraction: float) -> None:
        parts[number] = fraction
        watch(plan.names[number], parts.count(1.0), len(parts), sum(parts) / len(parts))

    waiting = [number for number, part in enumerate(parts) if part < 1]
    if workers is None and waiting:
        first = plan.run(waiting[0], store, partial(report, waiting.pop(0)))
        workers = (os.cpu_count() or 1) if first.seconds * len(waiting) > WORTH_SECONDS else 1
    if workers is None or workers == 1 or len(waiting) < 2:
        return
    study = plan.study.model_dump_json()
    run_arms(waiting, study, store.directory, plugins, min(workers, len(waiting)), report)


def run(
    spec: str | Path | Mapping[str, Any],
    *,
    plugins: Iterable[str | ModuleType] = (),
    out: str | Path | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    name: str = "run",
    where: Positions | None = None,
    watch: Watch = lambda arm, finished, total, fraction: None,
) -> Results:
    """Run one spec (a YAML file or a mapping) with one seed and return its curves.

    ``stages: {name: overrides, ...}`` makes it a chain: each stage is the spec with its overrides, begins with the
    weights of the stages before, and is shown as an arm.

    Raises ``LabError`` for a bad spec, before anything runs.
    """
    if isinstance(spec, str | Path):
        name = Path(spec).stem
        spec, where = load_yaml(Path(spec))
    common = dict(spec)
    stages = check_stages(common.pop("stages", {name: {}}), ("stages",), where or {})
    places = {
        ("arms", *path[1:]) if path[:1] == ("stages",) else ("spec", *path): place
        for path, place in (where or {}).items()
    }
    study = make_study({"title": name, "spec": common, "arms": stages, "seeds": [seed]}, places)
    return compare(study, plugins=plugins, out=out, registry=registry, name=name, where=places, chain=True, watch=watch)


def find_study(study: str | Path, registry: Registry) -> tuple[str, dict[str, Any], Positions]:
    """Return name, data and positions of a study file or of a named study that a plugin ships."""
    text = str(study)
    if text.endswith((".yaml", ".yml")):
        path = Path(study)
    else:
        paths = registry.studies.get(text, [])
        if not paths:
            raise LabError(f"no study is called {text!r}. {did_you_mean(text, registry.studies)} Or give a .yaml file.")
        if len(paths) > 1:
            raise LabError(f"study {text!r} is ambiguous: {' and '.join(map(str, paths))}; give the file's path")
        path = paths[0]
    data, where = load_yaml(path)
    return path.stem, data, where


def make_study(data: Mapping[str, Any], where: Positions) -> Study:
    """Return the checked study; raises ``LabError`` naming each bad key and its place."""
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise LabError(describe(error, fields=Study.model_fields, where=where)) from None
