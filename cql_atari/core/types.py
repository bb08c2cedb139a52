"""The types that the parts of the package share: episodes, batches, policies, scores, UserError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Tensors and arrays share these containers; TensorFlow is not imported here, so that commands
# which need no model answer at once.
Array = Any

STACK = 4  # frames in a state (Mnih et al. 2015; Dopamine's preprocessing)
FRAME_SHAPE = (84, 84)
NUM_ACTIONS = 18  # the console's full action set, shared by every head
FRAME_SKIP = 4  # emulator frames an agent step
MAX_FRAMES = 108_000  # emulator frames after which an episode is cut: half an hour


class UserError(Exception):
    """A mistake of the user's (a path, a name, a value). Commands print it without a traceback.

    The message names the value, the valid choices and what to do.
    """


class Episode(NamedTuple):
    """Consecutive steps of one episode, without padding, whatever the file format.

    Step t holds the frame o_t, the action a_t chosen at o_t and the reward r_t received after it.
    The frame that follows the last step is not recorded.

    Attributes:
      game: CamelCase name, a key of `cql_atari.core.games.table()`.
      frames: uint8 [T, 84, 84], each once (not stacked).
      actions: int32 [T], indices in the full 18-action set.
      rewards: float32 [T], clipped to [-1, 1].
      terminal: whether the game ended after the last step; False where the recording was cut.
      starts: whether frames[0] is the first frame of the game. If not (a fragment that continues
        from an earlier file), steps 0..2 serve as context only: their stacks are not complete.
    """

    game: str
    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminal: bool
    starts: bool = True


class Extent(NamedTuple):
    """An `Episode` without its arrays; enough to count its transitions.

    Attributes:
      steps: T.
      terminal: as in `Episode`.
      starts: as in `Episode`.
      total: sum of the clipped rewards of a whole game; None where the recording holds only a part
        of it, or where the returns weren't counted.
    """

    steps: int
    terminal: bool
    starts: bool
    total: float | None = None


class Batch(NamedTuple):
    """What every feed yields. Feeds put a leading axis K (steps per call) before each shape.

    A row's frames are the state's stack and the n-step successor's, which share frames:
    `frames[:, :4]` is s_t, `frames[:, n:]` is s_{t+n}. Consecutive runs of
    `transitions_per_draw` rows come from the same game (the batch law's draws).

    Attributes:
      frames: uint8 [B, 4 + n, 84, 84], time-major; zeros before an episode's start and after
        its end.
      actions: int32 [B], full 18-action set.
      rewards: float32 [B], n-step returns sum_k gamma^k r_{t+k}, cut at a terminal.
      discounts: float32 [B], gamma^n, or 0 where the episode ended within the n steps.
      games: int32 [B], index into the run's list of games.
    """

    frames: Array
    actions: Array
    rewards: Array
    discounts: Array
    games: Array


class SequenceBatch(NamedTuple):
    """Windows of T consecutive steps of an episode, oldest first; a leading axis K as in `Batch`.

    A window that begins before the episode's first step holds zeros there: frames, actions,
    rewards and returns.

    Attributes:
      frames: uint8 [B, T, 84, 84], one a step.
      actions: int32 [B, T], full 18-action set, chosen at the frame of the same step.
      rewards: float32 [B, T], received after that action; clipped to [-1, 1].
      returns: float32 [B, T], returns to go: the sum of the rewards from this step on to the
        episode's end, undiscounted.
      games: int32 [B], index into the run's list of games.
      mask: bool [B, T], which steps are the episode's; the last one always is.
    """

    frames: Array
    actions: Array
    rewards: Array
    returns: Array
    games: Array
    mask: Array


class Observation(NamedTuple):
    """What a policy sees of N environments; each of D groups of N / D rows shares a game.

    Attributes:
      frames: uint8 [N, 4, 84, 84], newest last; zeros before an episode's start.
      games: int32 [D], positions in the list of games.
      environments: int32 [N], the number of the row's environment, the same at every step; -1 for
        rows that only fill up the batch.
      episodes: int32 [N], the episode's number among those of its game. A policy's random draws
        depend on it, not on the environment, so that an episode can be played alone.
      begins: bool [N], whether an episode begins here.
      actions: int32 [N], the action of the environment's last step, whether the policy or chance
        chose it; 0 where an episode begins.
      rewards: float32 [N], raw, received after that action; 0 where an episode begins.
    """

    frames: Array
    games: Array
    environments: Array
    episodes: Array
    begins: Array
    actions: Array
    rewards: Array

    @classmethod
    def first(cls, frames: Array, games: Array) -> Observation:
        """What is seen where an episode begins in every row; frames and games as above."""
        n = len(frames)
        zeros = np.zeros(n, np.int32)
        numbers = np.arange(n, dtype=np.int32)
        return cls(
            frames, games, numbers, numbers, np.ones(n, bool), zeros, zeros.astype(np.float32)
        )


class Policy(NamedTuple):
    """How to act in some games; `policy(seen)` is `policy.values(seen)`.

    Attributes:
      games: CamelCase names; an observation's `games` are positions here.
      values: observation -> scores [N, 18] of every action: the best of the game's own actions
        is taken, unless exploration draws one. A policy that draws its actions adds Gumbel noise
        to their log-probabilities.
    """

    games: tuple[str, ...]
    values: Callable[[Observation], Array]

    def __call__(self, seen: Observation) -> Array:
        return self.values(seen)


class EpisodeScore(NamedTuple):
    """One evaluation episode.

    Attributes:
      game: CamelCase name.
      score: undiscounted sum of raw (unclipped) rewards.
      length: agent steps (4 emulator frames each).
      truncated: whether the frame cap ended it.
      seed: the console's seed.
      nth: the position of this episode in the sequence played with that seed; 0, except in old
        scores, where several episodes share a seed.
      mode: ALE game mode.
      difficulty: ALE difficulty.
      rom_md5: MD5 of the ROM.
      action_counts: how often the agent chose each of the 18 actions.
    """

    game: str
    score: float
    length: int
    truncated: bool
    seed: int
    nth: int
    mode: int
    difficulty: int
    rom_md5: str
    action_counts: tuple[int, ...]
