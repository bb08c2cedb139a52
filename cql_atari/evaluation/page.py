"""The report as one HTML page that needs no network, and its tables and figures as files beside it.

Labels, folders and settings may come from others: all text is escaped.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cql_atari.core import games as games_lib
from cql_atari.evaluation import figures, groups, tables
from cql_atari.evaluation.figures import Chart, Styles
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import AGENT, HUMAN, RANDOM, kind, title
from cql_atari.evaluation.score_files import write_text
from cql_atari.evaluation.tables import Columns, Estimate, Table, Value
from cql_atari.system.progress import over

FORMATS = {"csv": tables.to_csv, "md": tables.to_markdown, "tex": tables.to_latex}
PICTURES = ("png", "svg")
_MARKS = dict(zip(figures.MARKERS, "●■▲◆▼⬟★✖"))
_MOST_LINES = 15  # sentences that are shown without a click
_NUMBER = ' class="number"'


class Section(NamedTuple):
    """A part of the page: `lines` are sentences."""

    name: str
    title: str
    lines: list[str]
    tables: list[Table]
    charts: list[Chart]


class Contents(NamedTuple):
    """What the sections are made of.

    Attributes:
      groups: everybody who played, and the data.
      columns: group's name -> game -> cell; reference scores of others first.
      runs: the groups that were trained.
      styles: group's name -> how it is drawn.
      player: the group that is compared with all others.
    """

    groups: list[Group]
    columns: Columns
    runs: list[Group]
    styles: Styles
    player: str


def contents(found: list[Group], player: str = AGENT) -> Contents:
    """The groups of `groups.make`, with the reference scores beside them."""
    columns = {group.name: groups.cells(group) for group in found}
    known = games_lib.table()
    games = sorted({game for cells in columns.values() for game in cells if game in known})
    scored = [known[game] for game in games if known[game].human]
    references: Columns = {}
    if scored:
        references[HUMAN] = {game.name: Estimate(game.human or 0.0) for game in scored}
        if not any(kind(name) == RANDOM for name in columns):
            published = {game.name: Estimate(game.random or 0.0) for game in scored}
            references[f"{RANDOM} (published)"] = published
    columns = references | columns
    runs = [group for group in found if group.settings]
    return Contents(found, columns, runs, figures.styles_of(columns), player)


def beside(path: Path) -> Path:
    """The folder of a page's files."""
    return path.with_name(f"{path.stem}_files")


def write(path: Path, folders: Sequence[Path], sections: Sequence[Section]) -> None:
    """Writes the page, and in `<its name>_files/` each table as CSV, Markdown and LaTeX and each
    figure as PNG and SVG.

    Args:
      path: of the page.
      folders: what the report is of.
      sections: what stands on it.

    Raises:
      UserError: where a file can't be written.
    """
    out = beside(path)
    for section in over(sections, "drawing", "sections"):
        for table in section.tables:
            for suffix, to_text in FORMATS.items():
                write_text(out / f"{table.name}.{suffix}", to_text(table))
        figures.save(section.charts, out, PICTURES)
    write_text(path, to_html(sections, folders, quote(out.name)))


def to_html(sections: Sequence[Section], folders: Sequence[Path], files: str) -> str:
    """The page's text.

    Args:
      sections: what stands on it.
      folders: what it is of.
      files: the folder of its files, as a link has it.
    """
    heading = f"Report of {', '.join(map(str, folders))}"
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)
    now = datetime.datetime.now(datetime.timezone.utc)
    here = Path(__file__)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(heading)}</title>
<style>
{here.with_suffix(".css").read_text()}</style>
</head>
<body>
<header>
<h1>{escape(heading)}</h1>
<p class="note">Made {now:%Y-%m-%d %H:%M} UTC by <code>python -m cql_atari.report</code>. Click a
column's head to sort by it; type to see the rows that hold a word.</p>
<nav>{links}</nav>
</header>
<main>
{"".join(_section(section, files) for section in sections)}</main>
<script>
{here.with_suffix(".js").read_text()}</script>
</body>
</html>
"""


def _section(section: Section, files: str) -> str:
    lines = "".join(f"<li>{escape(line)}</li>\n" for line in section.lines)
    lines = f"<ul>\n{lines}</ul>\n" if lines else ""
    if len(section.lines) > _MOST_LINES:
        summary = f"<summary>{len(section.lines)} sentences</summary>"
        lines = f"<details>{summary}\n{lines}</details>\n"
    return (
        f'<section id="{section.name}">\n<h2>{escape(section.title)}</h2>\n{lines}'
        + "".join(_table(table, files) for table in section.tables)
        + "".join(_chart(chart, files) for chart in section.charts)
        + "</section>\n"
    )


def _table(table: Table, files: str) -> str:
    heads = "".join(
        f'<th scope="col"{_NUMBER if tables.is_number(table, column) else ""}>'
        f"<button>{escape(name)}</button></th>"
        for column, name in enumerate(table.header)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(value, first=i == 0) for i, value in enumerate(row))}</tr>\n"
        for row in table.rows
    )
    search = f'<input type="search" placeholder="filter" aria-label="filter {escape(table.title)}">'
    return f"""<figure class="table">
<figcaption>{escape(table.title)}{search if len(table.rows) > 3 else ""}
{_links(table.name, FORMATS, files)}</figcaption>
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table></div>
{f'<p class="note">{escape(table.note)}</p>' if table.note else ""}
</figure>
"""


def _cell(value: Value, first: bool) -> str:
    number = value.value if isinstance(value, Estimate) else value
    kind = _NUMBER if isinstance(number, int | float) or value is None else ""
    order = f' data-order="{number!r}"' if isinstance(number, int | float) else ""
    tag = "th" if first else "td"
    scope = ' scope="row"' if first else ""
    return f"<{tag}{scope}{kind}{order}>{escape(tables.text(value))}</{tag}>"


def _chart(chart: Chart, files: str) -> str:
    dashes = ' stroke-dasharray="5 3"'
    key = "".join(
        f'<li><svg width="22" height="12" aria-hidden="true"><path d="M0 6H22" '
        f'stroke="{style.colour}" stroke-width="3"{"" if style.dashes == "-" else dashes}/></svg>'
        f'<span style="color: {style.colour}">'
        f"{_MARKS.get(style.marker, '')}</span>{escape(title(label))}</li>"
        for label, style in chart.key.items()
    )
    panels = "".join(
        f'<div class="panel" role="img" aria-label="{escape(name)}">{svg}</div>'
        for name, svg in figures.svgs(chart).items()
    )
    return f"""<figure class="chart">
<figcaption>{escape(chart.caption)}
{_links(chart.name, PICTURES, files)}</figcaption>
{f'<ul class="key">{key}</ul>' if key else ""}
<div class="panels" style="--panel: {chart.inches[0]:.2f}in">{panels}</div>
</figure>
"""


def _links(name: str, suffixes: Iterable[str], files: str) -> str:
    links = " ".join(
        f'<a href="{files}/{quote(name)}.{suffix}">{suffix}</a>' for suffix in suffixes
    )
    return f'<span class="files">{links}</span>'
