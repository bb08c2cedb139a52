"""python -m cql_atari.train --gin_files=gin_configs/multigame.gin: flags, config, experiment."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from cql_atari import cli, manifest, workdir
from cql_atari import config as config_lib
from cql_atari.data import sources
from cql_atari.types import UserError

FLAGS = flags.FLAGS


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
    config = config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings)
    if config.train.phase == "online":
        from cql_atari.feed import online_pace

        config = online_pace.complete(config)
    if FLAGS.print_config:
        print(config_lib.to_gin(config), end="")
        from cql_atari import experiment

        trunk, head = experiment.count_parameters(config)
        print(f"trunk parameters: {trunk}\nhead parameters: {head}")
        return 0

    # Everything that can be refused is refused before TensorFlow takes its seconds to import.
    reads = config.train.phase == "offline" or config.online.offline_share > 0
    found = sources.find(config.data) if reads else []
    from cql_atari.envs import roms

    if reads:
        roms.warn_where_other(config.data, config.evaluation.rom_dir)
    folder = Path(FLAGS.workdir)
    with workdir.locked(folder), workdir.stop_on_signals() as should_stop:
        workdir.record(folder, config, FLAGS.accept_config_change)
        if reads:
            selection = manifest.make(found, config.feed.n_step)
            manifest.record(selection, folder)
            print(manifest.table(selection), file=sys.stderr)
        if config.train.phase == "online":
            from cql_atari.online import train
        else:
            from cql_atari.experiment import train
        finished = train(config, found, folder, should_stop)
    if not finished:
        print("stopped and saved; run the same command to go on.", file=sys.stderr)
    return 0 if finished else workdir.EXIT_INTERRUPTED


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_multi_string("gin_files", [], "gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; repeats, wins over the files.")
    flags.DEFINE_string("workdir", "runs/train", "Folder of the run; the same one goes on with it.")
    flags.DEFINE_bool("print_config", False, "Print the effective configuration, then exit.")
    flags.DEFINE_bool(
        "accept_config_change", False, "Go on with a run under another configuration."
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
