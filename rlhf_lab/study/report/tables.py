"""The numbers of a report, as plain rows: for the page, the terminal and the CSV files alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isfinite, nan
from typing import Any, Final

import numpy as np

from rlhf_lab.study import bootstrap, statistics, text
from rlhf_lab.study.bootstrap import Interval
from rlhf_lab.study.results import ArmResult, Results, shared_scores
from rlhf_lab.study.schema import Level, Score
from rlhf_lab.study.statistics import Summary

__all__ = [
    "LEVELS",
    "MOST_ROWS",
    "ArmRow",
    "Comparison",
    "Overview",
    "ScoreTable",
    "comparisons",
    "differences",
    "overviews",
    "parameter_of",
    "score_tables",
    "warnings_of",
]

MOST_ROWS: Final = 12  # longer tables are cut here; the page holds the rest in a fold below
ZERO: Final = 1e-9  # what exact values may differ by
ALL_PAIRS: Final = 6  # arms up to which every pair is compared; above, every arm with the first
MOST_NAMES: Final = 4  # arms that a warning names; above, it counts them
LEVELS: Final = {"optimum": "optimum", "uniform": "uniform policy", "reference": "reference policy"}  # as readers see


@dataclass(frozen=True)
class ArmRow:
    """One arm in a score table."""

    arm: ArmResult
    summary: Summary
    optimum: float = nan
    baseline: float = nan  # of the policy named by ``ScoreTable.baseline``

    @property
    def to_optimum(self) -> float:
        """Mean minus the exact optimum: 0 is perfect."""
        return self.summary.mean.value - self.optimum

    @property
    def over_baseline(self) -> float:
        """Mean minus the exact value of the baseline policy: 0 is as good as acting at random, or as not training."""
        return self.summary.mean.value - self.baseline

    @property
    def normalised(self) -> float:
        """0 for the baseline policy, 1 for the optimum."""
        span = self.optimum - self.baseline
        return self.over_baseline / span if span else nan


@dataclass(frozen=True)
class ScoreTable:
    """All arms of one environment under one score: best first, but stages of a chain in their order."""

    environment: str
    name: str
    score: Score
    rows: tuple[ArmRow, ...]

    @property
    def label(self) -> str:
        """What readers see."""
        return self.score.label or self.name

    @property
    def heading(self) -> str:
        """What readers see beside other scores: an arrow points to what is better."""
        return f"{self.label} {'↑' if self.score.better == 'higher' else '↓'}"

    @cached_property
    def has_gaps(self) -> bool:
        """Tell whether an optimum is known other than 0, from where a score is its own gap."""
        return any(isfinite(row.optimum) and abs(row.optimum) > ZERO for row in self.rows)

    def level(self, name: str) -> float:
        """Return the value of the policy called ``name``; NaN where no arm knows it, or arms know different ones."""
        known = [row.arm.references.get(self.score.metric, {}).get(name, nan) for row in self.rows]
        finite = [value for value in known if isfinite(value)]
        same = finite and max(finite) - min(finite) <= ZERO * max(1.0, *map(abs, finite))
        return finite[0] if same else nan

    @cached_property
    def has_references(self) -> bool:
        """Tell whether the exact optimum or the baseline policy's value is known."""
        return any(isfinite(row.optimum) or isfinite(row.baseline) for row in self.rows)

    @property
    def baseline(self) -> str:
        """The policy that gaps are measured from: the uniform one, or the reference where that one is known alone."""
        known = [row.arm.references.get(self.score.metric, {}) for row in self.rows]
        return "reference" if any("reference" in k and "uniform" not in k for k in known) else "uniform"

    @cached_property
    def has_failures(self) -> bool:
        """Tell whether any seed failed."""
        return any(row.summary.failed for row in self.rows)


