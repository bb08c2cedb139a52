"""Tables as text or Markdown: how numbers are written, and the table of learning curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CURVES_NOTE = (
    "± over seeds: 95 % intervals (Student's t; Welch's for differences); final: the last "
    "evaluation; mean over the curve: the area under it by its length in gradient steps"
)


def table(rows: list[list[str]], markdown: bool) -> str:
    """Rows, the first of them the header, in columns."""
    if markdown:
        rule = ["---"] * len(rows[0])
        return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def number(value: float) -> str:
    """A score: one decimal below 100."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def percent(value: float | None) -> str:
    """A share or a normalised score; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.0f} %"


def percent_with_range(cell: dict[str, Any]) -> str:
    """A share with its interval, where there is one: "59 % [57 %, 60 %]"."""
    text = percent(cell["value"])
    return text if cell["ci95"] is None else f"{text} [{', '.join(map(percent, cell['ci95']))}]"


def curves_table(summary: dict[str, Any], markdown: bool) -> str:
    """Final score and mean over the curve of every group, and their differences.

    Args:
      summary: as `curves.summarise`.
      markdown: whether to write Markdown.
    """
    header = ["game", "runs", "seeds", "steps", "final", "final / DQN"]
    rows = [[*header, "mean over the curve", "mean over the curve / DQN"]]
    for variant, entry in summary["variants"].items():
        for group in entry["groups"]:
            head = [variant, group["name"], str(group["n"]), f"{group['steps'][-1]:,}"]
            rows.append([*head, *_measures(group)])
        for row in entry["differences"]:
            head = [variant, row["name"], " and ".join(map(str, row["n"])), ""]
            rows.append([*head, *_measures(row)])
    lines = [CURVES_NOTE]
    for folder, (step, steps) in summary["unfinished"].items():
        lines.append(
            f"{folder} is unfinished: last evaluated at step {step:,} of {steps:,}; its group's "
            "curve ends there and is compared only with others that do"
        )
    return "\n\n".join([table(rows, markdown), "\n".join(f"- {line}" for line in lines)])


def _measures(row: dict[str, Any]) -> list[str]:
    return [
        _with_interval(row[measure][kind], form)
        for measure in ("final", "mean_over_curve")
        for kind, form in (("raw", number), ("dqn_normalised", percent))
    ]


def _with_interval(cell: dict[str, Any] | None, form: Callable[[float], str]) -> str:
    if cell is None:
        return "-"
    text = form(cell["value"])
    return text if cell["ci95"] is None else f"{text} ± {form(cell['ci95'][1] - cell['value'])}"
