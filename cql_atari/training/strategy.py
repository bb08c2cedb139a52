"""Devices: the `tf.distribute` strategy, and how a batch is divided and placed on them.

Variables live on every replica; batches are spread over the replicas by whole draws. There are two
ways to place a batch. Each host feeds the replicas that it drives ("by hosts": one host, or one
process a host). Or one process, the coordinator, draws every batch and gives each replica its rows:
a TPU pod needs this, as the servers on its other hosts have neither Reverb's op nor Python.
"""

from __future__ import annotations

import collections
import concurrent.futures
import math
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from cql_atari.core.types import FRAME_SHAPE, Batch, UserError
from cql_atari.system import hosts as cluster

# Rows of the global batch -> `Batch` [K, rows]: a `tf.data.Dataset`, but online an iterator.
MakeDataset = Callable[[slice], Any]
LOST_HOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
             tf.errors.DeadlineExceededError, tf.errors.InternalError)  # fmt: skip
_PREFETCHED = 2  # elements that are on their devices, or on the way, while a step runs
_WORDS = math.prod(FRAME_SHAPE) // 4  # uint32 of a packed frame


def make_strategy(
    kind: str, devices: Sequence[str] | None = None, tpu: str | None = None
) -> tf.distribute.Strategy:
    """The strategy of that name; call it before any other TensorFlow operation.

    Create every variable in its scope.

    Args:
      kind: "none" (one device), "mirrored" (all GPUs of this host, or `devices`), "multi_worker"
        (the GPUs, or the CPU, of every host in `cluster.find_hosts`) or "tpu".
      devices: of "mirrored".
      tpu: "local" (the chips of this host) or a TPU's name or address.

    Raises:
      UserError: where there is no such cluster or TPU.
    """
    if kind == "mirrored":
        return tf.distribute.MirroredStrategy(devices)
    if kind == "multi_worker":
        found = cluster.find_hosts(kind)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": found.addresses}),
            task_type="worker",
            task_id=found.host,
            rpc_layer="grpc",
        )
        handler = signal.getsignal(signal.SIGTERM)
        made = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        signal.signal(signal.SIGTERM, handler)  # TensorFlow has put its own in the caller's place
        return made
    if kind == "tpu":
        return _make_tpu_strategy(tpu)
    return tf.distribute.get_strategy()


def _make_tpu_strategy(tpu: str | None) -> tf.distribute.Strategy:
    if not tpu:
        raise UserError("train.strategy = 'tpu' needs --tpu=local, or --tpu= and the TPU's name.")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no TPU answers to --tpu={tpu}: {str(error).splitlines()[0]}. On a TPU VM of one host "
            "it is --tpu=local; launchers/tpu_vm.sh and tpu_pod.sh set all that is needed."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


class Split(NamedTuple):
    """Rows of a batch.

    Attributes:
      batch: of all.
      host: of each process that pulls batches.
      replica: of each replica.
    """

    batch: int
    host: int
    replica: int

    def rows(self, host: int) -> slice:
        """A host's rows of the global batch."""
        return slice(host * self.host, (host + 1) * self.host)


