"""What the lines of a report's figures are: which arms belong to one line, in which order, under which label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.study import bootstrap, text
from rlhf_lab.study.report.tables import parameter_of
from rlhf_lab.study.results import ArmResult, Array, Results
from rlhf_lab.study.schema import Figure

__all__ = ["MOST_SERIES", "Line", "is_number", "lines_of"]

MOST_SERIES: Final = 10  # lines that a reader can tell apart by colour and dash; more are coloured along a scale
_POINTS: Final = 200


@dataclass(frozen=True)
class Line:
    """One line: its label, what colours it along a scale where there are many, and its points."""

    label: str
    tone: Any
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    spread: tuple[Array, Array] | None = None
    marks: tuple[str, ...] = ()  # a label per point


def lines_of(results: Results, figure: Figure) -> list[Line]:
    """Return the figure's lines; ``LabError`` where it names a metric, quantity or parameter that is not there.

    A curve has no line of an arm whose seeds all failed before the first point.
    """
    arms = results.matching(figure.arms)
    return {"curve": _curves, "sweep": _sweep, "frontier": _frontier}[figure.kind](results, figure, arms)


def _curves(results: Results, figure: Figure, arms: list[ArmResult]) -> list[Line]:
    lines = []
    for arm in arms:
        x = _axis(arm, figure.x)
        if figure.y not in arm.curves or x is None:
            continue
        curve = arm.curve(figure.y)
        keep = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _POINTS)).round().astype(int))
        curve, x = curve[keep], x[keep]
        value, low, high = bootstrap.band(curve, figure.statistic, resamples=500)
        defined = np.isfinite(value)
        tone = parameter_of(arm, figure.series) if figure.series else arm.name
        failed = int(arm.failed.sum())
        line = Line(
            (_named(figure.series, tone) if figure.series else arm.name) + (f" ({failed} failed)" if failed else ""),
            tone,
            x[defined],
            value[defined],
            low[defined],
            high[defined],
            _spread(curve[defined]),
        )
        if defined.any():
            lines.append(line)
    if not lines:
        metrics = {metric for arm in arms for metric in arm.curves}
        axes = {axis for arm in arms for axis in arm.x} | metrics
        if figure.y not in metrics:
            raise LabError(f"a figure shows {figure.y!r}, which no arm has recorded. {did_you_mean(figure.y, metrics)}")
        if figure.x not in axes:
            raise LabError(f"a figure has x: {figure.x!r}, which is not recorded. {did_you_mean(figure.x, axes)}")
    if figure.series is None and len(lines) > MOST_SERIES:
        lines = _along_a_scale(lines, arms)
    return lines


def _axis(arm: ArmResult, name: str) -> Array | None:
    """Return ``[points]``: a count, or a recorded metric's mean over seeds; None where the arm has neither."""
    if name in arm.x or name not in arm.curves:
        return arm.x.get(name)
    curve = arm.curve(name)
    known = np.isfinite(curve)
    counts = known.sum(axis=1)
    return np.where(counts, np.where(known, curve, 0).sum(axis=1) / np.maximum(counts, 1), np.nan)


def _sweep(results: Results, figure: Figure, arms: list[ArmResult]) -> list[Line]:
    swept = [arm for arm in arms if is_number(parameter_of(arm, figure.x)) and _has(results, arm, figure.y)]
    if not swept:
        _complain(results, arms, figure.y)
        paths = {path for arm in arms for path in arm.parameters}
        raise LabError(f"a figure sweeps {figure.x!r}, which is a number in no arm. {did_you_mean(figure.x, paths)}")
    lines = []
    for label, tone, group in _grouped(swept, figure.series, {figure.x}):
        group.sort(key=lambda arm: float(parameter_of(arm, figure.x)))
        points = [_value(results, arm, figure.y, figure.statistic) for arm in group]
        x = np.array([float(parameter_of(arm, figure.x)) for arm in group])
        y, low, high = (np.array([getattr(p, end) for p in points]) for end in ("value", "low", "high"))
        lines.append(Line(label, tone, x, y, low, high))
    return lines


def _frontier(results: Results, figure: Figure, arms: list[ArmResult]) -> list[Line]:
    shown = [arm for arm in arms if _has(results, arm, figure.x) and _has(results, arm, figure.y)]
    if not shown:
        _complain(results, arms, figure.x)
        _complain(results, arms, figure.y)
        raise LabError(f"a figure shows {figure.y!r} against {figure.x!r}, and no arm has both")
    along = _along(shown, figure.series)
    lines = []
    for label, tone, group in _grouped(shown, figure.series, along):
        own = [path for path in along if _varies(group, path)]
        if own:
            group.sort(key=lambda arm: [float(parameter_of(arm, path)) for path in own])
        marks = tuple(_mark(arm, own, several=len(along) > 1) for arm in group)
        x, y = (
            np.array([_value(results, arm, name, figure.statistic).value for arm in group])
            for name in (figure.x, figure.y)
        )
        lines.append(Line(label, tone, x, y, marks=marks))
    return lines


