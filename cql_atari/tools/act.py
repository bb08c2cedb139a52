"""python -m cql_atari.tools.act --learner=HOST:PORT: acts for an online run of another process.

The learner sends the configuration. But this host chooses the ROM files that it opens (--rom_dir),
and refuses a network that might not fit in its free memory, and more than 256 copies of the game.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.settings_check import most_weights
from cql_atari.core.types import UserError
from cql_atari.system import cli, signals
from cql_atari.system.free_memory import free_bytes
from cql_atari.system.text import differences

if TYPE_CHECKING:
    from cql_atari.feed.online.exchange import ActorEnd

FLAGS = flags.FLAGS
_EXCHANGE_SECONDS = 2  # between looks for new weights
_MOST_ENVS = 256  # that a learner may ask of this host


def main(_: list[str]) -> int:
    if not re.fullmatch(r"[^:]+:[0-9]+|\[[0-9a-fA-F:]+\]:[0-9]+", FLAGS.learner):
        raise UserError(f"--learner={FLAGS.learner}: give HOST:PORT.")
    expected = None
    if FLAGS.gin_files or FLAGS.gin_bindings:
        from cql_atari.feed.online.complete import complete

        expected = complete(config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings))
    with signals.stop_on_signals() as should_stop:
        from cql_atari.feed.online import exchange as exchange_lib

        link = exchange_lib.ActorEnd(FLAGS.learner)
        config = link.config()
        if expected is not None:
            compare(config, expected, FLAGS.learner)
        config = with_own_roms(config, FLAGS.rom_dir)
        check_limits(config, FLAGS.learner)
        print(f"acting for {FLAGS.learner} in {config.data.games[0]}", file=sys.stderr)
        finished = _act(config, link, should_stop)
    if not finished:
        return signals.EXIT_INTERRUPTED
    print(f"the learner at {FLAGS.learner} has finished", file=sys.stderr)
    return 0


def with_own_roms(config: Config, rom_dir: str | None) -> Config:
    """The learner's configuration with this host's folder of ROM files (None: ale-py's own)."""
    evaluation = dataclasses.replace(config.evaluation, rom_dir=rom_dir)
    return dataclasses.replace(config, evaluation=evaluation)


def check_limits(config: Config, learner: str) -> None:
    """Raises a UserError where the learner asks more of this host than it should give."""
    need, have = 4 * most_weights(config), free_bytes()
    if need > have:
        raise UserError(
            f"the learner at {learner} asks for a network of up to {need / 1e9:.3g} GB, but this "
            f"host has {have / 1e9:.3g} GB free. Act on a larger host."
        )
    if config.online.num_envs > _MOST_ENVS:
        raise UserError(
            f"the learner at {learner} asks for online.num_envs = {config.online.num_envs} copies "
            f"of the game; an actor plays at most {_MOST_ENVS}. Lower it, and start more actors."
        )


def compare(theirs: Config, ours: Config, learner: str) -> None:
    """Raises a UserError with the difference where the learner has another configuration."""
    texts = settings.to_gin(theirs), settings.to_gin(ours)
    if changes := differences(*texts, "the learner's", "this actor's"):
        raise UserError(
            "\n".join([f"the learner at {learner} has another configuration:", *changes])
            + "\nGive the learner's gin files and bindings, or none: an actor gets them from it."
        )


def _act(config: Config, link: ActorEnd, should_stop: Callable[[], bool]) -> bool:
    """Acts until told to stop (False), or until the learner says that it has finished (True).

    Raises:
      UserError: if the learner disappears before that.
    """
    import numpy as np

    from cql_atari.feed.online.actor import Tally, act
    from cql_atari.methods import build

    method = build.build(config)
    assert method.act is not None
    tally, last, finished = Tally(0), -np.inf, False

    def exchange() -> bool:
        nonlocal last, finished
        if not finished and time.monotonic() - last > _EXCHANGE_SECONDS:
            if (new := link.weights()) is None:
                finished = True
                return True
            frames, weights = new
            for variable, value in zip(method.network.variables, weights):
                variable.assign(value)
            tally.frames = frames
            link.report(tally.take_scores())
            last = time.monotonic()
        return finished or should_stop()

    exchange()
    act(
        config,
        link.address,
        method.act(),
        frames=lambda: tally.frames,
        report=tally.add,
        seed=np.random.SeedSequence().generate_state(4).tolist(),
        should_stop=exchange,
    )
    return finished


def _define_flags() -> None:
    flags.DEFINE_string("learner", None, "HOST:PORT that the learner shows.", required=True)
    flags.DEFINE_string("rom_dir", None, "This host's <rom>.bin files; default: ale-py's.")
    flags.DEFINE_multi_string("gin_files", [], "What the learner's configuration should be.")
    flags.DEFINE_multi_string("gin_bindings", [], "What the learner's configuration should be.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
