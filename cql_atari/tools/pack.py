"""Packs recorded play of any format for `feed.kind = 'packed'`: small, and quick to draw from.

  python -m cql_atari.tools.pack --data_dir=DIR --out_dir=OUT --games=Breakout,Pong

writes `OUT/<Game>/<run>/packed/`, two files a suffix, without loss: reading them gives the episodes
that reading DIR gives. Then train with

  --gin_bindings="data.dir='OUT'" --gin_bindings="feed.kind='packed'"

DIR is no longer needed for that. A suffix is there whole or not at all: stopped or killed, the same
command goes on at the first suffix that isn't packed; finished ones stay as they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.data.packed import files
from cql_atari.system import cli, signals
from cql_atari.system.files import hold_folder
from cql_atari.tools.selection import count_steps, select_sources


class SuffixToPack(NamedTuple):
    """One suffix: where it comes from and the folder that it goes to."""

    source: Source
    suffix: int
    directory: Path

    def facts(self) -> dict[str, Any]:
        """What the index notes of the source; it changes only with the source's files."""
        source, suffix = self.source, self.suffix
        return {
            "format": source.format,
            "files": source.files[suffix],
            "left_out": [list(each) for each in source.left_out.get(suffix, ())],
        }


def pack_suffix(part: SuffixToPack, report: Callable[[int], None]) -> None:
    """Packs one suffix, in a worker process."""
    from cql_atari.data.packed import writer

    part.directory.mkdir(parents=True, exist_ok=True)
    played = sources.read_part(part.source, part.suffix)
    writer.write_suffix(part.directory, part.suffix, played, part.facts(), report)


def pack_all(parts: Sequence[SuffixToPack], processes: int) -> None:
    """Packs what isn't packed yet, up to `processes` suffixes at a time.

    Raises:
      UserError: before anything is packed, where a suffix was packed from other files; or the first
        that a worker met, after the others have stopped.
    """
    from cql_atari.system import worker_pool

    todo = [part for part in parts if not is_packed(part)]
    print(f"{len(todo)} suffixes to pack, {len(parts) - len(todo)} there already.")
    steps = sum(count_steps(part.source, part.suffix) for part in todo)
    if todo:
        worker_pool.run_jobs(pack_suffix, todo, processes, steps, "pack")


def is_packed(part: SuffixToPack) -> bool:
    """Whether the suffix is there already.

    Raises:
      UserError: where it was packed from other files, or is damaged.
    """
    index, _ = files.paths(part.directory, part.suffix)
    if not index.exists():
        return False
    if files.read_index(part.directory, part.suffix).source != part.facts():
        raise UserError(
            f"{index} was packed from other files than those that are in {part.source.path} now. "
            "Give another --out_dir, or delete what was packed of this suffix."
        )
    return True


def suffixes_to_pack(found: Sequence[Source], out_dir: Path) -> list[SuffixToPack]:
    """Each suffix of the sources."""
    return [
        SuffixToPack(source, suffix, files.folder(out_dir, source.game, source.run))
        for source in found
        for suffix in source.suffixes
    ]


def _summary(parts: Sequence[SuffixToPack]) -> Iterator[str]:
    """A line a run: episodes, steps, bytes."""
    for directory in dict.fromkeys(part.directory for part in parts):
        steps = episodes = size = 0
        for suffix in files.list_suffixes(directory):
            extents = files.read_index(directory, suffix).extents
            episodes += len(extents)
            steps += sum(extent.steps for extent in extents)
            size += sum(path.stat().st_size for path in files.paths(directory, suffix))
        yield (
            f"{directory}: {episodes:,} episodes, {steps:,} steps, {size / 1e9:.3g} GB, "
            f"{size / max(steps, 1):.0f} bytes a step"
        )


def _define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "Recorded play, as for data.dir.", required=True)
    flags.DEFINE_string("out_dir", None, "Where the packed play goes.", required=True)
    flags.DEFINE_list("games", [], "Games, CamelCase, separated by commas; default: all there.")
    flags.DEFINE_list("runs", ["1"], "Numbers of runs.")
    flags.DEFINE_list("suffixes", [], "K of the files (RLDS: splits); default: all there.")
    flags.DEFINE_string("exclude", None, "What to leave out, as `verify --repair` writes it.")
    flags.DEFINE_integer(
        "processes", len(os.sched_getaffinity(0)), "Suffixes packed at the same time.",
        lower_bound=1,
    )  # fmt: skip


def main(_: list[str]) -> int:
    values = flags.FLAGS
    out_dir = cli.named_folder("out_dir")
    found = select_sources(
        values.data_dir, out_dir, values.games, runs=cli.numbers("runs"),
        suffixes=cli.numbers("suffixes"), exclude=values.exclude,
    )  # fmt: skip
    parts = suffixes_to_pack(found, out_dir)
    in_use = f"another process is packing into {out_dir}; wait for it."
    signals.interrupt_on_sigterm()
    try:
        with hold_folder(out_dir, in_use, "--out_dir"):
            pack_all(parts, values.processes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on at the unfinished suffixes.", file=sys.stderr)
        return signals.EXIT_INTERRUPTED
    print("\n".join(_summary(parts)))
    return 0


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
