"""Collecting: files against a recording of the play, episodes, resuming, and real processes."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ale_py.roms
import numpy as np
import pytest
from dopamine.replay_memory.circular_replay_buffer import OutOfGraphReplayBuffer

from cql_atari import collect
from cql_atari.core import games, settings
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.envs import acting, atari
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job
from cql_atari.recording.mixture import format_mixture, next_part, parse_mixture
from cql_atari.runs import recorded_config
from cql_atari.system import signals

pytestmark = pytest.mark.slow

JOB = Job(
    game="SpaceInvaders",
    run=1,
    steps=1_000,
    behaviour="random",
    epsilons=(0.0, 0.5, 1.0),
    slots_per_file=400,
    seed=4,
)


def play(directory: Path, reports: list[int] | None = None, **changes) -> Path:
    directory.mkdir(parents=True)
    report = (lambda _: None) if reports is None else reports.append
    scripted.play_job(JOB._replace(**changes), directory, report)
    return directory


def episodes_of(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "episodes.jsonl").read_text().splitlines()]


def files_of(directory: Path) -> list[Path]:
    return sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())


def assert_same(a: Path, b: Path) -> None:
    assert files_of(a) == files_of(b)
    assert filecmp.cmpfiles(a, b, files_of(a), shallow=False)[0] == files_of(a)


class Tape(list):
    """What an environment was asked and what it answered, episode by episode."""


@pytest.fixture(scope="module")
def tape():
    return Tape()


@pytest.fixture(scope="module")
def collection(tmp_path_factory, tape):
    """JOB, played for real, with every step of the environment written down."""
    real = atari.AtariEnv

    class Recorded(real):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            tape.options = options

        def reset(self):
            self.frame = super().reset()
            tape.append([])
            return self.frame

        def step(self, action):
            answer = super().step(action)
            tape[-1].append((self.frame.copy(), action, *answer[1:]))
            self.frame = answer[0]
            return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atari, "AtariEnv", Recorded)
        return play(tmp_path_factory.mktemp("collect") / "1")


def test_dopamine_reads_back_what_was_played(collection, tape):
    """The files, joined: each episode after three blank slots, in order, every step of it."""
    spec = games.spec(JOB.game)
    assert len(tape) >= 3 and sum(map(len, tape)) == JOB.steps
    expected = []
    for episode in tape:
        expected += [(np.zeros((84, 84)), 0, 0.0, False)] * 3
        for frame, action, reward, terminal, truncated in episode:
            clipped = max(-1.0, min(1.0, reward))
            expected.append((frame, spec.actions.index(action), clipped, terminal or truncated))
    frames, *columns = map(np.array, zip(*expected))

    joined = {name: [] for name in ("observation", "action", "reward", "terminal")}
    added = 0
    for suffix in range(len(list(collection.rglob("add_count*")))):
        buffer = OutOfGraphReplayBuffer((84, 84), 4, JOB.slots_per_file, 32)
        buffer.load(str(collection / "replay_logs"), str(suffix))
        new = np.arange(added, int(buffer.add_count)) % JOB.slots_per_file
        for name, parts in joined.items():
            parts.append(buffer._store[name][new])
        added = int(buffer.add_count)
    assert suffix == len(frames) // JOB.slots_per_file
    np.testing.assert_array_equal(np.concatenate(joined["observation"]), frames)
    for name, column in zip(("action", "reward", "terminal"), columns):
        np.testing.assert_array_equal(np.concatenate(joined[name]), column)
    assert set(columns[1]) == {0, 1}  # SpaceInvaders pays 5 to 200


def test_episodes_hold_raw_scores(collection, tape):
    episodes = episodes_of(collection)
    assert len(episodes) == len(tape)
    for episode, steps in zip(episodes, tape):
        _, _, rewards, terminals, _ = zip(*steps)
        assert episode["score"] == sum(rewards)
        assert episode["clipped_return"] == sum(reward > 0 for reward in rewards)
        assert episode["length"] == len(steps)
        assert episode["terminal"] == terminals[-1]
        assert (episode["game"], episode["run"]) == ("SpaceInvaders", 1)
        assert episode["behaviour"] == "random" and episode["epsilon"] in JOB.epsilons
        assert episode["seed"] == tape.options["seed"] and len(episode["rom_md5"]) == 32
    assert [e["terminal"] for e in episodes] == [True] * (len(episodes) - 1) + [False]  # cut
    assert max(e["score"] for e in episodes) > max(e["clipped_return"] for e in episodes) > 0


def test_data_are_played_with_sticky_actions(collection, tape):
    assert tape.options["sticky"] == 0.25


def test_the_same_job_writes_the_same_bytes_and_another_does_not(tmp_path, collection):
    reports = []
    assert_same(play(tmp_path / "again", reports), collection)
    assert sum(reports) == JOB.steps and max(reports) <= 200
    seeds = {
        episodes_of(play(tmp_path / str(k), steps=10, **changes))[0]["seed"]
        for k, changes in enumerate([{}, {"seed": 5}, {"run": 2}, {"game": "Pong"}])
    }
    assert len(seeds) == 4


def test_the_frame_cap_is_stored_as_an_end_but_told_apart(tmp_path, monkeypatch):
    class Capped(atari.AtariEnv):
        def __init__(self, *args, **options):
            super().__init__(*args, **options, max_frames=400)

    monkeypatch.setattr(atari, "AtariEnv", Capped)
    directory = play(tmp_path / "1", game="Freeway", steps=250)
    episodes = episodes_of(directory)
    assert [(e["length"], e["terminal"]) for e in episodes] == [(100, False)] * 2 + [(50, False)]
    buffer = OutOfGraphReplayBuffer((84, 84), 4, 3 * 3 + 250 + 1, 32)
    buffer.load(str(directory / "replay_logs"), "0")
    assert np.flatnonzero(buffer._store["terminal"]).tolist() == [102, 205]


# Who plays.


@pytest.mark.parametrize("epsilon, low, high", [(0.0, 1.0, 1.0), (0.6, 0.5, 0.7), (1.0, 0.2, 0.5)])
def test_epsilon_is_the_share_of_random_actions(tmp_path, epsilon, low, high):
    """Always up in Freeway, which has three actions: the share of up is 1 - 2/3 epsilon."""
    directory = play(
        tmp_path / "1", game="Freeway", behaviour="fixed:UP", epsilons=(epsilon,), steps=300,
        slots_per_file=1_000,
    )  # fmt: skip
    buffer = OutOfGraphReplayBuffer((84, 84), 4, 304, 32)
    buffer.load(str(directory / "replay_logs"), "0")
    up = np.mean(buffer._store["action"][3:303] == games.spec("Freeway").actions.index(2))
    assert low <= up <= high
    assert episodes_of(directory)[0]["epsilon"] == epsilon


def test_each_episode_draws_one_of_the_epsilons(tmp_path):
    directory = play(tmp_path / "1", game="Breakout", steps=2_500, epsilons=(0.25, 0.75))
    drawn = [episode["epsilon"] for episode in episodes_of(directory)]
    assert len(drawn) > 8 and set(drawn) == {0.25, 0.75}


def test_a_behaviour_is_fresh_in_every_episode_and_sees_the_ram(tmp_path, monkeypatch):
    from cql_atari.envs import scripted_players

    made = []

    def make(name, game):
        made.append((name, game))
        rams = set()

        def act(ram, rng):
            assert ram.shape == (128,) and ram.dtype == np.uint8
            rams.add(ram.tobytes())
            return (0, 3)[len(rams) > 5]

        return act

    monkeypatch.setattr(scripted_players, "make", make)
    directory = play(
        tmp_path / "1", game="Breakout", behaviour="script", epsilons=(0.2,), steps=600
    )
    assert len(made) == 1 + len(episodes_of(directory)) > 2
    assert set(made) == {("script", "Breakout")}


def test_a_checkpoint_plays_greedily_within_the_minimal_set(tmp_path, monkeypatch):
    from cql_atari.training import load

    config = SimpleNamespace(data=SimpleNamespace(games=["Pong", "SpaceInvaders"]))
    stacks = []

    def policy(seen):
        assert seen.frames.shape == (1, 4, 84, 84) and seen.games.tolist() == [1]
        stacks.append(seen.frames[0].copy())
        values = np.zeros((1, 18), np.float32)
        values[0, [2, 4]] = 9, 5  # up, which SpaceInvaders hasn't, and left
        return values

    loads, method = [], SimpleNamespace(outputs=policy)
    monkeypatch.setattr(recorded_config, "read_config", lambda directory: config)
    monkeypatch.setattr(
        load,
        "load",
        lambda run: loads.append(run) or load.Loaded(lambda: policy, config, 7, method),
    )
    run = {"behaviour": "checkpoint:runs/it", "epsilons": (0.0,)}
    directory = play(tmp_path / "1", steps=1_000, slots_per_file=2_000, **run)
    assert loads == [Path("runs/it")] and len(episodes_of(directory)) > 1
    made = json.loads((directory / "collection.json").read_text())
    assert made["checkpoints"] == {"checkpoint:runs/it": 7}
    slots = 1_000 + 3 * len(episodes_of(directory)) + 1
    buffer = OutOfGraphReplayBuffer((84, 84), 4, slots, 32)
    buffer.load(str(directory / "replay_logs"), "0")
    left = games.spec(JOB.game).actions.index(4)
    assert (buffer._store["action"][3:100] == left).all()
    np.testing.assert_array_equal(
        stacks[:100], [buffer._store["observation"][t : t + 4] for t in range(100)]
    )
    with pytest.raises(UserError, match="wasn't trained on Hero, but on Pong, SpaceInvaders"):
        scripted.player_maker("checkpoint:runs/it", "Hero")
    method.outputs = None  # a decision transformer's
    with pytest.raises(UserError, match="checkpoint:runs/it acts on a window of steps"):
        scripted.player_maker("checkpoint:runs/it", "Pong")()


# Several players.

BAD, GOOD = "fixed:NOOP", "random"
MIXED = Job(
    game="Breakout", run=1, steps=2_400, behaviour="mixture", epsilons=(), slots_per_file=2_000,
    seed=1, mixture=f"{BAD}*0.25@0.5,0.7; {GOOD}*0.5@0.0; {BAD}*0.25@0.9", order="worst_first",
)  # fmt: skip


@pytest.fixture(scope="module", params=["worst_first", "shuffled"])
def mixed(tmp_path_factory, request):
    """(data_dir, episodes, order) of MIXED, played in each order."""
    data_dir = tmp_path_factory.mktemp(request.param)
    scripted.collect_game(data_dir, MIXED._replace(order=request.param), lambda _: None)
    return data_dir, episodes_of(data_dir / "Breakout" / "1"), request.param


def part_of(episode: dict) -> int:
    """MIXED's epsilons tell its parts apart."""
    return {0.5: 0, 0.7: 0, 0.0: 1, 0.9: 2}[episode["epsilon"]]


