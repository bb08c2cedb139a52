"""Opens the feed that a configuration names on the recorded play that was found."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cql_atari.core.settings import Config
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data import sources
from cql_atari.data.format import Source
from cql_atari.feed import drawing, packed, positions
from cql_atari.feed.feed import Feed
from cql_atari.feed.memory import cache
from cql_atari.feed.memory import store as memory
from cql_atari.feed.replay import reader as replay_reader
from cql_atari.feed.replay import remote, service, writer
from cql_atari.feed.replay.interleave import Part
from cql_atari.feed.replay.reader import Dealt
from cql_atari.feed.replay.service import Replay
from cql_atari.feed.replay.writer import Place, Writers
from cql_atari.feed.sampling import BatchLaw
from cql_atari.methods.method import Sequences, Transitions
from cql_atari.system.free_memory import free_bytes
from cql_atari.system.progress import over

_SHARE = 0.8  # of the free memory that the memory feed may take; TensorFlow needs some, too


@contextmanager
def open_feed(
    config: Config,
    found: Sequence[Source],
    start_step: int,
    *,
    reads: Transitions | Sequences,
    state: Mapping[str, Any] = MappingProxyType({}),
    should_stop: Callable[[], bool] = lambda: False,
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
      UserError: if the data don't fit in memory, or as the readers and `replay.remote` do.
      KeyboardInterrupt: if told to stop before the first batch can be drawn.
    """
    feed, seed = config.feed, config.train.seed
    law = BatchLaw(feed.draws, feed.transitions_per_draw)
    steps_per_call = config.train.steps_per_call
    failures: list[UserError] = []

    def check() -> None:
        if failures:
            raise failures[0]

    if feed.kind != "replay":
        position = {"seed": seed, "start_step": start_step, "steps_per_call": steps_per_call}
        opened: AbstractContextManager[drawing.Store]
        if feed.kind == "packed":
            opened = closing(packed.open_packed(config.data.games, found))
        else:
            opened = nullcontext(_load_store(config, found, reads, should_stop))
        with opened as store:
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
    with open_replay(config, found, places=state.get("places", {})) as (replay, writers, begun):
        writer.wait_until_filled(writers, should_stop)
        first = [Dealt(begun[game].lead, begun[game].dealt) for game in replay.games]
        steps = {start_step: first}

        def state_at(step: int) -> dict[str, Any]:
            for past in [number for number in list(steps) if number < step]:
                del steps[past]
            behind = replay_reader.lag(len(replay.games))
            places = {}
            for game, dealt in zip(replay.games, steps[step]):
                needed = max(dealt.lead - behind, 0)
                place = writers.place(game, needed)
                places[game] = place._replace(lead=dealt.lead - needed, dealt=dealt.rows)
            return {"places": places}

        yield Feed(
            lambda rows: replay_reader.dataset(
                replay,
                law,
                seed=seed,
                start_step=start_step,
                steps_per_call=steps_per_call,
                rows=rows,
                dealt=first,
                note=steps.__setitem__,
                check=writers.check,
                should_stop=should_stop,
                failures=failures,
            ),
            state_at,
            check=check,
        )


@contextmanager
def open_replay(
    config: Config,
    found: Sequence[Source],
    *,
    places: Mapping[str, Any],
    port: int = 0,
    record: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Replay, Writers, dict[str, Place]]]:
    """The replay, its writers and where these began, for as long as the context lasts.

    Args:
      config: of the replay; `data.games` are its tables.
      found: the recorded play.
      places: where to go on, as `Feed.state` has them; games that it lacks begin at the start.
      port, record: as `service.serve_draws`.

    Raises:
      UserError: for places that aren't any.
    """
    feed = config.feed
    parts: dict[str, list[Part]] = {game: [] for game in config.data.games}
    for source, suffix in _suffixes_of(found):
        parts[source.game].append(functools.partial(sources.read_part, source, suffix))
    begun = {game: _place(places.get(game), len(parts[game])) for game in parts}
    with (
        service.serve_draws(
            config.data.games, n_step=feed.n_step, port=port, record=record
        ) as replay,
        writer.stream(
            replay,
            parts,
            discount=feed.discount,
            seed=config.train.seed,
            transitions_per_game=feed.transitions_per_game,
            samples_per_insert=feed.samples_per_insert,
            parts_at_once=feed.parts_at_once,
            places=begun,
        ) as writers,
    ):
        yield replay, writers, begun


def _place(saved: Any, num_parts: int) -> Place:
    try:
        return writer.read_place(saved, num_parts) if saved else Place()
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"the place where a game's data go on can't be read: {saved!r} ({error}). Without it "
            "the game's data begin at the start."
        ) from error


def _load_store(
    config: Config,
    found: Sequence[Source],
    reads: Transitions | Sequences,
    should_stop: Callable[[], bool],
) -> memory.MemoryStore:
    feed = config.feed

    def unless_stopped(value: Any) -> Any:
        if should_stop():
            raise KeyboardInterrupt
        return value

    def make_table() -> positions.Episodes:
        extents: dict[str, list[Extent]] = {game: [] for game in config.data.games}
        parts = over(_suffixes_of(found), "surveying", "file groups")
        for source, suffix in parts:
            extents[source.game] += unless_stopped(sources.count(source, suffix))
        table = positions.episodes(extents)
        drawing.find_positions(table, reads)  # refuses a game that has none, before all is read
        return table

    def episodes() -> Iterator[Episode]:
        for source, suffix in _suffixes_of(found):
            yield from map(unless_stopped, sources.read_part(source, suffix))

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


def _suffixes_of(found: Sequence[Source]) -> list[tuple[Source, int]]:
    return [(source, suffix) for source in found for suffix in source.suffixes]


def _cache_key(config: Config, found: Sequence[Source]) -> str:
    """A key that differs for different stores; it doesn't depend on the folder of the data."""
    facts = {
        "version": 4,  # of the store's layout and of what the readers make of the files
        "games": config.data.games,
        "parts": [sources.facts(source, suffix) for source, suffix in _suffixes_of(found)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
