"""Devices: which `tf.distribute` strategy, how a batch divides over it, how batches get there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from cql_atari.types import Batch, UserError


def make_strategy(kind: str, devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """The strategy of that name: "none" (one device) or "mirrored" (all GPUs, or `devices`).

    Call it before any other TensorFlow operation, and create every variable in its scope.
    """
    if kind == "none":
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy(devices)


def on_accelerator() -> bool:
    """Whether a GPU or TPU is visible."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def rows_per_replica(draws: int, transitions_per_draw: int, replicas: int) -> int:
    """Rows of the global batch that each replica gets; whole draws, since a draw shares its head.

    Raises:
      UserError: with the numbers, where the draws don't divide.
    """
    if draws % replicas:
        fits = [n for n in range(1, draws + 1) if draws % n == 0]
        raise UserError(
            f"{draws} draws of {transitions_per_draw} transitions a batch don't divide over "
            f"{replicas} replicas; use one of {fits} replicas, or set feed.draws to a multiple of "
            f"{replicas}."
        )
    return draws // replicas * transitions_per_draw


def place(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset, rows: int) -> Iterator[Batch]:
    """Iterates over [K, B, ...] batches, each placed on the strategy's devices.

    The host pulls a batch and hands each replica its `rows` rows (coordinator feeding: it works
    alike on every strategy).
    """
    if strategy.num_replicas_in_sync == 1:
        return iter(dataset)

    def split() -> Iterator[Batch]:
        for batch in dataset:
            yield Batch(*(strategy.experimental_distribute_values_from_function(
                lambda context, part=part: part[
                    :, context.replica_id_in_sync_group * rows :][:, :rows]
            ) for part in batch))  # fmt: skip

    return split()