def test_each_episode_names_its_player_and_one_of_its_epsilons(mixed):
    _, episodes, _ = mixed
    named = {(e["behaviour"], e["epsilon"]) for e in episodes}
    assert named <= {(BAD, 0.5), (BAD, 0.7), (GOOD, 0.0), (BAD, 0.9)}
    assert {part_of(e) for e in episodes} == {0, 1, 2}


def test_shares_hold_within_an_episode(mixed):
    _, episodes, _ = mixed
    steps = [0, 0, 0]
    for episode in episodes:
        steps[part_of(episode)] += episode["length"]
    assert sum(steps) == MIXED.steps
    longest = max(episode["length"] for episode in episodes)
    assert longest < 500
    for played, budget in zip(steps, (600, 1_200, 600)):
        assert abs(played - budget) <= longest


def test_worst_first_plays_one_after_the_other_and_shuffled_does_not(mixed):
    _, episodes, order = mixed
    turns = [part_of(episode) for episode in episodes]
    assert (turns == sorted(turns)) == (order == "worst_first")
    if order == "worst_first":  # a player starts no episode after its stretch
        starts = np.cumsum([0] + [episode["length"] for episode in episodes[:-1]])
        assert turns == np.digitize(starts, [600, 1_800]).tolist()


@pytest.mark.parametrize(
    "lengths, turn",
    [
        ([[], [], []], 0),
        ([[99], [], []], 0),
        ([[60, 40], [], []], 1),
        ([[150], [], []], 1),
        ([[150], [49], []], 1),
        ([[150], [50], []], 2),  # it gets the less where the one before played the longer
        ([[250], [], []], 2),
    ],
)
def test_in_order_a_long_episode_shortens_the_next_stretch_only(lengths, turn):
    rng = np.random.default_rng(0)
    assert next_part("worst_first", [100, 100, 100], lengths, rng) == turn


