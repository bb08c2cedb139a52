"""What an actor writes and counts, with a scripted game whose frames can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import reverb
import tiny

from cql_atari.envs import atari
from cql_atari.feed.online import actor, replay
from cql_atari.feed.online.limits import Pace


class Scripted:
    """Copy k's games last k + 2 steps, each of which is worth 5."""

    def reset(self):
        self.at = np.zeros(3, int)
        return np.zeros((3, 4, 84, 84), np.uint8)

    def step(self, actions):
        ended = self.at == np.arange(2, 5)
        self.at = np.where(ended, 0, self.at + 1)
        terminals = self.at == np.arange(2, 5)
        rewards = np.where(ended, 0, 5).astype(np.float32)
        return np.zeros((3, 4, 84, 84), np.uint8), rewards, terminals, np.zeros(3, bool)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(atari, "make_vector", lambda *args, **kwargs: Scripted())
    return tiny.config("data.games = ('Freeway',)", "online.num_envs = 3", "feed.n_step = 1")


def run(config, budget):
    tally, tape = actor.Tally(1000), []

    def report(frames, scores):
        tape.append((frames, scores))
        tally.add(frames, scores)

    with replay.serve_play(1, 1000, Pace(1.0, 1, (-1e9, 1e9))) as address:
        actor.act(
            config, address, lambda seen: np.zeros((3, 18)), frames=lambda: tally.frames,
            report=report, seed=[0], should_stop=lambda: False, budget=budget,
        )  # fmt: skip
        table = reverb.Client(address).server_info()[replay.TRANSITIONS]
        with replay.batches(address, 1, (1, 100)) as batches:
            batch = next(batches)
    return tally, tape, table.current_size, batch


def test_frames_are_four_a_step_and_none_for_a_reset(config):
    """Steps:  1   2   3       4       5       6
    copy 0:    a   a!  reset   a       a!      reset
    copy 1:    a   a   a!      reset   a       a
    copy 2:    a   a   a       a!      reset   a
    """
    tally, tape, written, batch = run(config, budget=1000 + 4 * 15)
    assert [frames for frames, _ in tape] == [12, 12, 8, 8, 8, 8]  # 56; 12 more would exceed 60
    assert tally.frames == 1056
    assert [scores for _, scores in tape] == [[], [10.0], [15.0], [20.0], [10.0], []]
    assert tally.take_scores() == [10.0, 15.0, 20.0, 10.0]
    assert tally.take_scores() == []
    # Of 14 steps the last of copies 1 and 2 wait for their successors.
    assert written == 14 - 2
    assert set(batch.rewards.numpy().flat) == {1.0}  # clipped


def test_a_budget_that_is_used_up_lets_nothing_happen(config):
    tally = actor.Tally(0)
    with replay.serve_play(1, 1000, Pace(1.0, 1, (-1e9, 1e9))) as address:
        actor.act(
            config, address, lambda seen: np.zeros((3, 18)), frames=lambda: 0,
            report=tally.add, seed=[0], should_stop=lambda: False, budget=11,
        )  # fmt: skip
    assert tally.frames == 0
