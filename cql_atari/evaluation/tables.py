"""Tables: how numbers are written; as text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": "$-$", "…": r"\ldots{}", "<": r"\textless{}", ">": r"\textgreater{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


class Estimate(NamedTuple):
    """A number with its 95 % interval, where it has one, and how it is written."""

    value: float
    ci95: Sequence[float] | None = None
    form: Callable[[float], str] | None = None  # None: `number`
    note: str = ""


Value = str | int | float | Estimate | None
Columns = dict[str, dict[str, Estimate]]  # player -> game or variant -> mean score


class Table(NamedTuple):
    """A table of values, which every format writes in its own way.

    Attributes:
      name: of its files.
      title: what it shows.
      header: a name a column.
      rows: values; None where there is none.
      note: a sentence below it.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[Value]]
    note: str = ""


def text(value: Value) -> str:
    """A value as it is read: "1,234 ± 100", "59 % [57 %, 64 %]", "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, Estimate):
        form = value.form or number
        written = form(value.value)
        if value.ci95 is not None:
            low, high = value.ci95
            if abs((high - value.value) - (value.value - low)) <= 1e-6 * max(1.0, abs(high - low)):
                written += f" ± {form(high - value.value).lstrip('+')}"
            else:
                written += f" [{form(low)}, {form(high)}]"
        return f"{written} {value.note}".rstrip()
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def share(cell: Mapping[str, Any]) -> Estimate:
    """{"value", "ci95"} of a share or a normalised score."""
    return Estimate(cell["value"], cell["ci95"], percent)


def to_csv(table: Table) -> str:
    """CSV, numbers unrounded; where a column has intervals, their ends are columns of their own."""
    wide = [any(isinstance(row[i], Estimate) for row in table.rows) for i in _columns(table)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    for name, is_wide in zip(table.header, wide):
        header += [name, f"{name}, low", f"{name}, high"] if is_wide else [name]
    writer.writerow(header)
    for row in table.rows:
        cells: list[Any] = []
        for value, is_wide in zip(row, wide):
            if isinstance(value, Estimate):
                cells += [value.value, *(value.ci95 or ("", ""))]
            else:
                cells += [value, *(["", ""] if is_wide else [])]
        writer.writerow(cells)
    return out.getvalue()


def to_markdown(table: Table) -> str:
    """A Markdown table; what would end a cell or begin HTML is escaped."""

    def cell(words: str) -> str:
        return re.sub(r"([|<\\])", r"\\\1", " ".join(words.split()))

    rows = [[cell(text(value)) for value in row] for row in table.rows]
    return _markdown([[cell(name) for name in table.header], *rows]) + "\n"


def to_latex(table: Table) -> str:
    """A LaTeX tabular without any package; numbers to the right."""

    def cell(words: str) -> str:
        return "".join(_LATEX.get(letter, letter) for letter in words)

    numbers = [is_number(table, column) for column in _columns(table)]
    lines = [" & ".join(cell(text(value)) for value in row) + r" \\" for row in table.rows]
    return "\n".join([
        r"\begin{tabular}{" + "".join("r" if is_number else "l" for is_number in numbers) + "}",
        r"\hline", " & ".join(map(cell, table.header)) + r" \\", r"\hline", *lines, r"\hline",
        r"\end{tabular}", "",
    ])  # fmt: skip


def is_number(table: Table, column: int) -> bool:
    """Whether a column has numbers."""
    return any(isinstance(row[column], int | float | Estimate) for row in table.rows)


def _columns(table: Table) -> range:
    return range(len(table.header))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(rows[0])
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def table(rows: Sequence[Sequence[Value]], markdown: bool) -> str:
    """Rows, the first of them the header, in columns."""
    written = [[text(value) for value in row] for row in rows]
    if markdown:
        return _markdown(written)
    widths = [max(map(len, column)) for column in zip(*written)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in written]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def to_text(found: Table, markdown: bool) -> str:
    """The table with its note below it, as it is printed."""
    return f"{table([found.header, *found.rows], markdown)}\n\n- {found.note}"


def number(value: float) -> str:
    """A score: one decimal below 100."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference of scores: "+8.0"."""
    return f"{'+' if value > 0 else ''}{number(value)}"


def percent(value: float | None) -> str:
    """A share or a normalised score; "-" where there is none."""
    return "-" if value is None else f"{round(100 * value)} %"
