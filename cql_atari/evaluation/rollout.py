"""Plays full evaluation episodes: all games side by side, environments while the network computes.

A network's outputs for a frame can differ in their last bits with the size of the batch. Here every
call has the same shape, whatever is left to play. So a score is a function of the seed, the game
and the episode's number alone, and an interrupted evaluation ends with the same scores.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cql_atari.core import games as game_table
from cql_atari.core.types import (
    FRAME_SHAPE,
    FRAME_SKIP,
    MAX_FRAMES,
    NUM_ACTIONS,
    STACK,
    EpisodeScore,
    Observation,
    Policy,
    UserError,
)
from cql_atari.envs.atari import make_vector
from cql_atari.evaluation.playing import Game, Line, Seat
from cql_atari.evaluation.schedule import Schedule

ROWS = 32  # of a call, at most: beyond that CPUs gain nothing
RUN = 8  # rows of a call that share a game, at most


class GameVariant(NamedTuple):
    """A game, with the mode and difficulty of its console switches (None: the game's default)."""

    game: str
    mode: int | None = None
    difficulty: int | None = None


def play(
    policy: Policy,
    games: Sequence[GameVariant],
    *,
    episodes: int | None = None,
    agent_steps: int | None = None,
    envs_per_game: int,
    epsilon: float = 0.001,
    sticky: float = 0.0,
    seed: int,
    max_frames: int = MAX_FRAMES,
    rom_dir: str | Path | None = None,
    progress: bool = True,
    finished: Sequence[EpisodeScore] = (),
    note: Callable[[EpisodeScore], object] = lambda score: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[EpisodeScore]:
    """Plays full episodes of each game, by the protocol of docs/evaluation.md.

    The action is the argmax over the game's minimal set (the lowest index on a tie) or, with
    probability `epsilon`, uniform over that set. `Schedule` says which episodes count and what
    their randomness depends on. With `sticky` 0 epsilon is the only source of randomness, so
    intervals over episodes measure little else.

    Args:
      policy: finds each game by its name in `policy.games`.
      games: what to play.
      episodes: episodes a game; or
      agent_steps: agent steps a game, as Dopamine counts them: whole episodes, until together they
        reach it.
      envs_per_game: environments of a game that are stepped together, at most.
      epsilon: probability of a random action, drawn at every agent step.
      sticky: probability that the console repeats the previous action.
      seed: episode i of each game has seed `seed + i`.
      max_frames: emulator frames after which an episode is cut (and says `truncated`).
      rom_dir: folder of ROM files to use in place of ale-py's.
      progress: whether to say how far it is.
      finished: episodes of the same evaluation that were played already.
      note: called with the score of every other one as it ends.
      should_stop: asked before every step.

    Returns:
      The scores (undiscounted sums of raw rewards), ordered by game, then number.

    Raises:
      UserError: for impossible arguments, unknown games, games that the policy doesn't know, or
        values that are not finite.
      KeyboardInterrupt: where it should stop.
    """
    _check_games(policy, games)
    _check_numbers(episodes, agent_steps, envs_per_game, epsilon, seed)
    num_envs = min(envs_per_game, episodes or envs_per_game)
    playing = []
    for position, variant in enumerate(games):
        known = {score.seed - seed: score for score in finished if _is_of(score, variant)}
        schedule = Schedule(episodes, agent_steps, known)
        playing.append(
            Game(
                variant.game,
                policy.games.index(variant.game),
                [Seat(position * num_envs + k) for k in range(num_envs)],
                schedule,
                make=functools.partial(
                    make_vector, variant.game, 1, seed=seed, sticky=sticky, mode=variant.mode,
                    difficulty=variant.difficulty, rom_dir=rom_dir, max_frames=max_frames,
                ),
                note=note,
                epsilon=epsilon,
                seed=seed,
            )
        )  # fmt: skip
    run = min(RUN, num_envs)
    shape = (min(-(-len(games) * num_envs // run), ROWS // run), run)
    line = Line(playing, max_frames // FRAME_SKIP) if progress else None
    # Switching a console on takes as long as hundreds of steps: others play meanwhile.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            while active := [game for game in playing if game.results is None]:
                if should_stop():
                    raise KeyboardInterrupt
                _step(policy, active, shape, pool)
                if line:
                    line.show()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if line:
        line.progress.end()
    return [score for game in playing for score in game.results or ()]


def _step(
    policy: Policy, playing: Sequence[Game], shape: tuple[int, int], pool: ThreadPoolExecutor
) -> None:
    """Steps every environment that is ready; one call's step while the next call is computed."""
    for game in playing:
        game.begin(pool)
    calls = _calls(playing, shape)
    if not calls:
        starting = [seat.starting for game in playing for seat in game.seats if seat.starting]
        wait(starting, return_when=FIRST_COMPLETED)
    for runs in calls:
        seen = _observe(runs, shape)
        values = np.asarray(policy(seen))
        if values.shape != (len(seen.frames), NUM_ACTIONS):
            raise ValueError(
                f"the policy returned {values.shape}, not {(len(seen.frames), NUM_ACTIONS)}"
            )
        for (game, seats), rows in zip(runs, values.reshape(*shape, NUM_ACTIONS)):
            game.send(seats, rows[: len(seats)])
    for runs in calls:
        for game, seats in runs:
            game.receive(seats)


_Run = tuple[Game, list[Seat]]


def _calls(playing: Sequence[Game], shape: tuple[int, int]) -> list[list[_Run]]:
    """What is ready: runs of up to shape[1] environments of a game, shape[0] runs a call."""
    runs = []
    for game in playing:
        ready = game.ready()
        runs += [(game, ready[i : i + shape[1]]) for i in range(0, len(ready), shape[1])]
    return [runs[i : i + shape[0]] for i in range(0, len(runs), shape[0])]


def _observe(runs: Sequence[_Run], shape: tuple[int, int]) -> Observation:
    """What the environments show; rows that only fill up the call are zeros."""
    rows = shape[0] * shape[1]
    seen = Observation(
        frames=np.zeros((rows, STACK, *FRAME_SHAPE), np.uint8),
        games=np.full(shape[0], runs[0][0].head, np.int32),
        environments=np.full(rows, -1, np.int32),
        episodes=np.zeros(rows, np.int32),
        begins=np.ones(rows, bool),
        actions=np.zeros(rows, np.int32),
        rewards=np.zeros(rows, np.float32),
    )
    for i, (game, seats) in enumerate(runs):
        seen.games[i] = game.head
        for row, seat in enumerate(seats, i * shape[1]):
            seen.frames[row] = seat.frames
            seen.environments[row] = seat.environment
            seen.episodes[row] = seat.episode
            seen.begins[row] = seat.begins
            seen.actions[row] = 0 if seat.begins else seat.action
            seen.rewards[row] = seat.reward
    return seen


def _is_of(score: EpisodeScore, variant: GameVariant) -> bool:
    asked = (variant.game, variant.mode, variant.difficulty)
    played = (score.game, score.mode, score.difficulty)
    return all(a in (None, b) for a, b in zip(asked, played))


def _check_games(policy: Policy, games: Sequence[GameVariant]) -> None:
    if not games:
        raise UserError("no games to evaluate; name at least one, e.g. Breakout")
    for variant in games:
        game_table.spec(variant.game)
        if variant.game not in policy.games:
            raise UserError(
                f"the policy doesn't know {variant.game}; it knows {', '.join(policy.games)}"
            )


def _check_numbers(
    episodes: int | None, agent_steps: int | None, envs_per_game: int, epsilon: float, seed: int
) -> None:
    if (episodes is None) == (agent_steps is None):
        raise UserError(
            f"episodes is {episodes} and agent_steps is {agent_steps}; give exactly one of them"
        )
    for name, value, least in (("episodes", episodes, 1), ("agent_steps", agent_steps, 1),
                               ("envs_per_game", envs_per_game, 1), ("seed", seed, 0)):  # fmt: skip
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; it must be at least {least}")
    if not 0 <= epsilon <= 1:
        raise UserError(f"epsilon is {epsilon}; it is a probability, from 0 to 1")
