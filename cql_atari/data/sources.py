"""Which recorded play a configuration selects, where it lies, and reading it part by part.

The formats are registered here and nowhere else: `FORMATS`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cql_atari.core.settings import Data
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data.arrays.format import ARRAYS
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.format import Format, Source, Survey
from cql_atari.data.packed.format import PACKED
from cql_atari.data.rlds.format import RLDS
from cql_atari.data.shared import BAD_JSON, EVERYTHING, Ranges, Recording, first_part
from cql_atari.system.files import parse_json
from cql_atari.system.progress import over

# In the order of preference, for a run that is there in several formats.
FORMATS: list[Format] = [PACKED, DOPAMINE, RLDS, ARRAYS]
EXCLUSIONS = "cql_atari exclusions 1"


def find_sources(config: Data) -> list[Source]:
    """The recordings that the configuration selects, each checked to exist.

    With `data.best_fraction` below 1 it chooses the best episodes, too. That takes a survey: some
    10 ms per `.gz` group; RLDS that wasn't converted by us must be read for it.

    Raises:
      UserError: naming what is missing and the layouts that are expected.
    """
    if config.dir is None:
        raise UserError(
            "data.dir is not set: it is the folder with your recorded play.\n"
            f"  --gin_bindings=\"data.dir='/path/to/data'\"\nExpected inside:\n     {layouts()}\n"
            "No data? launchers/get_data.sh fetches it, `python -m cql_atari.collect` plays.\n"
            "`make quickstart` does everything on play of its own."
        )
    excluded = _read_exclusions(config.exclude) if config.exclude else {}
    sources = []
    for game, run in itertools.product(config.games, config.runs):
        path, kind = _locate(config.dir, game, run)
        here = kind.list_suffixes(path)
        if absent := [k for k in config.suffixes or () if k not in here]:
            raise UserError(
                f"no suffix {absent} of {game}, run {run}, in {path}; there are {here}. "
                "Choose those, or all (None)."
            )
        suffixes = tuple(here) if config.suffixes is None else config.suffixes
        source = Source(
            game=game,
            run=run,
            path=path,
            format=kind.name,
            suffixes=suffixes,
            fraction=config.fraction,
            left_out=excluded.get(f"{game}/{run}", {}),
            files={suffix: kind.fingerprints(path, suffix) for suffix in suffixes},
        )
        sources.append(source)
    return sources if config.best_fraction == 1 else _choose_best(sources, config.best_fraction)


def read_part(source: Source, suffix: int) -> Iterator[Episode]:
    """The episodes of one suffix of a source, as its format's `read_suffix` streams them.

    Raises:
      UserError: as `read_suffix`; or where a file isn't the one that was found.
    """
    kind = format_of(source.format)
    found, now = source.files[suffix], kind.fingerprints(source.path, suffix)
    if changed := sorted(name for name in found.keys() | now if found.get(name) != now.get(name)):
        name = changed[0]
        raise UserError(
            f"{source.path}: {name} was replaced while the run used it "
            f"({_brief(found.get(name))} -> {_brief(now.get(name))}). Put the old one back, or "
            "begin another run with the new one."
        )
    if EVERYTHING in (gaps := source.left_out.get(suffix, ())):
        return iter(())
    episodes = kind.read_suffix(source.path, source.game, suffix, source.fraction, gaps)
    if source.best is None:
        return episodes
    if not (wanted := set(source.best[suffix])):
        return iter(())
    # No loop: its variable would keep an episode alive while the next is read.
    return itertools.compress(episodes, (position in wanted for position in itertools.count()))


def survey(source: Source, suffix: int) -> list[Extent] | None:
    """The extents of the episodes that `read_part` yields; None where that takes reading them."""
    return _extents(source, suffix, format_of(source.format).survey)


def count(source: Source, suffix: int, *, totals: bool = False) -> list[Extent]:
    """The extents of the episodes that `read_part` yields, even if that takes reading them.

    Args:
      source: the source.
      suffix: the suffix.
      totals: whether every whole game must have its return, which older conversions didn't note.
    """
    extents = survey(source, suffix)
    lacking = (e.total is None and e.terminal and e.starts for e in extents or ())
    if extents is None or (totals and any(lacking)):
        extents = _extents(source, suffix, format_of(source.format).count)
    assert extents is not None
    return extents


def facts(source: Source, suffix: int) -> dict[str, Any]:
    """Everything that the episodes of `read_part` depend on, except the folder; ready for JSON."""
    return {
        "game": source.game,
        "run": source.run,
        "format": source.format,
        "suffix": suffix,
        "fraction": source.fraction,
        "left_out": source.left_out.get(suffix, ()),
        "files": source.files[suffix],
        "best": None if source.best is None else source.best[suffix],
    }


def recordings(directory: Path) -> list[tuple[Format, Recording]]:
    """All recordings, of every format, in a local folder at any level of their layouts.

    Raises:
      UserError: as `Format.find_recordings`.
    """
    return [(kind, recording) for kind in FORMATS for recording in kind.find_recordings(directory)]


def layouts() -> str:
    """What is expected in a data folder, for messages: a line per format."""
    return "\n  or ".join(kind.layout for kind in FORMATS)


def format_of(name: str) -> Format:
    """The format of that name."""
    return next(kind for kind in FORMATS if kind.name == name)


def _extents(source: Source, suffix: int, count: Survey) -> list[Extent] | None:
    """What a format's `survey` or `count` says of the part of a suffix that is read."""
    if EVERYTHING in (gaps := source.left_out.get(suffix, ())):
        return []
    extents = count(source.path, source.game, suffix, source.fraction, gaps)
    if extents is None or source.best is None:
        return extents
    return [extents[position] for position in source.best[suffix]]


