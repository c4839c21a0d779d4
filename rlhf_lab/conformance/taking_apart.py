"""The weights of an ``Explanation``: each number is changed by itself; the change of the advantage is its weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.explanation import KINDS, Explanation, Step, Term
from rlhf_lab.conformance.guard import Guard
from rlhf_lab.conformance.inputs import Segment, segments
from rlhf_lab.conformance.property import Violation
from rlhf_lab.conformance.subject import RefusedError, Subject
from rlhf_lab.conformance.verification import TIME_LIMIT
from rlhf_lab.conformance.views import view
from rlhf_lab.errors import LabError
from rlhf_lab.types import Trajectories

__all__ = ["explain", "refuse_other_roles"]

SLOPE: Final = 1e-4  # how far to look where the estimator is not linear
ROUNDING: Final = 1e-9
_FIELDS: Final = {"reward": "rewards", "value": "values", "behind": "next_values", "baseline": "baseline_scores"}

Place = tuple[str, int, int]  # kind, row and step of a number


def explain(component: Component, batch: Trajectories, row: int, step: int) -> Explanation:
    """Take ``A[row, step]`` of an advantage estimator on a batch ``[rows, t]`` apart; its terms sum to it.

    Raises ``LabError`` where the component is no advantage estimator, or gives no answer.
    """
    refuse_other_roles(component)
    if not bool(batch.valid[row, step]):
        raise LabError(f"step {step} of row {row} does not count, so its advantage is 0 whatever happens")
    guard = Guard(TIME_LIMIT)
    with guard.installed():
        return _Apart(Subject(component, view("advantage"), guard), batch, row, step).explanation()


def refuse_other_roles(component: Component | type[Component]) -> None:
    """Raise ``LabError`` where the component is no advantage estimator."""
    if component.role != "advantage":
        raise LabError(f"{component.name!r} is of role {component.role}; only advantages can be taken apart")


class _Apart:
    def __init__(self, subject: Subject, batch: Trajectories, row: int, step: int) -> None:
        self.subject, self.batch, self.row, self.step = subject, batch, row, step
        self.episodes = segments(batch)
        self.places = self._places()
        self.at = {place: self._number(place) for place in self.places}

    def explanation(self) -> Explanation:
        advantage = self._ask({})
        ones = {place: self._ask({place: 1.0}) - advantage for place in self.places}
        twos = {place: self._ask({place: 2.0}) - advantage for place in self.places}
        together = self._ask(dict.fromkeys(self.places, 1.0)) - advantage
        size = max(1.0, abs(advantage), *map(abs, self.at.values()))
        linear = all(abs(twos[p] - 2 * w) <= ROUNDING * size for p, w in ones.items())
        linear = linear and abs(together - math.fsum(ones.values())) <= ROUNDING * size
        weights = ones if linear else {place: self._slope(place) for place in self.places}
        steps = tuple(self._steps(weights))
        rest = advantage - math.fsum(step.adds for step in steps)
        rest = 0.0 if abs(rest) <= ROUNDING * size else rest
        errors = [(s.reward.weight, s.td_error) for s in steps if s.reward is not None and s.td_error is not None]
        own = math.fsum(weight * error for weight, error in errors)
        in_td_errors = bool(errors) and linear and abs(own - advantage) <= ROUNDING * size
        component = self.subject.component
        parameters = component.model_dump(exclude={"name"})
        parameters.pop("name", None)
        return Explanation(
            component.name, parameters, self.row, self.step, advantage, linear, rest, steps, in_td_errors
        )

    def _ask(self, shifts: dict[Place, float]) -> float:
        try:
            return float(self.subject(self._shifted(shifts))["A"][self.row, self.step])
        except RefusedError as error:
            raise LabError(f"advantage {self.subject.component.name!r} refuses the case: {error}") from None
        except Violation as error:
            raise LabError(f"{error.got}; expected {error.expected}") from None

    def _slope(self, place: Place) -> float:
        return (self._ask({place: SLOPE}) - self._ask({place: -SLOPE})) / (2 * SLOPE)

    def _shifted(self, shifts: dict[Place, float]) -> Trajectories:
        """Return the batch with some numbers shifted; inside an episode V(s) stands in ``next_values`` as well."""
        changed: dict[str, Any] = {
            name: None if x is None else x.clone() for name in _FIELDS.values() for x in (getattr(self.batch, name),)
        }
        before = {
            (episode.row, after): (episode.row, t)
            for episode in self.episodes
            if changed["next_values"] is not None
            for t, after in zip(episode.steps, episode.steps[1:], strict=False)
        }
        for (kind, row, t), shift in shifts.items():
            changed[_FIELDS[kind]][row if kind == "baseline" else (row, t)] += shift
            if kind == "value" and (row, t) in before:
                changed["next_values"][before[row, t]] += shift
        return replace(self.batch, **changed)

    def _places(self) -> list[Place]:
        """Return kind, row and step of every number that may have a weight."""
        read = {kind for kind, name in _FIELDS.items() if kind == "reward" or name in self.subject.component.needs()}
        found = []
        for episode in self.episodes:
            found += [(kind, episode.row, t) for t in episode.steps for kind in ("reward", "value")]
            found.append(("behind", episode.row, episode.steps[-1]))
        first = {episode.row: episode.steps[0] for episode in reversed(self.episodes)} | {self.row: self.step}
        found += [("baseline", row, t) for row, t in first.items()]
        return [place for place in found if place[0] in read and getattr(self.batch, _FIELDS[place[0]]) is not None]

    def _number(self, place: Place) -> float:
        kind, row, t = place
        found: Tensor = getattr(self.batch, _FIELDS[kind])
        return float(found[row] if kind == "baseline" else found[row, t])

    def _steps(self, weights: dict[Place, float]) -> Iterator[Step]:
        """Yield the steps of the own episode from the own step on, and every other step that has a weight."""
        own = next(e for e in self.episodes if e.row == self.row and self.step in e.steps)
        for row, t in sorted(
            {(row, t) for row in range(len(self.batch.valid)) for t in range(self.batch.valid.shape[1])}
        ):
            mine = row == self.row and self.step <= t <= own.steps[-1]
            terms = {
                kind: Term(self.at[place], weights[place], self.at[place] * weights[place])
                for kind in KINDS
                if (place := (kind, row, t)) in weights and (mine or abs(weights[place]) > ROUNDING)
            }
            if not bool(self.batch.valid[row, t]):
                if mine:
                    yield Step(row, t, boundary="does not count: crossed unchanged")
                continue
            if mine or terms:
                episode = next(e for e in self.episodes if e.row == row and t in e.steps)
                yield Step(row, t, **terms, td_error=self._td_error(row, t), boundary=_boundary(episode, t, own, terms))

    def _td_error(self, row: int, t: int) -> float | None:
        batch, needs = self.batch, self.subject.component.needs()
        if batch.values is None or batch.next_values is None or not {"values", "next_values"} <= needs:
            return None
        behind = 0.0 if bool(batch.terminated[row, t]) else float(batch.next_values[row, t])
        gamma = float(self.subject.parameter("gamma", 1.0))
        return float(batch.rewards[row, t]) + gamma * behind - float(batch.values[row, t])


def _boundary(episode: Segment, t: int, own: Segment, terms: Mapping[str, Term]) -> str:
    """Return what ends here, and whether the critic's value behind it is used."""
    found = [] if episode is own else ["another episode"]
    if t == episode.steps[-1]:
        kind = {"open": "live edge: the row stops here"}.get(episode.end, episode.end)
        used = "behind" in terms and abs(terms["behind"].weight) > ROUNDING
        found.append(f"{kind}, bootstraps from the value behind it" if used else kind)
    return "; ".join(found)