@dataclass(frozen=True)
class Overview:
    """All arms of one environment under all of its scores, in the order of the first score's table."""

    environment: str
    tables: tuple[ScoreTable, ...]

    @property
    def rows(self) -> list[tuple[str, list[ArmRow | None]]]:
        """Each arm's name, and its row in each table that has one."""
        found = [{row.arm.name: row for row in table.rows} for table in self.tables]
        names = dict.fromkeys(name for rows in found for name in rows)
        return [(name, [rows.get(name) for rows in found]) for name in names]

    @property
    def levels(self) -> list[tuple[str, list[float]]]:
        """The policies of which a value is known, and their values; NaN where a score has none."""
        levels = [(label, [table.level(name) for table in self.tables]) for name, label in LEVELS.items()]
        return [(label, values) for label, values in levels if any(map(isfinite, values))]

    @property
    def note(self) -> str:
        """What to know of the levels: the best return need not be that of the policy with the best objective."""
        return "At the foot: exact levels, each of its own metric, not of one policy." if self.levels else ""


@dataclass(frozen=True)
class Comparison:
    """Two arms on their shared seeds; a failed seed counts as the worst score."""

    first: str
    second: str
    difference: Interval
    probability: Interval  # that a run of the first arm beats a run of the second
    separated: bool  # after Holm's correction over the table
    needed: int | None


def score_tables(results: Results) -> list[ScoreTable]:
    """Return a table per environment and score; arms that lack the score's metric stay out."""
    tables = []
    for environment, arms in _by_environment(results.arms).items():
        for name, score in results.study.scores.items():
            rows = [_row(arm, score) for arm in arms if name in results.scores_of(arm)]
            if rows:
                sign = -1 if score.better == "higher" else 1
                if not results.chain:
                    rows.sort(key=lambda row: key if isfinite(key := sign * row.summary.mean.value) else np.inf)
                tables.append(ScoreTable(environment, name, score, tuple(rows)))
    return tables


def overviews(tables: Iterable[ScoreTable]) -> list[Overview]:
    """Return one table of all scores per environment that has several."""
    groups: dict[str, list[ScoreTable]] = {}
    for table in tables:
        groups.setdefault(table.environment, []).append(table)
    return [Overview(environment, tuple(group)) for environment, group in groups.items() if len(group) > 1]


def comparisons(table: ScoreTable, order: Iterable[str]) -> list[Comparison]:
    """Compare the table's arms in the study's ``order``: all pairs of few arms, or each of many with the first."""
    present = {row.arm.name: row.arm for row in table.rows}
    names = [name for name in order if name in present]
    pairs = list(combinations(names, 2)) if len(names) <= ALL_PAIRS else [(name, names[0]) for name in names[1:]]
    found, p_values = [], []
    for first, second in pairs:
        raw = shared_scores((present[first], present[second]), lambda arm: arm.score(table.score))
        if not len(raw[0]):
            continue
        a, b = statistics.failures_as_worst(raw, table.score.better)
        p_values.append(bootstrap.p_value(a - b, resamples=2000))
        found.append(
            Comparison(
                first,
                second,
                statistics.paired_difference(a, b, resamples=2000),
                statistics.probability_of_improvement(*raw, better=table.score.better, resamples=500),
                False,
                statistics.seeds_needed(a - b),
            )
        )
    rejected, _ = statistics.holm(p_values)
    return [
        Comparison(c.first, c.second, c.difference, c.probability, separated, c.needed)
        for c, separated in zip(found, rejected, strict=True)
    ]


