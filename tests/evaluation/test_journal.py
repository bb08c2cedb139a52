"""The file of finished episodes: what is read again, what is cut off, who may hold it."""

from __future__ import annotations

import pytest

from cql_atari.core.types import EpisodeScore, UserError
from cql_atari.evaluation import journal

KEY = {"step": 3, "games": ("Pong",)}


def score(seed):
    return EpisodeScore("Pong", -21.0, 800, False, seed, 0, 0, 0, "abc", (0,) * 18)


def stop_after(path, *seeds, key=KEY):
    """An evaluation that is stopped; returns what it found."""
    with pytest.raises(KeyboardInterrupt), journal.kept(path, key) as known:
        for seed in seeds:
            known.note(score(seed))
        raise KeyboardInterrupt
    return list(known.finished)


def test_episodes_are_found_again_until_all_are_over(tmp_path):
    path = tmp_path / "scores" / "x.jsonl"
    assert stop_after(path, 1, 2) == []
    assert stop_after(path, 3) == [score(1), score(2)]
    with journal.kept(path, KEY) as known:
        assert known.finished == (score(1), score(2), score(3))
    assert not path.exists()


@pytest.mark.parametrize("tail", [b'{"game": "Po', b"\xff\xfe\n", b"[]\n", b'{"game": "Pong"}\n'])
def test_what_follows_the_last_sound_line_is_cut_off(tmp_path, tail):
    path = tmp_path / "x.jsonl"
    stop_after(path, 1, 2)
    with open(path, "ab") as file:
        file.write(tail)
    assert stop_after(path, 3) == [score(1), score(2)]
    assert stop_after(path) == [score(1), score(2), score(3)]


@pytest.mark.parametrize("other", [{"step": 4, "games": ("Pong",)}, {"step": 3, "games": ()}, {}])
def test_episodes_of_another_evaluation_are_not_taken(tmp_path, caplog, other):
    path = tmp_path / "x.jsonl"
    stop_after(path, 1)
    assert caplog.messages == []
    assert stop_after(path, 2, key=other) == []
    assert caplog.messages == [f"{path} is of other weights, games or another protocol: begun anew"]
    assert stop_after(path, key=other) == [score(2)]
    path.write_bytes(b"\x00 nonsense")
    assert stop_after(path) == []


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "x.jsonl"
    with journal.kept(path, KEY) as known:
        known.note(score(1))
        with pytest.raises(UserError, match="another process"), journal.kept(path, KEY):
            pass
        with journal.kept(path, KEY, insist=False) as other:  # a trainer's evaluation goes on
            other.note(score(2))
            assert other.finished == ()
        assert path.read_text().count("\n") == 2


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"), journal.kept(tmp_path / "file" / "x", KEY):
        pass