def test_shuffled_keeps_the_shares_at_all_times():
    """Episodes of 100 and of 10 steps, half the steps each: so in every tenth of 20,000, too."""
    rng, lengths, turns = np.random.default_rng(0), [[], []], []
    while sum(map(sum, lengths)) < 20_000:
        turn = next_part("shuffled", [10_000, 10_000], lengths, rng)
        lengths[turn].append((100, 10)[turn])
        turns += [turn] * lengths[turn][-1]
    assert 9_900 < turns.count(0) <= 10_100
    for tenth in np.split(np.array(turns[:20_000]), 10):
        assert 0.2 < tenth.mean() < 0.8


def test_players_take_turns_by_share_and_for_as_long_as_said():
    """Each step begins a turn with chance 1/50, and a turn is the second player's with 1/4."""
    players = [lambda *_: 0, lambda *_: 1]
    act = acting.taking_turns(players, [0.75, 0.25], 50)
    rng = np.random.default_rng(0)
    actions = np.array([act(None, None, rng) for _ in range(200_000)])
    assert 0.23 < actions.mean() < 0.27
    changes = np.count_nonzero(np.diff(actions)) / len(actions)
    assert changes == pytest.approx(2 * 0.75 * 0.25 / 50, rel=0.1)
    thirds = acting.taking_turns(players, [0.3333333, 0.6666666], 50)  # `--mixture` takes these
    assert thirds(None, None, rng) in {0, 1}


