"""The report's page and the data files beside it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlhf_lab.errors import LabError
from rlhf_lab.pictures import inline_svg
from rlhf_lab.study import bootstrap, text
from rlhf_lab.study.conclusions import Finding, evaluate
from rlhf_lab.study.report.figures import Drawing, draw, figures_of
from rlhf_lab.study.report.tables import MOST_ROWS, comparisons, differences, overviews, score_tables, warnings_of
from rlhf_lab.study.results import Results, study_to_plain
from rlhf_lab.study.results_json import results_to_json
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store

__all__ = ["notebook_html", "report_html", "write_report"]


def write_report(results: Results, directory: Path) -> Path:
    """Write ``report.html``, ``results.json``, ``scores.csv`` and ``curves.csv``; return the page's path.

    Each file is whole or not there, and equal results give equal bytes. Raises ``LabError`` where the folder cannot be
    written, or where a figure or conclusion names what the study does not have.
    """
    store = Store(directory)
    page = directory / "report.html"
    findings = evaluate(results)
    store.write_text(directory / "results.json", results_to_json(results, findings))
    store.write_text(directory / "scores.csv", _csv(_score_rows(results)))
    store.write_text(directory / "curves.csv", _csv(_curve_rows(results)))
    store.write_text(page, report_html(results, findings))
    return page


def report_html(results: Results, findings: list[Finding] | None = None) -> str:
    """Return the whole page: self-contained, no script, no network. ``findings`` saves judging conclusions again."""
    findings = evaluate(results) if findings is None else findings
    tables = score_tables(results)
    paths, rows = differences(results.arms)
    order = [arm.name for arm in results.arms]
    exact = [arm for arm in results.arms if arm.exact]
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            results=results,
            findings=findings,
            counts=Counter(finding.verdict for finding in findings),
            drawings=list(_drawings(results)),
            overviews=overviews(tables),
            tables=[(table, comparisons(table, order)) for table in tables],
            exact=exact,
            exact_names=list(dict.fromkeys(name for arm in exact for name in arm.exact)),
            exhibited=[arm for arm in results.arms if arm.exhibits],
            paths=paths,
            differences=rows,
            warnings=warnings_of(results, tables),
            provenance=list(_flat(results.provenance)),
            study=_yaml(_brief(results.study)),
            seconds=sum(arm.seconds for arm in results.arms),
            most=MOST_ROWS,
        )
    )


def notebook_html(results: Results) -> str:
    """Return a compact fragment for a notebook: title, conclusions, scores."""
    tables = score_tables(results)
    shown = {"findings": evaluate(results), "overviews": overviews(tables), "tables": tables}
    return _templates().get_template("notebook.html.j2").render(results=results, **shown, most=MOST_ROWS)


def _drawings(results: Results) -> Iterator[Drawing]:
    """Draw the figures; one without lines is left out where an arm that is still to come may have them."""
    for i, figure in enumerate(figures_of(results), 1):
        try:
            drawing = draw(results, figure, f"f{i}")
        except LabError:
            if results.unfinished:
                continue
            raise
        yield drawing


def _brief(study: Study) -> dict[str, Any]:
    """Return the study without its defaults, but with an empty list of figures where it says that it wants none."""
    brief = study.model_dump(mode="json", exclude_defaults=True)
    return brief | ({"figures": []} if study_to_plain(study).get("figures") == [] else {})


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "number": _number,
        "short": text.short,
        "estimate": _estimate,
        "count": text.numbers,
        "value": text.value,
        "plural": text.plural,
        "words": text.words,
        "effect": _effect,
        "published": _published,
        "svg": Markup,  # made by our own code from escaped text
        "inline_svg": lambda svg, key: Markup(inline_svg(svg, key)),  # made by others, and checked there
    }
    return templates


def _minus(shown: str) -> str:
    """Set a true minus sign, which is as wide as a digit."""
    return shown.replace("-", "\N{MINUS SIGN}")


def _number(x: float) -> str:
    return _minus(text.number(x))


def _interval(x: bootstrap.Interval) -> Markup:
    if isnan(x.low):
        return Markup('<span class="muted">none</span>')
    return Markup('<span class="interval">{} … {}</span>').format(_number(x.low), _number(x.high))


def _estimate(x: bootstrap.Interval) -> Markup:
    """Set a value with its interval in small type below."""
    return Markup("<b>{}</b><br><small>{}</small>").format(_number(x.value), _interval(x))


def _effect(finding: Finding) -> Markup:
    if finding.interval is None:
        return Markup("<b>{}</b>").format(_minus(text.short(finding.effect, 6)))
    level = text.short(100 * finding.interval.level, 4)
    return Markup('<b>{}</b><br><small title="{} % interval">{}</small>').format(
        _number(finding.effect), level, _interval(finding.interval)
    )


def _published(finding: Finding) -> str:
    if finding.published is None:
        return ""
    shown = _minus(text.short(finding.published, 6))
    if finding.tolerance is not None:
        return f"{shown} ± {text.short(finding.tolerance)}"
    return f"{'≤' if finding.side == 'at most' else '≥'} {shown}"


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Write provenance as rows of name and text."""
    for key, value in data.items():
        if key == "resumed":
            for later in value:
                changed = {name: inner for name, inner in later.items() if inner != data.get(name)}
                yield key, "; ".join(f"{text.words(name)}: {shown}" for name, shown in _flat(changed))
        elif isinstance(value, Mapping):
            yield key, ", ".join(f"{name} {text.value(inner)}" for name, inner in value.items())
        elif isinstance(value, list | tuple):
            yield key, _range(list(value))
        else:
            yield key, text.value(value)


def _range(values: list[Any]) -> str:
    """Write ``0, 1, 2, 3, 4`` as ``0 to 4``."""
    if len(values) > 2 and values == list(range(len(values))):
        return f"0 to {values[-1]}"
    return ", ".join(text.value(value) for value in values)


def _yaml(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _score_rows(results: Results) -> Iterator[list[Any]]:
    """One row per arm, score and seed, and one per exact quantity (its seed is empty)."""
    yield ["arm", "quantity", "seed", "value", "failed"]
    for arm in results.arms:
        for name, score in results.scores_of(arm).items():
            yield from (
                [arm.name, name, seed, _cell(value), int(np.isnan(value))]
                for seed, value in zip(arm.seeds, arm.score(score), strict=True)
            )
        yield from ([arm.name, name, "", _cell(value), 0] for name, value in arm.exact.items())


def _curve_rows(results: Results) -> Iterator[list[Any]]:
    """One row per arm, metric and recorded point: statistics over the seeds. Single seeds stand in ``results.json``."""
    axes = list(dict.fromkeys(axis for arm in results.arms for axis in arm.x))
    yield ["arm", "metric", *axes, "seeds", "mean", "mean_low", "mean_high", "iqm"]
    for arm in results.arms:
        for metric, curve in arm.curves.items():
            counted = np.where(arm.failed, np.nan, curve) if len(arm.failed) else curve
            mean, low, high = bootstrap.band(counted, "mean", resamples=500)
            for i, point in enumerate(counted):
                finite = point[np.isfinite(point)]
                middle = float(bootstrap.iqm(finite)) if len(finite) else float("nan")
                places = [_cell(arm.x[axis][i]) if axis in arm.x else "" for axis in axes]
                cells = [_cell(value) for value in (mean[i], low[i], high[i], middle)]
                yield [arm.name, metric, *places, len(finite), *cells]


def _cell(x: float) -> str:
    return "" if isnan(x) else repr(float(x))


def _csv(rows: Iterable[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
