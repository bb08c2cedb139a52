"""python -m cql_atari.play RUN --game=Freeway --out=episode.mp4: an episode as a video.

It shows the game, the network's input, and its output for every action: the distribution of the
return (C51, HL-Gauss), values or probabilities; of a decision transformer the return tokens.
One picture per agent step, 15 a second, which is the console's speed. The same seed gives the
episode that `evaluate` plays in its first environment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from cql_atari.core import games
from cql_atari.core.types import FRAME_SKIP, UserError
from cql_atari.system import cli
from cql_atari.system.progress import Progress

if TYPE_CHECKING:
    from cql_atari.evaluation.watching import Scene

FLAGS = flags.FLAGS
PER_SECOND = 60 // FRAME_SKIP


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError(f"give one folder of a run, not {argv[1:]}: RUN --out=episode.mp4.")
    from cql_atari.evaluation import picture, video

    out = Path(FLAGS.out)
    video.check_path(out)
    from cql_atari.envs.atari import AtariEnv
    from cql_atari.evaluation import watching
    from cql_atari.training import load

    loaded = load.load(Path(argv[1]), FLAGS.checkpoint, FLAGS.seed)
    config, method = loaded.config, loaded.method
    game = FLAGS.game or config.data.games[0]
    if game not in config.data.games:
        raise UserError(f"--game={game}: the run has {', '.join(config.data.games)}.")
    protocol = config.evaluation
    max_steps = FLAGS.max_steps or -(-protocol.max_frames // FRAME_SKIP)
    env = AtariEnv(
        game, seed=protocol.seed, sticky=protocol.sticky, mode=protocol.mode, colour=True,
        difficulty=protocol.difficulty, rom_dir=protocol.rom_dir, max_frames=max_steps * FRAME_SKIP,
    )  # fmt: skip
    assert method.watch is not None
    scenes = watching.episode(
        env, method.watch(), game, config.data.games.index(game),
        epsilon=protocol.epsilon, seed=protocol.seed,
    )  # fmt: skip
    draw = picture.painter(game, games.spec(game).actions, method.support)
    last: list[Scene] = []
    video.write(out, map(draw, _with_progress(scenes, max_steps, last)), PER_SECOND)
    (end,) = last
    print(f"wrote {out}: {game}, {end.step:,} steps, score {end.score:,.0f}, {end.end}")


def _with_progress(scenes: Iterator[Scene], max_steps: int, last: list[Scene]) -> Iterator[Scene]:
    """The scenes, the last one repeated for a second; it is also put into `last`."""
    with Progress("playing, at most", "steps", max_steps + 1) as line:
        for scene in scenes:
            yield scene
            last[:] = [scene]
            line.add(1)
    yield from itertools.repeat(last[0], PER_SECOND)


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "The video: a name that ends in .mp4 or .gif.", required=True)
    flags.DEFINE_string("game", None, "One of the run's games; default: its first.")
    flags.DEFINE_integer("checkpoint", None, "The checkpoint of this step; default: the newest.")
    flags.DEFINE_integer(
        "max_steps", None, "Agent steps after which it is cut; default: as in evaluations.",
        lower_bound=1,
    )  # fmt: skip
    flags.DEFINE_integer(
        "seed", None, "Of the console and of what is drawn; default: evaluation.seed.",
        lower_bound=0, upper_bound=2_000_000_000,
    )  # fmt: skip


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