def test_a_players_share_of_the_turns_is_divided_among_its_epsilons(monkeypatch):
    told = []
    monkeypatch.setattr(acting, "taking_turns", lambda *arguments: told.append(arguments))
    parts = parse_mixture("fixed:LEFT*0.5@0,0.1,0.2,0.3; random*0.5@0")
    makers = [scripted.player_maker(part.behaviour, "Breakout") for part in parts]
    scripted._in_turns(parts, makers, "Breakout")
    ((players, shares, mean_steps),) = told
    assert len(players) == 5 and shares == [0.125] * 4 + [0.5] and mean_steps == 50


def test_in_turns_several_players_play_in_each_episode(tmp_path):
    mixture = "fixed:LEFT*0.5@0.0; fixed:RIGHT*0.25@0.0; fixed:FIRE*0.25@0.0"
    job = MIXED._replace(order="in_turns", mixture=mixture, slots_per_file=10_000)
    scripted.collect_game(tmp_path, job, lambda _: None)
    directory = tmp_path / "Breakout" / "1"
    episodes = episodes_of(directory)
    assert {(e["behaviour"], e["epsilon"]) for e in episodes} == {("mixture", None)}
    assert sum(e["length"] for e in episodes) == MIXED.steps
    (source,) = sources.find_sources(
        settings.Data(dir=str(tmp_path), games=("Breakout",), suffixes=None)
    )
    played = [part.actions for part in sources.read_part(source, 0)]
    assert all(len(set(actions)) > 1 for actions in played if len(actions) > 500)
    everything = np.concatenate(played)
    left, right, fire = map(games.ACTION_NAMES.index, ("LEFT", "RIGHT", "FIRE"))
    assert set(everything) == {left, right, fire}
    assert 0.25 < np.mean(everything == left) < 0.75