def divide(draws: int, transitions_per_draw: int, replicas: int, hosts: int = 1) -> Split:
    """How a global batch divides; whole draws, since a draw shares its head.

    Args:
      draws: of the batch law.
      transitions_per_draw: of the batch law.
      replicas: of the strategy, a multiple of hosts.
      hosts: processes that pull batches.

    Raises:
      UserError: with the numbers, where the draws don't divide.
    """
    if draws % replicas:
        fits = [n for n in range(1, draws + 1) if draws % n == 0]
        raise UserError(
            f"{draws} draws of {transitions_per_draw} transitions a batch don't divide over "
            f"{replicas} replicas on {hosts} host(s); use one of {fits} replicas, or set "
            f"feed.draws to a multiple of {replicas}."
        )
    batch = draws * transitions_per_draw
    return Split(batch, batch // hosts, batch // replicas)


def place_batches(
    strategy: tf.distribute.Strategy,
    make_dataset: MakeDataset,
    split: Split,
    by_coordinator: bool | None = None,
) -> Iterator[Batch]:
    """Iterates over batches [K, B, ...] of which each replica has its rows on its device.

    Args:
      strategy: see `make_strategy`.
      make_dataset: an endless data set of the given rows of every batch.
      split: see `divide`.
      by_coordinator: which way, see the module; None: by the coordinator on a pod only.
    """
    if strategy.num_replicas_in_sync == 1 and not _is_tpu(strategy):
        dataset = make_dataset(slice(None))
        gpus = tf.config.list_logical_devices("GPU")
        if gpus and isinstance(dataset, tf.data.Dataset):  # otherwise each call copies its batches
            to_device = tf.data.experimental.prefetch_to_device(gpus[0].name, _PREFETCHED)
            dataset = dataset.apply(to_device)
        return iter(dataset)
    if by_coordinator is None:
        by_coordinator = _is_tpu(strategy) and strategy.extended.num_hosts > 1
    way = _place_by_coordinator if by_coordinator else _place_by_hosts
    return way(strategy, make_dataset, split)


def _place_by_hosts(
    strategy: tf.distribute.Strategy, make_dataset: MakeDataset, split: Split
) -> Iterator[Batch]:
    replicas = split.host // split.replica

    def spread(batch: Batch) -> tf.data.Dataset:
        """One element a replica, in their order."""
        parts = (tf.stack(tf.split(part, replicas, axis=1)) for part in batch)
        return tf.data.Dataset.from_tensor_slices(_for_device(strategy, type(batch)(*parts)))

    def dataset_of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # Declared endless: otherwise the hosts ask each other before each element.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        rows = split.rows(context.input_pipeline_id)
        return make_dataset(rows).flat_map(spread).apply(endless)

    return iter(strategy.distribute_datasets_from_function(dataset_of_host))


def _place_by_coordinator(
    strategy: tf.distribute.Strategy, make_dataset: MakeDataset, split: Split
) -> Iterator[Batch]:
    resolver = strategy.cluster_resolver if _is_multi_worker(strategy) else None
    host = resolver.task_id if resolver else 0

    def spread(batch: Batch) -> Batch:
        def of_replica(context: tf.distribute.experimental.ValueContext) -> Batch:
            nth = context.replica_id_in_sync_group - host * (split.host // split.replica)
            rows = slice(nth * split.replica, (nth + 1) * split.replica)
            mine = _for_device(strategy, type(batch)(*(part[:, rows] for part in batch)))
            with tf.device(strategy.extended.worker_devices[nth]):
                return tf.nest.map_structure(tf.identity, mine)

        return strategy.experimental_distribute_values_from_function(of_replica)

    return _prefetch(map(spread, make_dataset(split.rows(host))))


def _prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; a thread makes the next ones while one is in use."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        waiting = collections.deque(pool.submit(next, batches, None) for _ in range(_PREFETCHED))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _for_device(strategy: tf.distribute.Strategy, batch: Batch) -> Batch:
    return batch._replace(frames=pack_frames(batch.frames)) if _is_tpu(strategy) else batch


def pack_frames(frames: tf.Tensor) -> tf.Tensor:
    """uint8 [..., W, 84, 84] -> uint32 [..., W * 1764], four bytes in each, for TPUs.

    Not every TPU runtime takes bytes, and in its memory small last axes are padded.
    """
    *lead, windows = frames.shape[:-2]
    return tf.bitcast(tf.reshape(frames, [*lead, windows * _WORDS, 4]), tf.uint32)


def unpack_frames(frames: tf.Tensor) -> tf.Tensor:
    """The inverse of `pack_frames`, on the device; frames that weren't packed stay as they are."""
    if frames.dtype == tf.uint8:
        return frames
    *lead, words = frames.shape
    shifts = tf.constant([0, 8, 16, 24], tf.uint32)
    pixels = tf.bitwise.bitwise_and(tf.bitwise.right_shift(frames[..., None], shifts), 255)
    return tf.cast(tf.reshape(pixels, [*lead, words // _WORDS, *FRAME_SHAPE]), tf.uint8)


def across_hosts(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """Every host's value, by host; all call this together, and wait for each other."""
    if not _is_multi_worker(strategy):
        return [value]
    resolver = strategy.cluster_resolver
    hosts, host = resolver.cluster_spec().num_tasks("worker"), resolver.task_id
    first = host * strategy.num_replicas_in_sync // hosts

    def share(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        mine = int(value) if context.replica_id_in_sync_group == first else 0
        return tf.one_hot(host, hosts, tf.constant(mine, tf.int64), dtype=tf.int64)

    shares = strategy.experimental_distribute_values_from_function(share)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, shares, None).numpy().tolist()


def check_same_start(strategy: tf.distribute.Strategy, step: int, settings: str, data: str) -> None:
    """Raises a UserError where the hosts' steps, settings or data differ.

    Args:
      strategy: see `make_strategy`.
      step: from which this host goes on.
      settings: those that all hosts must share.
      data: what tells the files that this host reads apart from others.
    """
    for what, mine in (("settings", settings), ("data", data)):
        sums = across_hosts(strategy, zlib.crc32(mine.encode()))
        if len(set(sums)) > 1:
            raise UserError(
                f"the hosts have different {what} (checksums by host: {sums}): start the same "
                "command on all of them; their copies of the data must be the same files."
            )
    steps = across_hosts(strategy, step)
    if len(set(steps)) > 1:
        raise UserError(
            f"the hosts would go on from different steps, {steps}: --workdir must be one folder "
            "on a disk that all of them see."
        )


def lost_host_message(error: Exception) -> str:
    """The message for the user after one of `LOST_HOST` in a run on several hosts."""
    return (
        f"another host is gone ({str(error).splitlines()[0]}). Run the same command on all hosts: "
        "it goes on from the newest checkpoint."
    )


def _is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)


def _is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
