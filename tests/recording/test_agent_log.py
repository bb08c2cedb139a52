"""The log of an online run against a model of it, wherever it is marked, killed and taken up."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.data.dopamine.format import DOPAMINE
from cql_atari.envs.vector_acting import VectorStep
from cql_atari.recording import spool
from cql_atari.recording.agent_log import Experience
from cql_atari.recording.folder import Job
from cql_atari.system import files

ACTIONS = games.spec("SpaceInvaders").actions
KEEP, COPIES = 2, 3


def job(slots_per_file):
    return Job(game="SpaceInvaders", run=1, steps=1000, behaviour="online", epsilons=(),
               slots_per_file=slots_per_file, seed=3)  # fmt: skip


def new(directory, slots_per_file=12):
    config = tiny.config(
        "data.games = ('SpaceInvaders',)", f"train.keep = {KEEP}",
        "online.epsilon_decay_frames = 4000", "online.epsilon_end = 0.0",
    )  # fmt: skip
    return Experience(directory, job(slots_per_file), config)


class Model:
    """What should be logged: ended episodes in order, the others by copy in the order of begin.

    A step is (number, action of the full set, raw reward, whether the game is over).
    """

    def __init__(self):
        self.ended, self.under_way, self.frames = [], {}, 0

    def cut(self):
        self.ended += self.under_way.values()
        self.under_way = {}


class Game:
    """Steps of three copies, numbered; every episode ends where it is told to."""

    def __init__(self):
        self.number, self.fresh = 0, np.zeros(COPIES, bool)

    def step(self, ends: int, truncated: bool) -> VectorStep:
        """`ends`: bits of the copies whose episodes end here."""
        ended = np.array([ends >> k & 1 for k in range(COPIES)], bool) & ~self.fresh
        frames = np.zeros((COPIES, 84, 84), np.uint8)
        for k in range(COPIES):
            self.number += 1
            frames[k, 0, :3] = 1, self.number // 256, self.number % 256
        numbers = np.arange(self.number - COPIES, self.number)
        step = VectorStep(
            frames,
            np.array([ACTIONS[n % len(ACTIONS)] for n in numbers], np.int32),
            (5.0 * (numbers % 3) - 5).astype(np.float32),
            ended & (not truncated),
            ended & truncated,
            ~self.fresh,
        )
        self.fresh = ended
        return step


def tell(model: Model, step: VectorStep) -> None:
    for k in np.flatnonzero(step.live).tolist():
        number = int(step.frames[k, 0, 1]) * 256 + int(step.frames[k, 0, 2])
        record = (number, int(step.actions[k]), float(step.rewards[k]), bool(step.terminals[k]))
        model.under_way.setdefault(k, []).append(record)
        if step.terminals[k] or step.truncations[k]:
            model.ended.append(model.under_way.pop(k))
        model.frames += 4


def read(directory: Path, slots_per_file: int):
    """The stream's slots as Dopamine's buffer finds them: number, action, reward, terminal."""
    logs = directory / "replay_logs"
    slots, added = [], 0
    for suffix in range(spool.count_groups(logs)):
        with np.errstate(all="ignore"):
            buffer = OutOfGraphReplayBuffer((84, 84), 4, slots_per_file, 32)
            buffer.load(str(logs), str(suffix))
        store = buffer._store
        count = int(buffer.add_count)
        assert added < count <= added + slots_per_file
        cursor = count % len(store["action"])
        assert list(buffer.invalid_range) == [
            (cursor - 1 + k) % len(store["action"]) for k in range(5)
        ]
        for slot in np.arange(added, count) % len(store["action"]):
            one, high, low = store["observation"][slot, 0, :3].tolist()
            slots.append((one * (high * 256 + low), *(
                store[name][slot].item() for name in ("action", "reward", "terminal")
            )))  # fmt: skip
        added = count
    return slots


def stream(episodes):
    slots = []
    for episode in episodes:
        slots += [(0, 0, 0.0, 0)] * 3
        for k, (number, action, reward, _) in enumerate(episode):
            ended = int(k == len(episode) - 1)
            slots.append((number, ACTIONS.index(action), float(np.clip(reward, -1, 1)), ended))
    return slots


class Killed(Exception):
    pass


operations = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 7), st.booleans()),
    st.tuples(st.just("step"), st.just(0), st.booleans()),
    st.tuples(st.just("save"), st.none() | st.integers(0, 9), st.none()),
    st.tuples(st.just("kill"), st.integers(1, KEEP), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(
    done=st.lists(operations, min_size=8, max_size=60), slots_per_file=st.integers(5, 40),
    killed_at_last=st.none() | st.integers(0, 9),
)  # fmt: skip
def test_it_holds_what_the_checkpoint_counts_once(done, slots_per_file, killed_at_last):
    """Killed between steps, after a checkpoint or in the middle of writing; goes on from any of the
    checkpoints that are kept.
    """
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        directory, game = Path(folder), Game()
        experience, model = new(directory, slots_per_file), Model()
        experience.go_on({})
        checkpoints = [({}, copy.deepcopy(model))]
        real = files.sync

        def kill_after(calls):
            left = iter(range(calls))

            def sync(path):
                if next(left, None) is None:
                    raise Killed
                real(path)

            patch.setattr(files, "sync", sync)

        def go_on(back):
            nonlocal experience, model
            patch.setattr(files, "sync", real)
            del checkpoints[max(len(checkpoints) - back + 1, 1) :]
            experience.close()
            experience = new(directory, slots_per_file)
            game.fresh[:] = False
            extra, model = checkpoints[-1][0], copy.deepcopy(checkpoints[-1][1])
            experience.go_on(json.loads(json.dumps(extra)))
            model.cut()

        for what, value, truncated in done:
            if what == "step":
                step = game.step(value, truncated)
                tell(model, step)
                experience.add(step)
            elif what == "kill":
                go_on(value)
            else:
                extra = experience.mark()
                assert extra["frames"] == model.frames
                checkpoints = [*checkpoints, (extra, copy.deepcopy(model))][-KEEP:]
                try:
                    if value is not None:
                        kill_after(value)
                    experience.publish()
                except Killed:
                    go_on(1)
                patch.setattr(files, "sync", real)

        final = experience.mark()
        model.cut()
        if killed_at_last is not None:
            try:
                kill_after(killed_at_last)
                experience.finish(final)
            except Killed:
                experience = new(directory, slots_per_file)
            patch.setattr(files, "sync", real)
        experience.finish(final)
        check(directory, slots_per_file, model)


def check(directory: Path, slots_per_file: int, model: Model) -> None:
    expected = stream(model.ended)
    assert 4 * sum(map(len, model.ended)) == model.frames
    capacity = min(slots_per_file, len(expected) + 1)
    alone = len(expected) % capacity == 0  # in the stale place at the very end: in no file
    assert read(directory, capacity) == expected[: len(expected) - alone if expected else 0]

    path = directory / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["length"] for line in lines] == [len(episode) for episode in model.ended]
    assert [line["score"] for line in lines] == [sum(s[2] for s in e) for e in model.ended]
    assert [line["terminal"] for line in lines] == [e[-1][3] for e in model.ended]
    assert all(line["behaviour"] == "online" and line["seed"] == 3 for line in lines)
    assert max((line["frames"] for line in lines), default=0) == model.frames

    if expected:
        suffixes = spool.count_groups(directory / "replay_logs")
        stale = sum(slot[0] > 0 for slot in expected[capacity - 1 :: capacity])
        found = sum(
            len(e.frames)
            for e in DOPAMINE.read_episodes(directory / "replay_logs", "SpaceInvaders")
        )
        assert suffixes >= 1 and found == sum(map(len, model.ended)) - stale


def test_a_kill_and_what_is_kept_by_hand(tmp_path):
    """Copy 0 ends at step 2; the checkpoint is after step 3, the kill after step 5.

    copy 0:  1   4!  (reset)  10  13     kept: 1 4 | 2 5 8 | 3 6 9
    copy 1:  2   5   8        11  14
    copy 2:  3   6   9        12! (reset)
    """
    slots_per_file = 10**9  # 7 TB of frames, if there were as many
    experience, game = new(tmp_path, slots_per_file), Game()
    experience.go_on({})
    for ends in (0, 1, 0):
        experience.add(game.step(ends, False))
    extra = experience.mark()
    assert extra == {"frames": 32, "experience": {"slot": 5, "under_way": [[1, 3], [2, 3]]}}
    experience.publish()  # another checkpoint is to come before anything is
    assert not (tmp_path / "episodes.jsonl").exists()
    for ends in (4, 0):
        experience.add(game.step(ends, False))
    experience.close()

    again = new(tmp_path, slots_per_file)
    again.finish(extra)
    slots = read(tmp_path, 18)
    assert [slot[0] for slot in slots] == [0, 0, 0, 1, 4, 0, 0, 0, 2, 5, 8, 0, 0, 0, 3, 6, 9]
    assert [k for k, slot in enumerate(slots) if slot[3]] == [4, 10, 16]
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [line["terminal"] for line in lines] == [True, False, False]
    # Epsilon falls by 1/1000 a frame of 4000: 1 - 0 / 4000, 1 - 12 / 4000, 1 - 24 / 4000.
    assert [line["epsilon"] for line in lines] == pytest.approx([0.9985, 0.997, 0.997], abs=1e-6)
    assert [line["frames"] for line in lines] == [24, 32, 32]
    assert [line["slot"] for line in lines] == [0, 5, 11]


def test_it_goes_back_to_an_older_checkpoint(tmp_path):
    """Both are kept; one-step episodes of three copies make 12 slots, a group, at each step."""
    experience, game = new(tmp_path), Game()
    experience.go_on({})
    extras = []
    for _ in range(2):
        for _ in range(3):
            experience.add(game.step(7, False))
        extras.append(experience.mark())
        experience.publish()
    # Every other step is a reset: 24 and then 36 slots; only 24 are in both checkpoints.
    assert [extra["experience"]["slot"] for extra in extras] == [24, 36]
    assert spool.count_groups(tmp_path / "replay_logs") == 2
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 6
    experience.close()

    again, game = new(tmp_path), Game()
    game.number = 100
    again.go_on(extras[0])
    again.add(game.step(7, False))
    again.finish(again.mark())
    numbers = [slot[0] for slot in read(tmp_path, 12) if slot[0]]
    assert numbers == [1, 2, 3, 7, 8, 9, 101, 102]  # 103, alone in a stale place, gets no file


def test_a_log_that_lacks_something_is_refused(tmp_path):
    experience, game = new(tmp_path), Game()
    experience.go_on({})
    for ends in (7, 0, 1, 0):
        experience.add(game.step(ends, False))
    extra = experience.mark()
    experience.close()
    (ended,) = (tmp_path / "spool").glob("*.00000001")
    (open_one,) = (tmp_path / "spool").glob("under_way.00000004")
    content = open_one.read_bytes()

    open_one.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"under_way.00000004 is missing or damaged.*begin again"):
        new(tmp_path).finish(extra)
    open_one.unlink()
    with pytest.raises(UserError, match=r"\*.00000004 is missing"):
        new(tmp_path).finish(extra)
    open_one.write_bytes(content)
    ended.unlink()
    with pytest.raises(UserError, match=r"000000000004\.\* is missing"):
        new(tmp_path).finish(extra)


def test_a_torn_line_is_written_again(tmp_path):
    experience, game = new(tmp_path), Game()
    experience.go_on({})
    for ends in (7, 0, 7, 0):
        experience.add(game.step(ends, False))
    extra = experience.mark()
    experience.finish(extra)
    path = tmp_path / "episodes.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    new(tmp_path).finish(extra)
    assert path.read_text() == whole
