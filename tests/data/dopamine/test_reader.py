"""How slots become episodes, by hand-made runs; and that memory stays bounded."""

from __future__ import annotations

import gzip
import math
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from dopamine_files import GAME, Step, file_of, load, steps_of, store, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.core.types import Extent, UserError
from cql_atari.data.dopamine import reader
from cql_atari.data.dopamine.files import fingerprints, list_suffixes
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.data.dopamine.reader import survey
from cql_atari.data.shared import EVERYTHING


def episodes_of(
    directory: Path, steps: list[Step], capacity: int
) -> list[tuple[list[int], bool, bool]]:
    """Writes and reads a run; returns each episode's step numbers, `starts` and `terminal`."""
    write_run(directory, steps, capacity)
    return [
        (
            [int(frame[0, :4].view(np.uint32)[0]) for frame in episode.frames],
            episode.starts,
            episode.terminal,
        )
        for episode in DOPAMINE.read_episodes(directory, GAME)
    ]


def test_one_partial_file(tmp_path):
    found = episodes_of(tmp_path, [*steps_of(2, 3), Step()], 50)
    assert found == [([0, 1], True, True), ([2, 3, 4], True, True), ([5], True, False)]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        # Slot 19 (lost) holds a step in the midst of the first episode,
        (18, [(range(16), True, False), ([17], False, True), (range(18, 23), True, False)]),
        # its terminal step,
        (17, [(range(16), True, False), (range(17, 22), True, False)]),
        # the first of three paddings,
        (16, [(range(16), True, True), (range(16, 21), True, False)]),
        # the second,
        (15, [(range(15), True, True), (range(15, 20), True, False)]),
        # the third: nothing shows that an episode starts,
        (14, [(range(14), True, True), (range(14, 19), False, False)]),
        # the first step,
        (13, [(range(13), True, True), (range(14, 18), False, False)]),
        # the second.
        (12, [(range(12), True, True), ([12], True, False), (range(14, 17), False, False)]),
    ],
)
def test_episodes_around_the_last_slot(tmp_path, first, expected):
    # Capacity 20 and three paddings: step i of the first episode lies in slot 3 + i.
    found = episodes_of(tmp_path, [*steps_of(first), *[Step()] * 5], 20)
    assert found == [(list(steps), starts, terminal) for steps, starts, terminal in expected]


def test_exact_lap_is_valid_to_the_last_slot(tmp_path):
    found = episodes_of(tmp_path, steps_of(17), 20)
    assert found[-1] == (list(range(17)), True, True)


def test_a_longer_episode_than_the_cap_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LONGEST", 10)
    steps = steps_of(25)
    steps[10] = Step(black=True)  # opens the second piece, but is no padding; its number reads 0
    found = episodes_of(tmp_path, steps, 60)
    assert found == [
        (list(range(10)), True, False),
        ([0, *range(11, 23)], False, False),
        ([23, 24], False, True),
    ]


def test_suffixes_in_numerical_order_or_as_asked(tmp_path):
    write_run(tmp_path, steps_of(*[7] * 30), 20)
    assert list_suffixes(tmp_path) == list(range(len(list_suffixes(tmp_path))))
    assert list_suffixes(tmp_path)[-1] > 10
    everything = list(DOPAMINE.read_episodes(tmp_path, GAME))
    piecewise = [
        e for k in list_suffixes(tmp_path) for e in DOPAMINE.read_episodes(tmp_path, GAME, [k])
    ]
    backwards = list(DOPAMINE.read_episodes(tmp_path, GAME, [2, 1]))
    np.testing.assert_equal(everything, piecewise)
    second, third = (list(DOPAMINE.read_episodes(tmp_path, GAME, [k])) for k in (1, 2))
    np.testing.assert_equal(backwards, third + second)


