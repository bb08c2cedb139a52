"""The choices or the range of a parameter, written where the parameter is declared.

`settings` declares parameters with `choice` and `number`; `settings_check` reads the metadata.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included; without `low` itself if `above`."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, (int, float))
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'greater than' if self.above else 'at least'} {self.low}"
        return f"{'above' if self.above else 'from'} {self.low} {'up ' * self.above}to {self.high}"


def choice(default: str, *others: str, meant: Mapping[str, str] | None = None) -> str:
    """A field that takes one of these names.

    Args:
      default: the first choice.
      others: the other choices.
      meant: other names that people try, with the choice that they mean.
    """
    metadata = {"choices": (default, *others), "meant": meant or {}}
    return dataclasses.field(default=default, metadata=metadata)


def number(
    default: T, low: float, high: float = math.inf, *, above: bool = False, per_call: bool = False
) -> T:
    """A field that takes a number, a tuple of numbers, or None where its type says so.

    Args:
      default: its default.
      low: least value, of each number in a tuple.
      high: greatest value.
      above: `low` itself isn't allowed.
      per_call: whether it must be a multiple of train.steps_per_call.
    """
    metadata: dict[str, Any] = {"range": Range(low, high, above), "per_call": per_call}
    return dataclasses.field(default=default, metadata=metadata)
