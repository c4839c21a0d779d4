"""The figures of a report: learning curves, sweeps over a parameter, and frontiers of two quantities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from rlhf_lab.study import text
from rlhf_lab.study.report.lines import MOST_SERIES, Line, is_number, lines_of
from rlhf_lab.study.report.svg import GRID, INK, MUTED, PAPER, SERIES, STYLE, to_svg
from rlhf_lab.study.report.tables import LEVELS
from rlhf_lab.study.results import ArmResult, Results
from rlhf_lab.study.schema import Figure

__all__ = ["Drawing", "draw", "figures_of"]

MOST_SPREADS: Final = 4  # lines up to which the spread of the seeds is drawn, too
MOST_TICKS: Final = 10
_DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
_MARKERS: Final = "osD^vPX*dp"
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, and its words for readers who do not see it."""

    title: str
    caption: str
    note: str  # what line, band and bars stand for
    svg: str


def figures_of(results: Results) -> list[Figure]:
    """Return the study's figures, or one learning curve of the first score's metric where it leaves them out."""
    if "figures" in results.study.model_fields_set:
        return list(results.study.figures)
    for score in results.study.scores.values():
        axes = [axis for arm in results.arms if score.metric in arm.curves for axis in arm.x]
        if axes:
            x = next((axis for axis in ("steps", "episodes", "iteration") if axis in axes), axes[0])
            return [Figure(kind="curve", y=score.metric, x=x)]
    return []


def draw(results: Results, figure: Figure, key: str) -> Drawing:
    """Draw one figure of the study; ``LabError`` where it names a metric, quantity or parameter that is not there."""
    arms = results.matching(figure.arms)
    lines = lines_of(results, figure)
    title = figure.title or _title(results, figure)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(8.4, 4.0), layout="constrained")
        axes = canvas.add_subplot()
        _scales(axes, figure, lines)
        handles = _draw_lines(axes, lines, figure)
        if figure.kind == "curve":
            handles |= _references(axes, figure, arms)
            _draw_spreads(axes, lines)
        if len(handles) > 1 or figure.kind != "curve":
            canvas.legend(handles.values(), handles.keys(), loc="outside right upper", handlelength=2.2)
        axes.set_xlabel(text.words(text.parameter(figure.x)))
        axes.set_ylabel(_label(results, figure.y))
        if figure.kind == "frontier":
            axes.set_xlabel(_label(results, figure.x))
            axes.grid(visible=True, axis="both")
            canvas.draw_without_rendering()  # fixes where points lie, which the labels avoid
            _mark_points(axes, lines)
        described = f"{_title(results, figure)}. Lines: {', '.join(line.label for line in lines[:MOST_SERIES])}."
        return Drawing(title, figure.caption, _note(figure, lines), to_svg(canvas, key, title, described))


def _draw_lines(axes: Axes, lines: list[Line], figure: Figure) -> dict[str, Any]:
    """Draw the lines and return what the legend names: at most ten, or nine of a scale."""
    labels = list(dict.fromkeys(line.label for line in lines))
    toned = len(labels) > MOST_SERIES and all(is_number(line.tone) for line in lines)
    colour = _tones(lines) if toned else _palette(labels)
    sweep = figure.kind != "curve"
    drawn: dict[str, Any] = {}
    for line in lines:
        hue, dash, marker = colour(line)
        z = 3.0 if hue != GRID else 2.0
        style: dict[str, Any] = {"color": hue, "linestyle": dash, "zorder": z}
        dotted = sweep or len(line.x) == 1  # a line of one point would not be seen
        if dotted:
            style |= {"marker": marker, "markersize": 4.5, "markeredgecolor": PAPER, "markeredgewidth": 0.6}
        (artist,) = axes.plot(line.x, line.y, **style)
        drawn.setdefault(line.label, artist)
        if line.low is not None and line.high is not None and np.isfinite(line.low).any() and hue != GRID:
            if dotted:
                axes.vlines(line.x, line.low, line.high, color=hue, linewidth=1.2, alpha=0.6)
            else:
                axes.fill_between(line.x, line.low, line.high, color=hue, alpha=0.22, linewidth=0)
    if toned:
        labels = [line.label for line in sorted(lines, key=lambda line: float(line.tone))]
        labels = list(dict.fromkeys(labels))
        labels = [labels[i] for i in np.unique(np.linspace(0, len(labels) - 1, 9).round().astype(int))]
    elif figure.kind == "curve":  # a legend in the order in which the lines end, top first
        last = {line.label: line.y[-1] for line in lines}
        labels.sort(key=lambda label: -last[label])
    named = {label: drawn[label] for label in labels if drawn[label].get_color() != GRID}
    if len(rest := [label for label in labels if label not in named]):
        named[f"{len(rest)} others"] = drawn[rest[0]]
    return named


def _draw_spreads(axes: Axes, lines: list[Line]) -> None:
    """Shade where most seeds lie, within the limits of what is drawn: single bad seeds must not squeeze the means."""
    limits = axes.get_ylim()
    for line, drawn in zip(lines, axes.lines[: len(lines)], strict=True):
        if line.spread is not None and len(lines) <= MOST_SPREADS:
            axes.fill_between(line.x, *line.spread, color=drawn.get_color(), alpha=0.07, linewidth=0)
    axes.set_ylim(limits)


