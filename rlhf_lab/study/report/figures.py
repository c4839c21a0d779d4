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

from rlhf_lab.study import text
from rlhf_lab.study.report.lines import MOST_SERIES, Line, is_number, lines_of
from rlhf_lab.study.report.svg import GRID, INK, MUTED, PAPER, SERIES, STYLE, to_svg
from rlhf_lab.study.results import ArmResult, Results
from rlhf_lab.study.schema import Figure

__all__ = ["Drawing", "draw", "figures_of"]

MOST_SPREADS: Final = 4  # lines up to which the spread of the seeds is drawn, too
_DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
_MARKERS: Final = "osD^vPX*dp"


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, and its words for readers who do not see it."""

    title: str
    caption: str
    note: str  # what line, band and bars stand for
    svg: str


def figures_of(results: Results) -> list[Figure]:
    """Return the study's figures, or one learning curve of the first score's metric where it names none."""
    if results.study.figures:
        return list(results.study.figures)
    for score in results.study.scores.values():
        axes = [axis for arm in results.arms if score.metric in arm.curves for axis in arm.x]
        if axes:
            x = next((axis for axis in ("steps", "episodes", "iteration") if axis in axes), axes[0])
            return [Figure(kind="curve", y=score.metric, x=x)]
    return []


def draw(results: Results, figure: Figure, key: str) -> Drawing:
    """Draw one figure of the study. Raises ``LabError`` where it names a metric, quantity or parameter that is not there."""
    arms = results.matching(figure.arms)
    lines = lines_of(results, figure)
    title = figure.title or _title(results, figure)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(8.4, 4.0), layout="constrained")
        axes = canvas.add_subplot()
        _scales(axes, figure, lines)
        _draw_lines(canvas, axes, lines, figure)
        if figure.kind == "curve":
            _references(axes, results, figure, arms)
        axes.set_xlabel(text.parameter(figure.x).replace("_", " "))
        axes.set_ylabel(_label(results, figure.y))
        if figure.kind == "frontier":
            axes.set_xlabel(_label(results, figure.x))
            axes.grid(visible=True, axis="both")
            canvas.canvas.draw()
            _mark_points(axes, lines)
        described = f"{_title(results, figure)}. Lines: {', '.join(line.label for line in lines[:MOST_SERIES])}."
        return Drawing(title, figure.caption, _note(figure, lines), to_svg(canvas, key, title, described))


def _draw_lines(canvas: Canvas, axes: Axes, lines: list[Line], figure: Figure) -> None:
    labels = list(dict.fromkeys(line.label for line in lines))
    toned = len(labels) > MOST_SERIES and all(is_number(line.tone) for line in lines)
    colour = _tones(lines) if toned else _palette(labels)
    sweep = figure.kind != "curve"
    drawn: dict[str, Any] = {}
    for line in lines:
        hue, dash, marker = colour(line)
        z = 3.0 if hue != GRID else 2.0
        style: dict[str, Any] = {"color": hue, "linestyle": dash, "zorder": z}
        if sweep:
            style |= {"marker": marker, "markersize": 4.5, "markeredgecolor": PAPER, "markeredgewidth": 0.6}
        (artist,) = axes.plot(line.x, line.y, **style)
        drawn.setdefault(line.label, artist)
        if line.low is not None and line.high is not None and np.isfinite(line.low).any() and hue != GRID:
            if sweep:
                axes.vlines(line.x, line.low, line.high, color=hue, linewidth=1.2, alpha=0.6)
            else:
                axes.fill_between(line.x, line.low, line.high, color=hue, alpha=0.22, linewidth=0)
        if line.spread is not None and len(lines) <= MOST_SPREADS:
            limits = axes.get_ylim()
            axes.fill_between(line.x, *line.spread, color=hue, alpha=0.07, linewidth=0)
            axes.set_ylim(limits)  # single bad seeds must not squeeze the means
    if toned:
        _scale_legend(canvas, lines, drawn)
    elif len(labels) > 1 or sweep:
        order = _by_last_value(lines, labels) if figure.kind == "curve" else labels
        shown = [label for label in order if drawn[label].get_color() != GRID]
        handles = [drawn[label] for label in shown]
        if len(shown) < len(labels):
            grey = next(drawn[label] for label in labels if label not in shown)
            handles, shown = [*handles, grey], [*shown, f"{len(labels) - len(shown)} other arms"]
        canvas.legend(handles, shown, loc="outside right upper", handlelength=2.2)


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


def _scale_legend(canvas: Canvas, lines: list[Line], drawn: dict[str, Any]) -> None:
    """Name at most nine lines of a scale: both ends and some between."""
    labels = list(dict.fromkeys(line.label for line in sorted(lines, key=lambda line: float(line.tone))))
    some = [labels[i] for i in np.unique(np.linspace(0, len(labels) - 1, 9).round().astype(int))]
    canvas.legend([drawn[label] for label in some], some, loc="outside right upper", handlelength=2.2)


def _references(axes: Axes, results: Results, figure: Figure, arms: Iterable[ArmResult]) -> None:
    """Draw the exact optimum and the uniform policy's value where the arms agree on them."""
    for name, label in (("optimum", "optimum"), ("uniform", "uniform policy")):
        values = {arm.references.get(figure.y, {}).get(name) for arm in arms}
        for reference in sorted(v for v in values if v is not None and isfinite(v))[:2]:
            axes.axhline(reference, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2.5)
            axes.annotate(
                f"{label} {text.number(reference)}",
                (0.995, reference),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=8,
                color=INK,
            )