def test_a_mixture_repeats_byte_for_byte(tmp_path, mixed):
    data_dir, _, order = mixed
    scripted.collect_game(tmp_path, MIXED._replace(order=order), lambda _: None)
    assert_same(tmp_path, data_dir)


def test_a_mixture_is_read_back_as_one_run(mixed):
    data_dir, episodes, _ = mixed
    (source,) = sources.find_sources(
        settings.Data(dir=str(data_dir), games=("Breakout",), suffixes=None)
    )
    lengths = [len(part.actions) for k in source.suffixes for part in sources.read_part(source, k)]
    assert len(source.suffixes) > 1 and len(lengths) >= len(episodes)
    # A file's last slot is stale and an episode cut there starts anew: few steps are lost.
    assert 0.95 * MIXED.steps < sum(lengths) <= MIXED.steps


def test_another_mixture_in_its_place_is_refused_with_the_difference(mixed):
    data_dir, _, order = mixed
    job = MIXED._replace(order=order)
    assert scripted.is_collected(job, data_dir)
    for changes, difference in (
        (
            {"mixture": "random*1.0@0.5"},
            rf"mixture {re.escape(job.mixture)} there, random\*1.0@0.5",
        ),
        ({"order": "other"}, f"order {order} there, other asked"),
        ({"behaviour": "random", "mixture": None}, "behaviour mixture there, random asked"),
    ):
        with pytest.raises(UserError, match=difference):
            scripted.is_collected(job._replace(**changes), data_dir)


def test_one_player_is_a_mixture_of_one(tmp_path, collection):
    """Also how what was collected before there were mixtures is made again."""
    one = {"behaviour": "mixture", "epsilons": (), "mixture": "random*1.0@0.0,0.5,1.0"}
    directory = play(tmp_path / "1", order="worst_first", **one)
    assert episodes_of(directory) == episodes_of(collection)
    assert_same(directory / "replay_logs", collection / "replay_logs")
    old = json.loads((directory / "collection.json").read_text())
    old |= {"behaviour": "random", "epsilons": [0.0, 0.5, 1.0]}
    del old["mixture"], old["order"]
    (directory / "collection.json").write_text(json.dumps(old))
    directory.rename(tmp_path / "2")
    (tmp_path / "SpaceInvaders").mkdir()
    (tmp_path / "2").rename(tmp_path / "SpaceInvaders" / "1")
    assert scripted.is_collected(JOB, tmp_path)


def test_a_mixture_means_the_same_however_it_is_spaced():
    parts = parse_mixture(" fixed:DOWN *.75@ .3, 0.50 ;checkpoint:a*b@c/d*25e-2@0")
    assert parts == (("fixed:DOWN", 0.75, (0.3, 0.5)), ("checkpoint:a*b@c/d", 0.25, (0.0,)))
    text = format_mixture(parts)
    assert text == "fixed:DOWN*0.75@0.3,0.5; checkpoint:a*b@c/d*0.25@0.0"
    assert parse_mixture(text) == parts


