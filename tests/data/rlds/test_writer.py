"""The RLDS writer: TFDS's own features and readers against the episodes that went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from rlds_sets import BUILDER, GAME, fake_play, real_play, shard_of

from cql_atari.core import games
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data.conversion import read_conversion
from cql_atari.data.format import Target
from cql_atari.data.rlds import files, reader, writer
from cql_atari.data.rlds.format import RLDS

FULL = games.to_full_actions(GAME)


def episode_of(play, starts: bool = True) -> Episode:
    steps = len(play.frames) - play.terminal
    return Episode(
        game=GAME,
        frames=play.frames[:steps],
        actions=FULL[play.actions[:steps]],
        rewards=play.rewards[:steps],
        terminal=play.terminal,
        starts=starts,
    )


def write(folder: Path, suffix: int, episodes, report=lambda steps: None) -> list[Extent]:
    target = Target(folder, GAME, 1, suffix)
    return writer.write_split(target, episodes, {"file": [suffix, "abc"]}, report)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where TFDS would look for the data set."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def written(root):
    """(folder, episodes of split 0, of split 12, extents, reports); some cut, some fragments."""
    folder = root / writer.NAME / f"{GAME}_run_1" / writer.VERSION
    real = [episode_of(play) for play in real_play()]
    fake = [episode_of(fake_play(5, False, 3), False), episode_of(fake_play(1))]
    reports: list[int] = []
    extents = write(folder, 12, iter(fake), reports.append) + write(folder, 0, iter(real))
    return folder, real, fake, extents, reports


def test_reads_back(written):
    folder, real, fake, extents, reports = written
    episodes = list(RLDS.read_episodes(folder, GAME))
    assert files.list_suffixes(folder) == [0, 12]
    for found, expected in zip(episodes, [*real, *fake], strict=True):
        defined = len(expected.frames) - (not expected.terminal)
        np.testing.assert_equal(found.frames, expected.frames)
        np.testing.assert_equal(found.actions[:defined], expected.actions[:defined])
        np.testing.assert_equal(found.rewards[:defined], expected.rewards[:defined])
        assert found[4:] == expected[4:]
    for suffix, part in ((12, extents[:2]), (0, extents[2:])):
        assert reader.survey(folder, GAME, suffix) == part == reader.count(folder, GAME, suffix)
        assert read_conversion(folder)[suffix].source == {"file": [suffix, "abc"]}
    assert extents[:2] == [Extent(5, False, False), Extent(1, True, True, fake[1].rewards[0])]
    assert reports == [5, 1]


@pytest.mark.parametrize("way", ["folder", "name"])
def test_others_load_it(written, root, way):
    folder, real, _, _, _ = written
    if way == "folder":
        builder = tfds.builder_from_directory(str(folder))
    else:
        builder = tfds.builder(f"{writer.NAME}/{GAME}_run_1", data_dir=str(root))
    assert builder.info.features.to_json() == BUILDER.get_features_dict().to_json()
    assert builder.info.disable_shuffling and builder.info.version == BUILDER.VERSION
    assert {n: s.num_examples for n, s in builder.info.splits.items()} == {
        "checkpoint_00": 3,
        "checkpoint_12": 2,
    }
    stored = list(tfds.as_numpy(builder.as_dataset("checkpoint_00")))
    for number, (found, episode) in enumerate(zip(stored, real, strict=True)):
        assert (found["checkpoint_id"], found["episode_id"]) == (0, number)
        assert found["episode_return"] == episode.rewards.sum()
        steps = list(found["steps"])
        names = ("action", "reward", "discount", "is_first", "is_last", "is_terminal")
        columns = {name: np.array([step[name] for step in steps]) for name in names}
        length, end = len(episode.frames), int(episode.terminal)
        frames = np.array([step["observation"] for step in steps])
        np.testing.assert_array_equal(frames[:length, ..., 0], episode.frames)
        np.testing.assert_array_equal(frames[length:, ..., 0], episode.frames[length - end :])
        assert len(steps) == length + end
        np.testing.assert_array_equal(FULL[columns["action"][:length]], episode.actions)
        np.testing.assert_array_equal(columns["reward"][:length], episode.rewards)
        np.testing.assert_array_equal(columns["is_first"], np.arange(len(steps)) == 0)
        np.testing.assert_array_equal(columns["is_last"], np.arange(len(steps)) == len(steps) - 1)
        np.testing.assert_array_equal(columns["is_terminal"], columns["is_last"] & bool(end))
        np.testing.assert_array_equal(columns["discount"][: length - 1], 1)
        np.testing.assert_array_equal(columns["discount"][length - 1 :], [0, 0] if end else [1])


def test_many_episodes_take_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_EPISODES_PER_SHARD", 2)
    episodes = [episode_of(fake_play(2, value=n)) for n in (1, 5, 9)]
    write(tmp_path / "set", 0, iter(episodes))
    assert shard_of(tmp_path / "set", 0, 1).is_file()
    np.testing.assert_equal(list(RLDS.read_episodes(tmp_path / "set", GAME)), episodes)


def test_nothing_shows_before_all_is_read(tmp_path):
    """A source's checksum comes last: what went before may have been wrong."""
    folder = tmp_path / "set"
    write(folder, 0, iter([episode_of(fake_play(2))]))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def damaged():
        yield episode_of(fake_play(3))
        raise UserError("wrong checksum")

    with pytest.raises(UserError, match="wrong checksum"):
        write(folder, 1, damaged())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_no_episodes_make_an_empty_split(tmp_path):
    assert write(tmp_path / "set", 3, iter([])) == []
    assert reader.survey(tmp_path / "set", GAME, 3) == []
    assert list(RLDS.read_episodes(tmp_path / "set", GAME)) == []