def _mark_points(axes: Axes, lines: list[Line]) -> None:
    """Label points where there is room: ends first, then those between; a label that would lie on another is left out."""
    placed: list[tuple[float, float, float, float]] = []
    order = [(line, i) for line in lines for i in (0, len(line.x) - 1)]
    order += [(line, i) for line in lines for i in range(1, len(line.x) - 1)]
    for line, i in dict.fromkeys((lines.index(line), i) for line, i in order):
        label = lines[line].marks[i]
        if not label:
            continue
        x, y = axes.transData.transform((lines[line].x[i], lines[line].y[i]))
        width, height = 5.2 * len(label) * axes.figure.dpi / 72 * 0.8, 9.0 * axes.figure.dpi / 72
        for side, dy in ((1, 4), (-1, 4), (1, -10), (-1, -10)):
            left = x + 5 if side > 0 else x - 5 - width
            box = (left, y + dy, left + width, y + dy + height)
            inside = axes.bbox.x0 <= box[0] and box[2] <= axes.bbox.x1 + 40
            if inside and not any(_overlap(box, other) for other in placed):
                placed.append(box)
                points = 72 / axes.figure.dpi
                axes.annotate(
                    label,
                    (lines[line].x[i], lines[line].y[i]),
                    xytext=(5 * side * points, dy * points),
                    textcoords="offset points",
                    ha="left" if side > 0 else "right",
                    va="bottom",
                    fontsize=7.5,
                    color=INK,
                )
                break


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _scales(axes: Axes, figure: Figure, lines: list[Line]) -> None:
    """Set logarithmic axes; where a value is 0 or negative, linear around 0 below the smallest magnitude."""
    for log, values, name in (
        (figure.x_log, [line.x for line in lines], "x"),
        (figure.y_log, [line.y for line in lines], "y"),
    ):
        if not log:
            continue
        flat = np.concatenate(values)
        flat = flat[np.isfinite(flat)]
        positive = np.abs(flat[np.abs(flat) > 1e-12 * np.abs(flat).max(initial=0.0)])
        if not len(positive):
            continue
        axis_scale = axes.set_xscale if name == "x" else axes.set_yscale
        if (flat > 0).all() and len(positive) == len(flat):
            axis_scale("log")
        else:
            axis_scale("symlog", linthresh=float(positive.min()), linscale=0.5)


def _by_last_value(lines: Sequence[Line], labels: list[str]) -> list[str]:
    """Order a legend as the lines end, top first."""
    last = {line.label: line.y[-1] for line in lines}
    return sorted(labels, key=lambda label: -last[label])


def _note(figure: Figure, lines: list[Line]) -> str:
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
    return (score.label if score is not None and score.label else name).replace("_", " ")


def _title(results: Results, figure: Figure) -> str:
    y, x = _label(results, figure.y), _label(results, figure.x)
    if figure.kind == "curve":
        return f"{y.capitalize()} over {x}"
    return (
        f"{y.capitalize()} over {text.parameter(figure.x)}"
        if figure.kind == "sweep"
        else f"{y.capitalize()} against {x}"
    )
