"""Recorded configurations, flat: which runs differ by seed only, and by what others differ."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cql_atari.core import settings as settings_lib

SEED = "train.seed"
# Paths. Runs whose paths differ only by the seed in them count as one configuration.
_PLACES = ("data.dir", "data.exclude", "feed.cache_dir", "start.encoder_from")


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"feed.n_step": 3, ...} of a recorded configuration, whatever version wrote it.

    Raises:
      ValueError: where it isn't sections of values.
    """
    if not all(isinstance(part, Mapping) for part in config.values()):
        raise ValueError("a configuration is sections of values")
    return {f"{s}.{name}": value for s, part in config.items() for name, value in part.items()}


def of_the_paper() -> dict[str, Any]:
    """The configuration of gin_configs/multigame.gin: every setting has its default."""
    return flat(json.loads(json.dumps(dataclasses.asdict(settings_lib.Config()))))


def same_but_seed(seeds: Sequence[int], settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Which runs differ by their seed only.

    Args:
      seeds: of each run.
      settings: of each run, flat; `train.seed` among them is ignored. One that an older version
        didn't have counts as its default.

    Returns:
      The positions of each group's runs, in order of first appearance. A seed in a path
      (`runs/1/data` of seed 1) is no difference.
    """
    used: dict[tuple[str, Any], set[int]] = {}  # seeds that have this path in common
    for seed, one in zip(seeds, settings):
        for name in _PLACES:
            used.setdefault((name, one.get(name)), set()).add(seed)
    groups, defaults = dict[str, list[int]](), of_the_paper()
    for number, (seed, one) in enumerate(zip(seeds, settings)):
        rest = {**defaults, **one, SEED: None}
        for name in _PLACES:
            if isinstance(path := one.get(name), str) and len(used[name, path]) == 1:
                rest[name] = "/".join(without_seed(Path(path), seed))
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(number)
    return list(groups.values())


def without_seed(path: Path, seed: int | None) -> tuple[str, ...]:
    """The parts of a path without the seed, which may end a part or be one: ("runs", "agent") for
    runs/3/agent, runs/agent_3 and runs/agent/train.seed=3 with seed 3. The last one counts. The end
    of a number (0.3, 1e-3) is no seed.
    """
    ending = re.compile(rf"(^|[_,]|(?<![0-9])\.|(?<![0-9]e)-|[-_,.]?(train\.)?seed[-_=]?){seed}$")
    parts = list(path.parts)
    for place in reversed(range(len(parts))):
        if ending.search(parts[place]):
            parts[place] = ending.sub("", parts[place])
            break
    return tuple(part for part in parts if part)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of settings that aren't the same in all."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [n for n in names if len({json.dumps(one.get(n)) for one in settings}) > 1]