def _palette(labels: list[str]) -> Callable[[Line], tuple[str, Any, str]]:
    """Give the first lines a colour and dash each; what is beyond a reader's eye is grey."""

    def style(line: Line) -> tuple[str, Any, str]:
        i = labels.index(line.label)
        if i >= MOST_SERIES and len(labels) > MOST_SERIES:
            return GRID, "-", "."
        return SERIES[i % len(SERIES)], _DASHES[i // len(SERIES) % len(_DASHES)], _MARKERS[i % len(_MARKERS)]

    return style


def _tones(lines: list[Line]) -> Callable[[Line], tuple[str, Any, str]]:
    values = sorted({float(line.tone) for line in lines})
    scale = mpl.colormaps["viridis"]

    def style(line: Line) -> tuple[str, Any, str]:
        place = values.index(float(line.tone)) / max(len(values) - 1, 1)
        return mpl.colors.to_hex(scale(0.06 + 0.84 * place)), "-", "o"

    return style


def _references(axes: Axes, figure: Figure, arms: Iterable[ArmResult]) -> dict[str, Any]:
    """Draw the exact optimum and the uniform or reference policy's value, and return what the legend names."""
    named = {}
    for (name, label), dash in zip(LEVELS.items(), ((0, (4, 3)), (0, (1, 2)), (0, (1, 2, 4, 2))), strict=True):
        values = {arm.references.get(figure.y, {}).get(name) for arm in arms}
        for reference in sorted(v for v in values if v is not None and isfinite(v))[:2]:
            line = axes.axhline(reference, color=MUTED, linewidth=1.2, linestyle=dash, zorder=2.5)
            named[f"{label} {text.short(reference)}"] = line
    return named


def _mark_points(axes: Axes, lines: list[Line]) -> None:
    """Label points where there is room, ends first; a label that would lie on another label or point is left out."""
    pixel = axes.figure.dpi / 72
    places = [axes.transData.transform(np.column_stack([line.x, line.y])) for line in lines]
    dots = [(x - 3, y - 3, x + 3, y + 3) for place in places for x, y in place]
    taken: list[_Box] = []
    ends = [(n, i) for n, line in enumerate(lines) for i in (0, len(line.x) - 1)]
    between = [(n, i) for n, line in enumerate(lines) for i in range(1, len(line.x) - 1)]
    for n, i in dict.fromkeys(ends + between):
        label, (x, y) = lines[n].marks[i], places[n][i]
        width, height = 4.3 * len(label) * pixel, 8.5 * pixel
        for dx, dy in ((5, 3), (-5 - width, 3), (5, -3 - height), (-5 - width, -3 - height)):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            others = [dot for dot in dots if not dot[0] <= x <= dot[2] or not dot[1] <= y <= dot[3]]
            if box[0] < axes.bbox.x0 or box[2] > axes.bbox.x1 + 10 or any(_overlap(box, o) for o in taken + others):
                continue
            taken.append(box)
            note = axes.annotate(
                label,
                (lines[n].x[i], lines[n].y[i]),
                xytext=((box[0] - x) / pixel, (box[1] - y) / pixel),
                textcoords="offset points",
            )
            note.set(fontsize=7.5, color=INK, va="bottom", in_layout=False)
            break


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _scales(axes: Axes, figure: Figure, lines: list[Line]) -> None:
    """Set logarithmic axes with plain numbers; where a value is 0 or less, linear below the smallest magnitude."""
    for log, axis, parts in (
        (figure.x_log, axes.xaxis, [line.x for line in lines]),
        (figure.y_log, axes.yaxis, [line.y for line in lines]),
    ):
        values = np.unique(np.concatenate([np.zeros(0), *parts]))
        values = values[np.isfinite(values)]
        magnitudes = np.abs(values[np.abs(values) > 1e-12 * np.abs(values).max(initial=0.0)])
        if not log or not len(magnitudes):
            continue
        set_scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
        if len(magnitudes) == len(values) and values[0] > 0:
            set_scale("log")
        else:
            set_scale("symlog", linthresh=float(magnitudes.min()), linscale=0.5)
        if axis is axes.xaxis and figure.kind == "sweep" and len(values) <= MOST_TICKS:
            axis.set_major_locator(FixedLocator(values.tolist()))
            axis.set_minor_locator(NullLocator())
        elif magnitudes.max() < 100 * magnitudes.min() and values[0] > 0:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: text.short(x).replace("-", "\N{MINUS SIGN}")))
        axis.set_minor_formatter(NullFormatter())


def _note(figure: Figure, lines: list[Line]) -> str:
    if not lines:
        return "There is no line: every seed failed before a value was recorded."
    if figure.kind == "frontier":
        swept = any(len(set(line.marks)) > 1 for line in lines)
        return "Lines join points in the order of the parameter that labels them." if swept else ""
    if all(line.low is None or not np.isfinite(line.low).any() for line in lines):
        return ""
    over = {"mean": "mean", "iqm": "interquartile mean"}[figure.statistic]
    if figure.kind != "curve":
        return f"Points: {over} over seeds; bars: 95 % bootstrap interval."
    shown = any(line.spread is not None for line in lines) and len(lines) <= MOST_SPREADS
    spread = "; faint band: 10 % to 90 % of the seeds" if shown else ""
    return f"Line: {over} over seeds; band: 95 % bootstrap interval{spread}."


def _label(results: Results, name: str) -> str:
    score = results.study.scores.get(name)
    return score.label if score is not None and score.label else text.words(name)


def _title(results: Results, figure: Figure) -> str:
    y, x = _label(results, figure.y), _label(results, figure.x)
    relation = f"against {x}" if figure.kind == "frontier" else f"over {text.words(text.parameter(figure.x))}"
    return f"{y[:1].upper()}{y[1:]} {relation}"
