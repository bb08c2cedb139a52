"""One line with the progress of long work and the time that is left.

On a terminal the line is overwritten, at most twice a second; in a log it is a new line, at most
every ten seconds. Lines of nested work overwrite each other: only one is seen at a time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

TERMINAL_SECONDS, LOG_SECONDS = 0.5, 10.0
_CLEAR = "\r\033[K"
Item = TypeVar("Item")


class Progress:
    """The line of one piece of work; writes to standard error. As a context, it ends with it.

    Args:
      title: the line's beginning.
      unit: what is counted, in the plural.
      total: how much there is to do; `show` may correct it.
      done: how much was done before; it doesn't count for the speed.
      clock: seconds.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        total: float,
        *,
        done: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done = total, done
        self._title, self._unit, self._clock = title, unit, clock
        self._began, self._done_before = clock(), done
        self._is_terminal = sys.stderr.isatty()
        self._period = TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS
        self._shown = self._began - (self._period if self._is_terminal else 0)
        self._adding = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def is_due(self) -> bool:
        """Whether `show` would write now; ask first where a note is costly to make."""
        return self._clock() - self._shown >= self._period

    def show(self, done: float, note: str = "") -> None:
        """Writes the line, unless it was written a moment ago.

        Args:
          done: all that is done by now.
          note: the line's end.
        """
        self.done = done
        if self.is_due():
            self._shown = self._clock()
            text = self.text(note)
            sys.stderr.write(f"{_CLEAR}{text}" if self._is_terminal else f"{text}\n")
            sys.stderr.flush()

    def add(self, done: float) -> None:
        """Shows what is done with so much more; threads may add at once."""
        with self._adding:
            self.show(self.done + done)

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        sys.stderr.write(f"{_CLEAR if self._is_terminal else ''}{text}\n")
        sys.stderr.flush()

    def pause(self, seconds: float) -> None:
        """Leaves out time that went into something else."""
        self._began += seconds

    def end(self) -> None:
        """Takes the line away from a terminal; what was logged stays."""
        if self._is_terminal:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def text(self, note: str = "") -> str:
        """The line as it would be written now."""
        seconds = max(self._clock() - self._began, 1e-9)
        rate = (self.done - self._done_before) / seconds
        parts = [
            f"{self.done:,.0f} of {self.total:,.0f} {self._unit} ({self._share()})",
            f"{rate:,.3g}/s" if rate < 100 else f"{rate:,.0f}/s",
            f"{duration((self.total - self.done) / rate)} left" if rate else "time left unknown",
        ]
        return f"{self._title}: {', '.join([*parts, *[note] * bool(note)])}"

    def _share(self) -> str:
        return f"{100 * min(1.0, self.done / self.total):.0f} %" if self.total else "-"


def over(items: Sequence[Item], title: str, unit: str) -> Iterator[Item]:
    """The items, and a line with how many are done."""
    with Progress(title, unit, len(items)) as line:
        for item in items:
            yield item
            line.add(1)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
