"""Play goes to Minari and comes back; what isn't Atari play is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from cql_atari.core.types import Episode, UserError
from cql_atari.data import sources
from cql_atari.tools import minari as door

minari = pytest.importorskip("minari")


def write_arrays(folder: Path, episodes: list[Episode]) -> None:
    """One suffix of Breakout, run 1."""
    (folder / "Breakout" / "1" / "arrays").mkdir(parents=True)
    ends = [np.arange(len(episode.frames)) == len(episode.frames) - 1 for episode in episodes]
    np.savez(
        folder / "Breakout" / "1" / "arrays" / "0.npz", game="Breakout", action_set="full",
        frames=np.concatenate([episode.frames for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate(ends),
        starts=np.concatenate([end[::-1] for end in ends]),
    )  # fmt: skip


def read_run(folder: Path, run: int) -> list[Episode]:
    kind, found = next((k, r) for k, r in sources.recordings(folder) if r.run == run)
    return list(kind.read_episodes(found.path, "Breakout", kind.list_suffixes(found.path)))


@pytest.mark.slow
def test_play_goes_to_minari_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    played = [episode for episode in tiny.episodes(steps=30) if episode.game == "Breakout"]
    write_arrays(tmp_path / "data", played)
    assert door.write("test/breakout-v0", "Breakout", tmp_path / "data", 1) == 2
    dataset = minari.load_dataset("test/breakout-v0")
    assert dataset.total_episodes == 2 and dataset.total_steps == 60
    assert door.read(dataset, "Breakout", tmp_path / "data", 2) == 2
    for before, after in zip(played, read_run(tmp_path / "data", 2)):
        for name in ("frames", "actions", "rewards"):
            assert np.array_equal(getattr(before, name), getattr(after, name)), name
        assert after.terminal and after.starts
    with pytest.raises(UserError, match="is there already"):
        door.read(dataset, "Breakout", tmp_path / "data", 2)
    with pytest.raises(UserError, match="no recorded play of Pong, run 1"):
        door.write("test/pong-v0", "Pong", tmp_path / "data", 1)


def dataset(observations: np.ndarray, actions: int) -> SimpleNamespace:
    """As much of a dataset as is looked at: one episode, cut after two steps."""
    one = SimpleNamespace(
        id=0, observations=observations, actions=np.array([1, actions - 1]), rewards=[5.0, -0.5],
        terminations=[False, False], truncations=[False, True],
    )  # fmt: skip
    return SimpleNamespace(
        id="other", action_space=SimpleNamespace(n=actions), iterate_episodes=lambda: iter([one])
    )


def test_colour_screens_own_actions_and_raw_rewards_are_taken(tmp_path):
    screens = np.zeros((3, 210, 160, 3), np.uint8)
    screens[1, 105:] = (255, 0, 0)
    assert door.read(dataset(screens, 4), "Breakout", tmp_path, 1) == 1
    (episode,) = read_run(tmp_path, 1)
    assert episode.frames.shape == (2, 84, 84)
    assert episode.frames[1, :40].max() == 0 and 70 < episode.frames[1, 50:].mean() < 82
    assert episode.actions.tolist() == [1, 4]  # FIRE and LEFT, of the full set
    assert episode.rewards.tolist() == [1.0, -0.5] and not episode.terminal


@pytest.mark.parametrize(
    "observations, actions, said",
    [
        (np.zeros((3, 84, 84), np.float32), 4, "observations are float32"),
        (np.zeros((3, 17), np.uint8), 4, r"observations are uint8 \(17,\)"),
        (np.zeros((3, 84, 84), np.uint8), 6, "has 6 actions; Breakout has 4, .*give --game"),
    ],
)
def test_what_is_no_atari_play_is_refused_and_leaves_nothing(tmp_path, observations, actions, said):
    with pytest.raises(UserError, match=said):
        door.read(dataset(observations, actions), "Breakout", tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_action_that_the_game_lacks_is_refused_also_in_the_full_set(tmp_path):
    with pytest.raises(UserError, match=r"action 17 of episode 0: expected 0, 1, 3, 4"):
        door.read(dataset(np.zeros((3, 84, 84), np.uint8), 18), "Breakout", tmp_path, 1)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"actions": np.array([1, 4])}, "action 4 of episode 0: expected 0, 1, 2, 3"),
        ({"actions": np.array([-1, 1])}, "action -1 of episode 0"),
        ({"rewards": [np.nan, 0.0]}, "reward nan of episode 0: expected a finite number"),
        (None, "'other' has no episode; give another"),
    ],
)
def test_wrong_values_and_an_empty_dataset_are_refused(tmp_path, change, said):
    other = dataset(np.zeros((3, 84, 84), np.uint8), 4)
    (one,) = other.iterate_episodes()
    one.__dict__.update(change or {})
    other.iterate_episodes = lambda: iter([one] if change else [])
    with pytest.raises(UserError, match=said):
        door.read(other, "Breakout", tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mine", "a b/mine-v0", "mine-v", "../x-v0"])
def test_what_is_no_id_is_told(name):
    with pytest.raises(UserError, match="is no ID of a dataset; give one as"):
        door.main(["minari", "write", name])
