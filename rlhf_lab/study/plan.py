"""A study that is checked from end to end: every arm with its composed spec, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from pydantic import BaseModel

from rlhf_lab.components import Component
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry
from rlhf_lab.spec import Positions, RunSpec, make_spec
from rlhf_lab.study.arms import Arm, Stage, expand
from rlhf_lab.study.conclusions import check_names, check_quantities, check_scores
from rlhf_lab.study.measures import ALONG
from rlhf_lab.study.results import ArmResult, selected
from rlhf_lab.study.runner import label, probe, run_arm, told
from rlhf_lab.study.schema import Study
from rlhf_lab.study.static_measures import STATIC
from rlhf_lab.study.store import Store

__all__ = ["Plan", "make_plan"]

_UNTRAINED: Final = ("estimator_error", "gradient_error")  # measures that are told of a critic

Checked = tuple[RunSpec, list[str]]
"""A checked spec, and what about it is probably not meant."""


@dataclass(frozen=True)
class Plan:
    """The arms of a study, each with the specs of its stages."""

    study: Study
    registry: Registry
    arms: tuple[Arm, ...]
    specs: tuple[tuple[Checked, ...], ...]  # by arm and stage

    @property
    def names(self) -> list[str]:
        """The names of the arms."""
        return [arm.name for arm in self.arms]

    @property
    def components(self) -> list[Component]:
        """All components that the arms use."""
        return [component for stages in self.specs for spec, _ in stages for component in _components(spec)]

    def probe(self, chain: bool = False) -> None:
        """Build every arm once, so that what does not fit together is told before anything runs."""
        seed = self.study.seed_list[0]
        before: dict[str, torch.Tensor] = {}
        for arm, stages in zip(self.arms, self.specs, strict=True):
            weights = dict(before)
            for number, stage in enumerate(arm.stages, 1):
                with told(label(arm, stage), self.registry):
                    weights |= probe(stages[number - 1][0], arm.measure, seed, weights, last=number == len(stages))
            before = weights if chain else {}

    def run(
        self,
        number: int,
        store: Store | None,
        progress: Callable[[float], None],
        earlier: Mapping[str, torch.Tensor] | None = None,
    ) -> ArmResult:
        """Run one arm, stage by stage, on one thread; ``earlier`` are weights to begin with.

        One thread takes sums in one order, so that a seed's bits do not depend on what runs beside it.
        """
        arm = self.arms[number]
        with _one_thread():
            result = run_arm(
                arm,
                [spec for spec, _ in self.specs[number]],
                arm.measure,
                self.study.seed_list,
                registry=self.registry,
                store=store,
                parameters=earlier,
                known=self.study.references,
                warnings=tuple(dict.fromkeys(text for _, warnings in self.specs[number] for text in warnings)),
                progress=progress,
            )
        for score in self.study.scores.values() if result.curves else ():
            if selected([result.name], score.arms):
                result.score(score)  # a score that names no metric is refused after the first arm, not after the last
        alike = [other.name for other in self.arms if other.measure == arm.measure]
        check_quantities(self.study, result, self.names, alike=alike, curved=_curved(self.arms))
        return result


def make_plan(study: Study, registry: Registry, where: Positions | None = None) -> Plan:
    """Return the checked plan; raises ``LabError`` for whatever is wrong with any arm, before anything runs."""
    arms = expand(study, where)
    names = [arm.name for arm in arms]
    check_names(study, names)
    check_scores(study, names, curved=_curved(arms))
    specs = tuple(tuple(_spec(arm, stage, study, registry, where or {}) for stage in arm.stages) for arm in arms)
    everywhere = frozenset[str]().union(*(arm.measure for arm in arms))
    for arm, stages in zip(arms, specs, strict=True):
        try:
            for spec, _ in stages:
                _check_measures(spec, arm.measure, arm.measure if _sets_exact(arm) else everywhere, len(stages))
        except LabError as error:
            alike = arm.measure == frozenset(study.measure)
            raise error if alike else LabError(f"arm {arm.name!r}: {error}") from None
    return Plan(study, registry, tuple(arms), specs)


def _curved(arms: Iterable[Arm]) -> list[str]:
    """Return the names of the arms of which a curve is measured."""
    return [arm.name for arm in arms if arm.measure - STATIC - {"exhibits"}]


def _sets_exact(arm: Arm) -> bool:
    """Tell whether the arm has exact settings of its own; the common ones may be there for other arms."""
    return any(path.split(".")[0] == "exact" for path in arm.parameters)


def _check_measures(spec: RunSpec, measured: frozenset[str], read: frozenset[str], stages: int) -> None:
    """Raise ``LabError`` where what is ``measured`` does not fit the spec; what is ``read`` may read exact settings."""
    if measured - STATIC - {"exhibits"} and spec.trainer is None:
        raise LabError("spec.trainer: what the study measures needs one; add `trainer: NAME`")
    _check_exact(spec, read)
    if not measured & ALONG and stages > 1:
        possible = ", ".join(sorted(ALONG))
        raise LabError(f"stages: nothing that is measured here looks at a trained policy; measure one of {possible}")


def _check_exact(spec: RunSpec, measured: frozenset[str]) -> None:
    """Raise ``LabError`` for exact settings that nothing reads."""
    if "exact" not in spec.model_fields_set:
        return
    if not measured & {*_UNTRAINED, "gradient_along"}:
        exact = ", ".join(_UNTRAINED)
        raise LabError(f"exact: nothing here is measured exactly; measure {exact} or gradient_along, or leave it out")
    unread = sorted(spec.exact.model_fields_set & {"critic", "critic_error"})
    if unread and not measured & {*_UNTRAINED}:
        raise LabError(f"exact.{unread[0]}: gradient_along takes each run's own critic; leave it out")


def _spec(arm: Arm, stage: Stage, study: Study, registry: Registry, where: Positions) -> Checked:
    """Return a stage's checked spec; an error names the arm and the place of the key that counts."""
    places: dict[tuple[str, ...], str] = {}
    for source in stage.sources:
        inside = {path: place for path, place in where.items() if path[: len(source)] == source}
        if places:
            inside.pop(source, None)  # the spec as a whole stands where the common one does
        places |= {path[len(source) :]: place for path, place in inside.items()}
    try:
        return make_spec(stage.spec, registry, places)
    except LabError as error:
        alone = len(study.arms) == 1 and not study.grid and not stage.name
        raise LabError(str(error) if alone else f"arm {label(arm, stage)!r}:\n{error}") from None


def _components(value: object) -> Iterator[Component]:
    """Find a spec's components, and those that these hold."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, BaseModel):
        value = dict(value)
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _components(inner)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
