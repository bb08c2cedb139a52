"""Opens the feed that a configuration names on the recorded play that was found."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cql_atari.core.settings import Config
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data import sources
from cql_atari.data.sources import Source
from cql_atari.feed import drawing, packed, positions
from cql_atari.feed.feed import Feed
from cql_atari.feed.memory import cache
from cql_atari.feed.memory import store as memory
from cql_atari.feed.replay import reader as replay_reader
from cql_atari.feed.replay import remote, service, writer
from cql_atari.feed.replay.order import Part, Place
from cql_atari.feed.replay.service import Replay
from cql_atari.feed.replay.writer import Writers
from cql_atari.feed.sampling import BatchLaw
from cql_atari.methods.method import Sequences, Transitions
from cql_atari.system.free_memory import free_bytes

_SHARE = 0.8  # of the free memory that the memory feed may take; TensorFlow needs some, too


@contextmanager
def open_feed(
    config: Config,
    found: Sequence[Source],
    start_step: int,
    *,
    reads: Transitions | Sequences,
    state: Mapping[str, Any],
    should_stop: Callable[[], bool],
) -> Iterator[Feed]:
    """The configured feed, for as long as the context lasts.

    Args:
      config: which feed, and the batch law.
      found: the recorded play; unused with `feed.servers`.
      start_step: the learner step of the first batch.
      reads: what the method reads; the replay has transitions only.
      state: what the checkpoint at that step has of the feed, see `Feed`; {}: a new run.
      should_stop: whether to stop loading, or waiting for the replay; called from any thread.

    Raises:
      UserError: if the data don't fit in memory, or as the readers and `replay_remote` do.
      KeyboardInterrupt: if told to stop before the first batch can be drawn.
    """
    feed, seed = config.feed, config.train.seed
    law = BatchLaw(feed.draws, feed.transitions_per_draw)
    steps_per_call = config.train.steps_per_call
    if feed.kind != "replay":
        position = {"seed": seed, "start_step": start_step, "steps_per_call": steps_per_call}
        failures: list[UserError] = []

        def check() -> None:
            if failures:
                raise failures[0]

        with _open_store(config, found, reads, should_stop) as store:
            yield Feed(
                lambda rows: drawing.dataset(
                    store, law, reads, rows=rows, failures=failures, **position
                ),
                check=check,
            )
        return
    if isinstance(reads, Sequences):
        raise UserError(
            f"train.method = {config.train.method!r} reads windows of {reads.length} steps with "
            "their returns to go, which the replay doesn't hold. Set feed.kind to 'packed' (after "
            "python -m cql_atari.tools.pack) or, where the data fit in memory, to 'memory'."
        )
    if feed.servers:
        with remote.open_remote(config, start_step, should_stop) as dataset:
            yield Feed(dataset)
        return
    places = {game: Place(*place) for game, place in state.get("places", {}).items()}
    with open_replay(config, found, places=places) as (replay, writers):
        yield Feed(
            lambda rows: replay_reader.dataset(
                replay,
                law,
                seed=seed,
                start_step=start_step,
                steps_per_call=steps_per_call,
                rows=rows,
                check=writers.check,
                should_stop=should_stop,
            ),
            lambda: {"places": writers.places()},
        )


@contextmanager
def open_replay(
    config: Config,
    found: Sequence[Source],
    *,
    places: Mapping[str, Place],
    port: int = 0,
    record: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Replay, Writers]]:
    """The replay and its writers in this process, for as long as the context lasts.

    Args:
      config: of the tables; `data.games` are their names.
      found: the recorded play.
      places: where the writers go on; those that it lacks begin at the start.
      port, record: as `service.serve`.
    """
    feed = config.feed
    parts: dict[str, list[Part]] = {game: [] for game in config.data.games}
    for source, suffix in _each(found):
        read = functools.partial(sources.read_part, source, suffix)
        parts[source.game].append(Part(read, functools.partial(sources.survey, source, suffix)))
    with (
        service.serve(
            config.data.games,
            n_step=feed.n_step,
            transitions_per_game=feed.transitions_per_game,
            samples_per_insert=feed.samples_per_insert,
            port=port,
            record=record,
        ) as replay,
        writer.stream(
            replay, parts, discount=feed.discount, seed=config.train.seed, places=places
        ) as writers,
    ):
        yield replay, writers


@contextmanager
def _open_store(
    config: Config,
    found: Sequence[Source],
    reads: Transitions | Sequences,
    should_stop: Callable[[], bool],
) -> Iterator[drawing.Store]:
    if config.feed.kind == "memory":
        yield _load_store(config, found, reads, should_stop)
        return
    store = packed.open_packed(config.data.games, found)
    try:
        yield store
    finally:
        store.close()


def _load_store(
    config: Config,
    found: Sequence[Source],
    reads: Transitions | Sequences,
    should_stop: Callable[[], bool],
) -> memory.Store:
    feed = config.feed

    def go_on(value: Any) -> Any:
        if should_stop():
            raise KeyboardInterrupt
        return value

    def make_table() -> positions.Episodes:
        extents: dict[str, list[Extent]] = {game: [] for game in config.data.games}
        for source, suffix in tqdm(_each(found), desc="surveying", unit="file group", delay=2):
            extents[source.game] += go_on(sources.count(source, suffix))
        table = positions.episodes(extents)
        drawing.find(table, reads)  # refuses a game that has none, before all is read
        return table

    def episodes() -> Iterator[Episode]:
        for source, suffix in _each(found):
            yield from map(go_on, sources.read_part(source, suffix))

    if feed.cache_dir is not None:
        return cache.load(
            Path(feed.cache_dir),
            _cache_key(config, found),
            config.data.games,
            make_table=make_table,
            fill=lambda write, table: memory.fill(write, episodes(), table),
            should_stop=should_stop,
        )
    table = make_table()
    if feed.memory_gb is None:
        memory.check_budget(table, _SHARE * free_bytes(), f"{_SHARE:.0%} of what is free")
    else:
        memory.check_budget(table, feed.memory_gb * 1e9, "feed.memory_gb")
    return memory.load(episodes(), table)


def _each(found: Sequence[Source]) -> list[tuple[Source, int]]:
    return [(source, suffix) for source in found for suffix in source.suffixes]


def _cache_key(config: Config, found: Sequence[Source]) -> str:
    """Another one for anything that changes a store; where the sources lie doesn't matter."""
    facts = {
        "version": 4,  # of the store's layout and of what the readers make of the files
        "games": config.data.games,
        "parts": [sources.facts(source, suffix) for source, suffix in _each(found)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
