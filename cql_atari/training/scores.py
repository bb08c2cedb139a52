"""The scores of a run: played, kept by step, logged."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.types import Policy, UserError
from cql_atari.evaluation import aggregate, journal, rollout, score_files, summary
from cql_atari.methods import build
from cql_atari.runs import folder

# What an episode's score depends on; the other settings of `evaluation` only say when and how fast.
PROTOCOL = (
    "episodes", "agent_steps", "epsilon", "sticky", "max_frames", "seed", "rom_dir", "mode",
    "difficulty",
)  # fmt: skip


class Task(NamedTuple):
    """Everything that scores depend on.

    Attributes:
      step: of the weights.
      weights: as `weights_checksum`.
      games: names.
      protocol: as `protocol_of`.
    """

    step: int
    weights: str
    games: tuple[str, ...]
    protocol: dict[str, Any]

    def key(self) -> dict[str, Any]:
        """All of it, ready for JSON, without settings that only say when and how fast to play."""
        # With the number of environments a call's shape changes, and so may a value's last bit.
        protocol = {**relevant(self.protocol), "envs_per_game": self.protocol["envs_per_game"]}
        return {**self._asdict(), "games": list(self.games), "protocol": protocol}


def evaluate(
    config: Config,
    policy: Policy,
    network: tf.keras.Model,
    directory: Path,
    task: Task,
    *,
    should_stop: Callable[[], bool],
    insist: bool = True,
    newest: bool = True,
) -> dict[str, Any]:
    """Plays full episodes and writes `scores/<step>.json` and `scores.json`.

    Episodes are kept in `scores/<step>.unfinished.jsonl` until all are over. A call with the same
    protocol, weights and games goes on with them.

    Args:
      config: the run's, to note beside the scores.
      policy: what plays.
      network: what it acts by, whose weights are counted.
      directory: for the scores.
      task: what to play, and how.
      should_stop: asked before every step.
      insist: as `journal.kept`.
      newest: whether `scores.json` is to hold these.

    Returns:
      The summary, as `summary.summarise`.

    Raises:
      KeyboardInterrupt: where it should stop; no scores are written then.
    """
    protocol, target = task.protocol, folder.scores_of(directory, task.step)
    with journal.kept(folder.unfinished_of(target), task.key(), insist=insist) as known:
        played = rollout.play(
            policy,
            [rollout.GameVariant(game, protocol["mode"], protocol["difficulty"])
             for game in task.games],
            finished=known.finished,
            note=known.note,
            should_stop=should_stop,
            **{name: protocol[name] for name in
               ("episodes", "agent_steps", "envs_per_game", "epsilon", "sticky", "seed",
                "max_frames", "rom_dir")},
        )  # fmt: skip
        parameters = dict(zip(("trunk", "heads"), build.parameters_of(network)))
        run = {"label": build.kind(config).label, "step": task.step, "weights": task.weights,
               "parameters": parameters,
               "config": settings.to_dict(config)}  # fmt: skip
        for to in (target, *[directory / folder.SCORES] * newest):
            score_files.write(to, played, protocol, run)
    return summary.summarise(played)


def known(directory: Path, task: Task, newest: bool = True) -> dict[str, Any] | None:
    """The summary of this very task's scores, if the folder holds them.

    Args:
      directory: of the scores.
      task: as for `evaluate`.
      newest: whether `scores.json` is to hold them, too.
    """
    try:
        found = score_files.read(folder.scores_of(directory, task.step))
        if newest and score_files.read(directory / folder.SCORES).run != found.run:
            return None
    except UserError:
        return None
    played = {score.game for score in found.episodes}
    is_same = (found.run.get("weights"), played, relevant(found.protocol)) == (
        task.weights, set(task.games), relevant(task.protocol),
    )  # fmt: skip
    return found.summary if is_same else None


def relevant(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a protocol that scores depend on."""
    return {name: protocol.get(name) for name in PROTOCOL}


def protocol_of(config: Config, episodes: int | None = None) -> dict[str, Any]:
    """How an evaluation of this configuration plays; of `episodes` and `agent_steps` one is None.

    Args:
      config: the run's.
      episodes: a game, in place of what the configuration says.
    """
    chosen = config.evaluation
    if episodes is None and chosen.agent_steps is None:
        episodes = chosen.episodes
    agent_steps = chosen.agent_steps if episodes is None else None
    return {**vars(chosen), "episodes": episodes, "agent_steps": agent_steps}


def weights_checksum(network: tf.keras.Model) -> str:
    """A checksum of the weights, in hexadecimal."""
    checksum = 0
    for variable in network.variables:
        checksum = zlib.crc32(variable.numpy().tobytes(), checksum)
    return f"{checksum:08x}"


def scalars(summary: dict[str, Any]) -> dict[str, float]:
    """An evaluation as flat scalars for the logs."""
    flat = {f"evaluation/score/{name}": row["mean"] for name, row in summary["games"].items()}
    for kind in ("human_normalised", "dqn_normalised"):
        for statistic in aggregate.AGGREGATES:
            if statistic in summary[kind]:
                flat[f"evaluation/{kind}/{statistic}"] = summary[kind][statistic]["value"]
    return flat
