"""Checkpoints: whole or absent, the newest intact one wins, every variable is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os

import numpy as np
import pytest
import tensorflow as tf

from cql_atari.core.settings import Network
from cql_atari.core.types import UserError
from cql_atari.networks.q_network import QNetwork, build_q_network
from cql_atari.runs import checkpoint as lib


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


def test_none_goes_while_there_are_fewer_than_are_kept(tmp_path):
    for step in range(1, 7):
        lib.save(tmp_path, state(step), step, keep=5)
        assert lib.steps(tmp_path) == list(range(max(1, step - 4), step + 1))


def test_what_was_saved_last_stays_beside_a_later_one_that_is_damaged(tmp_path):
    for step in (10, 20):
        lib.save(tmp_path, state(step), step, keep=2)
    (tmp_path / f"{20:010d}" / lib.EXTRA).unlink()
    assert lib.restore_latest(tmp_path, state(0)) == 10
    lib.save(tmp_path, state(12), 12, keep=1)
    assert lib.restore_latest(tmp_path, state(0)) == 12


def test_a_reader_leaves_a_save_of_another_process_alone(tmp_path):
    """Between its two renames the step is nowhere else."""
    for step in (10, 20):
        lib.save(tmp_path, state(step), step, keep=2)
    (tmp_path / f"{20:010d}").rename(tmp_path / f"replaced-{20:010d}")
    assert lib.restore_latest(tmp_path, state(0)) == 10
    assert (tmp_path / f"replaced-{20:010d}").exists()
    lib.put_back(tmp_path)
    assert lib.restore_latest(tmp_path, state(0)) == 20


@pytest.mark.parametrize("name", ["lr=[0.1], seed 1", "a*b?c\\d"])
def test_a_folders_name_may_be_a_pattern(tmp_path, name):
    """TensorFlow writes there, but looks for a name that matches."""
    network = build_q_network(SMALL, num_games=1, num_atoms=1, seed=0)
    other = build_q_network(SMALL, num_games=1, num_atoms=1, seed=1)
    path = lib.save(tmp_path / name, tf.train.Checkpoint(network=network), 10, keep=1)
    assert lib.restore_latest(tmp_path / name, other, lib.restore_network) == 10
    for restore in (lib.restore_encoder, lambda at, _: lib.restore_parts(at, other, "a", "a")):
        for variable in other.variables:
            variable.assign(variable + 1)
        restore(path, other.encoder)
    lib.restore_encoder(path, other.encoder)
    for mine, theirs in zip(network.variables, other.variables):
        np.testing.assert_array_equal(mine, theirs)


def test_the_same_step_again_never_leaves_none(tmp_path, monkeypatch):
    """Killed between any two renames, with keep = 1, a whole checkpoint of the step is there."""
    lib.save(tmp_path, state(1), 10, keep=1)

    class Killed(BaseException):
        pass

    for survived in (0, 1, 2):
        renames, rename = [], os.replace

        def die(source, target, renames=renames, survived=survived, rename=rename):
            if len(renames) == survived:
                raise Killed
            renames.append(target)
            return rename(source, target)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "replace", die)
            lib.save(tmp_path, state(2), 10, keep=1)
        lib.put_back(tmp_path)
        restored = state(0.0)
        assert lib.restore_latest(tmp_path, restored) == 10
        assert float(restored.weight[0]) == (2.0 if survived == 2 else 1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000000010"]


def test_an_old_one_that_cannot_go_yet_goes_the_next_time(tmp_path, monkeypatch):
    def busy(*_, **__):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    lib.save(tmp_path, state(1), 10, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)  # as on NFS while somebody reads in it
        lib.save(tmp_path, state(2), 20, keep=1)
    assert lib.steps(tmp_path) == [10, 20]
    lib.save(tmp_path, state(3), 30, keep=1)
    assert lib.steps(tmp_path) == [30]


def test_a_folder_that_is_no_number_is_no_checkpoint(tmp_path):
    lib.save(tmp_path, state(1), 10, keep=1)
    (tmp_path / "²").mkdir()
    assert lib.steps(tmp_path) == [10]


@pytest.mark.parametrize("path", ["checkpoints", "checkpoints/0000000010"])
def test_a_plain_file_in_a_folders_place_is_named(tmp_path, path):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("")
    with pytest.raises(UserError, match=f"{path} is a file where .* should be; move it away"):
        lib.restore_latest(tmp_path / "checkpoints", state(0.0))


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


def test_what_else_is_saved_comes_back_with_its_step(tmp_path):
    lib.save(tmp_path, state(1.0), 10, keep=3, extra={"places": {"Pong": (0, 2, 7)}})
    lib.save(tmp_path, state(2.0), 20, keep=3)
    assert lib.read_extra(tmp_path, 10) == {"places": {"Pong": [0, 2, 7]}}
    assert lib.read_extra(tmp_path, 20) == lib.read_extra(tmp_path, 30) == {}


@pytest.mark.parametrize("content", ["cut", "deleted", "[]", "[" * 100_000, "", "zz {}", "²"])
def test_one_whose_extra_is_damaged_is_passed_over(tmp_path, content):
    for step in (10, 20):
        lib.save(tmp_path, state(step), step, keep=3, extra={"places": {}})
    path = tmp_path / f"{20:010d}" / lib.EXTRA
    if content == "deleted":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-2] if content == "cut" else content)
    assert lib.restore_latest(tmp_path, state(0.0)) == 10


def test_no_flipped_bit_of_the_extra_passes(tmp_path):
    lib.save(tmp_path, state(10), 10, keep=3)
    lib.save(tmp_path, state(20), 20, keep=3, extra={"frames": 400})
    path = tmp_path / f"{20:010d}" / lib.EXTRA
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(lib.DAMAGE):
            lib.read_extra(tmp_path, 20)
    path.write_text('{"frames": 400}')  # as it was written before it had a checksum
    assert lib.read_extra(tmp_path, 20) == {"frames": 400}


# The encoder alone.


SMALL = Network(
    block="basic", depths=(1, 1), widths=(4, 8), strides=(2, 2), embedding_blocks=2,
    feed_forward=(8,),
)  # fmt: skip


def q_network(seed: int, num_games: int = 2, num_atoms: int = 3, **changes) -> QNetwork:
    section = dataclasses.replace(SMALL, **changes)
    return build_q_network(section, num_games=num_games, num_atoms=num_atoms, seed=seed)


def with_slots(network) -> tf.train.Checkpoint:
    """As a run has it: Adam's slots have the variables' shapes and hang on them."""
    adam = tf.keras.optimizers.legacy.Adam()
    adam._create_all_weights(network.trainable_variables)
    return tf.train.Checkpoint(network=network, target_network=q_network(9), optimizer=adam)


def test_the_encoder_is_restored_by_name_into_a_network_of_other_games(tmp_path):
    theirs, ours = q_network(0), q_network(1, num_games=1, feed_forward=(5, 6), num_atoms=7)
    lib.save(tmp_path, with_slots(theirs), 10, keep=1)
    rest = [v.numpy() for v in (*ours.feed_forward.variables, *ours.heads.variables)]
    assert lib.restore_latest(tmp_path, ours.encoder, lib.restore_encoder) == 10
    reader = tf.train.load_checkpoint(str(tmp_path / f"{10:010d}" / lib.PREFIX))
    # Positions count layers with weights: stem, its norm, then the first block's ...
    for name, variable in (
        ("layer_with_weights-0/kernel", ours.encoder.variables[0]),
        ("layer_with_weights-1/scale", ours.encoder.variables[1]),
        ("layer_with_weights-14/embedding", ours.encoder.variables[-1]),
    ):
        stored = reader.get_tensor(f"network/encoder/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        np.testing.assert_array_equal(variable, stored)
    for a, b in zip(ours.encoder.variables, theirs.encoder.variables):
        np.testing.assert_array_equal(a, b)
    for a, b in zip((*ours.feed_forward.variables, *ours.heads.variables), rest):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("file", ["data", "index"])
def test_a_damaged_encoder_is_passed_over(tmp_path, file):
    first, second, ours = (q_network(seed) for seed in range(3))
    lib.save(tmp_path, with_slots(first), 10, keep=2)
    lib.save(tmp_path, with_slots(second), 20, keep=2)
    path = next((tmp_path / f"{20:010d}").glob(f"*{file}*"))
    path.write_bytes(path.read_bytes()[:50])
    assert lib.restore_latest(tmp_path, ours.encoder, lib.restore_encoder) == 10
    np.testing.assert_array_equal(ours.encoder.variables[0], first.encoder.variables[0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with one checkpoint, of a run's network."""
    folder = tmp_path_factory.mktemp("saved")
    lib.save(folder, with_slots(q_network(0)), 10, keep=1)
    return folder


@pytest.mark.parametrize(
    "changes, lines",
    [
        ({"stem_kernel": 3}, ["layer 0 kernel: (7, 7, 4, 4) there, (3, 3, 4, 4) here"]),
        ({"depths": (1, 2)}, ["layer 16 kernel: absent there, (3, 3, 8, 8) here"]),
        ({"pooling": "mean"}, ["layer 14 embedding: (6, 6, 8, 2) there, absent here"]),
        ({"depths": (1, 4), "widths": (8, 16)}, ["layer 0 kernel", "and 31 more"]),
    ],
)
def test_another_encoder_is_told_layer_by_layer_and_changes_nothing(saved, changes, lines):
    ours = q_network(1, **changes)
    before = ours.get_weights()
    with pytest.raises(UserError) as error:
        lib.restore_latest(saved, ours.encoder, lib.restore_encoder)
    for line in lines:
        assert line in str(error.value)
    for a, b in zip(ours.get_weights(), before):
        np.testing.assert_array_equal(a, b)
