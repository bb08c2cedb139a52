"""A window that slides over a stream of segments and is drawn from in a shuffled order.

Draws come in periods. A period draws each segment of the window once, in an order that is a pure
function of (seed, game, period). Meanwhile the next segments are read, and at the period's end they
replace the oldest. A segment stays for size / step periods, so it is drawn as often as was asked
for: exactly, where that number divides the size. (The stream's first segments, which are there from
the first period on, are drawn less often.) The seed decides everything, so that drawing can go on
from the place in the stream where a period began.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from cql_atari.feed.replay.interleave import StreamPosition, generator
from cql_atari.feed.replay.segments import ROWS

_STREAM = 3


def draws(
    stream: Iterator[tuple[bytes, StreamPosition]],
    *,
    size: int,
    times: float,
    seed: int,
    game: str,
    period: int,
    note: Callable[[int, int, StreamPosition], None],
) -> Iterator[bytes]:
    """Draws without end, from the first of a period on: a byte, then the segment.

    The byte says which of its rows a reader begins with; it is another one at each draw.

    Args:
      stream: from the period's start in it. If it ends within the first window, that is all there
        is: each period then draws the same segments.
      size: segments of the window.
      times: how often each is drawn.
      seed, game: decide the order.
      period: the first one's number.
      note: called before the first draw of each period with its number, the number of segments in
        the window, and the period's start in the stream.
    """
    window = list(itertools.islice(stream, size))
    step = max(round(size / times), 1) if len(window) == size else 0
    for number in itertools.count(period) if window else ():
        note(number, len(window), window[0][1])
        random = generator(seed, game, number, _STREAM)
        order = random.permutation(len(window))
        turns = random.integers(ROWS, size=len(window), dtype=np.uint8).tobytes()
        fresh: list[tuple[bytes, StreamPosition]] = []
        for nth, drawn in enumerate(order, 1):
            yield turns[drawn : drawn + 1] + window[drawn][0]
            due = nth * step // len(window) - len(fresh)
            fresh += itertools.islice(stream, due)
        window = (window + fresh)[len(fresh) :]
