"""Converts Minari datasets to recorded play (`read`), and recorded play to Minari (`write`).

    python -m cql_atari.tools.minari read ID --data_dir=DIR --game=Breakout --run=1
    python -m cql_atari.tools.minari write ID --data_dir=DIR --game=Breakout --run=1

Minari keeps datasets below MINARI_DATASETS_PATH; `minari.download_dataset` fetches published ones.

Read: observations are grey frames [84, 84] or [7056], or colour screens, which become grey and
are scaled by area (one screen a step: Dopamine's maximum of two can't be had any more). Actions are
indices of the game's own set, or of all 18; rewards are clipped.

Write: whole games, and parts that begin with the start of a game; other parts are left out. Actions
are indices of all 18. Minari wants the frame after the last step, which recorded play lacks: the
last frame is repeated. Observations are [7056], a frame row by row: Minari would store what looks
like an image, such as [84, 84], as JPEG, which changes pixels.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from cql_atari.core import games
from cql_atari.core.settings import Data
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, Episode, UserError
from cql_atari.data import sources
from cql_atari.data.arrays.format import ARRAYS
from cql_atari.data.format import Target
from cql_atari.system import cli

FLAGS = flags.FLAGS
_PIXELS = FRAME_SHAPE[0] * FRAME_SHAPE[1]
_INSTALL = "pip install minari==0.5.3 (0.5.4 wants a NumPy that TensorFlow 2.15 refuses)"


def main(argv: list[str]) -> None:
    if len(argv) != 3 or argv[1] not in ("read", "write"):
        raise UserError(f"give read or write, and a dataset's ID, not {argv[1:]}.\n\n{__doc__}")
    if not re.fullmatch(r"([-\w/]+/)?[-\w]+-v\d+", argv[2]):
        raise UserError(f"{argv[2]!r} is no ID of a dataset; give one as atari/breakout/mine-v0.")
    try:
        import minari
    except ImportError as error:
        raise UserError(f"Minari isn't installed: {_INSTALL}.") from error
    game, data_dir = games.spec(FLAGS.game).name, Path(FLAGS.data_dir)
    if argv[1] == "read":
        try:
            dataset = minari.load_dataset(argv[2])
        except (FileNotFoundError, ValueError) as error:
            raise UserError(
                f"no dataset {argv[2]!r} here; minari.download_dataset fetches published ones."
            ) from error
        count, target = read(dataset, game, data_dir, FLAGS.run), str(data_dir)
    else:
        if argv[2] in minari.list_local_datasets():
            raise UserError(f"the dataset {argv[2]!r} is there already; give another ID.")
        count, target = write(argv[2], game, data_dir, FLAGS.run), argv[2]
    print(f"wrote {count} episodes of {game}, run {FLAGS.run}, to {target}")


def read(dataset: Any, game: str, data_dir: Path, run: int) -> int:
    """Writes a Minari dataset as arrays, suffix 0 of a run; returns the number of episodes.

    Raises:
      UserError: where the run is there, or the dataset isn't one of Atari play; nothing stays then.
    """
    writing = ARRAYS.writing
    assert writing is not None
    folder = writing.folder(data_dir, game, run)
    if writing.suffixes_there(folder):
        raise UserError(f"{folder} is there already; give another --run.")
    lookup = _lookup(game, int(getattr(dataset.action_space, "n", 0)))
    play = (_from_minari(one, game, lookup) for one in dataset.iterate_episodes())
    first = next(play, None)  # anything but Atari play is refused before there is a folder
    if first is None:
        raise UserError(f"the dataset {dataset.id!r} has no episode; give another.")
    episodes = itertools.chain([first], play)
    source = {"minari": [dataset.id]}
    return len(writing.write(Target(folder, game, run, 0), episodes, source, lambda steps: None))


def write(name: str, game: str, data_dir: Path, run: int) -> int:
    """Writes a run of any format as a new Minari dataset; returns the number of episodes.

    Raises:
      UserError: where there is no such play, or no game that is recorded from its start.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    spaces = {
        "observation_space": gymnasium.spaces.Box(0, 255, (_PIXELS,), np.uint8),
        "action_space": gymnasium.spaces.Discrete(NUM_ACTIONS),
    }
    dataset, count = None, 0
    for episode in _episodes(game, data_dir, run):
        ends = np.zeros(len(episode.frames), bool)
        ends[-1] = True
        buffer = EpisodeBuffer(
            id=count,
            observations=list(episode.frames[[*range(len(ends)), -1]].reshape(-1, _PIXELS)),
            actions=list(episode.actions.astype(np.int64)),
            rewards=episode.rewards.tolist(),
            terminations=(ends & episode.terminal).tolist(),
            truncations=(ends & (not episode.terminal)).tolist(),
        )
        if dataset is None:
            about = f"{game}, run {run}; frames 84 x 84 and clipped rewards as in DQN-Replay"
            dataset = minari.create_dataset_from_buffers(
                name, [buffer], description=about, data_format="hdf5", **spaces
            )
        else:
            dataset.update_dataset_from_buffer([buffer])
        count += 1
    if not count:
        raise UserError(
            f"no game of {game}, run {run}, in {data_dir} is recorded from its start, as what is "
            "written must be; give another --run."
        )
    return count


