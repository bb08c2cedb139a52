"""python -m cql_atari.tools.serve_replay --gin_files=... --port=8000: replay for other hosts.

A learner finds it by `feed.servers = ('host:8000',)`. Several servers can share a run's games, see
--games. The folder --workdir holds the place where every game's draws go on: a server that is
started again goes on there, once it has read again what its windows held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.runs import folder as workdir
from cql_atari.runs import manifest
from cql_atari.system import cli, files, signals, text

if TYPE_CHECKING:
    from cql_atari.feed.replay.writer import Writers

FLAGS = flags.FLAGS
_POLL_SECONDS = 0.2
_LOG_SECONDS = 30.0


def main(_: list[str]) -> int:
    config = choose_games(config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings), FLAGS.games)
    found = sources.find_sources(config.data)
    folder = cli.named_folder("workdir")
    logging.set_verbosity(logging.INFO)
    with (
        workdir.lock_workdir(folder),
        signals.stop_on_signals() as should_stop,
        contextlib.suppress(KeyboardInterrupt),  # in the survey
    ):
        serve_games(config, found, folder, should_stop)
    print("stopped; run the same command to go on.", file=sys.stderr)
    return signals.EXIT_INTERRUPTED


def choose_games(config: settings.Config, games: list[str]) -> settings.Config:
    """The configuration with only these of its games; all of them where none is named.

    Raises:
      UserError: for a game that isn't in data.games, or where there is no replay to serve.
    """
    if config.feed.kind != "replay":
        raise UserError(
            f"feed.kind = {config.feed.kind!r}: only a replay can be served; set it to 'replay'."
        )
    if unknown := [game for game in games if game not in config.data.games]:
        raise UserError(
            f"--games={','.join(unknown)}: not in data.games; choose among "
            f"{', '.join(config.data.games)}."
        )
    mine = tuple(game for game in config.data.games if not games or game in games)
    data = dataclasses.replace(config.data, games=mine)
    return dataclasses.replace(config, data=data, feed=dataclasses.replace(config.feed, servers=()))


def serve_games(
    config: settings.Config,
    found: Sequence[Source],
    folder: Path,
    should_stop: Callable[[], bool],
) -> None:
    """Serves the recorded play at --port until asked to stop.

    Raises:
      UserError: where the port is taken, or the folder's server began with other data.
      KeyboardInterrupt: if asked to stop before it serves.
    """
    from cql_atari.feed import recorded
    from cql_atari.feed.replay import remote
    from cql_atari.system import ports

    ports.check_free(FLAGS.port)
    selection = manifest.make_manifest(found, config.feed.n_step, should_stop)
    manifest.record_manifest(selection, folder, begun=(folder / workdir.PLACES).exists())
    print(manifest.as_table(selection), file=sys.stderr)
    record = remote.make_record(config, selection)
    with recorded.open_replay(
        config, found, places=read_places(folder), port=FLAGS.port, record=record
    ) as (replay, writers, _):
        logging.info("serving %s at port %d", ", ".join(replay.games), FLAGS.port)
        watch(replay.address, writers, folder, should_stop)


def watch(address: str, writers: Writers, folder: Path, should_stop: Callable[[], bool]) -> None:
    """Until asked to stop: every 30 s logs metrics and keeps where the games' draws go on."""
    import reverb

    client = reverb.Client(address)
    taken: dict[str, int] = {}
    due, before = 0.0, time.monotonic()
    while not should_stop():
        writers.check()
        if (now := time.monotonic()) >= due:
            table, taken = show_traffic(client.server_info(), writers.filled(), taken, now - before)
            logging.info("\n%s", table)
            write_places(folder, writers)
            due, before = now + _LOG_SECONDS, now
        time.sleep(_POLL_SECONDS)
    write_places(folder, writers)


def show_traffic(
    tables: Mapping[str, Any],
    filled: Mapping[str, tuple[int, int]],
    before: Mapping[str, int],
    seconds: float,
) -> tuple[str, dict[str, int]]:
    """A table of all games: the window, segments that learners take a second, and who waits.

    Args:
      tables: a server's `server_info`.
      filled: as `Writers.filled`.
      before: the segments that learners had taken `seconds` ago; none of a game that isn't there.
      seconds: the time since then.

    Returns:
      (text, the segments that learners have taken by now).
    """
    rows = [("game", "window", "queued", "taken/s", "waiting")]
    taken = {game: tables[game].rate_limiter_info.sample_stats.completed for game in filled}
    for game, (held, size) in filled.items():
        queued, rate = tables[game].current_size, 0.0
        if game in before:
            rate = (taken[game] - before[game]) / seconds
        is_full = queued >= tables[game].max_size
        waiting = "writer" if is_full else "-" if queued else "learner"
        rows.append((game, f"{held:,} of {size:,}", f"{queued}", f"{rate:,.1f}", waiting))
    return text.columns(rows, left=(0, 4)), taken


def read_places(folder: Path) -> dict[str, Any]:
    """Where the games' draws go on, as the server noted before it ended; {} if it is new."""
    path = folder / workdir.PLACES
    if not path.exists():
        return {}
    try:
        places = files.parse_json(path.read_bytes())
        if not isinstance(places, dict):
            raise ValueError("it is no object")
        return places
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); without it the games' data begin at the start."
        ) from error


def write_places(folder: Path, writers: Writers) -> None:
    """Replaces the file at once."""
    places = {game: writers.place(game, None) for game in writers.filled()}
    files.write_whole(folder / workdir.PLACES, json.dumps(places))


def _define_flags() -> None:
    flags.DEFINE_multi_string("gin_files", [], "gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; repeats, wins over the files.")
    flags.DEFINE_list("games", [], "Which of data.games to serve; all by default.")
    flags.DEFINE_integer("port", 8000, "To listen on, on every interface.", 1, 65_535)
    flags.DEFINE_string("workdir", "runs/replay", "Folder of this server, to go on from.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
