"""python -m cql_atari.train --gin_files=gin_configs/multigame.gin: flags, config, experiment."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from cql_atari import cli
from cql_atari import config as config_lib
from cql_atari.types import UserError
from cql_atari.workdir import EXIT_INTERRUPTED

FLAGS = flags.FLAGS


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
    config = config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings)
    if FLAGS.print_config:
        print(config_lib.to_gin(config), end="")
        from cql_atari import experiment

        trunk, head = experiment.count_parameters(config)
        print(f"trunk parameters: {trunk}\nhead parameters: {head}")
        return 0

    from cql_atari.data import sources

    sources.find(config.data)  # before TensorFlow is imported: a missing folder is told at once
    from cql_atari import experiment

    finished = experiment.train(config, Path(FLAGS.workdir), FLAGS.accept_config_change)
    if not finished:
        print("stopped and saved; run the same command to go on.", file=sys.stderr)
    return 0 if finished else EXIT_INTERRUPTED


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
