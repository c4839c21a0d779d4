"""``compare`` and ``run``: a study or a single training run, from Python or the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError

from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.registry import Registry, describe, load_plugins
from rlhf_lab.spec import Positions, RunSpec, load_yaml, make_spec
from rlhf_lab.study import measures
from rlhf_lab.study.arms import Arm, expand
from rlhf_lab.study.conclusions import check_names
from rlhf_lab.study.provenance import provenance
from rlhf_lab.study.report.page import write_report
from rlhf_lab.study.results import ArmResult, Results, scored
from rlhf_lab.study.runner import run_arm
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store

__all__ = ["compare", "find_study", "make_study", "run"]

Watch = Callable[[str, int, int, float], None]
"""Called with the arm's name, its number, how many there are, and the part of it that is done."""


def compare(
    study: str | Path | Mapping[str, Any] | Study,
    *,
    plugins: Iterable[str | ModuleType] = (),
    out: str | Path | None = None,
    registry: Registry | None = None,
    name: str = "study",
    where: Positions | None = None,
    chain: bool = False,
    watch: Watch = lambda arm, number, total, fraction: None,
) -> Results:
    """Run all arms x seeds of a study and return what they found.

    ``study`` is the name of a shipped study, a YAML file, a mapping, or a ``Study``. With ``out`` everything is kept in that
    directory with a report, and a second call goes on where the first one stopped. With ``chain`` each arm begins with the
    weights of the one before. Raises ``LabError`` for a bad study, before
    anything runs.
    """
    registry = registry or load_plugins(plugins)
    if isinstance(study, str | Path):
        name, data, where = find_study(study, registry)
        study = make_study(data, where)
    elif not isinstance(study, Study):
        study = make_study(study, where or {})
    arms = expand(study)
    check_names(study, [arm.name for arm in arms])
    measure = frozenset(study.measure)
    specs = [_spec(arm, study, registry, where or {}) for arm in arms]
    if measure - measures.STATIC and any(spec.trainer is None for spec, _ in specs):
        raise LabError("spec.trainer: what the study measures needs one; add `trainer: NAME`")
    seeds = study.seed_list
    about = provenance(registry, [arm.name for arm in arms], seeds)
    store = None
    if out is not None:
        store = Store(Path(out))
        store.open(name, study.model_dump(mode="json"), about)
    finished: list[ArmResult] = []
    with _one_thread():
        for number, (arm, (spec, warnings)) in enumerate(zip(arms, specs, strict=True)):
            earlier = finished[-1].weights if chain and finished else {}
            result = run_arm(
                arm,
                spec,
                measure,
                seeds,
                registry=registry,
                store=store,
                parameters={name: torch.from_numpy(value) for name, value in earlier.items()},
                known=study.references,
                warnings=tuple(warnings),
                progress=partial(watch, arm.name, number, len(arms)),
            )
            for score in study.scores.values() if result.curves else ():
                result.score(score)  # a score that names no metric is refused after the first arm, not after the last
            finished.append(result)
    results = Results(name, scored(study, finished), tuple(finished), about, directory=str(out) if out is not None else "")
    if out is not None:
        write_report(results, Path(out))
    return results


def run(
    spec: str | Path | Mapping[str, Any],
    *,
    plugins: Iterable[str | ModuleType] = (),
    out: str | Path | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    name: str = "run",
    where: Positions | None = None,
    watch: Watch = lambda arm, number, total, fraction: None,
) -> Results:
    """Run one spec (a YAML file or a mapping) with one seed and return its curves.

    ``stages: {name: overrides, ...}`` makes it a chain: each stage is the spec with its overrides, and begins with the weights
    of the stage before.

    Raises ``LabError`` for a bad spec, before anything runs.
    """
    if isinstance(spec, str | Path):
        name = Path(spec).stem
        spec, where = load_yaml(Path(spec))
    common = dict(spec)
    stages = common.pop("stages", {name: {}})
    study = make_study({"title": name, "spec": common, "arms": stages, "seeds": [seed]}, where or {})
    located = {
        ("arms", *path[1:]) if path[:1] == ("stages",) else ("spec", *path): place
        for path, place in (where or {}).items()
    }
    return compare(
        study, plugins=plugins, out=out, registry=registry, name=name, where=located, chain=True, watch=watch
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: sums are taken in one order, so a seed's bits do not depend on what runs beside it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


def _spec(arm: Arm, study: Study, registry: Registry, where: Positions) -> tuple[RunSpec, list[str]]:
    """Return the arm's checked spec; an error names the arm and the place of the key, in the arm or in the common spec."""
    places = {path[1:]: place for path, place in where.items() if path[:1] == ("spec",)}
    own = arm.source
    places |= {path[len(own) :]: place for path, place in where.items() if path[: len(own)] == own and path != own}
    try:
        return make_spec(arm.spec, registry, places)
    except LabError as error:
        alone = len(study.arms) == 1 and not study.grid
        raise LabError(str(error) if alone else f"arm {arm.name!r}:\n{error}") from None
