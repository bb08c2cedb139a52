"""The games: their roles, action sets, reference scores, and normalised scores.

The table `atari_games.csv`, beside this file, holds one row per game: its role (40 `train`,
5 `held_out`), the ordered minimal action set (read from ale-py 0.12.1), random and human scores
(DQN Zoo / Agent57 table: no-op starts, 30-minute cap) and four Dopamine baselines (mean of 5 runs).
VideoPinball's random score is DQN Zoo's 16256.9 (Dopamine's family of code has 0.0).
Carnival and Pooyan have no standard human score.
"""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import NUM_ACTIONS, UserError

ACTION_NAMES = (
    "NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT",
    "UPFIRE", "RIGHTFIRE", "LEFTFIRE", "DOWNFIRE", "UPRIGHTFIRE", "UPLEFTFIRE", "DOWNRIGHTFIRE",
    "DOWNLEFTFIRE",
)  # fmt: skip


class GameSpec(NamedTuple):
    """One row of the table.

    Attributes:
      name: CamelCase name, as in the DQN-Replay bucket.
      role: "train" (the paper's 40), "held_out" (its 5), or "" for other games.
      actions: the minimal action set, in the game's order; DQN-Replay files store indices into it.
      random: score of the random policy, or None.
      human: human score, or None.
      dqn: Dopamine DQN's score at the last iteration (it collected DQN-Replay), or None.
    """

    name: str
    role: str
    actions: tuple[int, ...]
    random: float | None
    human: float | None
    dqn: float | None

    @property
    def rom(self) -> str:
        """ALE's name of the ROM, e.g. `space_invaders`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()


@functools.cache
def table() -> dict[str, GameSpec]:
    """All known games by name, in the table's order."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with open(Path(__file__).with_name("atari_games.csv"), newline="") as file:
        return {
            row["game"]: GameSpec(
                name=row["game"],
                role=row["role"],
                actions=tuple(int(a) for a in row["minimal_action_set"].split()),
                random=number(row["random"]),
                human=number(row["human"]),
                dqn=number(row["dopamine_dqn_last"]),
            )
            for row in csv.DictReader(file)
        }


def training_games() -> tuple[str, ...]:
    """The paper's 40 training games (§4; the list is reconstructed from third parties)."""
    return tuple(name for name, game in table().items() if game.role == "train")


def spec(name: str) -> GameSpec:
    """The row of one game.

    Raises:
      UserError: for an unknown name; names the nearest known ones.
    """
    if name in table():
        return table()[name]
    lower = {known.lower(): known for known in table()}
    near = difflib.get_close_matches(name.lower().replace("_", ""), lower, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else ""
    raise UserError(
        f"unknown game {name!r}; {hint} Names are CamelCase, as in the DQN-Replay bucket; "
        f"there are {len(table())}, from {min(table())} to {max(table())}."
    )


def to_full_actions(game: str) -> np.ndarray:
    """Lookup table int32 [minimal set size]: DQN-Replay action index -> full 18-action index."""
    return np.array(spec(game).actions, np.int32)


def action_mask(games: Sequence[str]) -> np.ndarray:
    """bool [games, 18]: which actions belong to each game's minimal set."""
    mask = np.zeros((len(games), NUM_ACTIONS), bool)
    for row, game in zip(mask, games):
        row[list(spec(game).actions)] = True
    return mask


def human_normalised(game: str, score: float) -> float | None:
    """(score - random) / (human - random), or None where the game has no human score."""
    row = spec(game)
    if row.human is None or row.random is None:
        return None
    return (score - row.random) / (row.human - row.random)


def dqn_normalised(game: str, score: float) -> float | None:
    """(score - random) / (dqn - random), dqn: of Dopamine's DQN at its last iteration.

    An unknown random score counts as 0. None where the game has no DQN score, or one that isn't
    above random play (MontezumaRevenge, PrivateEye): better play would count as worse.
    """
    row = spec(game)
    random = row.random or 0.0
    if row.dqn is None or row.dqn <= random:
        return None
    return (score - random) / (row.dqn - random)
