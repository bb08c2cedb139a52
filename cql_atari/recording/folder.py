"""A collection's folder: what its contents depend on, whether it exists, and locking it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cql_atari.core.types import UserError
from cql_atari.envs import roms
from cql_atari.system import files

FILE = "collection.json"
EPISODES = "episodes.jsonl"
IN_USE = "another process is collecting {}; wait for it"


class Job(NamedTuple):
    """One game to collect. The files depend on these values alone, except for behaviour "online",
    where threads decide how acting and learning interleave.

    Behaviour "mixture" has no epsilons; `mixture` (as `mixture.format_mixture` writes it) names
    the players, and `order` says when each plays.
    """

    game: str
    run: int
    steps: int
    behaviour: str
    epsilons: tuple[float, ...]
    slots_per_file: int
    seed: int
    rom_dir: str | None = None
    mixture: str | None = None
    order: str | None = None


def describe_job(job: Job, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values that tell collections apart, ready for JSON.

    Args:
      job: what is played.
      settings: further values that the files depend on, by name.

    Raises:
      UserError: where there is no such ROM.
    """
    wanted = json.loads(json.dumps({**job._asdict(), **(settings or {})}))
    del wanted["rom_dir"]  # the MD5 identifies the ROM, whatever its folder
    return {**wanted, "rom_md5": roms.md5(job.game, job.rom_dir)}


def is_there(wanted: Mapping[str, Any], path: Path) -> bool:
    """Whether a folder holds the collection that `describe_job` describes.

    Raises:
      UserError: where there is another one in its place.
    """
    if not path.exists():
        return False
    try:
        found = files.parse_json((path / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} exists but has no readable {FILE}, so it wasn't collected here; "
            "give another --run or --data_dir"
        ) from error
    if "rom_md5" not in found:
        found["rom_md5"] = roms.recorded_md5(wanted["game"], path)
    if different := [name for name in wanted if wanted[name] != found.get(name)]:
        differences = ", ".join(f"{n} {found.get(n)} there, {wanted[n]} asked" for n in different)
        raise UserError(
            f"{path} holds another collection ({differences}); "
            "give another --run or --data_dir, or remove it"
        )
    return True


@contextlib.contextmanager
def appearing(final: Path) -> Iterator[Path]:
    """An empty hidden folder, locked; it becomes `final` at the end, and is removed on an error."""
    partial = final.with_name(f".{final.name}.partial")
    with files.hold_folder(partial, IN_USE.format(final), "--data_dir"):
        try:
            for left in partial.iterdir():  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
            files.move(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