@pytest.mark.parametrize(
    "mixture, message",
    [
        ("", "in '', there must be a player"),
        ("random", "in 'random', there must be"),
        ("random@0.5", "there must be"),
        ("random*1", "there must be"),
        ("*1@0.5", "there must be"),
        ("random*1@0.5;", "in '', there must be"),
        ("random*half@0.5", "could not convert string to float: 'half'"),
        ("random*1@", "could not convert"),
        ("random*1@0.5,", "could not convert"),
        ("random*1@1.5", "each epsilon must be from 0 to 1"),
        ("random*1@nan", "each epsilon"),
        ("random*0@0; scripted*1@0", "the share 0 must be above 0"),
        ("random*nan@0", "the share nan"),
        ("random*0.5@0.5; scripted*0.25@0.2", "the shares sum to 0.75"),
        ("random*0.7@0.5; scripted*0.7@0.2", "the shares sum to 1.4"),
        ("random*0.5@0; online*0.5@0", "in 'online\\*0.5@0', online trains as it plays"),
    ],
)
def test_a_malformed_mixture_is_told_the_valid_form(mixture, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_mixture(mixture)
    assert "Write PLAYER*SHARE@EPSILON" in str(caught.value)
    example = str(caught.value).split("example '")[1].rstrip(".'")
    assert len(parse_mixture(example)) == 2


@pytest.mark.parametrize(
    "mixture, message",
    [
        ("fixed:DOWN*0.5@0; random*0.5@0", "Breakout has no action 'DOWN'; it has NOOP, FIRE"),
        ("best*0.5@0; random*0.5@0", "unknown behaviour 'best'"),
        ("fixed:FIRE*0.0001@0; random*0.9999@0", "fixed:FIRE plays none of 2400 steps"),
    ],
)
def test_a_mixture_that_a_game_cannot_play_stops_all_before_anything_is_played(
    tmp_path, mixture, message
):
    jobs = [MIXED._replace(game=game, mixture=mixture) for game in ("Freeway", "Breakout")]
    jobs[0] = jobs[0]._replace(mixture="fixed:DOWN*0.5@0; random*0.5@0")
    with pytest.raises(UserError, match=message):
        scripted.collect_scripted(jobs, tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", ["worst_first", "shuffled"])
def test_a_player_that_long_episodes_leave_out_is_an_error_not_a_silent_gap(tmp_path, order):
    """One game of Freeway takes 2,048 steps or so."""
    mixture = "fixed:DOWN*0.999@0.3; scripted*0.001@0.2"
    job = MIXED._replace(game="Freeway", steps=500, mixture=mixture, order=order, seed=2)
    with pytest.raises(UserError, match=r"scripted got none of the 500 steps of Freeway: .* 500"):
        scripted.collect_game(tmp_path, job, lambda _: None)
    assert list((tmp_path / "Freeway").iterdir()) == []


# What is there already.


def test_a_complete_collection_is_known_by_its_arguments(tmp_path):
    final = tmp_path / "SpaceInvaders" / "1"
    assert not scripted.is_collected(JOB, tmp_path)
    scripted.collect_game(tmp_path, JOB._replace(steps=10), lambda _: None)
    assert scripted.is_collected(JOB._replace(steps=10), tmp_path)
    assert not (tmp_path / "SpaceInvaders" / ".1.partial").exists()
    with pytest.raises(UserError, match=r"another collection \(steps 10 there, 1000 asked\)"):
        scripted.is_collected(JOB, tmp_path)
    with pytest.raises(UserError, match=r"\(epsilons \[0.0, 0.5, 1.0\] there, \[0.1\] asked\)"):
        scripted.is_collected(JOB._replace(steps=10, epsilons=(0.1,)), tmp_path)
    for damage in (lambda path: path.write_text("{"), Path.unlink):
        damage(final / "collection.json")
        with pytest.raises(UserError, match="wasn't collected here"):
            scripted.is_collected(JOB, tmp_path)


def test_roms_of_ones_own_are_played_and_told_by_their_md5(tmp_path):
    """A ROM is another where its bytes are, not where its folder is."""
    own = Path(ale_py.roms.get_rom_path("space_invaders")).read_bytes()
    changed = bytearray(own)
    changed[2014] ^= 0x08
    for name, content in (("same", own), ("older", changed)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "space_invaders.bin").write_bytes(content)
    same, older, missing = (
        JOB._replace(steps=10, rom_dir=str(tmp_path / name)) for name in ("same", "older", "none")
    )
    scripted.collect_game(tmp_path / "data", older, lambda _: None)
    (episode,) = episodes_of(tmp_path / "data" / "SpaceInvaders" / "1")
    assert episode["rom_md5"] == hashlib.md5(changed).hexdigest()
    assert scripted.is_collected(older, tmp_path / "data")
    with pytest.raises(UserError, match=r"another collection \(rom_md5 "):
        scripted.is_collected(same, tmp_path / "data")

    scripted.collect_game(tmp_path / "data", same._replace(run=2), lambda _: None)
    assert scripted.is_collected(JOB._replace(steps=10, run=2), tmp_path / "data")
    with pytest.raises(UserError, match=r"space_invaders\.bin doesn't exist"):
        scripted.collect_scripted([missing._replace(run=3)], tmp_path / "data", 1)
    assert not (tmp_path / "data" / "SpaceInvaders" / "3").exists()


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(job, directory, report):
        (directory / "replay_logs").mkdir()
        (directory / "replay_logs" / "half").write_text("half")
        raise RuntimeError("a bug")

    monkeypatch.setattr(scripted, "play_job", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        scripted.collect_game(tmp_path, JOB, lambda _: None)
    assert list((tmp_path / "SpaceInvaders").iterdir()) == []


def test_what_another_process_is_collecting_is_left_alone(tmp_path):
    partial = tmp_path / "SpaceInvaders" / ".1.partial"
    partial.mkdir(parents=True)
    (partial / "theirs").touch()
    theirs = os.open(partial, os.O_RDONLY)
    fcntl.flock(theirs, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process is collecting"):
        scripted.collect_game(tmp_path, JOB, lambda _: None)
    assert (partial / "theirs").exists()
    os.close(theirs)


def test_a_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another --data_dir"):
        scripted.collect_game(tmp_path / "file", JOB, lambda _: None)


# Flags.


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"games": ["Brekout"]}, "did you mean Breakout"),
        ({"games": ["Pong", "Pong"]}, "each game once"),
        ({"games": []}, "at least one"),
        ({"epsilons": ["0.1", "much"]}, "much"),
        ({"epsilons": ["1.1"]}, "from 0 to 1"),
        ({"epsilons": ["nan"]}, "from 0 to 1"),
        ({"epsilons": []}, "from 0 to 1"),
    ],
)
def test_flags_that_make_no_sense(changes, message):
    values = {
        "games": ["Pong"], "run": 1, "steps_per_game": 10, "behaviour": "random",
        "epsilons": ["0.5"], "slots_per_file": 100, "seed": 0, "rom_dir": None,
        "mixture": None, "order": "worst_first",
    }  # fmt: skip
    assert collect._jobs(SimpleNamespace(**values))[0].epsilons == (0.5,)
    with pytest.raises(UserError, match=message):
        collect._jobs(SimpleNamespace(**{**values, **changes}))


