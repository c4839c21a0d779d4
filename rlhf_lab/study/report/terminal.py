"""The report as text, for the terminal: the same numbers as on the page."""

from __future__ import annotations

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_lab.study import text
from rlhf_lab.study.conclusions import Finding, evaluate
from rlhf_lab.study.report.tables import MOST_ROWS, Overview, ScoreTable, overviews, score_tables, warnings_of
from rlhf_lab.study.results import Results

__all__ = ["print_summary"]

_LONGEST: Final = 30  # characters of an arm's name on one line
_STYLES: Final = {"reproduced": "green", "not reproduced": "red", "undecided": "yellow"}


def print_summary(results: Results, console: Console) -> None:
    """Print scores of the arms, several of one environment in one table; exact quantities, conclusions, warnings."""
    tables = score_tables(results)
    several = overviews(tables)
    for overview in several:
        console.print(_overview(overview, console.width))
    told = {overview.environment for overview in several}
    for table in tables:
        if table.environment not in told:
            console.print(_scores(table))
    if any(arm.exact for arm in results.arms):
        console.print(_exact(results, console.width))
    if findings := evaluate(results):
        console.print(_conclusions(findings))
    for warning in warnings_of(results, tables):
        console.print(Text.assemble(("warning  ", "yellow"), warning))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


def _overview(overview: Overview, width: int) -> Table:
    """Return the means of all arms under all scores, as many as fit the width beside the arms' names."""
    rows = [(name, [text.number(row.summary.mean.value) if row else "" for row in arm]) for name, arm in overview.rows]
    levels = [(name, [text.number(value) for value in values]) for name, values in overview.levels]
    names = min(max(len(name) for name, _ in rows + levels), _LONGEST)
    shown = overview.tables[: max(1, (width - names - 2) // 12)]
    drawn = _table(f"Means over seeds on {overview.environment}", "arm", *(table.heading for table in shown))
    drawn.columns[0].width = names
    for i, (column, table) in enumerate(zip(drawn.columns[1:], shown, strict=True)):  # headings fold, numbers do not
        fair = (width - names - 2) // len(shown) - 3
        column.width = max(min(len(table.heading), fair), *(len(cells[i]) for _, cells in rows + levels))
    for name, cells in rows:
        drawn.add_row(name, *cells[: len(shown)], end_section=name == rows[-1][0])
    for name, cells in levels:
        drawn.add_row(name, *cells[: len(shown)], style="dim")
    _more(drawn, 0, [table.label for table in overview.tables[len(shown) :]], overview.note)
    return drawn


def _scores(table: ScoreTable) -> Table:
    columns = ["arm", "IQM", "mean", "95 % interval", "seeds"]
    columns += ["failed"] if table.has_failures else []
    columns += ["to optimum"] if table.has_gaps else []
    drawn = _table(f"{table.label} on {table.environment}, {table.score.better} is better", *columns)
    for row in table.rows[:MOST_ROWS]:
        summary = row.summary
        cells = [row.arm.name, text.number(summary.iqm.value), text.number(summary.mean.value)]
        cells += [text.interval(summary.mean), str(summary.n)]
        cells += [str(summary.failed)] if table.has_failures else []
        cells += [text.number(row.to_optimum)] if table.has_gaps else []
        drawn.add_row(*cells)
    _more(drawn, len(table.rows))
    return drawn


def _exact(results: Results, width: int) -> Table:
    """Return the exact quantities, as many as fit the width beside the arms' names."""
    arms = [arm for arm in results.arms if arm.exact]
    names = list(dict.fromkeys(name for arm in arms for name in arm.exact))
    room = width - min(max(len(arm.name) for arm in arms), _LONGEST)
    shown = names[: max(1, room // 13)]
    drawn = _table("Exact quantities, no sampling", "arm", *(text.words(name) for name in shown))
    for arm in arms[:MOST_ROWS]:
        drawn.add_row(arm.name, *(text.number(arm.exact.get(name, float("nan"))) for name in shown))
    _more(drawn, len(arms), names[len(shown) :])
    return drawn


def _more(table: Table, rows: int, columns: list[str] | None = None, note: str = "") -> None:
    left_out = [f"{rows - MOST_ROWS} arms"] if rows > MOST_ROWS else []
    left_out += [text.words(name) for name in columns or ()]
    lines = [note] if note else []
    lines += [f"in the report: {', '.join(left_out)}"] if left_out else []
    if lines:
        table.caption = "\n".join(lines)
        table.caption_justify = "left"


def _conclusions(findings: list[Finding]) -> Table:
    drawn = Table(title="Conclusions", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    drawn.add_column("verdict", no_wrap=True)
    drawn.add_column("claim", ratio=3)
    drawn.add_column("because", ratio=2)
    for finding in findings:
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        claim = f"{finding.claim}: {finding.statement}" if finding.claim else finding.statement
        drawn.add_row(verdict, Text(claim), Text(finding.because))
    return drawn
