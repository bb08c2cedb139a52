"""Which recorded play a configuration selects, and what is said where it isn't there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dopamine_files import GAME, steps_of, write_run

from cql_atari.core.settings import Data
from cql_atari.core.types import Episode, Extent, UserError
from cql_atari.data import shared, sources
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.format import FileCheck, Format, SuffixCheck
from cql_atari.data.shared import Recording
from cql_atari.runs import manifest
from cql_atari.tools import verify


@pytest.fixture
def data_dir(tmp_path):
    logs = tmp_path / "data" / GAME / "1" / "replay_logs"
    logs.mkdir(parents=True)
    write_run(logs, steps_of(10, 10), 20)
    return tmp_path / "data"


def data(data_dir, **changes) -> Data:
    settings = {"games": (GAME,), "suffixes": None} | changes
    return Data(dir=str(data_dir), **settings)


def test_all_suffixes_or_those_that_are_named(data_dir):
    (found,) = sources.find_sources(data(data_dir))
    assert (found.game, found.run, found.format, found.suffixes) == (GAME, 1, "dopamine", (0, 1))
    assert sources.find_sources(data(data_dir, suffixes=(1,)))[0].suffixes == (1,)
    assert found.files[1] == DOPAMINE.fingerprints(found.path, 1)


def test_an_absent_suffix_run_or_game_is_named(data_dir):
    with pytest.raises(UserError, match=r"no suffix \[7\] of Breakout, run 1.*there are \[0, 1\]"):
        sources.find_sources(data(data_dir, suffixes=(0, 7)))
    with pytest.raises(UserError, match="Breakout, run 2"):
        sources.find_sources(data(data_dir, runs=(1, 2)))
    with pytest.raises(UserError, match=r"(?s)There are: Breakout \(run 1\).*replay_logs.*rlu_"):
        sources.find_sources(data(data_dir, games=("Pong",)))
    (data_dir / "Seaquest" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"(?s)Seaquest, run 1.*There are: Breakout \(run 1\)\.\n"):
        sources.find_sources(data(data_dir, games=("Seaquest",)))


@pytest.mark.parametrize(
    ("number", "fraction", "first"), [(100, 0.07, 7), (30, 0.1, 3), (31, 0.1, 4), (9, 1.0, 9)]
)
def test_a_part_is_rounded_up_but_not_for_a_floats_last_bit(number, fraction, first):
    assert shared.first_part(number, fraction) == first


def test_exclusions_reach_the_reader(data_dir, tmp_path):
    file = tmp_path / "exclude.json"
    everything = [0, 2**62]
    content = {"format": "cql_atari exclusions 1",
               "exclude": {f"{GAME}/1": {"0": [[5, 9]], "1": [everything]}}}  # fmt: skip
    file.write_text(json.dumps(content))
    (source,) = sources.find_sources(data(data_dir, exclude=str(file)))
    assert source.left_out == {0: [(5, 9)], 1: [(0, 2**62)]}
    assert [len(e.frames) for e in sources.read_part(source, 0)] == [2, 4, 3]
    assert list(sources.read_part(source, 1)) == []
    assert sources.survey(source, 1) == [] == sources.count(source, 1)


MALFORMED = '{"format": "cql_atari exclusions 1", "exclude": {"Breakout/1": {"x": [[1]]}}}'


BACKWARDS = MALFORMED.replace('"x": [[1]]', '"0": [[9, 5]]')


@pytest.mark.parametrize(
    "text", ["", "{}", '{"format": "other"}', MALFORMED, BACKWARDS, "[" * 100_000]
)
def test_another_file_is_no_exclusions(data_dir, tmp_path, text):
    file = tmp_path / "exclude.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"verify DIR --repair"):
        sources.find_sources(data(data_dir, exclude=str(file)))


def test_exclusions_of_a_run_that_is_not_selected_are_no_error(data_dir, tmp_path):
    file = tmp_path / "exclude.json"
    file.write_text(json.dumps({"format": "cql_atari exclusions 1", "exclude": {"Pong/1": {}}}))
    assert sources.find_sources(data(data_dir, exclude=str(file)))[0].left_out == {}


def test_the_newest_version_of_rlds_is_found(tmp_path):
    for version in ("1.0.0", "1.10.0", "1.9.0", "incomplete"):
        (tmp_path / "rlu_atari_checkpoints" / "Breakout_run_1" / version).mkdir(parents=True)
    path, kind = sources._locate(str(tmp_path), GAME, 1)
    assert path.endswith("/rlu_atari_checkpoints/Breakout_run_1/1.10.0") and kind.name == "rlds"


def test_a_folder_too_deep_or_too_high_gets_a_hint(data_dir, tmp_path):
    for wrong in (data_dir / GAME, data_dir / GAME / "1", tmp_path):
        with pytest.raises(UserError, match=rf"set data.dir = '{data_dir}'"):
            sources.find_sources(data(wrong))
    with pytest.raises(UserError, match=r"There are: Breakout \(run 1\)"):
        sources.find_sources(data(data_dir / GAME / "..", games=("Pong",)))
    with pytest.raises(UserError, match="no such folder"):
        sources.find_sources(data(tmp_path / "absent"))


def test_a_file_that_is_replaced_by_another_sound_one_is_noticed(data_dir, tmp_path):
    (source,) = sources.find_sources(data(data_dir))
    assert len(list(sources.read_part(source, 0))) == 2
    other = tmp_path / "other"
    other.mkdir()
    write_run(other, steps_of(9, 11), 20)
    logs = data_dir / GAME / "1" / "replay_logs"
    for path in other.glob("*_ckpt.0.gz"):
        shutil.copy(path, logs / path.name)
    assert list(DOPAMINE.read_episodes(logs, GAME, [0]))  # sound in itself
    with pytest.raises(UserError, match=r"_ckpt.0.gz was replaced while the run used it"):
        sources.read_part(source, 0)
    assert list(sources.read_part(source, 1))


def toy_format() -> Format:
    """Text files `<Game>-<run>/K.txt`, a line an episode, with its length and each step's reward.

    All that the package needs to know of a format is here.
    """

    def place(directory, game, run):
        return Path(directory) / f"{game}-{run}"

    def locate(directory, game, run):
        return str(place(directory, game, run)) if place(directory, game, run).is_dir() else None

    def find(folder):
        names = [path.name.split("-") for path in Path(folder).glob("*-*")]
        return [
            Recording(game, int(run), str(place(folder, game, run)), str(folder))
            for game, run in names
        ]

    def lines(path, suffix):
        text = (Path(path) / f"{suffix}.txt").read_text()
        return [(int(line.split()[0]), float(line.split()[1])) for line in text.splitlines()]

    def read(path, game, suffix, fraction, gaps):
        for steps, reward in lines(path, suffix):
            rewards = np.full(steps, reward, np.float32)
            frames = np.ones((steps, 84, 84), np.uint8)
            yield Episode(game, frames, np.zeros(steps, np.int32), rewards, True)

    def survey(path, game, suffix, fraction, gaps):
        return [Extent(steps, True, True, steps * r) for steps, r in lines(path, suffix)]

    def check(path, game, suffix, report):
        return SuffixCheck([FileCheck(path / f"{suffix}.txt", len(lines(path, suffix)), ())], [])

    return Format(
        name="toy",
        layout="<Game>-<run>/K.txt",
        locate=locate,
        find_recordings=find,
        list_suffixes=lambda path: sorted(int(p.stem) for p in Path(path).glob("*.txt")),
        read_suffix=read,
        survey=survey,
        count=survey,
        fingerprints=lambda path, k: {f"{k}.txt": [(Path(path) / f"{k}.txt").stat().st_size, ""]},
        total_bytes=lambda path, suffix: 1,
        check_suffix=check,
    )


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """Ten episodes of 1 to 10 steps in two files: returns 1 to 5, then -6 to -10 but for one 8."""
    monkeypatch.setattr(sources, "FORMATS", [*sources.FORMATS, toy_format()])
    folder = tmp_path / "toy" / "Pong-3"
    folder.mkdir(parents=True)
    (folder / "0.txt").write_text("".join(f"{n} 1\n" for n in range(1, 6)))
    (folder / "1.txt").write_text("".join(f"{n} {1 if n == 8 else -1}\n" for n in range(6, 11)))
    return folder.parent


def test_a_format_is_one_entry(toy):
    """Feeds read through `sources`; the manifest and verify know the format by the entry alone."""
    found = sources.find_sources(Data(dir=str(toy), games=("Pong",), runs=(3,), suffixes=None))
    assert [len(e.frames) for e in sources.read_part(found[0], 1)] == [6, 7, 8, 9, 10]
    parts = manifest.make_manifest(found, 1)["sources"][0]
    assert (parts["format"], parts["suffixes"]["0"]["steps"]) == ("toy", 15)
    shown = []
    assert verify.check(verify.recordings_in(toy), shown.extend) == {}
    assert [(file.path.name, file.entries) for file in shown] == [("0.txt", 5), ("1.txt", 5)]


@pytest.mark.parametrize(
    ("fraction", "lengths"),  # returns: 1 2 3 4 5 | -6 -7 8 -9 -10
    [(0.1, [[], [8]]), (0.2, [[5], [8]]), (0.25, [[4, 5], [8]]), (0.6, [[1, 2, 3, 4, 5], [8]])],
)
def test_the_best_episodes_by_hand(toy, fraction, lengths):
    settings = Data(dir=str(toy), games=("Pong",), runs=(3,), suffixes=None, best_fraction=fraction)
    (source,) = sources.find_sources(settings)
    read = [[len(e.frames) for e in sources.read_part(source, k)] for k in (0, 1)]
    assert read == lengths
    assert [[e.steps for e in sources.count(source, k)] for k in (0, 1)] == lengths
    made = manifest.make_manifest([source], 1)["sources"][0]["suffixes"]
    assert [made[k]["best"] for k in "01"] == [source.best[0], source.best[1]]
    assert sum(part["episodes"] for part in made.values()) == sum(map(len, lengths))


def test_only_whole_games_are_ranked(data_dir):
    """Episode 2 is cut by file 0's end; what is left of the first has rewards -1, 0, 1, -1, ..."""
    (source,) = sources.find_sources(data(data_dir, best_fraction=0.1))
    assert source.best == {0: [0], 1: []}
    whole = sources.find_sources(data(data_dir))[0]
    assert sources.facts(source, 0) != sources.facts(whole, 0)
    with pytest.raises(UserError, match=r"best_fraction = 0.1 ranks whole games.*none of Breakout"):
        sources.find_sources(data(data_dir, best_fraction=0.1, suffixes=(1,)))


def test_episodes_that_are_not_ranked_keep_their_places(tmp_path):
    """The second file begins in mid-episode; its next episode, of 10 steps, returns the most."""
    logs = tmp_path / GAME / "1" / "replay_logs"
    logs.mkdir(parents=True)
    write_run(logs, steps_of(5, 12, 10), 20)
    whole = sources.find_sources(data(tmp_path))[0]
    extents = [sources.count(whole, suffix) for suffix in (0, 1)]
    assert [[e.total for e in part] for part in extents] == [[-1.0, None], [None, 1.0]]
    best = sources.find_sources(data(tmp_path, best_fraction=0.5))[0]
    assert best.best == {0: [], 1: [1]}
    assert [e.steps for e in sources.count(best, 1)] == [10]


def test_of_equal_episodes_the_first_is_taken(toy):
    (toy / "Pong-3" / "1.txt").write_text("5 1\n5 1\n")
    settings = Data(dir=str(toy), games=("Pong",), runs=(3,), suffixes=None, best_fraction=0.25)
    assert sources.find_sources(settings)[0].best == {0: [4], 1: [0]}
    reordered = dataclasses.replace(settings, best_fraction=0.4)
    assert sources.find_sources(reordered)[0].best == {0: [4], 1: [0, 1]}