def test_a_game_without_a_script_stops_all_before_anything_is_played(tmp_path):
    jobs = [JOB._replace(game=game, behaviour="scripted") for game in ("Breakout", "Zaxxon")]
    with pytest.raises(UserError, match="Zaxxon"):
        scripted.collect_scripted(jobs, tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


# Real processes.


def start(data_dir: Path, *more: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable, "-m", "cql_atari.collect", f"--data_dir={data_dir}",
            "--games=SpaceInvaders", "--behaviour=random", "--epsilons=0,0.5,1",
            "--slots_per_file=400", "--seed=4", *more,
        ],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def wait_for_play(data_dir: Path) -> Path:
    partial = data_dir / "SpaceInvaders" / ".1.partial"
    while not list(partial.rglob("add_count*")):
        time.sleep(0.02)
    return partial


def is_free(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def test_killed_outright_then_run_again(tmp_path, collection):
    """The worker goes with its parent; the next run starts that game again; a third has no work."""
    killed = start(tmp_path, "--steps_per_game=1000000", start_new_session=True)
    try:
        partial = wait_for_play(tmp_path)
        killed.kill()
        killed.wait()
        deadline = time.monotonic() + 60
        while not is_free(partial):
            assert time.monotonic() < deadline, "the worker plays on"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)
    assert not (tmp_path / "SpaceInvaders" / "1").exists()

    again = start(tmp_path, "--steps_per_game=1000")
    out, error = again.communicate()
    assert again.returncode == 0, error
    scores = [episode["score"] for episode in episodes_of(collection)]
    assert f"SpaceInvaders: {len(scores)} episodes, mean score {np.mean(scores):.1f}" in out
    assert not partial.exists()
    assert_same(tmp_path / "SpaceInvaders" / "1", collection)

    before = os.stat(tmp_path / "SpaceInvaders" / "1")
    third = start(tmp_path, "--steps_per_game=1000")
    assert third.communicate() == (out, "")
    assert os.stat(tmp_path / "SpaceInvaders" / "1") == before

    other = start(tmp_path, "--steps_per_game=1001")
    assert "steps 1000 there, 1001 asked" in other.communicate()[1]
    assert other.returncode == 2


def test_sigterm_leaves_nothing_half_written(tmp_path):
    process = start(tmp_path, "--steps_per_game=1000000")
    partial = wait_for_play(tmp_path)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == signals.EXIT_INTERRUPTED
    assert "the same command" in error and "Traceback" not in error
    assert not partial.exists() and not (tmp_path / "SpaceInvaders" / "1").exists()


def test_no_space_is_one_line_and_leaves_nothing(tmp_path):
    """Files may have 20 kB here, as on a disk that fills up; the first one needs more."""
    process = start(
        tmp_path,
        "--steps_per_game=500",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    _, error = process.communicate()
    assert process.returncode == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: can't write") and "free some space" in last
    assert "Traceback" not in error
    assert list((tmp_path / "SpaceInvaders").iterdir()) == []


def test_a_mixture_in_one_command(tmp_path):
    mixture = "fixed:FIRE*0.5@0.5; scripted*0.5@1.0"
    command = [
        sys.executable, "-m", "cql_atari.collect", f"--data_dir={tmp_path}", "--games=Breakout",
        "--steps_per_game=900", f"--mixture={mixture}", "--order=shuffled",
    ]  # fmt: skip
    beyond = subprocess.run([*command, "--run=6"], check=False, text=True, capture_output=True)
    assert beyond.returncode and "[1, 5]" in beyond.stderr and not list(tmp_path.iterdir())

    done = subprocess.run([*command, "--run=5"], check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    _, *by_player = done.stdout.splitlines()
    assert [line.split(":")[:-1] for line in by_player] == [["  fixed", "FIRE"], ["  scripted"]]
    assert sum(int(re.findall(r"(\d+) steps", line)[0]) for line in by_player) == 900
    found = json.loads((tmp_path / "Breakout" / "5" / "collection.json").read_text())
    assert (found["mixture"], found["order"]) == (mixture, "shuffled")


@pytest.mark.parametrize(
    "behaviour, mixture, given, message",
    [
        ("random", "random*1@0", "behaviour", "--behaviour means nothing to --mixture"),
        ("scripted", "random*1@0", "epsilons", "--epsilons means nothing to --mixture"),
        ("online", "random*1@0", "behaviour", "--behaviour means nothing to --mixture"),
        ("scripted", None, "order", "--order means nothing to --behaviour=scripted"),
        ("online", None, "order", "--order means nothing to --behaviour=online"),
    ],
)
def test_flags_that_do_not_go_together(behaviour, mixture, given, message):
    class Values(dict):
        def __missing__(self, name):
            return SimpleNamespace(present=int(name == given))

    values = Values()
    values.behaviour, values.mixture = behaviour, mixture
    with pytest.raises(UserError, match=f"{message}; leave it out"):
        collect._check_flags_fit(values)
    given = ""
    collect._check_flags_fit(values)
