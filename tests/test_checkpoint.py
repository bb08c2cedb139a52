"""Checkpoints: whole or absent, the newest intact one wins, every variable is checked."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from cql_atari import checkpoint as lib
from cql_atari.types import UserError


def state(value, size: int = 1000) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(
        weight=tf.Variable(tf.fill([size], float(value))), step=tf.Variable(1)
    )


def test_round_trip_and_only_the_newest_are_kept(tmp_path):
    for step in (10, 20, 30, 40):
        lib.save(tmp_path, state(step), step, keep=3)
    assert lib.steps(tmp_path) == [20, 30, 40]
    restored = state(0.0)
    assert lib.restore_latest(tmp_path, restored) == 40
    np.testing.assert_array_equal(restored.weight, np.full(1000, 40, np.float32))


def test_nothing_there_is_a_fresh_start(tmp_path):
    assert lib.restore_latest(tmp_path / "none", state(0.0)) is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["data", "index"])
@pytest.mark.parametrize(
    "damage",
    [flip, lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink(),
     lambda path: path.write_bytes(b"")],
    ids=["flipped bit", "cut", "missing", "empty"],
)  # fmt: skip
def test_a_damaged_one_is_passed_over(tmp_path, file, damage):
    lib.save(tmp_path, state(1.0), 10, keep=3)
    lib.save(tmp_path, state(2.0), 20, keep=3)
    damage(next((tmp_path / f"{20:010d}").glob(f"*{file}*")))
    restored = state(0.0)
    assert lib.restore_latest(tmp_path, restored) == 10
    np.testing.assert_array_equal(restored.weight, np.ones(1000, np.float32))


def test_all_damaged_says_so_and_deletes_nothing(tmp_path):
    lib.save(tmp_path, state(1.0), 10, keep=3)
    flip(next((tmp_path / f"{10:010d}").glob("*data*")))
    with pytest.raises(UserError, match="damaged"):
        lib.restore_latest(tmp_path, state(0.0))
    assert lib.steps(tmp_path) == [10]


def test_another_network_is_refused_by_name(tmp_path):
    lib.save(tmp_path, state(1.0, size=10), 10, keep=3)
    with pytest.raises(UserError, match="doesn't fit"):
        lib.restore_latest(tmp_path, state(0.0, size=11))
    more = tf.train.Checkpoint(weight=tf.Variable(tf.zeros(10)), step=tf.Variable(0),
                               extra=tf.Variable(0.0, name="extra"))  # fmt: skip
    with pytest.raises(UserError, match="extra"):
        lib.restore_latest(tmp_path, more)


def test_a_save_that_fails_leaves_the_old_ones_and_no_litter(tmp_path, monkeypatch):
    lib.save(tmp_path, state(1.0), 10, keep=1)

    class NoSpace:
        def write(self, prefix):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        lib.save(tmp_path, NoSpace(), 20, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{10:010d}"]


def test_a_leftover_of_a_killed_save_is_ignored_and_replaced(tmp_path):
    lib.save(tmp_path, state(1.0), 10, keep=3)
    (tmp_path / f"partial-{20:010d}").mkdir()
    assert lib.restore_latest(tmp_path, state(0.0)) == 10
    lib.save(tmp_path, state(2.0), 20, keep=3)
    assert lib.steps(tmp_path) == [10, 20]
    assert not list(tmp_path.glob("partial*"))