def _choose_best(sources: Sequence[Source], fraction: float) -> list[Source]:
    """The sources with the best of each game's episodes; among equal returns the earlier ones."""
    ranked: dict[str, list[tuple[float, int, int, int]]] = {}
    groups = [(nth, suffix) for nth, source in enumerate(sources) for suffix in source.suffixes]
    for nth, suffix in over(groups, "ranking episodes", "file groups"):
        mine = ranked.setdefault(sources[nth].game, [])
        for position, extent in enumerate(count(sources[nth], suffix, totals=True)):
            if extent.total is not None:
                mine.append((-extent.total, nth, suffix, position))
    best: list[dict[int, list[int]]] = [{k: [] for k in source.suffixes} for source in sources]
    for game, episodes in ranked.items():
        if not episodes:
            raise UserError(
                f"data.best_fraction = {fraction} ranks whole games, and the selected data hold "
                f"none of {game}; give more data.suffixes, or set it to 1."
            )
        # Rounded as `data.fraction`: a tenth of 30 is 3.
        for _, nth, suffix, position in sorted(episodes)[: first_part(len(episodes), fraction)]:
            best[nth][suffix].append(position)
    return [
        source._replace(best={suffix: sorted(chosen) for suffix, chosen in parts.items()})
        for source, parts in zip(sources, best)
    ]


def _locate(directory: str, game: str, run: int) -> tuple[str, Format]:
    """(path, format) of one run."""
    for kind in FORMATS:
        if path := kind.locate(directory, game, run):
            return path, kind
    raise UserError(
        f"no recorded play of {game}, run {run}, in {directory}.{_hint(directory)}\n"
        f"Expected there:\n     {layouts()}\n"
        "Choose other games or runs, fetch it (launchers/get_data.sh), or collect it "
        "with `python -m cql_atari.collect`."
    )


def _hint(directory: str) -> str:
    """What recorded play there is in place of what was asked for."""
    if "://" in directory:
        return ""
    here = Path(os.path.abspath(directory))
    if not here.is_dir():
        return " There is no such folder."
    below = [child for child in sorted(here.iterdir()) if child.is_dir()]
    found: list[Recording] = []
    for folder in (here, *below):
        with contextlib.suppress(UserError, OSError):
            found += [r for _, r in recordings(folder) if os.path.isdir(r.path)]  # no empty ones
    roots = sorted({recording.root for recording in found})
    if str(here) in roots:
        there = sorted({f"{r.game} (run {r.run})" for r in found if r.root == str(here)})
        return f" There are: {', '.join(there)}."
    if roots:
        return f" There is some below {roots[0]}: set data.dir = {roots[0]!r}."
    return ""


def _brief(file: list[int | str] | None) -> str:
    return "absent" if file is None else " ".join(map(str, file))


def _read_exclusions(path: str) -> Mapping[str, dict[int, Ranges]]:
    """{"Game/run": {suffix: ranges}} from the file that `verify --repair` writes."""
    try:
        content: Any = parse_json(Path(path).read_bytes())
        if content["format"] != EXCLUSIONS:
            raise ValueError(f"its format is {content['format']!r}")
        return {
            run: {int(k): [_range(*pair) for pair in ranges] for k, ranges in suffixes.items()}
            for run, suffixes in content["exclude"].items()
        }
    except (OSError, *BAD_JSON) as error:
        raise UserError(
            f"data.exclude = {path!r} is no file of exclusions ({error}); `python -m "
            "cql_atari.tools.verify DIR --repair=FILE` writes one."
        ) from error


def _range(start: Any, stop: Any) -> tuple[int, int]:
    if not 0 <= int(start) < int(stop):
        raise ValueError(f"[{start}, {stop}] is no range [start, stop) with 0 <= start < stop")
    return int(start), int(stop)