def test_memory_stays_at_one_episode(tmp_path):
    write_run(tmp_path, steps_of(*[500] * 8), 5000)
    tracemalloc.start()
    try:
        for episode in DOPAMINE.read_episodes(tmp_path, GAME):
            del episode
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.4 * 503 * 84 * 84 + 5e6  # of 35 MB of frames


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)
RANGES = st.lists(st.tuples(st.integers(0, 45), st.integers(0, 12)), max_size=3)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.sampled_from(["", "terminal", "unmarked"]), RANGES, st.sampled_from([1.0, 0.5]))
def test_a_survey_counts_what_is_read_and_a_selection_is_a_part(lengths, end, gaps, fraction):
    """Whatever is left out: the survey's extents are the episodes', and every step that is kept is
    one of the whole run's, in the same place, each once and none from the gaps."""
    steps = steps_of(*lengths)
    steps[-1] = Step(end)
    left_out = {0: [(start, start + length) for start, length in gaps]}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        padding = write_run(directory, steps, 40)[0]
        for suffix in list_suffixes(directory):
            found = list(
                DOPAMINE.read_episodes(
                    directory, GAME, [suffix], fraction=fraction, left_out=left_out
                )
            )
            surveyed = survey(directory, GAME, suffix, fraction, left_out.get(suffix, ()))
            assert surveyed == [
                Extent(
                    len(e.frames),
                    e.terminal,
                    e.starts,
                    float(e.rewards.sum()) if e.terminal and e.starts else None,
                )
                for e in found
            ]
        slots = np.flatnonzero(~padding)  # of step i, as far as they are in file 0
        valid = min(len(padding) - 1, int(padding.sum()) + len(steps))
        end_slot = math.ceil(valid * fraction)
        kept = {
            int(step)
            for step, slot in enumerate(slots[: len(steps)])
            if slot < end_slot and not any(a <= slot < b for a, b in left_out[0])
        }
        read = [
            int(frame[0, :4].view(np.uint32)[0])
            for e in DOPAMINE.read_episodes(
                directory, GAME, [0], fraction=fraction, left_out=left_out
            )
            for frame in e.frames
        ]
        assert sorted(kept) == read


def test_left_out_slots_are_not_checked_and_cut_the_episode(tmp_path):
    write_run(tmp_path, steps_of(8, 8), 40)  # slots 3..10 and 14..21
    path = file_of(tmp_path, "$store$_reward")
    rewards = load(path)
    rewards[6] = np.nan
    store(path, rewards)
    with pytest.raises(UserError, match="entry 6 is nan"):
        list(DOPAMINE.read_episodes(tmp_path, GAME))
    found = list(DOPAMINE.read_episodes(tmp_path, GAME, left_out={0: [(6, 7)]}))
    assert [(len(e.frames), e.starts, e.terminal) for e in found] == [
        (3, True, False), (4, False, True), (8, True, True),
    ]  # fmt: skip
    assert survey(tmp_path, GAME, 0, gaps=[(6, 7)])[1] == Extent(4, True, False)


def test_a_whole_suffix_left_out_is_never_opened(tmp_path):
    write_run(tmp_path, steps_of(30, 8), 20)
    file_of(tmp_path, "$store$_observation", 0).write_bytes(b"")
    found = list(DOPAMINE.read_episodes(tmp_path, GAME, left_out={0: [EVERYTHING]}))
    assert sum(len(e.frames) for e in found) > 10


def test_a_fraction_takes_the_first_part_of_every_suffix(tmp_path):
    write_run(tmp_path, [Step()] * 40, 20)  # valid slots: 19 (3 padding), 19 less one, 3
    lengths = [len(e.frames) for e in DOPAMINE.read_episodes(tmp_path, GAME, fraction=0.5)]
    assert lengths == [10 - 3, 10, 2]


def test_fingerprints_are_the_contents_checksums(tmp_path):
    write_run(tmp_path, steps_of(8), 40)
    found = fingerprints(tmp_path, 0)
    for name, (size, checksum) in found.items():
        content = gzip.decompress((tmp_path / name).read_bytes())
        assert size == (tmp_path / name).stat().st_size
        assert checksum == f"{zlib.crc32(content):08x}"
    assert len(found) >= 6
