"""The steps of a store's episodes that can be drawn, and their numbers.

A store keeps whole episodes, whatever is drawn from them: transitions of any n, or windows of any
length. Its transitions are numbered game by game, episode by episode, step by step, so that a draw
is a number below a game's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import Extent, UserError
from cql_atari.feed.transitions import LEAD


class Episodes(NamedTuple):
    """The episodes of a store, game by game.

    Attributes:
      games: the games' names, in the order of `Batch.games`.
      counts: int64 [games], episodes of each.
      steps: int64 [E], of each episode.
      terminal: bool [E], whether the game ended after the last step.
      starts: bool [E], whether the first step is the game's first.
    """

    games: tuple[str, ...]
    counts: np.ndarray
    steps: np.ndarray
    terminal: np.ndarray
    starts: np.ndarray

    @property
    def firsts(self) -> np.ndarray:
        """int64 [E], the number of steps in all episodes before each."""
        return np.cumsum(self.steps) - self.steps


class Positions(NamedTuple):
    """Steps that may be drawn.

    Attributes:
      lows: int64 [E], the first of each episode.
      ends: int64 [E], how many there are up to the end of each episode.
      sizes: int64 [games], how many each game has.
    """

    lows: np.ndarray
    ends: np.ndarray
    sizes: np.ndarray

    def find(self, games: np.ndarray, nth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The (episode, step) of the nth of each game; nth int64 [...] below `sizes[games]`."""
        number = (np.cumsum(self.sizes) - self.sizes)[games] + nth
        episode = np.searchsorted(self.ends, number, side="right")
        before = np.where(episode > 0, self.ends[episode - 1], 0)
        return episode, self.lows[episode] + number - before


def episodes(extents: Mapping[str, Iterable[Extent]]) -> Episodes:
    """The table of the episodes of each game; games in the order of `Batch.games`."""
    each = {game: list(mine) for game, mine in extents.items()}
    every = [extent for mine in each.values() for extent in mine]
    return Episodes(
        tuple(each),
        np.array([len(mine) for mine in each.values()], np.int64),
        np.array([extent.steps for extent in every], np.int64),
        np.array([extent.terminal for extent in every], bool),
        np.array([extent.starts for extent in every], bool),
    )


def transitions(table: Episodes, n_step: int) -> Positions:
    """The steps t whose states t and t + n are known, as `transitions.pad` marks them.

    Raises:
      UserError: if a game has none.
    """
    lows = np.where(table.starts, 0, LEAD)
    highs = table.steps - np.where(table.terminal, 0, n_step)
    found = _positions(table, lows, highs)
    if empty := _names(table, found.sizes == 0):
        raise UserError(
            f"no transition of {empty} in the data ({n_step=}): give files with episodes longer "
            f"than {n_step} steps, or leave the game out."
        )
    return found


def windows(table: Episodes, length: int) -> Positions:
    """The last steps of windows of `length` steps whose returns to go are known.

    Only in an episode that was recorded to the game's end: what an episode that the recording cuts
    would still have won isn't known, so none of its windows is drawn. A window may begin before the
    game's first step (it is padded there), but not before a fragment's, where steps are missing.

    Raises:
      UserError: if a game has none, or only episodes that are shorter than a window.
    """
    steps = np.where(table.terminal, table.steps, 0)
    longest = [mine.max(initial=0) for mine in np.split(steps, np.cumsum(table.counts)[:-1])]
    if empty := _names(table, np.array(longest) < length):
        raise UserError(
            f"no window of {length} steps of {empty} in the data: no episode that was recorded to "
            "its end is as long. Give more files, leave the game out, or set a shorter window."
        )
    return _positions(table, np.where(table.starts, 0, length - 1), steps)


def _positions(table: Episodes, lows: np.ndarray, highs: np.ndarray) -> Positions:
    ends = np.cumsum(np.maximum(highs - lows, 0))
    at_game_ends = np.concatenate([[0], ends])[np.cumsum(table.counts)]
    return Positions(lows.astype(np.int64), ends, np.diff(at_game_ends, prepend=0))


def _names(table: Episodes, chosen: np.ndarray) -> str:
    """The games that a mask chooses, with commas between."""
    return ", ".join(game for game, is_chosen in zip(table.games, chosen) if is_chosen)
