"""What a run's data selection comes to: files with checksums, episodes, transitions per game.

It is printed and stored as `manifest.json` in the run's folder; a run goes on only with the same
data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cql_atari.core.types import Extent, UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.data.shared import BAD_JSON
from cql_atari.feed.transitions import count_transitions
from cql_atari.runs import folder
from cql_atari.system import text
from cql_atari.system.files import parse_json, write_whole
from cql_atari.system.progress import over

_SHOWN = 20  # differences that an error lists


def make_manifest(
    found: Sequence[Source], n_step: int, should_stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Surveys the selection; no frame is read, some 10 ms a `.gz` group.

    Args:
      found: as `sources.find_sources`.
      n_step: the n of the transitions.
      should_stop: whether to stop; asked before each group.

    Returns:
      JSON-ready: `n_step`, and `sources`, a list with `game`, `run`, `path`, `format`, `fraction`,
      `left_out`, and `suffixes`: for each suffix its `files` (name: [bytes, checksum]), `episodes`,
      `steps` and `transitions` (None where counting would take reading everything), and `best`, the
      positions of the episodes that `data.best_fraction` chose (None: all).

    Raises:
      UserError: as the readers do, as far as headers and small files tell.
      KeyboardInterrupt: if told to stop.
    """
    kept = ("game", "run", "path", "format", "fraction", "left_out")
    entries = [{**{k: getattr(s, k) for k in kept}, "suffixes": {}} for s in found]
    parts = [(e, source, k) for e, source in zip(entries, found) for k in source.suffixes]
    for entry, source, suffix in over(parts, "surveying the data", "file groups"):
        if should_stop():
            raise KeyboardInterrupt
        entry["suffixes"][str(suffix)] = {
            "files": source.files[suffix],
            "best": None if source.best is None else source.best[suffix],
            **_count(sources.survey(source, suffix), n_step),
        }
    return json.loads(json.dumps({"n_step": n_step, "sources": entries}))


def as_table(manifest: dict[str, Any]) -> str:
    """What is selected of each game, as text: groups, episodes, steps, transitions."""
    columns = ("episodes", "steps", "transitions")
    rows: list[tuple[str, ...]] = [("game", "format", "groups", *columns)]
    games: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in manifest["sources"]:
        games.setdefault((entry["game"], entry["format"]), []).extend(entry["suffixes"].values())
    totals = [sum(map(len, games.values())), *(_sum([*games.values()], c) for c in columns)]
    for (game, kind), parts in games.items():
        rows.append((game, kind, str(len(parts)), *(_text(_sum([parts], c)) for c in columns)))
    if len(games) > 1:
        rows.append(("all", "", *map(_text, totals)))
    return text.columns(rows, left=(0, 1))


def record_manifest(manifest: dict[str, Any], directory: Path, begun: bool) -> None:
    """Stores the manifest with a new run; checks that a run which goes on has the same data.

    The folder of the data and the order of the games may differ.

    Args:
      manifest: as `make_manifest`.
      directory: the folder of the run, or of a server.
      begun: whether it holds anything that other data would spoil.

    Raises:
      UserError: with the differences, where the run was started on other data.
    """
    path = directory / folder.MANIFEST
    if begun and path.exists():
        try:
            old = _facts(parse_json(path.read_bytes()))
        except BAD_JSON as error:
            raise UserError(
                f"{path} is damaged ({error!r}), so we can't tell whether the data are the "
                "same. If you know that they are, delete it; else choose another --workdir."
            ) from error
        new = _facts(manifest)
        changed = [
            name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)
        ]
        if changed:
            lines = [
                f"  {name}: {_brief(old.get(name))} -> {_brief(new.get(name))}"
                for name in changed[:_SHOWN]
            ]
            more = [f"  and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
            raise UserError(
                "\n".join([f"--workdir {directory} was started on other data:", *lines, *more])
                + "\nGive it those data, or choose another --workdir."
            )
        return
    write_whole(path, json.dumps(manifest, indent=1) + "\n")


def _count(extents: list[Extent] | None, n_step: int) -> dict[str, int | None]:
    if extents is None:
        return {"episodes": None, "steps": None, "transitions": None}
    return {
        "episodes": len(extents),
        "steps": sum(extent.steps for extent in extents),
        "transitions": sum(count_transitions(extent, n_step) for extent in extents),
    }


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """One line a file and a count: what must be the same when a run goes on."""
    facts: dict[str, Any] = {}
    for entry in manifest["sources"]:
        for suffix, part in entry["suffixes"].items():
            name = f"{entry['game']}, run {entry['run']}, suffix {suffix}"
            facts |= {f"{name}, {file}": found for file, found in part["files"].items()}
            facts[f"{name}, episodes and steps"] = [part["episodes"], part["steps"]]
            # Counting may take reading everything (RLDS), so that a count doesn't tell.
            facts[f"{name}, left out"] = (entry.get("left_out") or {}).get(suffix, [])
            if (best := part.get("best")) is not None:  # older manifests don't have it
                facts[f"{name}, best episodes"] = best
    return facts


def _brief(fact: Any) -> str:
    return "absent" if fact is None else text.shorten(" ".join(map(str, fact)))


def _sum(groups: Sequence[Sequence[dict[str, Any]]], column: str) -> int | None:
    numbers = [part[column] for parts in groups for part in parts]
    return None if None in numbers else sum(numbers)


def _text(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
