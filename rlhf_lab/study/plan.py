"""A study that is checked from end to end: every arm with its composed spec, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import BaseModel

from rlhf_lab.components import Component
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry
from rlhf_lab.spec import Positions, RunSpec, make_spec
from rlhf_lab.study import measures
from rlhf_lab.study.arms import Arm, expand
from rlhf_lab.study.conclusions import check_names, check_quantities
from rlhf_lab.study.results import ArmResult
from rlhf_lab.study.runner import probe, run_arm, told
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The arms of a study, each with its spec and what about it is probably not meant."""

    study: Study
    registry: Registry
    arms: tuple[Arm, ...]
    specs: tuple[tuple[RunSpec, list[str]], ...]

    @property
    def names(self) -> list[str]:
        """The names of the arms."""
        return [arm.name for arm in self.arms]

    @property
    def components(self) -> set[type[Component]]:
        """The classes of all components that the arms use."""
        return {component for spec, _ in self.specs for component in _components(spec)}

    def probe(self) -> None:
        """Build every arm once, so that what does not fit together is told before anything runs."""
        for arm, (spec, _) in zip(self.arms, self.specs, strict=True):
            with told(arm.name, self.registry):
                probe(spec, frozenset(self.study.measure), self.study.seed_list[0])

    def run(
        self,
        number: int,
        store: Store | None,
        progress: Callable[[float], None],
        earlier: Mapping[str, torch.Tensor] | None = None,
    ) -> ArmResult:
        """Run one arm on one thread; ``earlier`` are weights to begin with.

        One thread takes sums in one order, so that a seed's bits do not depend on what runs beside it.
        """
        spec, warnings = self.specs[number]
        with _one_thread():
            result = run_arm(
                self.arms[number],
                spec,
                frozenset(self.study.measure),
                self.study.seed_list,
                registry=self.registry,
                store=store,
                parameters=earlier,
                known=self.study.references,
                warnings=tuple(warnings),
                progress=progress,
            )
        for score in self.study.scores.values() if result.curves else ():
            result.score(score)  # a score that names no metric is refused after the first arm, not after the last
        check_quantities(self.study, result, self.names)
        return result


def make_plan(study: Study, registry: Registry, where: Positions | None = None) -> Plan:
    """Return the checked plan; raises ``LabError`` for whatever is wrong with any arm, before anything runs."""
    arms = expand(study)
    check_names(study, [arm.name for arm in arms])
    specs = [_spec(arm, study, registry, where or {}) for arm in arms]
    if set(study.measure) - measures.STATIC and any(spec.trainer is None for spec, _ in specs):
        raise LabError("spec.trainer: what the study measures needs one; add `trainer: NAME`")
    for spec, _ in specs:
        if "exact" in spec.model_fields_set and not set(study.measure) & measures.STATIC:
            exact = " or ".join(sorted(measures.STATIC))
            raise LabError(f"exact: nothing here is measured exactly; measure {exact}, or leave it out")
    return Plan(study, registry, tuple(arms), tuple(specs))


def _spec(arm: Arm, study: Study, registry: Registry, where: Positions) -> tuple[RunSpec, list[str]]:
    """Return the arm's checked spec; an error names the arm and the key's place, in the arm or in the common spec."""
    places = {path[1:]: place for path, place in where.items() if path[:1] == ("spec",)}
    own = arm.source
    places |= {path[len(own) :]: place for path, place in where.items() if path[: len(own)] == own and path != own}
    try:
        return make_spec(arm.spec, registry, places)
    except LabError as error:
        alone = len(study.arms) == 1 and not study.grid
        raise LabError(str(error) if alone else f"arm {arm.name!r}:\n{error}") from None


def _components(value: object) -> Iterator[type[Component]]:
    """Find the classes of a spec's components, and of those that these hold."""
    if isinstance(value, Component):
        yield type(value)
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
