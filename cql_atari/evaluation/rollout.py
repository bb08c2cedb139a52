"""Plays full evaluation episodes: all games and environments abreast, one network call a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cql_atari.core import games as game_table
from cql_atari.core.types import (
    FRAME_SHAPE,
    NUM_ACTIONS,
    STACK,
    EpisodeScore,
    Observation,
    Policy,
    UserError,
)
from cql_atari.envs.atari import VectorEnv, make_vector


class GameVariant(NamedTuple):
    """A game, with the mode and difficulty of its console switches (None: the game's default)."""

    game: str
    mode: int | None = None
    difficulty: int | None = None


def play(
    policy: Policy,
    games: Sequence[GameVariant],
    *,
    episodes: int,
    envs_per_game: int,
    epsilon: float = 0.001,
    sticky: float = 0.0,
    seed: int,
    max_frames: int = 108_000,
    rom_dir: str | Path | None = None,
    progress: bool = True,
) -> list[EpisodeScore]:
    """Plays `episodes` full episodes of each game (method section 5).

    The number of episodes of each environment is fixed beforehand and every one of them counts.
    Taking the first `episodes` to finish would favour short ones. The price: an environment that
    is done idles until its game's last one is.

    The action is the argmax over the game's minimal set (the lowest index on a tie) or, with
    probability `epsilon`, uniform over that set. Its generator depends on the seed and the game
    only, so a game's scores don't depend on which others are played beside it. With `sticky` 0
    epsilon is the only source of chance: intervals over episodes then measure little else.

    Args:
      policy: sees the games by their positions in `games`. The number of rows is constant until
        games end; then the number of games is padded to a power of two (zero frames, results
        ignored), which bounds retracing.
      games: what to play; the same game may occur repeatedly.
      episodes: episodes a game.
      envs_per_game: environments stepped together, at most `episodes` of them.
      epsilon: probability of a random action, drawn at every agent step.
      sticky: probability that the console repeats the previous action.
      seed: environment i of each game has seed `seed + i`.
      max_frames: emulator frames after which an episode is cut (and says `truncated`).
      rom_dir: folder of ROM files to use in place of ale-py's.
      progress: whether to show a progress bar with an ETA.

    Returns:
      The scores (undiscounted sums of raw rewards), ordered by game, environment, nth.

    Raises:
      UserError: for impossible arguments, unknown games, or values that are not finite.
    """
    _check(games, episodes, envs_per_game, epsilon, seed)
    num_envs = min(envs_per_game, episodes)
    tables = []
    for variant in games:
        envs = make_vector(
            variant.game, num_envs, seed=seed, sticky=sticky, mode=variant.mode,
            difficulty=variant.difficulty, rom_dir=rom_dir, max_frames=max_frames,
        )  # fmt: skip
        tables.append(_Table(variant.game, envs, seed, epsilon, _quotas(episodes, num_envs)))

    active = list(range(len(tables)))
    names = list(dict.fromkeys(variant.game for variant in games))
    title = f"evaluation of {names[0] if len(names) == 1 else f'{len(names)} games'}"
    total = episodes * len(tables)
    with tqdm(total=total, desc=title, unit="episode", disable=not progress) as bar:
        while active:
            seen = _batch(tables, active)
            values = np.asarray(policy(seen))
            if values.shape != (len(seen.frames), NUM_ACTIONS):
                raise ValueError(
                    f"the policy returned {values.shape}, not {(len(seen.frames), NUM_ACTIONS)}"
                )
            for i, rows in zip(active, values.reshape(-1, num_envs, NUM_ACTIONS)):
                bar.update(tables[i].step(rows))
            active = [i for i in active if not tables[i].done]
    return [score for table in tables for score in sorted(table.finished, key=_by_seed_and_index)]


def fixed_actions(actions: Sequence[int]) -> Policy:
    """The policy that always takes `actions[i]` in the i-th game played.

    Args:
      actions: full 18-action indices, each in its game's minimal set.
    """
    table = np.eye(NUM_ACTIONS, dtype=np.float32)[list(actions)]
    return lambda seen: np.repeat(table[seen.games], len(seen.frames) // len(seen.games), axis=0)


def uniform_random(seed: int = 0) -> Policy:
    """The policy that is uniform over each game's minimal set, whatever epsilon is."""
    generator = np.random.default_rng(seed)
    return lambda seen: generator.random((len(seen.frames), NUM_ACTIONS), np.float32)


def best_fixed_action(
    variant: GameVariant,
    *,
    episodes: int,
    seed: int,
    trial_episodes: int = 2,
    trial_max_frames: int = 6_000,
    **options: Any,
) -> tuple[int, list[EpisodeScore]]:
    """The strongest policy that never looks at the screen and never changes its action.

    Every action of the minimal set plays `trial_episodes`, cut after `trial_max_frames` emulator
    frames. The one with the highest mean then plays `episodes` fresh ones with other seeds. Only
    these are returned: the trials chose the winner, so their mean would be biased upwards. On a
    tie the shorter trial wins: in Breakout FIRE loses its balls, NOOP waits for the frame cap.

    Args:
      variant: the game.
      episodes: episodes of the winner.
      seed: as for `play`; the winner's seeds start at `seed`, the trials' 1,000,000 above.
      trial_episodes: episodes of each action in the trial.
      trial_max_frames: cap of the trial's episodes.
      **options: further arguments of `play`.

    Returns:
      (the action's full index, its fresh episodes).
    """
    candidates = game_table.spec(variant.game).actions
    trial_options = {**options, "max_frames": trial_max_frames}
    trials = play(
        fixed_actions(candidates), [variant] * len(candidates), episodes=trial_episodes,
        seed=seed + 1_000_000, **trial_options,
    )  # fmt: skip
    grades = np.reshape([(t.score, -t.length) for t in trials], (len(candidates), -1, 2)).mean(1)
    winner = max(zip(grades.tolist(), candidates), key=lambda pair: pair[0])[1]
    fresh = play(fixed_actions([winner]), [variant], episodes=episodes, seed=seed, **options)
    return winner, fresh


class _Table:
    """One game's environments and what is known of the episodes under way in them."""

    def __init__(
        self, game: str, envs: VectorEnv, seed: int, epsilon: float, quotas: np.ndarray
    ) -> None:
        self.finished: list[EpisodeScore] = []
        self.seen = Observation.first(envs.reset(), ())  # the games are the caller's to say
        self._game, self._envs, self._seed, self._epsilon = game, envs, seed, epsilon
        self._actions = np.sort(game_table.to_full_actions(game))
        self._generator = np.random.default_rng([seed, *game.encode()])
        self._quotas = quotas  # int [E], episodes still to finish
        self._resetting = np.zeros(len(quotas), bool)
        self._scores = np.zeros(len(quotas))
        self._lengths = np.zeros(len(quotas), int)
        self._counts = np.zeros((len(quotas), NUM_ACTIONS), int)

    @property
    def done(self) -> bool:
        return not self._quotas.any()

    def step(self, values: np.ndarray) -> int:
        """Steps every environment once, by values [E, 18]; returns how many episodes ended."""
        actions = self._choose(values)
        # The step after an end only resets: its action is ignored and nothing of it counts.
        live = ~self._resetting & (self._quotas > 0)
        stacks, rewards, terminals, truncations = self._envs.step(actions)
        self.seen = self.seen._replace(
            frames=stacks,
            begins=self._resetting,
            actions=np.where(self._resetting, 0, actions),
            rewards=np.where(self._resetting, 0, rewards).astype(np.float32),
        )
        self._scores += np.where(live, rewards, 0)
        self._lengths += live
        self._counts[live, actions[live]] += 1
        self._resetting = terminals | truncations
        ended = np.flatnonzero(live & self._resetting)
        for row in ended:
            self._finish(row, truncated=not terminals[row])
        return len(ended)

    def _choose(self, values: np.ndarray) -> np.ndarray:
        """int32 [E]: epsilon-greedy within the minimal set."""
        allowed = values[:, self._actions]
        if not np.isfinite(allowed).all():
            raise UserError(
                f"the policy's values for {self._game} are not finite; the network has diverged: "
                "evaluate an earlier checkpoint"
            )
        explore = self._generator.random(len(values)) < self._epsilon
        random = self._generator.integers(len(self._actions), size=len(values))
        return self._actions[np.where(explore, random, allowed.argmax(1))]

    def _finish(self, row: int, truncated: bool) -> None:
        seed = self._seed + int(row)
        self.finished.append(
            EpisodeScore(
                game=self._game,
                score=float(self._scores[row]),
                length=int(self._lengths[row]),
                truncated=truncated,
                seed=seed,
                nth=sum(score.seed == seed for score in self.finished),
                mode=self._envs.mode,
                difficulty=self._envs.difficulty,
                rom_md5=self._envs.rom_md5,
                action_counts=tuple(self._counts[row].tolist()),
            )
        )
        self._quotas[row] -= 1
        self._scores[row] = self._lengths[row] = self._counts[row] = 0


def _quotas(episodes: int, num_envs: int) -> np.ndarray:
    """int [E]: episodes of each environment, together exactly `episodes`, as even as can be."""
    return episodes // num_envs + (np.arange(num_envs) < episodes % num_envs)


def _batch(tables: Sequence[_Table], active: Sequence[int]) -> Observation:
    """Joins what the active games show, padded with zeros to min(all, a power of two) games."""
    rows = len(tables[0].seen.frames)
    padding = min(len(tables), 1 << (len(active) - 1).bit_length()) - len(active)
    empty = Observation.first(np.zeros((padding * rows, STACK, *FRAME_SHAPE), np.uint8), ())
    seen = [*(tables[i].seen for i in active), empty]
    games = np.array([*active, *[active[0]] * padding], np.int32)
    environments = np.repeat([*active, *[-1] * padding], rows) * rows + np.tile(
        np.arange(rows), len(active) + padding
    )
    joined = Observation(*map(np.concatenate, zip(*seen)))
    return joined._replace(games=games, environments=np.maximum(environments, -1).astype(np.int32))


def _by_seed_and_index(score: EpisodeScore) -> tuple[int, int]:
    return score.seed, score.nth


def _check(
    games: Sequence[GameVariant], episodes: int, envs_per_game: int, epsilon: float, seed: int
) -> None:
    if not games:
        raise UserError("no games to evaluate; name at least one, e.g. Breakout")
    for variant in games:
        game_table.spec(variant.game)
    for name, value, least in (("episodes", episodes, 1), ("envs_per_game", envs_per_game, 1),
                               ("seed", seed, 0)):  # fmt: skip
        if value < least:
            raise UserError(f"{name} is {value}; it must be at least {least}")
    if not 0 <= epsilon <= 1:
        raise UserError(f"epsilon is {epsilon}; it is a probability, from 0 to 1")
