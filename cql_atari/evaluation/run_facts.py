"""What was run, from the files in each run's folder: commit, hardware, wall time, data, settings.

Older runs lack some of these files; scores of agents from elsewhere come without any. What isn't
known is left empty.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cql_atari.evaluation import configurations, score_files
from cql_atari.evaluation.groups import Group, seed_of, settings_of
from cql_atari.evaluation.labels import DATA, kind
from cql_atari.evaluation.page import Contents, Section
from cql_atari.evaluation.run_logs import read_times
from cql_atari.evaluation.score_files import Scores, brief
from cql_atari.evaluation.tables import Table, Value
from cql_atari.runs import folder
from cql_atari.system.files import parse_json


def section(contents: Contents) -> Section:
    """The page's section on what was run."""
    played = [group for group in contents.groups if kind(group.name) != DATA]
    tables = [runs_table(played), data_table(contents.runs)]
    if contents.runs:
        tables.append(settings_table(contents.runs, configurations.of_the_paper()))
    return Section("runs", "What was run", [], [table for table in tables if table.rows], [])


def runs_table(found: Sequence[Group]) -> Table:
    """One row a run: who, where, how far, of which code, on what, how long, evaluated how."""
    header = ["player", "seed", "folder", "step", "of", "commit", "begun", "hours", "hardware",
              "versions", "weights", "episodes a game", "protocol"]  # fmt: skip
    rows = [_run(group, player) for group in found for player in group.players]
    return Table(
        "runs", "Runs", header, rows,
        "Hours: from each start to the last line of the log before the next start; for runs that "
        "don't record their starts, from the first line to the last.",
    )  # fmt: skip


def _run(group: Group, player: Scores) -> list[Value]:
    starts = _starts(player.folder)
    last = starts[-1] if starts else {}
    counts = sorted({row["n"] for row in player.summary["games"].values()})
    parameters = player.run.get("parameters") or {}
    begun, hours = _time(player.folder, starts)
    return [
        group.name, seed_of(player), str(player.folder), _whole(player.run.get("step")),
        settings_of(player).get("train.steps"), _commit(starts), begun, hours,
        _text(last.get("hardware")), _text(last.get("versions")), parameters.get("trunk"),
        " to ".join(map(str, {counts[0]: 0, counts[-1]: 0})),
        score_files.protocol_line(player.protocol),
    ]  # fmt: skip


def data_table(runs: Sequence[Group]) -> Table:
    """One row a game of a run's `manifest.json`: files, episodes, steps, transitions."""
    header = ["player", "seed", "game", "format", "runs", "files", "episodes", "steps",
              "transitions"]  # fmt: skip
    rows: list[list[Value]] = [
        [group.name, seed_of(player), *row]
        for group in runs for player in group.players for row in _data(player.folder)
    ]  # fmt: skip
    return Table("data", "Data", header, rows)


def _data(workdir: Path) -> list[list[Value]]:
    """A row a game and format; none where the manifest can't be read."""
    sources: dict[tuple[str, str], list[Any]] = {}
    try:
        for source in _read(workdir / folder.MANIFEST).get("sources", ()):
            sources.setdefault((source["game"], source["format"]), []).append(source)
        rows: list[list[Value]] = []
        for key, of in sources.items():
            parts = [part for source in of for part in source["suffixes"].values()]
            runs = ", ".join(str(source["run"]) for source in of)
            files = sum(len(part["files"]) for part in parts)
            totals = (_total(parts, name) for name in ("episodes", "steps", "transitions"))
            rows.append([*key, runs, files, *totals])
    except (AttributeError, KeyError, TypeError):
        return []
    return rows


def settings_table(runs: Sequence[Group], paper: Mapping[str, Any]) -> Table:
    """Settings that a run has otherwise than gin_configs/multigame.gin, a column a group."""
    names = [
        name
        for name in dict.fromkeys([*paper, *(n for group in runs for n in group.settings)])
        if any(name in group.settings and group.settings[name] != paper.get(name)
               for group in runs) and name != configurations.SEED
    ]  # fmt: skip
    rows: list[list[Value]] = [
        [name, brief(paper[name]) if name in paper else "(not in this version)",
         *(brief(group.settings[name]) if name in group.settings else "" for group in runs)]
        for name in names
    ]  # fmt: skip
    return Table(
        "settings", "Settings that differ from gin_configs/multigame.gin",
        ["setting", "multigame.gin", *(group.name for group in runs)], rows,
        "For several seeds: the first one's.",
    )  # fmt: skip


def _starts(workdir: Path) -> list[dict[str, Any]]:
    """The starts that `system.json` records."""
    found = _read(workdir / folder.SYSTEM).get("starts")
    if not isinstance(found, list):
        return []
    return [
        start for start in found
        if isinstance(start, dict) and isinstance(start.get("time"), int | float)
    ]  # fmt: skip


def _time(workdir: Path, starts: Sequence[Mapping[str, Any]]) -> tuple[str, float | None]:
    """When it began, and the hours that it took, pauses left out where starts are recorded."""
    times = read_times(workdir)
    begins = [float(start["time"]) for start in starts] or times[:1]
    if not times or not begins:
        return "", None
    ends = [*begins[1:], float("inf")]
    seconds = 0.0
    for begin, end in zip(begins, ends):
        seconds += max((t - begin for t in times if begin <= t < end), default=0.0)
    day = datetime.datetime.fromtimestamp(begins[0], datetime.timezone.utc)
    return f"{day:%Y-%m-%d %H:%M} UTC", round(seconds / 3600, 2)


def _commit(starts: Sequence[Mapping[str, Any]]) -> str:
    found = dict.fromkeys(str(start.get("commit") or "?")[:10] for start in starts)
    changed = any(start.get("changed") for start in starts)
    return ", ".join(found) + (" (with changes)" if changed else "")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _total(parts: Sequence[Mapping[str, Any]], name: str) -> int | None:
    counts = [part[name] for part in parts if isinstance(part.get(name), int)]
    return sum(counts) if len(counts) == len(parts) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {of}" for name, of in value.items())
    return "" if value is None else str(value)
