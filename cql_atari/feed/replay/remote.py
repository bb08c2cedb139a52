"""The replay on other hosts: finds each game's server, and draws batches from all of them.

When a server is lost, we wait for it to come back. Reverb's own samplers wait too, but silently,
for ever, and minutes longer than needed; so the thread that they run in is abandoned then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import reverb
import tensorflow as tf
from absl import logging

from cql_atari.core.settings import Config
from cql_atari.core.types import Batch, UserError
from cql_atari.feed import tables
from cql_atari.feed.drawing import batch_spec
from cql_atari.feed.replay import reader, service
from cql_atari.feed.sampling import BatchLaw
from cql_atari.system import ports

VERSION = 2  # of segments, queues and record
_ANSWER_SECONDS = 3  # a server that takes longer is taken for lost
_POLL_SECONDS = 1.0
_REMIND_SECONDS = 30.0


class Remote(NamedTuple):
    """What the servers of a run serve together.

    Attributes:
      addresses: of each game's server, in the order of the run's games.
      manifest: of the data, as `manifest.make_manifest`.
    """

    addresses: dict[str, str]
    manifest: dict[str, Any]


def make_record(config: Config, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A server's record for learners: what must agree with their configuration, and its data."""
    agreed = {"version": VERSION, "n_step": config.feed.n_step, "discount": config.feed.discount}
    return {**agreed, "games": list(config.data.games), "manifest": dict(manifest)}


def ask_servers(config: Config, should_stop: Callable[[], bool]) -> Remote:
    """Asks every server of `feed.servers` what it has; waits for those that don't answer.

    Raises:
      UserError: where a game is served nowhere or twice, or for another configuration.
      KeyboardInterrupt: if told to stop while waiting.
    """
    servers = config.feed.servers
    records = {address: _ask_patiently(address, should_stop) for address in servers}
    addresses, sources = {}, []
    for game in config.data.games:
        having = [address for address, record in records.items() if game in record["games"]]
        if len(having) != 1:
            raise UserError(
                f"{game} is served by {' and '.join(having) or 'none'} of feed.servers ("
                + "; ".join(f"{a}: {', '.join(r['games'])}" for a, r in records.items())
                + "). Each of data.games must be served once: see serve_replay's --games."
            )
        addresses[game] = having[0]
        theirs = records[having[0]]["manifest"]["sources"]
        sources += [source for source in theirs if source["game"] == game]
    for address in set(addresses.values()):
        _check_agreement(address, records[address], make_record(config, {}))
    return Remote(addresses, {"n_step": config.feed.n_step, "sources": sources})


@contextmanager
def open_remote(
    config: Config, start_step: int, should_stop: Callable[[], bool]
) -> Iterator[Callable[[slice], tf.data.Dataset]]:
    """Batches from the servers of `feed.servers`.

    Args:
      config: the run's; games are a function of (seed, step), as in `reader.batches`.
      start_step: the learner step of the first batch.
      should_stop: whether to stop waiting; called from other threads.

    Yields:
      A function of the rows of each global batch that gives an endless data set of `Batch` [K, B].
      It ends where it was told to stop, or on an error, which is raised on leaving.

    Raises:
      UserError, KeyboardInterrupt: as `ask_servers`; also where a server comes back with another
        configuration.
    """
    remote, errors, closed = ask_servers(config, should_stop), [], threading.Event()
    law = BatchLaw(config.feed.draws, config.feed.transitions_per_draw)
    n_step, k = config.feed.n_step, config.train.steps_per_call
    remind = _Reminder()

    def stop() -> bool:
        return closed.is_set() or should_stop()

    def elements(rows: slice) -> Iterator[Batch]:
        done = 0
        while True:
            ended = threading.Event()

            def draw(ended: threading.Event = ended, done: int = done) -> Iterator[Batch]:
                def over() -> bool:
                    return ended.is_set() or closed.is_set()

                streams = {
                    game: reader.arrivals(at, game, over) for game, at in remote.addresses.items()
                }
                return reader.batches(
                    streams, law, n_step, seed=config.train.seed, start_step=start_step + done * k,
                    steps_per_call=k, rows=rows, private=False,
                )  # fmt: skip

            try:
                for batch in tables.prefetch(draw, ended, answer):
                    yield batch
                    done += 1
                return
            except (_LostError, tf.errors.OpError) as error:
                logging.warning("a replay server is lost: %s", error)
            _check_same(remote, ask_servers(config, stop))

    def answer() -> bool:
        """Whether to go on waiting for a batch."""
        return not stop() and _check_all(remote.addresses, remind)

    def guarded(rows: slice) -> Iterator[Batch]:
        try:
            yield from elements(rows)
        except KeyboardInterrupt:
            return
        except Exception as error:
            errors.append(error)

    def dataset(rows: slice) -> tf.data.Dataset:
        signature = batch_spec((k, len(range(law.batch_size)[rows])), n_step)
        return tf.data.Dataset.from_generator(lambda: guarded(rows), output_signature=signature)

    try:
        yield dataset
    finally:
        closed.set()
        if errors:
            raise errors[0]


