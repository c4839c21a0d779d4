"""From a matplotlib figure to inline SVG: the same bytes for the same data, accessible, and coloured by the page.

Colours of text, grid and series are drawn as placeholders and become CSS variables, so that one figure serves light and
dark screens and paper.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "MUTED", "PAPER", "SERIES", "STYLE", "to_svg"]

INK: Final = "#010203"
MUTED: Final = "#010204"
GRID: Final = "#010205"
PAPER: Final = "#010206"
# Placeholders of Okabe and Ito's palette, which colour-blind readers can tell apart; the page defines --s0 ... --s7.
SERIES: Final = tuple(f"#0102{16 + i:02x}" for i in range(8))

_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(SERIES)},
}

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: searchable, selectable, in the page's font
    "svg.hashsalt": "rlhf_lab",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "mathtext.default": "regular",
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.0,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0.0,
}


def to_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element whose ids all begin with ``key``."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{key}-", svg)
    svg = re.sub(r"'?(DejaVu Sans)'?, ?", "", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    view = re.search(r'viewBox="[^"]*"', svg)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0] if view else ""} '
        f'role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{html.escape(title)}</title><desc id="{key}-desc">{html.escape(description)}</desc>'
    )
    return opening + svg[svg.index(">") + 1 :].strip()
