"""Acts with the current policy, writes transitions to the online replay, and counts frames."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
import reverb

from cql_atari.core import games
from cql_atari.core.settings import Config, Online
from cql_atari.core.types import FRAME_SKIP, Policy
from cql_atari.envs import atari, vector_acting
from cql_atari.envs.vector_acting import VectorStep
from cql_atari.feed.online import pace
from cql_atari.feed.online.replay import Writer


class Tally:
    """Counts of what all actors have done; any thread may add to them.

    Attributes:
      frames: emulator frames since the run began, 4 an agent step; resets don't count.
      record: called with every step of an actor in this process.
    """

    def __init__(self, frames: int):
        self.frames = frames
        self.record: Callable[[VectorStep], None] = lambda step: None
        self._scores: list[float] = []
        self._lock = threading.Lock()

    def add(self, frames: int, scores: Sequence[float]) -> None:
        """Counts emulator frames, and raw scores of episodes that ended."""
        with self._lock:
            self.frames += frames
            self._scores += scores

    def take_scores(self) -> list[float]:
        """Raw scores of the episodes that ended since the last call."""
        with self._lock:
            scores, self._scores = self._scores, []
        return scores

    def scalars(self, online: Online) -> dict[str, float]:
        """Scalars of the acting since the last log line."""
        scores, frames = self.take_scores(), self.frames
        scalars = {
            "online/frames": frames,
            "online/epsilon": pace.epsilon(online, frames),
            "online/episodes": len(scores),
        }
        return scalars | ({"online/episode_score": float(np.mean(scores))} if scores else {})


def act(
    config: Config,
    address: str,
    policy: Policy,
    *,
    frames: Callable[[], int],
    report: Callable[[int, list[float]], None],
    seed: Sequence[int],
    should_stop: Callable[[], bool],
    budget: float = math.inf,
    record: Callable[[VectorStep], None] = lambda step: None,
) -> None:
    """Acts until told to stop, or until another step of all copies would exceed the budget.

    Args:
      config: the run's.
      address: of the replay.
      policy: scores of the actions.
      frames: what the run has acted so far, in emulator frames; epsilon follows from it.
      report: called at every step with its frames and the raw scores of episodes that ended.
      seed: of the consoles and the random actions.
      should_stop: asked before every step and while the replay makes the actor wait.
      budget: in emulator frames.
      record: called with every step, before its transitions are written.
    """
    online, (game,) = config.online, config.data.games
    rng = np.random.default_rng(seed)
    envs = atari.make_vector(
        game, online.num_envs, seed=int(rng.integers(2**31 - online.num_envs)),
        sticky=online.sticky, mode=online.mode, difficulty=online.difficulty,
        rom_dir=config.evaluation.rom_dir,
    )  # fmt: skip
    choose = vector_acting.epsilon_greedy(
        policy, lambda: pace.epsilon(online, frames()), games.spec(game).actions, rng
    )
    client = reverb.Client(address)
    writers = [Writer(client, config.feed.n_step, config.feed.discount)
               for _ in range(online.num_envs)]  # fmt: skip
    scores = np.zeros(online.num_envs)
    steps = vector_acting.act(envs, choose)
    try:
        while not should_stop() and frames() + FRAME_SKIP * online.num_envs <= budget:
            step = next(steps)
            ended = step.terminals | step.truncations
            scores += step.rewards
            report(FRAME_SKIP * int(step.live.sum()), scores[ended].tolist())
            scores[ended] = 0
            record(step)
            for k in np.flatnonzero(step.live):
                writers[k].add(
                    step.frames[k], step.actions[k], np.clip(step.rewards[k], -1, 1),
                    step.terminals[k], step.truncations[k],
                )  # fmt: skip
            for writer in writers:
                writer.flush(should_stop)
        for writer in writers:
            writer.flush(should_stop, pending=0)
    finally:
        for writer in writers:
            writer.close()