class _LostError(Exception):
    """A server doesn't answer."""


class _Reminder:
    """Logs at once, and then again at most every 30 s."""

    def __init__(self) -> None:
        self._due = 0.0

    def __call__(self, message: str, *values: Any) -> None:
        if time.monotonic() >= self._due:
            logging.warning(message, *values)
            self._due = time.monotonic() + _REMIND_SECONDS


def _check_all(addresses: Mapping[str, str], remind: _Reminder) -> bool:
    """True; says which queues hold a learner up.

    Raises:
      _LostError: if a server doesn't answer.
    """
    for address in sorted(set(addresses.values())):
        info = _ask(address, reverb.Client(address))
        if empty := [game for game, at in addresses.items()
                     if at == address and info[game].current_size == 0]:  # fmt: skip
            remind(
                "waiting for the replay server at %s: nothing to draw yet of %s",
                address, ", ".join(empty),
            )  # fmt: skip
    return True


def _ask_patiently(address: str, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """A server's record, as soon as it answers."""
    remind, waited = _Reminder(), False
    while True:
        # A new client each time: one that failed waits longer and longer before it tries again.
        client = reverb.Client(address)
        try:
            info = _ask(address, client)
            break
        except _LostError as error:
            why = error.__cause__
        waited = True
        remind(
            "no replay server answers at %s (%s); waiting for it. Start it again (python -m "
            "cql_atari.tools.serve_replay), or stop this process by Ctrl-C: it saves.", address, why
        )  # fmt: skip
        if should_stop():
            raise KeyboardInterrupt
        time.sleep(_POLL_SECONDS)
    if service.RECORD not in info:
        raise UserError(
            f"{address} serves {', '.join(sorted(info)) or 'nothing'}: no replay of "
            "`python -m cql_atari.tools.serve_replay`; change feed.servers."
        )
    if waited:
        logging.warning("the replay server at %s answers", address)
    return service.read_record(client)


def _ask(address: str, client: reverb.Client) -> dict[str, Any]:
    try:
        # Refused at once where no server listens; Reverb would try for all of its time.
        ports.reach(address, _ANSWER_SECONDS)
        return client.server_info(timeout=_ANSWER_SECONDS)
    except (OSError, RuntimeError, reverb.errors.ReverbError) as error:
        raise _LostError(f"{address} doesn't answer: {error}") from error


def _check_same(before: Remote, now: Remote) -> None:
    theirs, known = (
        {(source["game"], source["run"]): source for source in found.manifest["sources"]}
        for found in (now, before)
    )
    if changed := [key for key in sorted(theirs | known) if theirs.get(key) != known.get(key)]:
        at = " and ".join(sorted({now.addresses[game] for game, _ in changed}))
        runs = "; ".join(f"{game}, run {run}" for game, run in changed)
        raise UserError(
            f"the replay server at {at} has other data than before it was lost: {runs}. Start it "
            "again with the data and settings that it had, or begin another run with the new ones "
            "in another --workdir."
        )


def _check_agreement(address: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    names = ("version", "n_step", "discount")
    if differences := [
        f"{name} {theirs.get(name)!r} there, {ours[name]!r} here"
        for name in names
        if theirs.get(name) != ours[name]
    ]:
        raise UserError(
            f"the replay server at {address} has another configuration: {'; '.join(differences)}. "
            "Start both with the same --gin_files and --gin_bindings."
        )
