"""How far acting and learning may be apart: the bounds of the online replay's rate limiter.

Beside `pace`, which needs the settings, so that no chain of imports grows too long.
"""

from __future__ import annotations

from typing import NamedTuple

PENDING = 8  # transitions that a writer may be ahead of the table
IN_FLIGHT = 32  # draws that a reader may be ahead of its batches


class Pace(NamedTuple):
    """What the replay's rate limiter allows, by its own counts since this process of the run began.

    Attributes:
      samples_per_insert: how often a transition is drawn, on average.
      first_fill: transitions that are there before the first is drawn.
      allowed: bounds of samples_per_insert * inserted - drawn; the side that is ahead waits there.
    """

    samples_per_insert: float
    first_fill: int
    allowed: tuple[float, float]
