"""The transitions that feeds store, against those that Dopamine's own buffer calls valid.

`test_oracle.py` compares the reader's episodes through a plain reference; here the same
comparison goes through `transitions.pad`, and no transition may hold two episodes' frames.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import test_oracle as oracle
from dopamine_files import DISCOUNT, GAME, write_run
from hypothesis import given, settings

from cql_atari.core import games
from cql_atari.core.types import Episode
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.feed import transitions


def transitions_of(episode: Episode, n_step: int) -> dict[int, oracle.Transition]:
    """As the oracle's, but from what a feed stores."""
    padded = transitions.pad(episode, n_step, DISCOUNT)
    minimal = games.to_full_actions(episode.game).tolist()
    found = {}
    for t in np.flatnonzero(padded.valid).tolist():
        assert padded.discounts[t] in (0, DISCOUNT**n_step)
        ended = padded.discounts[t] == 0
        found[t] = oracle.Transition(
            state=padded.frames[t : t + 4].tobytes(),
            action=minimal.index(padded.actions[t]),
            reward=float(padded.rewards[t]),
            terminal=bool(ended),
            next_state=b"" if ended else padded.frames[t + n_step : t + n_step + 4].tobytes(),
        )
    return found


@settings(max_examples=50, deadline=None, database=None)
@given(oracle.runs())
@pytest.mark.slow
def test_stored_transitions_equal_those_dopamine_calls_valid(run):
    n_step, capacity, steps, kinds = run
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        directory = Path(name)
        paddings = write_run(directory, steps, capacity, n_step)
        if kinds == ("terminal",):  # the public files have no seventh
            for path in directory.glob("episode_end_indices*"):
                path.unlink()
        patch.setattr(oracle, "transitions_of", transitions_of)
        oracle.check_against_dopamine(directory, capacity, n_step, paddings)


def numbers(frames: np.ndarray) -> list[int]:
    """The steps that `write_run` wrote into frames, black ones (padding, flashes) left out."""
    return [int(frame[0, :4].view(np.uint32)[0]) for frame in frames if frame.any()]


@settings(max_examples=50, deadline=None, database=None)
@given(oracle.runs())
def test_no_transition_crosses_an_episode(run):
    n_step, capacity, steps, _ = run
    episode_of = np.cumsum([0, *(bool(step.end) for step in steps[:-1])])
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name), steps, capacity, n_step)
        for episode in DOPAMINE.read_episodes(name, GAME):
            padded = transitions.pad(episode, n_step, DISCOUNT)
            for t in np.flatnonzero(padded.valid):
                shown = numbers(padded.frames[t : t + 4 + n_step])
                assert len(set(episode_of[shown])) <= 1
                # Consecutive steps of play, in order; the frames behind an end are black.
                assert shown == sorted(shown) and (not shown or shown[-1] - shown[0] < 4 + n_step)
                if shown and padded.discounts[t] == 0:
                    last = np.flatnonzero(episode_of == episode_of[shown[0]])[-1]
                    assert steps[last].end == "terminal"
