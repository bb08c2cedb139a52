"""Missing, forged and foreign files of an RLDS data set: each error says what to fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rlds_sets import GAME, check_error, fake_play, shard_of, write_set

from cql_atari.core.types import Extent, UserError
from cql_atari.data.conversion import CONVERSION, CONVERSION_FORMAT
from cql_atari.data.rlds import check, files, reader
from cql_atari.data.rlds.files import INFO
from cql_atari.data.rlds.format import RLDS


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    plays = {0: [fake_play(3), fake_play(4), fake_play(5)], 1: [fake_play(6)]}
    return write_set(tmp_path_factory.mktemp("sound"), plays)


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "set")


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_missing_shard(folder):
    path = shard_of(folder, 0, 1)
    path.unlink()
    check_error(folder, str(path), "No such file", "Replace", "leave its suffix out")
    assert len(list(RLDS.read_episodes(folder, GAME, [1]))) == 1


def test_a_shard_cut_between_records(folder):
    path = shard_of(folder)
    data = path.read_bytes()
    path.write_bytes(data[: 16 + int.from_bytes(data[:8], "little")])
    check_error(folder, str(path), "record 1 of 2 is missing")


def test_no_data_set(folder, tmp_path):
    (folder / INFO).unlink()
    for path in (folder, tmp_path / "absent", shard_of(folder)):
        for call in (
            files.list_suffixes,
            lambda path: list(RLDS.read_episodes(path, GAME)),
            lambda path: reader.survey(path, GAME, 0),
            lambda path: reader.count(path, GAME, 0),
            lambda path: files.fingerprints(path, 0),
        ):
            with pytest.raises(
                UserError, match=r"no TFDS data set.*cql_atari.tools.convert"
            ) as info:
                call(path)
            assert str(path) in str(info.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no description"),
        ("[]", "no description"),
        ("null", "no description"),
        ("{}", "names no split"),
        ('{"name": "x", "splits": 5}', "no description"),
        ('{"name": "x", "splits": [{"name": "train"}]}', "names no split"),
        ('{"name": "x", "splits": [{"name": "checkpoint_1", "shardLengths": ["x"]}]}', "no desc"),
        ('{"name": "x", "splits": [{"name": "checkpoint_1", "shardLengths": ["-1"]}]}', "[-1]"),
        ('{"name": "x", "splits": [{"name": "checkpoint_1", "shardLengths": [1e30]}]}', "shardLen"),
        ('{"name": "../x", "splits": [{"name": "checkpoint_1", "shardLengths": ["1"]}]}', "../x"),
        ('{"fileFormat": "array_record", "name": "x"}', "only 'tfrecord'"),
        ("[" * 100_000, "no description"),
        (
            '{"name": "x", "splits": [{"name": "checkpoint_1", "shardLengths": [Infinity]}]}',
            "no de",
        ),
    ],
)
def test_forged_description(folder, text, reason):
    (folder / INFO).write_text(text)
    check_error(folder, str(folder / INFO), reason)


def test_template_with_unknown_words(folder):
    change_json(folder / INFO, lambda x: x["splits"][0].update(filepathTemplate="{SPLIT}-{X}"))
    check_error(folder, INFO, "checkpoint_00-{X}")


@pytest.mark.parametrize("template", ["{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", ""])
def test_file_names_of_tfds_own_preparation(folder, template):
    expected = [e.frames.shape for e in RLDS.read_episodes(folder, GAME)]
    for suffix, shards in ((0, 2), (1, 1)):
        for index in range(shards):
            path = shard_of(folder, suffix, index)
            path.rename(f"{path}-of-{shards:05d}")

    def rename(content) -> None:
        for split in content["splits"]:
            split.pop("filepathTemplate")
            if template:
                split["filepathTemplate"] = template

    change_json(folder / INFO, rename)
    assert [e.frames.shape for e in RLDS.read_episodes(folder, GAME)] == expected


def test_another_games_data_set(folder):
    with pytest.raises(UserError, match=r"holds Breakout_run_1.*not Pong"):
        list(RLDS.read_episodes(folder, "Pong"))
    with pytest.raises(UserError, match="Breakout"):
        list(RLDS.read_episodes(folder, "Breakut"))


def test_fingerprints_tell_files_apart(folder):
    before = files.fingerprints(folder, 0)
    path = shard_of(folder, 0, 1)
    assert list(before) == [shard_of(folder, 0, 0).name, path.name]
    assert before[path.name][0] == path.stat().st_size
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = files.fingerprints(folder, 0)
    assert [name for name in before if before[name] != after[name]] == [path.name]


def test_survey_takes_the_noted_extents(folder):
    extents = [Extent(3, True, True), Extent(4, True, True), Extent(5, True, False)]
    note = {"format": CONVERSION_FORMAT, "splits": {"0": {"source": {}, "extents": extents}}}
    (folder / CONVERSION).write_text(json.dumps(note))
    assert reader.survey(folder, GAME, 0) == extents
    assert reader.survey(folder, GAME, 0, fraction=0.5) == extents[:2]
    assert reader.survey(folder, GAME, 0, gaps=[(0, 2)]) == extents[2:]
    assert reader.survey(folder, GAME, 1) is None
    change_json(folder / CONVERSION, lambda x: x["splits"]["0"]["extents"].pop())
    with pytest.raises(UserError, match="of another data set; remove it"):
        reader.survey(folder, GAME, 0)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": "cql_atari conversion 2"}', "[" * 100_000]
)
def test_forged_conversion(folder, text):
    (folder / CONVERSION).write_text(text)
    with pytest.raises(UserError, match="wasn't written by cql_atari"):
        reader.survey(folder, GAME, 0)


@pytest.mark.parametrize("wrong", [[4, True, True], [3, False, True], [3, True, True, 7.0]])
def test_extents_of_other_episodes_are_the_conversions_fault(folder, wrong):
    """The records are sound, so it is that file that is named, by the reader and by the check."""
    episodes = list(RLDS.read_episodes(folder, GAME, [0]))
    extents = [[len(e.frames), e.terminal, e.starts] for e in episodes]
    note = {"format": CONVERSION_FORMAT, "splits": {"0": {"source": {}, "extents": extents}}}
    (folder / CONVERSION).write_text(json.dumps(note))
    assert len(list(RLDS.read_episodes(folder, GAME, [0]))) == 3
    extents[0] = wrong
    (folder / CONVERSION).write_text(json.dumps(note))
    with pytest.raises(UserError, match=rf"{CONVERSION} says that .*record 0"):
        list(RLDS.read_episodes(folder, GAME, [0]))
    # The fake episodes' frames are of one colour, which is another matter.
    last = check.check_suffix(folder, GAME, 0, lambda _: None).files[-1]
    assert (last.path.name, last.is_wrong, len(last.problems)) == (CONVERSION, True, 1)
    (folder / CONVERSION).write_text("{")
    last = check.check_suffix(folder, GAME, 0, lambda _: None).files[-1]
    assert (last.path.name, last.is_wrong) == (CONVERSION, True)