def _episodes(game: str, data_dir: Path, run: int) -> Iterator[Episode]:
    (source,) = sources.find_sources(Data(str(data_dir), (game,), (run,), suffixes=None))
    for suffix in source.suffixes:
        yield from (episode for episode in sources.read_part(source, suffix) if episode.starts)


def _from_minari(one: Any, game: str, lookup: np.ndarray) -> Episode:
    actions, rewards = np.asarray(one.actions), np.asarray(one.rewards, np.float32)
    known = np.flatnonzero(np.isin(lookup, games.to_full_actions(game)))
    for name, values, fits, expected in (
        ("action", actions, np.isin(actions, known), ", ".join(map(str, known))),
        ("reward", rewards, np.isfinite(rewards), "a finite number"),
    ):
        if not fits.all():
            wrong = values[~fits][0]
            raise UserError(f"{name} {wrong} of episode {one.id}: expected {expected}.")
    return Episode(
        game,
        _frames(np.asarray(one.observations)[: len(actions)]),
        lookup[actions],
        np.clip(rewards, -1, 1),
        terminal=bool(one.terminations[-1]),
    )


def _frames(observations: np.ndarray) -> np.ndarray:
    """uint8 [T, 84, 84] of grey frames, or of colour screens [T, height, width, 3]."""
    shape = observations.shape[1:]
    if shape == (_PIXELS,):
        observations, shape = observations.reshape(-1, *FRAME_SHAPE), FRAME_SHAPE
    if observations.dtype != np.uint8 or (shape != FRAME_SHAPE and shape[2:] != (3,)):
        raise UserError(
            f"its observations are {observations.dtype} {shape}; expected uint8 (84, 84), "
            "(7056,) or colour screens (height, width, 3)."
        )
    if shape == FRAME_SHAPE:
        return observations
    import cv2

    grey = (cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) for screen in observations)
    return np.stack([cv2.resize(g, FRAME_SHAPE, interpolation=cv2.INTER_AREA) for g in grey])


def _lookup(game: str, size: int) -> np.ndarray:
    """Full indices by the dataset's actions."""
    own = games.to_full_actions(game)
    if size not in (len(own), NUM_ACTIONS):
        raise UserError(
            f"its action space has {size} actions; {game} has {len(own)}, the full set "
            f"{NUM_ACTIONS}: give --game the game that was played."
        )
    return own if size == len(own) else np.arange(NUM_ACTIONS, dtype=np.int32)


def _define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "The data folder.", required=True)
    flags.DEFINE_string("game", None, "CamelCase name.", required=True)
    flags.DEFINE_integer("run", 1, "Number of the run.", lower_bound=1, upper_bound=5)


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