def _mark(arm: ArmResult, own: list[str], *, several: bool) -> str:
    """Label a point of a frontier: by its swept value, with the parameter's name where lines sweep different ones."""
    if not own:
        return arm.name
    value = parameter_of(arm, own[0])
    return _named(own[0], value) if several else text.value(value)


def _along(arms: list[ArmResult], series: str | None) -> set[str]:
    """Return the numeric parameters that run along lines rather than tell them apart.

    A component's own parameter (``lam`` of gae, ``n`` of n_step) exists in some arms only: each has its own lines.
    Where there is none, it is the parameter with most values.
    """
    paths = [path for path in _paths(arms) if path != series and _varies(arms, path)]
    values = {path: [parameter_of(arm, path) for arm in arms] for path in paths}
    numeric = [path for path in paths if all(v is None or is_number(v) for v in values[path])]
    own = {path for path in numeric if None in values[path]}
    return own or set(sorted(numeric, key=lambda path: -len(set(values[path])))[:1])


def _grouped(arms: list[ArmResult], series: str | None, along: set[str]) -> list[tuple[str, Any, list[ArmResult]]]:
    """Split arms into lines ``(label, tone, arms)``: by ``series`` and what else differs and is not ``along`` them."""
    apart = [series] if series else []
    for path in _paths(arms):
        by = [*apart, *along] if path == "arm" else apart  # an arm may be named after what runs along its line
        if path not in along and path not in apart and not _determined(arms, path, by):
            apart.append(path)
    groups: dict[tuple[str, ...], list[ArmResult]] = {}
    for arm in arms:
        groups.setdefault(tuple(text.value(parameter_of(arm, path)) for path in apart), []).append(arm)
    tone = series or next((path for path in apart if all(is_number(parameter_of(arm, path)) for arm in arms)), None)
    lines = []
    for group in groups.values():
        values = [(path, parameter_of(group[0], path)) for path in apart]
        label = ", ".join(_named(path, value) for path, value in values if value is not None)
        lines.append((label or "all arms", parameter_of(group[0], tone) if tone else label, group))
    if all(is_number(tone) for _, tone, _ in lines):
        lines.sort(key=lambda line: float(line[1]))
    return lines


def _determined(arms: list[ArmResult], path: str, by: list[str]) -> bool:
    """Tell whether the parameters ``by`` leave no choice for ``path``, so that it adds nothing to a label."""
    known = [tuple(text.value(parameter_of(arm, other)) for other in by) for arm in arms]
    return len(set(known)) == len(
        {(*k, text.value(parameter_of(arm, path))) for k, arm in zip(known, arms, strict=True)}
    )


def _varies(arms: list[ArmResult], path: str) -> bool:
    return not _determined(arms, path, [])


def _paths(arms: list[ArmResult]) -> list[str]:
    """Return all parameters that tell arms apart; the arm's own name last, for where nothing else does."""
    paths = dict.fromkeys(path for arm in arms for path in arm.parameters)
    return sorted(paths, key=lambda path: path == "arm")


def _named(path: str, value: Any) -> str:
    """Write a number with its parameter's name, anything else as it is."""
    shown = text.value(value)
    return f"{text.parameter(path)} {shown}" if is_number(value) else shown


def _along_a_scale(lines: list[Line], arms: list[ArmResult]) -> list[Line]:
    """Colour many curves along the numeric parameter with most values, if there is one."""
    numeric = [path for path in _paths(arms) if all(is_number(parameter_of(arm, path)) for arm in arms)]
    if not numeric:
        return lines
    path = max(numeric, key=lambda path: len({parameter_of(arm, path) for arm in arms}))
    by_name = {arm.name: parameter_of(arm, path) for arm in arms}
    return [
        replace(line, label=_named(path, by_name[line.tone]), tone=by_name[line.tone], spread=None) for line in lines
    ]


def _spread(curve: Array) -> tuple[Array, Array] | None:
    """Return the 10 % and 90 % quantiles of the seeds at each point."""
    if not len(curve) or curve.shape[1] < 5 or not np.isfinite(curve).any(axis=1).all():
        return None
    low, high = np.nanquantile(curve, (0.1, 0.9), axis=1)
    return low, high


def _value(results: Results, arm: ArmResult, name: str, statistic: bootstrap.Statistic) -> bootstrap.Interval:
    scores = results.quantity(arm, name)
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return bootstrap.Interval(np.nan, np.nan, np.nan)
    return bootstrap.stratified_interval(finite, statistic, resamples=1000)


def _has(results: Results, arm: ArmResult, name: str) -> bool:
    score = results.study.scores.get(name)
    return name in arm.exact or (score is not None and score.metric in arm.curves)


def _complain(results: Results, arms: list[ArmResult], name: str) -> None:
    if not any(_has(results, arm, name) for arm in arms):
        known = {quantity for arm in arms for quantity in arm.exact} | set(results.study.scores)
        raise LabError(
            f"a figure shows {name!r}, which is neither a score nor an exact quantity. {did_you_mean(name, known)}"
        )


def is_number(x: Any) -> bool:
    """Tell whether a parameter's value can stand on an axis."""
    return isinstance(x, int | float) and not isinstance(x, bool)
