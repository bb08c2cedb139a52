"""Transitions from our episodes against those that Dopamine's own buffer calls valid."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer
from dopamine_files import DISCOUNT, GAME, Step, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.core import games
from cql_atari.core.types import STACK, Episode
from cql_atari.data.dopamine.files import list_suffixes, open_group
from cql_atari.data.dopamine.format import DOPAMINE


class Transition(NamedTuple):
    state: bytes
    action: int
    reward: float
    terminal: bool
    next_state: bytes  # empty where terminal


def transitions_of(episode: Episode, n_step: int) -> dict[int, Transition]:
    """All complete transitions of one episode by step, written as plainly as possible."""
    frames = np.concatenate([np.zeros((3, 84, 84), np.uint8), episode.frames])
    length = len(episode.frames)
    minimal = games.to_full_actions(episode.game).tolist()
    found = {}
    for t in range(0 if episode.starts else 3, length):
        ended = t + n_step >= length
        if ended and not episode.terminal:
            continue
        rewards = episode.rewards[t : t + n_step]
        found[t] = Transition(
            state=frames[t : t + 4].tobytes(),
            action=minimal.index(episode.actions[t]),
            reward=sum(DISCOUNT**k * float(r) for k, r in enumerate(rewards)),
            terminal=ended,
            next_state=b"" if ended else frames[t + n_step : t + n_step + 4].tobytes(),
        )
    return found


def ours(directory: Path, suffix: int, n_step: int, padding: np.ndarray) -> dict[int, Transition]:
    """Transitions of one suffix by slot; the slot is found through order, ends and padding."""
    found = {}
    with open_group(directory, suffix) as group:
        terminals = group.files["$store$_terminal"].read_all()
        frames = group.files["$store$_observation"].read_all()
    slot = 0
    for episode in DOPAMINE.read_episodes(directory, GAME, [suffix]):
        while padding[slot] or not (
            np.array_equal(frames[slot : slot + len(episode.frames)], episode.frames)
            and terminals[slot + len(episode.frames) - 1] == episode.terminal
        ):
            slot += 1
        found |= {slot + t: one for t, one in transitions_of(episode, n_step).items()}
        slot += len(episode.frames)
    return found


def dopamine_buffer(directory: Path, suffix: int, capacity: int, n_step: int):
    buffer = OutOfGraphReplayBuffer((84, 84), STACK, capacity, 1, n_step, DISCOUNT)
    buffer.load(str(directory), suffix)
    return buffer


def theirs(buffer: OutOfGraphReplayBuffer, capacity: int) -> dict[int, Transition]:
    """Transitions of one suffix by slot that Dopamine calls valid."""
    found = {}
    for slot in filter(buffer.is_valid_transition, range(capacity)):
        state, action, reward, next_state, _, _, terminal, _ = buffer.sample_transition_batch(
            1, [slot]
        )
        found[slot] = Transition(
            state=np.moveaxis(state[0], -1, 0).tobytes(),
            action=int(action[0]),
            reward=float(reward[0]),
            terminal=bool(terminal[0]),
            next_state=b"" if terminal[0] else np.moveaxis(next_state[0], -1, 0).tobytes(),
        )
    return found


def check_against_dopamine(
    directory: Path, capacity: int, n_step: int, paddings: list[np.ndarray]
) -> None:
    assert list_suffixes(directory) == list(range(len(paddings)))
    for suffix, padding in enumerate(paddings):
        with open_group(directory, suffix) as group:
            valid = group.valid
            terminals = group.files["$store$_terminal"].read_all()
        buffer = dopamine_buffer(directory, suffix, capacity, n_step)
        found = ours(directory, suffix, n_step, padding)
        expected = theirs(buffer, capacity)
        # Where neither the file's edges nor padding are involved: the same, bit for bit.
        low = 4 if valid == capacity else 3
        inner = set(range(low, valid - n_step)) - set(np.flatnonzero(padding))
        # Dopamine refuses a complete transition if, within n steps behind its terminal, a short
        # episode comes to an end that is not terminal.
        refused = {
            slot
            for slot in inner
            if any(
                terminals[slot:end].any()
                for end in buffer.episode_end_indices & set(range(slot, slot + n_step))
                if not terminals[end]
            )
        }
        assert refused <= set(found) - set(expected)
        inner -= refused
        assert {s: found[s] for s in inner & set(found)} == {
            s: expected[s] for s in inner & set(expected)
        }
        # Dopamine's others: slots behind the cursor, stacks that wrap around, and padding, which
        # it offers as states after an end that is not terminal.
        assert all(s < low or s >= valid or padding[s] for s in set(expected) - inner)
        # Our others: near the cursor, if the episode ends before it; near slot 0, if it starts
        # there. Dopamine's range of invalid slots is blind to both.
        for slot in set(found) - inner - refused:
            assert slot < valid and not padding[slot]
            ends = terminals[slot:valid][:n_step].any()
            assert ends if slot >= valid - n_step else slot < low


def check_every_step_is_read_once(directory: Path, paddings: list[np.ndarray]) -> None:
    """The episodes of each suffix, laid end to end, are its valid slots without the padding."""
    for suffix, padding in enumerate(paddings):
        with open_group(directory, suffix) as group:
            valid = group.valid
            frames, actions, rewards, terminals = (
                group.files[f"$store$_{name}"].read_all()
                for name in ("observation", "action", "reward", "terminal")
            )
        episodes = list(DOPAMINE.read_episodes(directory, GAME, [suffix]))
        slots = np.flatnonzero(~padding[:valid])
        while len(slots) > sum(len(episode.frames) for episode in episodes):
            # Black steps that a file begins with cannot be told from padding.
            assert slots[0] < 3 and not frames[slots[0]].any()
            slots = slots[1:]
        for episode in episodes:
            here, slots = np.split(slots, [len(episode.frames)])
            np.testing.assert_array_equal(episode.frames, frames[here])
            np.testing.assert_array_equal(
                episode.actions, games.to_full_actions(GAME)[actions[here]]
            )
            np.testing.assert_array_equal(episode.rewards, rewards[here])
            assert (episode.actions.dtype, episode.rewards.dtype) == (np.int32, np.float32)
            assert not terminals[here[:-1]].any() and episode.terminal == terminals[here[-1]]
            assert episode.starts == (here[0] > 0)
            assert not episode.starts or not frames[max(here[0] - 3, 0) : here[0]].any()


@st.composite
def runs(draw):
    n_step = draw(st.integers(1, 5))
    capacity = draw(st.integers(n_step + 2 * STACK, 48))
    kinds = draw(st.sampled_from([("terminal",), ("terminal", "unmarked")]))
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    steps = []
    for length in lengths:
        end = draw(st.sampled_from(kinds))
        steps += [Step() for _ in range(length - 1)] + [Step(end)]
    if draw(st.booleans()):
        steps[-1] = Step()
    for index in sorted(draw(st.sets(st.integers(0, len(steps) - 1), max_size=4))):
        # Three in a row look like padding, which the reader refuses where no end is marked.
        if index < 2 or not all(step.black for step in steps[index - 2 : index]):
            steps[index] = steps[index]._replace(black=True)
    return n_step, capacity, steps, kinds


@pytest.mark.slow
@settings(max_examples=60, deadline=None, database=None)
@given(runs())
def test_transitions_equal_those_dopamine_calls_valid(run):
    n_step, capacity, steps, kinds = run
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paddings = write_run(directory, steps, capacity, n_step)
        if kinds == ("terminal",):  # the public files have no seventh
            for path in directory.glob("episode_end_indices*"):
                path.unlink()
        check_against_dopamine(directory, capacity, n_step, paddings)
        check_every_step_is_read_once(directory, paddings)
