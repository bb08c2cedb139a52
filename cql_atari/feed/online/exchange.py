"""What learner and actors in other processes exchange in Reverb: configuration, weights, scores.

Everything is arrays and JSON; nothing that is received is executed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import reverb

from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.settings_check import from_json
from cql_atari.core.types import UserError
from cql_atari.feed import tables
from cql_atari.feed.online.replay import TRANSITIONS

ANSWER_SECONDS = 20  # a learner that doesn't answer for so long is gone
_CONFIG, _WEIGHTS, _SCORES = "config", "weights", "scores"
_FINISHED = -1  # instead of a number of frames
_MOST_SCORES = 100_000  # that wait for the learner


def make_tables() -> list[reverb.Table]:
    """The tables that remote actors need beside the transitions."""
    newest = [tables.newest(name) for name in (_CONFIG, _WEIGHTS)]
    return [*newest, reverb.Table.queue(_SCORES, _MOST_SCORES)]


class LearnerEnd:
    """The learner's side.

    Args:
      address: of the replay.
      config: that actors get.
    """

    def __init__(self, address: str, config: Config):
        self._client = reverb.Client(address)
        tables.put_text(self._client, _CONFIG, json.dumps(settings.to_dict(config)))

    def publish(self, weights: Sequence[np.ndarray], frames: int) -> None:
        """Replaces the weights that actors act with."""
        _write(self._client, _WEIGHTS, [np.array(frames), *weights])

    def finish(self) -> None:
        """Tells actors that the run has finished."""
        _write(self._client, _WEIGHTS, [np.array(_FINISHED)])

    def inserted(self) -> int:
        """Transitions that have arrived so far."""
        table = self._client.server_info()[TRANSITIONS]
        return table.rate_limiter_info.insert_stats.completed

    def take_scores(self) -> list[float]:
        """Raw scores of the episodes that ended since the last call."""
        size = self._client.server_info()[_SCORES].current_size
        if not size:
            return []
        return [float(step.data[0]) for item in self._client.sample(_SCORES, size) for step in item]


class ActorEnd:
    """An actor's side.

    Args:
      address: HOST:PORT of the learner's replay.
    """

    def __init__(self, address: str):
        self.address = address
        self._client = reverb.Client(address)

    def config(self) -> Config:
        """The run's configuration.

        Raises:
          UserError: where no learner of this version answers.
        """
        self.check()
        text = tables.get_text(self._client, _CONFIG)
        return from_json(text, f"the configuration of {self.address}")

    def weights(self) -> tuple[int, list[np.ndarray]] | None:
        """(frames acted when they were published, the newest weights); None: it has finished."""
        self.check()
        (item,) = self._client.sample(_WEIGHTS, emit_timesteps=False)
        frames, *weights = item.data
        return None if frames == _FINISHED else (int(frames), weights)

    def report(self, scores: Sequence[float]) -> None:
        """Tells the learner the scores of episodes that ended."""
        for score in scores:
            self._client.insert([np.float64(score)], {_SCORES: 1.0})

    def check(self) -> None:
        """Raises a UserError if the learner is gone."""
        try:
            found = self._client.server_info(timeout=ANSWER_SECONDS)
        except (RuntimeError, reverb.errors.ReverbError) as error:
            raise UserError(
                f"no learner answers at {self.address} (waited up to {ANSWER_SECONDS} s). Start "
                "it, or give --learner the address that it shows."
            ) from error
        if not found.keys() >= {_CONFIG, _WEIGHTS, _SCORES, TRANSITIONS}:
            raise UserError(
                f"{self.address} serves {', '.join(sorted(found)) or 'nothing'}: no learner of "
                "online.actors = 'remote'."
            )


def _write(client: reverb.Client, table: str, columns: Sequence[np.ndarray]) -> None:
    writer = client.trajectory_writer(num_keep_alive_refs=1)
    names = [f"{k:05d}" for k in range(len(columns))]
    writer.append(dict(zip(names, columns)))
    writer.create_item(table, 1.0, {name: writer.history[name][-1] for name in names})
    writer.flush()
    writer.close()
