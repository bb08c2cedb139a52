"""Several players that share a collection's steps: how they are written, and whose turn it is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cql_atari.core.types import UserError

WORST_FIRST, SHUFFLED, IN_TURNS = ORDERS = ("worst_first", "shuffled", "in_turns")
_SYNTAX = (
    "PLAYER*SHARE@EPSILON,EPSILON,...; PLAYER*SHARE@... with shares that sum to 1, for example "
    "'fixed:DOWN*0.75@0.3,0.5; scripted*0.25@0.2'"
)


class Part(NamedTuple):
    """One player of a collection.

    Attributes:
      behaviour: the player's name, as `player_maker` knows it.
      share: of the collection's steps, above 0 and up to 1.
      epsilons: shares of random actions; each of its episodes draws one.
    """

    behaviour: str
    share: float
    epsilons: tuple[float, ...]


def parse_mixture(text: str) -> tuple[Part, ...]:
    """The players in "fixed:DOWN*0.75@0.3,0.5; scripted*0.25@0.2", in this order.

    Raises:
      UserError: where it has another form, or the shares don't sum to 1.
    """
    parts = []
    for piece in text.split(";"):
        match = re.fullmatch(r"\s*(\S.*)\*([^*@]*)@([^*@]*)", piece)
        try:
            if match is None:
                raise ValueError("there must be a player, a share after * and epsilons after @")
            share, epsilons = float(match[2]), tuple(map(float, match[3].split(",")))
            if not 0 < share <= 1:
                raise ValueError(f"the share {share:g} must be above 0 and at most 1")
            if not all(0 <= epsilon <= 1 for epsilon in epsilons):
                raise ValueError("each epsilon must be from 0 to 1")
            if match[1].strip() == "online":
                raise ValueError("online trains as it plays, alone; it can't share a collection")
        except ValueError as error:
            raise UserError(
                f"--mixture: in {piece.strip()!r}, {error}. Write {_SYNTAX}."
            ) from error
        parts.append(Part(match[1].strip(), share, epsilons))
    total = sum(part.share for part in parts)
    if abs(total - 1) > 1e-6:
        raise UserError(f"--mixture={text!r}: the shares sum to {total:g}. Write {_SYNTAX}.")
    return tuple(parts)


def format_mixture(parts: Sequence[Part]) -> str:
    """A mixture as text that `parse_mixture` reads; equal mixtures give equal texts."""
    return "; ".join(
        f"{part.behaviour}*{part.share!r}@{','.join(map(repr, part.epsilons))}" for part in parts
    )


def budgets_of(parts: Sequence[Part], steps: int) -> list[int]:
    """Each part's steps, rounded so that they sum to all."""
    ends = [round(steps * share) for share in itertools.accumulate(part.share for part in parts)]
    return np.diff([0, *ends[:-1], steps]).tolist()


def next_part(
    order: str | None, budgets: list[int], lengths: list[list[int]], rng: np.random.Generator
) -> int:
    """The number of the part that plays the next episode.

    Args:
      order: as the job has it.
      budgets: each part's steps; some are left.
      lengths: of each part, its episodes' lengths so far, in steps.
      rng: asked only where the order is shuffled.
    """
    played = [sum(part) for part in lengths]
    if order != SHUFFLED:
        return int(np.argmax(sum(played) < np.cumsum(budgets)))
    # Players with longer episodes are drawn less often, so that the shares hold at all times.
    usual = sum(played) / max(sum(map(len, lengths)), 1) or 1.0
    weights = np.array([
        budget / (float(np.mean(part)) if part else usual) if done < budget else 0.0
        for budget, part, done in zip(budgets, lengths, played)
    ])  # fmt: skip
    return int(rng.choice(len(weights), p=weights / weights.sum()))
