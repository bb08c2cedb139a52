"""python -m cql_atari.train --gin_files=FILE --workdir=DIR: trains, evaluates, or goes on.

The gin files say which of the phases it is: offline, transfer or online fine-tuning. Stopped or
killed, the same command goes on from the newest checkpoint in DIR, if configuration and data are
the same. `--print_config` shows every value and what set it, and counts the parameters.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.methods import build
from cql_atari.runs import folder as workdir
from cql_atari.runs import manifest, recorded_config
from cql_atari.system import cli, hosts, signals

if TYPE_CHECKING:
    from cql_atari.feed.feed import Feed

FLAGS = flags.FLAGS


def main(_: list[str]) -> int:
    loaded = config = config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings)
    build.kind(config)
    for binding in config_lib.read((), FLAGS.gin_bindings):
        if reason := build.unread(config, binding.name):
            logging.warning("%s has no effect with %s.", binding.name, reason)
    if config.train.phase == "online":
        from cql_atari.feed.online.complete import complete

        config = complete(config)
    if FLAGS.print_config:
        bindings = config_lib.read(FLAGS.gin_files, FLAGS.gin_bindings)
        print(config_lib.annotated(config, loaded, bindings), end="")
        trunk, head = build.count_parameters(config)
        print(f"trunk parameters: {trunk}\nhead parameters: {head}")
        return 0
    _check_strategy(config.train.strategy)
    _check_start(config)

    # Everything that can be refused is refused before TensorFlow takes its seconds to import.
    folder = cli.named_folder("workdir")
    reads = config.train.phase == "offline" or config.online.offline_share > 0
    found = sources.find_sources(config.data) if reads and not config.feed.servers else []
    _check_consoles(config, reads)
    # Of several hosts only the chief writes.
    is_chief = hosts.find_hosts(config.train.strategy).is_chief
    lock = workdir.lock_workdir(folder) if is_chief else contextlib.nullcontext()
    with lock, signals.stop_on_signals() as should_stop:
        if is_chief:
            recorded_config.check_config(folder, config, FLAGS.accept_config_change)
            if not workdir.has_begun(folder):  # else once its checkpoint is known to fit
                recorded_config.record_config(folder, config)
        if is_chief and reads:
            try:
                selection = _select(config, found, should_stop)
            except KeyboardInterrupt:
                return signals.EXIT_INTERRUPTED
            manifest.record_manifest(selection, folder, workdir.has_begun(folder))
            print(manifest.as_table(selection), file=sys.stderr)
        from cql_atari.training import run

        data = repr([(s.game, s.run, s.files, s.left_out) for s in found])
        opener = _feed_opener(config, found)
        finished = run.train(config, opener, folder, should_stop, tpu=FLAGS.tpu, data=data)
    if not finished:
        print("stopped and saved; run the same command to go on.", file=sys.stderr)
        return signals.EXIT_INTERRUPTED
    if is_chief and (folder / workdir.SCORES).exists():
        _print_scores(folder)
    return 0


def _print_scores(folder: Path) -> None:
    from cql_atari.evaluation import score_files, summary

    (player,) = score_files.find_scores([folder / workdir.SCORES])
    print(summary.as_text(player.label, player.summary))
    print(f"next: python -m cql_atari.report {folder}")


def _feed_opener(
    config: settings.Config, found: Sequence[Source]
) -> Callable[..., contextlib.AbstractContextManager[Feed]]:
    """A function that opens the feed: of the agent's own play (online), or of recorded play."""
    from cql_atari.feed import recorded

    def open_recorded(
        config: settings.Config, step: int, **options: Any
    ) -> contextlib.AbstractContextManager[Feed]:
        return recorded.open_feed(config, found, step, **options)

    if config.train.phase == "online":
        from cql_atari.feed.online import feed

        return functools.partial(feed.open_feed, config, open_recorded)
    return lambda method, step, **options: open_recorded(
        config, step, reads=method.reads, **options
    )


def _select(
    config: settings.Config, found: Sequence[Source], should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """The manifest of the data, which are here or on replay servers."""
    if not config.feed.servers:
        return manifest.make_manifest(found, config.feed.n_step, should_stop)
    from cql_atari.feed.replay import remote

    return remote.ask_servers(config, should_stop).manifest


def _check_strategy(strategy: str) -> None:
    if (strategy == "tpu") != bool(FLAGS.tpu):
        raise UserError(
            f"--tpu={FLAGS.tpu} with train.strategy = {strategy!r}: a TPU needs both, --tpu=local "
            "(or its name) and train.strategy = 'tpu'."
        )


def _check_start(config: settings.Config) -> None:
    # Not in `settings_check`: earlier runs that were trained so must stay readable.
    if config.optimizer.encoder_learning_rate == 0 and config.start.encoder_from is None:
        raise UserError(
            "optimizer.encoder_learning_rate = 0 with start.encoder_from = None: the encoder would "
            "stay as random as it begins; set start.encoder_from to the workdir of a pre-trained "
            "run, or optimizer.encoder_learning_rate to None."
        )


def _check_consoles(config: settings.Config, reads: bool) -> None:
    """Raises what else the first evaluation would, which may be the run's end."""
    from cql_atari.envs import atari, roms

    how = config.evaluation
    if reads:
        roms.warn_where_other(config.data, how.rom_dir)
    if (how.mode, how.difficulty) != (None, None):  # else it takes a second for 40 games
        for game in config.data.games:
            atari.switches_of(game, how.mode, how.difficulty, how.rom_dir)


def _define_flags() -> None:
    flags.DEFINE_multi_string("gin_files", [], "gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; repeats, wins over the files.")
    flags.DEFINE_string("workdir", "runs/train", "Folder of the run; the same one goes on with it.")
    flags.DEFINE_string("tpu", None, "TPU to train on: local (this host's) or its name.")
    flags.DEFINE_bool("print_config", False, "Print every value and what set it, then exit.")
    flags.DEFINE_bool(
        "accept_config_change", False, "Go on with a run under another configuration."
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
