"""How slots become episodes, by hand-made runs; and that memory stays bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from dopamine_files import GAME, Step, steps_of, write_run

from cql_atari.data import dopamine
from cql_atari.data.dopamine import count_slots, list_suffixes, read_episodes


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
        for episode in read_episodes(directory, GAME)
    ]


def test_one_partial_file(tmp_path):
    found = episodes_of(tmp_path, [*steps_of(2, 3), Step()], 50)
    assert found == [([0, 1], True, True), ([2, 3, 4], True, True), ([5], True, False)]
    assert count_slots(tmp_path) == 6 + 3 * 3


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
    monkeypatch.setattr(dopamine, "LONGEST", 10)
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
    everything = list(read_episodes(tmp_path, GAME))
    piecewise = [e for k in list_suffixes(tmp_path) for e in read_episodes(tmp_path, GAME, [k])]
    backwards = list(read_episodes(tmp_path, GAME, [2, 1]))
    np.testing.assert_equal(everything, piecewise)
    second, third = (list(read_episodes(tmp_path, GAME, [k])) for k in (1, 2))
    np.testing.assert_equal(backwards, third + second)


def test_memory_stays_at_one_episode(tmp_path):
    write_run(tmp_path, steps_of(*[500] * 8), 5000)
    tracemalloc.start()
    try:
        for episode in read_episodes(tmp_path, GAME):
            del episode
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.4 * 503 * 84 * 84 + 5e6  # of 35 MB of frames
