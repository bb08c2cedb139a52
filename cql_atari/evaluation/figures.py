"""Figures of small panels: drawn whole for a paper, or panel by panel for a page. Needs matplotlib.

Every colour except the methods' own is `INK`, which a page turns into its own text colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure  # not pyplot: no windows, no global state
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import AutoLocator, FuncFormatter, MaxNLocator

from cql_atari.evaluation.labels import CLONING, DATA, FIXED, HUMAN, RANDOM, kind, title
from cql_atari.system import files

PANEL_INCHES = (3.4, 2.6)
INK = "#222324"
_PAPER = "#fefeff"
# Okabe and Ito's colours, which the colour-blind tell apart: one a method, in every figure.
_FIXED_COLOURS = {
    RANDOM: "#999999", FIXED: "#e69f00", DATA: "#56b4e9", CLONING: "#cc79a7", HUMAN: "#7d7d52",
}  # fmt: skip
_AGENT_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8a63d2")
MARKERS = "os^Dvp*X"
BAND = "band"
_STYLE: Any = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": INK, "grid.alpha": 0.15, "axes.facecolor": "none",
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 9, "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "figure.facecolor": _PAPER, "savefig.facecolor": _PAPER, "legend.frameon": False,
    "legend.fontsize": 8, "legend.handlelength": 2.6, "svg.hashsalt": "cql_atari",
    "text.parse_math": False,  # a label may hold a $
}  # fmt: skip


class Style(NamedTuple):
    """How a method is drawn, everywhere; the marker "band" stands for a filled area."""

    colour: str
    marker: str
    dashes: Any = "-"


Styles = dict[str, Style]  # player -> how it is drawn


class Chart(NamedTuple):
    """A figure of panels that share what their axes and colours mean.

    Attributes:
      name: of its files.
      caption: what it shows, in a sentence.
      panels: titles.
      draw: puts the panel of a title on a matplotlib axes.
      key: label -> how it is drawn; {} where the panels name what they show.
      inches: width and height of a panel.
      x: what the horizontal axes have.
      y: what the vertical axes have.
      across: panels beside one another; 0: as many as make the figure near square.
    """

    name: str
    caption: str
    panels: Sequence[str]
    draw: Callable[[Any, str], None]
    key: Mapping[str, Style] = {}
    inches: tuple[float, float] = PANEL_INCHES
    x: str = ""
    y: str = ""
    across: int = 0


def styles_of(labels: Iterable[str]) -> Styles:
    """A style for every label: baselines always have their colours, agents share out the others."""
    styles: Styles = {}
    seen: dict[str, int] = {}
    for label in dict.fromkeys(labels):
        who = kind(label) if kind(label) in _FIXED_COLOURS else ""
        nth = seen[who] = seen.get(who, -1) + 1
        if who:
            styles[label] = Style(_FIXED_COLOURS[who], MARKERS[nth % len(MARKERS)])
        else:
            colours = len(_AGENT_COLOURS)
            marker = MARKERS[nth // colours % len(MARKERS)]
            styles[label] = Style(_AGENT_COLOURS[nth % colours], marker)
    return styles


def whole(chart: Chart) -> Figure:
    """All panels as one figure, with the key below them, or beside a single one."""
    count = len(chart.panels)
    width = max(1, min(count, chart.across or min(8, round(count**0.5 + 0.4))))
    height = max(1, -(-count // width))
    size = [chart.inches[0] * width, chart.inches[1] * height]
    label = 0.6 + 0.06 * max(map(len, chart.key), default=0)
    columns = max(1, int(size[0] / label)) if count > 1 else 1
    if count > 1:
        size[1] += 0.18 * -(-len(chart.key) // columns)
    elif chart.key:
        size[0] += label
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size[0], size[1]), layout="constrained")
        axes = list(figure.subplots(height, width, squeeze=False).flat)
        for nth, (name, panel) in enumerate(zip(chart.panels, axes)):
            # Not the figure's own labels: a key outside the panels is drawn over them.
            x, y = chart.x if nth + width >= count else "", chart.y if nth % width == 0 else ""
            _draw(chart, panel, name, x, y)
        for panel in axes[count:]:
            panel.remove()
        if chart.key:
            handles = [_handle(title(name), style) for name, style in chart.key.items()]
            if count > 1:
                figure.legend(handles=handles, loc="outside lower center", ncols=columns)
            else:
                figure.legend(handles=handles, loc="outside right center")
    return figure


def _handle(label: str, style: Style) -> Any:
    if style.marker == BAND:
        return Patch(color=style.colour, alpha=0.3, linewidth=0, label=label)
    return Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.dashes,
                  label=label)  # fmt: skip


def svgs(chart: Chart) -> dict[str, str]:
    """Each panel as an SVG element for a page, in the page's text colour on its own ground."""
    found = {}
    for number, name in enumerate(chart.panels):
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=chart.inches, layout="constrained")
            _draw(chart, figure.subplots(), name, chart.x, chart.y)
        found[name] = _inline(figure, f"{chart.name}-{number}")
    return found


def _draw(chart: Chart, panel: Any, name: str, x: str, y: str) -> None:
    chart.draw(panel, name)
    panel.set_title(name)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    for axis in (panel.xaxis, panel.yaxis):
        if isinstance(axis.get_major_locator(), AutoLocator):
            # At most five labels, short ones (10k), so that they don't overlap.
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _inline(figure: Figure, name: str) -> str:
    """The figure as SVG. Its ids begin with `name`, since ids in a page must be unique."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor").replace(_PAPER, "none")


def save(charts: Iterable[Chart], out: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Writes each chart to `out/<name>.<format>`; returns the paths.

    Raises:
      UserError: where they can't be written.
    """
    paths = []
    with files.writing(f"figures to {out}"):
        out.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            figure = whole(chart)
            for suffix in formats:
                paths.append(out / f"{chart.name}.{suffix}")
                with matplotlib.rc_context(_STYLE):
                    figure.savefig(
                        paths[-1], dpi=160, metadata={"Date": None} if suffix == "svg" else None
                    )
    return paths


def short(value: float) -> str:
    """ "1.2k" for 1,200."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