def differences(arms: Iterable[ArmResult]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the dotted paths that differ, and each arm's values there."""
    listed = list(arms)
    paths = list(dict.fromkeys(path for arm in listed for path in arm.parameters))
    shown = {path: [text.value(parameter_of(arm, path)) for arm in listed] for path in paths}
    names = [arm.name for arm in listed]
    paths = [path for path in paths if len(set(shown[path])) > 1 and shown[path] != names]
    return paths, [(name, [shown[path][i] for path in paths]) for i, name in enumerate(names)]


def parameter_of(arm: ArmResult, path: str) -> Any:
    """Return a dotted parameter: the arm's own, else what its resolved spec says; None where it has none."""
    if path in arm.parameters:
        return arm.parameters[path]
    node: Any = arm.spec
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node["name"] if isinstance(node, Mapping) and "name" in node else node


def warnings_of(results: Results, tables: Iterable[ScoreTable]) -> list[str]:
    """Return what a reader must know before believing the numbers: the study's own, the arms', and those found here."""
    found = list(results.warnings)
    sampled = [arm for arm in results.arms if arm.curves and arm.seeds]
    few = (statistics.few_seeds(n) for n in sorted({len(arm.seeds) for arm in sampled}))
    found += [message for message in few if message]
    for arm in results.arms:
        failed = int(arm.failed.sum())
        if failed:
            found.append(
                f"{arm.name}: {failed} of {text.plural(len(arm.seeds), 'seed')} failed (a value was not finite). "
                "Tables are over the others; comparisons count each as the worst score"
            )
        found += [f"{arm.name}: {warning}" for warning in arm.warnings]
    for arms in [] if results.chain else _by_environment(sampled).values():
        if message := _unequal_budgets(arms):
            found.append(message)
    return list(dict.fromkeys([*found, *_no_score(results), *_constant_scores(results, list(tables))]))


def _no_score(results: Results) -> list[str]:
    """Say what was recorded where a study names no score and records none of the usual ones."""
    recorded = sorted({metric for arm in results.arms for metric in arm.curves})
    if results.study.scores or not recorded:
        return []
    mend = "they stand in curves.csv" if results.chain else "name one under `scores`"
    return [f"there is no score, as no usual metric is recorded by every arm. Recorded: {', '.join(recorded)}; {mend}"]


def _constant_scores(results: Results, tables: list[ScoreTable]) -> list[str]:
    """Point out what never varies, in a line per score: often a mistake, unless a conclusion expects just that."""
    found: dict[str, dict[str, list[str]]] = {}  # score -> value -> arms
    for table in tables:
        for row in table.rows:
            value = row.summary.median
            if row.summary.mean.low == row.summary.mean.high and not _expected(results, table.name, value):
                found.setdefault(table.label, {}).setdefault(text.short(value), []).append(row.arm.name)
    return [
        f"{label} is the same on every seed: " + "; ".join(f"{value} ({_some(arms)})" for value, arms in values.items())
        for label, values in found.items()
    ]


def _expected(results: Results, score: str, value: float) -> bool:
    """Tell whether a conclusion judges the score, of whichever arm, by a published figure that this value is."""
    usual = next(iter(results.study.scores))
    return any(
        isinstance(conclusion, Level)
        and (conclusion.quantity or usual) == score
        and abs(value - conclusion.published) <= conclusion.tolerance
        for conclusion in results.study.conclusions
    )


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMES else text.plural(len(names), "arm")


def _row(arm: ArmResult, score: Score) -> ArmRow:
    references = arm.references.get(score.metric, {})
    summary = statistics.summarise(arm.score(score), better=score.better, resamples=2000)
    return ArmRow(
        arm, summary, references.get("optimum", nan), references.get("uniform", references.get("reference", nan))
    )


def _by_environment(arms: Iterable[ArmResult]) -> dict[str, list[ArmResult]]:
    """Group arms by environment: by its name, with the parameters that differ where there are several of one name."""
    listed = list(arms)
    specs = [_environment(arm) for arm in listed]
    groups: dict[str, list[ArmResult]] = {}
    for arm, spec in zip(listed, specs, strict=True):
        namesakes = [other for other in specs if other.get("name") == spec.get("name")]
        varying = [key for key in spec if any(other.get(key) != spec[key] for other in namesakes)]
        title = text.value({"name": spec.get("name", "environment"), **{key: spec[key] for key in varying}})
        groups.setdefault(title, []).append(arm)
    return groups


def _environment(arm: ArmResult) -> Mapping[str, Any]:
    spec = arm.world or arm.spec.get("environment") or {}
    return spec if isinstance(spec, Mapping) else {"name": str(spec)}


def _unequal_budgets(arms: list[ArmResult]) -> str | None:
    """Warn where arms share neither their number of steps nor their number of episodes."""
    ends: dict[str, list[float]] = {}
    for axis in ("steps", "episodes"):
        ends[axis] = [float(arm.x[axis][-1]) for arm in arms if axis in arm.x and len(arm.x[axis])]
    known = {axis: values for axis, values in ends.items() if len(values) == len(arms) > 1}
    if not known or any(max(values) <= 1.01 * min(values) for values in known.values()):
        return None
    axis, values = next(iter(known.items()))
    return (
        f"unequal budgets: arms used between {min(values):,.0f} and {max(values):,.0f} {axis}; compare them over {axis}"
    )
