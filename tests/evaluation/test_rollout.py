"""Rollouts: quotas, auto-reset, masking, epsilon, truncation, padding; scripted and real games."""

from __future__ import annotations

import numpy as np
import pytest

from cql_atari.core.types import Observation, UserError
from cql_atari.envs.atari import AtariEnv
from cql_atari.evaluation import rollout
from cql_atari.evaluation.rollout import GameVariant, best_fixed_action, fixed_actions, play


class ScriptedEnvs:
    """Environment i's episodes have lengths `script[i]`, repeated; the reward is the length so far.

    Every frame of an environment carries its number and the step within the episode. As in ALE, the
    step after an end resets: it ignores its action; here it also hands out a bait reward.
    """

    mode, difficulty, rom_md5 = 3, 1, "abc"

    def __init__(self, script, truncate=False):
        self.script, self.truncate = [list(lengths) for lengths in script], truncate
        self.count = len(script)
        self.time = np.zeros(self.count, int)
        self.episode = np.zeros(self.count, int)
        self.over = np.zeros(self.count, bool)
        self.actions = []

    def _stacks(self):
        stacks = np.zeros((self.count, 4, 84, 84), np.uint8)
        stacks[:, :, 0, 0] = np.arange(self.count)[:, None]
        stacks[:, :, 0, 1] = self.time[:, None]
        return stacks

    def reset(self):
        return self._stacks()

    def step(self, actions):
        assert actions.shape == (self.count,) and actions.dtype == np.int32
        self.actions.append(actions.copy())
        rewards, ends = np.zeros(self.count), np.zeros(self.count, bool)
        for i, lengths in enumerate(self.script):
            if self.over[i]:
                self.over[i], self.time[i], rewards[i] = False, 0, 1_000.0
                self.episode[i] += 1
                continue
            self.time[i] += 1
            rewards[i] = self.time[i]
            ends[i] = self.over[i] = self.time[i] == lengths[self.episode[i] % len(lengths)]
        none = np.zeros_like(ends)
        return (self._stacks(), rewards, *((none, ends) if self.truncate else (ends, none)))


@pytest.fixture
def scripted(monkeypatch):
    """Replaces the factory: `scripted[game]` is the script; `scripted.made` the environments."""

    class Scripts(dict):
        def __init__(self):
            self.made, self.options = [], []

    scripts = Scripts()

    def make_vector(game, num_envs, **options):
        made = ScriptedEnvs(scripts[game][:num_envs], scripts.get("truncate", False))
        assert made.count == num_envs
        scripts.made.append(made)
        scripts.options.append({"game": game, "num_envs": num_envs, **options})
        return made

    monkeypatch.setattr(rollout, "make_vector", make_vector)
    return scripts


def run(policy, *names, episodes=1, envs=1, **options):
    options = {"seed": 7, "epsilon": 0.0, "progress": False, **options}
    variants = [GameVariant(name) for name in names]
    return play(policy, variants, episodes=episodes, envs_per_game=envs, **options)


def test_return_length_and_auto_reset_by_hand(scripted):
    scripted["Pong"] = [[3, 2]]
    scores = run(fixed_actions([3]), "Pong", episodes=3)
    assert [s.score for s in scores] == [6.0, 3.0, 6.0]  # 1+2+3, 1+2; no bait from reset steps
    assert [s.length for s in scores] == [3, 2, 3]
    assert [s.nth for s in scores] == [0, 1, 2]
    assert [s.action_counts[3] for s in scores] == [3, 2, 3]
    assert [sum(s.action_counts) for s in scores] == [3, 2, 3]
    first = scores[0]
    assert (first.game, first.seed, first.truncated) == ("Pong", 7, False)
    assert (first.mode, first.difficulty, first.rom_md5) == (3, 1, "abc")
    assert len(scripted.made[0].actions) == 3 + 1 + 2 + 1 + 3


def test_quota_counts_long_episodes_as_often_as_short_ones(scripted):
    """The first six to finish would be five short ones and a long one: mean 2.5, not 5.5."""
    scripted["Pong"] = [[1], [10]]
    scores = run(fixed_actions([0]), "Pong", episodes=6, envs=2)
    assert [s.length for s in scores] == [1, 1, 1, 10, 10, 10]
    assert [s.seed for s in scores] == [7, 7, 7, 8, 8, 8]


@pytest.mark.parametrize("episodes, envs, expected", [(7, 3, [3, 2, 2]), (2, 8, [1, 1])])
def test_exactly_the_episodes_asked_for(scripted, episodes, envs, expected):
    scripted["Pong"] = [[2], [3], [4]]
    scores = run(fixed_actions([0]), "Pong", episodes=episodes, envs=envs)
    assert np.bincount([s.seed - 7 for s in scores]).tolist() == expected


def test_truncated_only_where_no_terminal(scripted):
    scripted["Pong"] = [[2]]
    assert not run(fixed_actions([0]), "Pong")[0].truncated
    scripted["truncate"] = True
    assert run(fixed_actions([0]), "Pong")[0].truncated


def test_each_game_reads_its_own_rows_and_shapes_stay_few(scripted):
    """Every row's policy depends on its own frame and its game's position: mixing would show."""
    scripted.update(Boxing=[[5, 5], [5, 5]], Hero=[[2, 2], [2, 2]], Krull=[[9, 9], [9, 9]])
    shapes, seen = [], []

    def policy(view):
        frames, positions = view.frames, view.games
        shapes.append(len(positions))
        seen.append(positions.tolist())
        rows = np.arange(len(frames))
        values = np.zeros((len(frames), 18), np.float32)
        values[rows, 6 * positions.repeat(2) + frames[:, 0, 0, 0]] = 1  # game, environment
        return values

    scores = run(policy, "Boxing", "Hero", "Krull", episodes=2, envs=2)
    for s in scores:
        expected = 6 * ["Boxing", "Hero", "Krull"].index(s.game) + s.seed - 7
        assert s.action_counts[expected] == s.length
    assert shapes == [3] * 2 + [2] * 3 + [1] * 4
    assert seen[2] == [0, 2] and seen[-1] == [2]


def test_padding_is_a_power_of_two_but_never_above_all_games(scripted):
    names = ["Boxing", "Hero", "Krull", "Gravitar", "Kangaroo", "Alien"]
    scripted.update({name: [[i + 1]] for i, name in enumerate(names)})
    sizes = []

    def policy(seen):
        frames, positions = seen.frames, seen.games
        assert frames.shape == (len(positions), 4, 84, 84) and frames.dtype == np.uint8
        assert positions.dtype == np.int32
        sizes.append(len(positions))
        return np.zeros((len(frames), 18))

    run(policy, *names)
    assert sizes == [6, 6, 4, 4, 2, 1]  # 6, 5 -> 8 but at most 6, 4, 3 -> 4, 2, 1


def test_only_minimal_actions_and_ties_to_the_lowest(scripted):
    scripted["Breakout"] = [[4]]  # minimal set: NOOP FIRE RIGHT LEFT = 0 1 3 4
    best_forbidden = np.zeros(18)
    best_forbidden[[2, 17]] = 9.0
    best_forbidden[[3, 4]] = 1.0
    scores = run(lambda seen: best_forbidden[None], "Breakout")
    assert scores[0].action_counts[3] == 4


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_epsilon_is_uniform_over_the_minimal_set(scripted, epsilon):
    scripted["Breakout"] = [[1_000]] * 8
    scores = run(fixed_actions([1]), "Breakout", episodes=8, envs=8, epsilon=epsilon)
    counts = np.sum([s.action_counts for s in scores], 0)
    expected = 8_000 * epsilon / 4
    for action in (0, 3, 4):
        assert abs(counts[action] - expected) < 5 * np.sqrt(expected)
    assert counts[[0, 1, 3, 4]].sum() == 8_000
    assert abs(counts[1] - 8_000 * (1 - epsilon * 3 / 4)) < 5 * np.sqrt(3 * expected)


def test_uniform_random_is_uniform_without_epsilon(scripted):
    scripted["Breakout"] = [[1_000]] * 4
    scores = run(rollout.uniform_random(), "Breakout", episodes=4, envs=4)
    counts = np.sum([s.action_counts for s in scores], 0)[[0, 1, 3, 4]]
    assert counts.sum() == 4_000 and (abs(counts - 1_000) < 150).all()


def test_a_games_exploration_does_not_depend_on_its_company(scripted):
    scripted.update(Boxing=[[50]] * 2, Hero=[[30]] * 2)
    options = {"episodes": 2, "envs": 2, "epsilon": 0.5}
    alone = run(fixed_actions([1]), "Boxing", **options)
    together = run(fixed_actions([1, 1]), "Hero", "Boxing", **options)
    assert together[2:] == alone
    assert run(fixed_actions([1]), "Boxing", **{**options, "seed": 8}) != alone


def test_games_explore_apart_from_each_other(scripted):
    scripted.update(Boxing=[[50]], Hero=[[50]])  # both have all 18 actions
    boxing, hero = run(fixed_actions([1, 1]), "Boxing", "Hero", epsilon=1.0)
    assert boxing.action_counts != hero.action_counts


def test_options_reach_the_environments(scripted):
    scripted["Freeway"] = [[1]]
    variant = GameVariant("Freeway", mode=1, difficulty=0)
    play(
        fixed_actions([0]), [variant], episodes=1, envs_per_game=4, sticky=0.25, seed=3,
        max_frames=400, rom_dir="roms", progress=False,
    )  # fmt: skip
    assert scripted.options == [
        {"game": "Freeway", "num_envs": 1, "seed": 3, "sticky": 0.25, "mode": 1, "difficulty": 0,
         "rom_dir": "roms", "max_frames": 400}
    ]  # fmt: skip


def test_best_fixed_action_returns_fresh_episodes_of_the_winner(monkeypatch):
    """Action 3 wins the trial by luck of its seeds; the score is that of the fresh ones."""
    calls = []

    def fake_play(policy, variants, *, episodes, seed, **options):
        frames = np.zeros((len(variants), 4, 84, 84), np.uint8)
        values = policy(Observation.first(frames, np.arange(len(variants), dtype=np.int32)))
        calls.append((values.argmax(1).tolist(), episodes, seed, options))
        scores = np.repeat([5.0 if action == 3 and seed > 1_000 else 1.0
                            for action in values.argmax(1)], episodes)  # fmt: skip
        return [_score("Breakout", score) for score in scores]

    monkeypatch.setattr(rollout, "play", fake_play)
    action, fresh = best_fixed_action(
        GameVariant("Breakout"), episodes=4, seed=5, envs_per_game=2, max_frames=108_000
    )
    assert action == 3 and [s.score for s in fresh] == [1.0] * 4
    assert calls[0][:3] == ([0, 1, 3, 4], 2, 1_000_005)
    assert calls[1][:3] == ([3], 4, 5)
    assert calls[0][3] == {"envs_per_game": 2, "max_frames": 6_000}
    assert calls[1][3] == {"envs_per_game": 2, "max_frames": 108_000}


def _score(game, score, length=1):
    return rollout.EpisodeScore(game, score, length, False, 0, 0, 0, 0, "", (0,) * 18)


def test_a_tie_goes_to_the_action_that_ends_sooner(monkeypatch):
    def fake_play(policy, variants, **_):
        values = policy(
            Observation.first(np.zeros((len(variants), 4, 84, 84)), np.arange(len(variants)))
        )
        lengths = {0: 1_500, 1: 170, 3: 1_500, 4: 1_500}
        return [_score("Breakout", 0.0, lengths[action]) for action in values.argmax(1)]

    monkeypatch.setattr(rollout, "play", fake_play)
    action, _ = best_fixed_action(GameVariant("Breakout"), episodes=1, seed=0, trial_episodes=1)
    assert action == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"envs": 0}, "envs_per_game is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
    ],
)
def test_impossible_arguments(change, message):
    with pytest.raises(UserError, match=message):
        run(fixed_actions([0]), "Pong", **change)


def test_no_games_and_unknown_games():
    with pytest.raises(UserError, match="no games"):
        run(fixed_actions([0]))
    with pytest.raises(UserError, match="Breakout"):
        run(fixed_actions([0]), "Brakout")


def test_values_that_are_not_finite_name_the_game(scripted):
    scripted["Breakout"] = [[4]]
    values = np.zeros((1, 18))
    values[0, 2] = np.inf  # not in the minimal set: harmless
    run(lambda *_: values, "Breakout")
    values[0, 3] = np.nan
    with pytest.raises(UserError, match=r"Breakout.*not finite"):
        run(lambda *_: values, "Breakout")


def test_values_of_the_wrong_shape(scripted):
    scripted["Breakout"] = [[4]]
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        run(lambda *_: np.zeros((1, 4)), "Breakout")


def test_a_policy_with_a_memory_is_told_all_that_happens(scripted):
    """Environment 0 ends after 2 steps, environment 1 after 3; rewards are the step's number."""
    scripted["Pong"] = [[2, 2], [3]]
    told = []

    def policy(seen):
        told.append((seen.environments, seen.begins, seen.actions, seen.rewards))
        return np.eye(18)[np.full(len(seen.frames), min(len(told), 5))]

    run(policy, "Pong", episodes=3, envs=2)
    environments, begins, actions, rewards = (np.array(column) for column in zip(*told))
    assert (environments == [0, 1]).all() and environments.dtype == np.int32
    # Environment 0: two steps, the end is seen, the reset, two steps. 1 begins once (then idles).
    assert begins[:, 0].tolist() == [True, False, False, True, False]
    assert rewards[:, 0].tolist() == [0, 1, 2, 0, 1] and rewards.dtype == np.float32
    assert actions[:, 0].tolist() == [0, 1, 0, 0, 4] and actions.dtype == np.int32  # 2 isn't Pong's
    assert begins[:4, 1].tolist() == [True, False, False, False]
    assert rewards[:4, 1].tolist() == [0, 1, 2, 3]


def test_rows_that_only_fill_up_belong_to_no_environment(scripted):
    scripted.update(Boxing=[[3], [3]], Hero=[[1], [1]], Krull=[[1], [1]], Alien=[[3], [3]])
    seen = []
    options = {"episodes": 2, "envs": 2}
    run(lambda view: seen.append(view) or np.zeros((len(view.frames), 18)),
        "Boxing", "Hero", "Krull", "Alien", **options)  # fmt: skip
    assert seen[0].environments.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert seen[1].environments.tolist() == [0, 1, 6, 7] and seen[1].games.tolist() == [0, 3]
    scripted.update(Krull=[[3], [3]])
    run(lambda view: seen.append(view) or np.zeros((len(view.frames), 18)),
        "Boxing", "Hero", "Krull", "Alien", **options)  # fmt: skip
    assert seen[-1].environments.tolist() == [0, 1, 4, 5, 6, 7, -1, -1]


# Real games.


def play_real(policy, *variants, **options):
    options = {"episodes": 3, "envs_per_game": 2, "seed": 11, "progress": False, **options}
    return play(policy, variants, **options)


@pytest.mark.parametrize("mode", [None, 12])
def test_scores_equal_a_plain_loop_over_single_environments(mode):
    """Breakout, always FIRE, sticky: score, length and order of every episode, in both modes."""
    variant = GameVariant("Breakout", mode=mode)
    scores = play_real(fixed_actions([1]), variant, epsilon=0.0, sticky=0.25)
    expected = []
    for seed, episodes in ((11, 2), (12, 1)):
        env = AtariEnv("Breakout", seed=seed, sticky=0.25, mode=mode)
        for index in range(episodes):
            env.reset()
            score, length, over = 0.0, 0, False
            while not over:
                _, reward, terminal, truncated = env.step(1)
                score, length, over = score + reward, length + 1, terminal or truncated
            expected.append((seed, index, score, length))
    assert [(s.seed, s.nth, s.score, s.length) for s in scores] == expected
    assert all(s.mode == (mode or 0) and s.action_counts[1] == s.length for s in scores)
    assert len({s.rom_md5 for s in scores}) == 1 and len(scores[0].rom_md5) == 32


def test_the_policy_sees_the_current_screen():
    """The newest frame that the policy sees is the current one, at every step."""
    seen = []

    def policy(view):
        seen.append(view.frames[0, -1].copy())
        return np.zeros((len(view.frames), 18))

    options = {"episodes": 1, "envs_per_game": 1, "max_frames": 400}
    play_real(policy, GameVariant("Pong"), epsilon=0.0, **options)
    env = AtariEnv("Pong", seed=11, sticky=0.0, max_frames=400)
    expected = [env.reset()] + [env.step(0)[0] for _ in range(99)]
    np.testing.assert_array_equal(seen, expected)


def test_frame_cap_and_random_play_stay_in_the_minimal_set():
    variants = [GameVariant("Pong"), GameVariant("Freeway")]
    scores = play_real(rollout.uniform_random(3), *variants, epsilon=0.001, max_frames=400)
    assert [(s.length, s.truncated) for s in scores] == [(100, True)] * 6
    for s in scores:
        minimal = (0, 1, 3, 4, 11, 12) if s.game == "Pong" else (0, 2, 5)
        assert np.flatnonzero(s.action_counts).tolist() == list(minimal)


def test_same_seed_same_scores_and_another_seed_others():
    options = {"epsilon": 1.0, "sticky": 0.25, "max_frames": 600}
    first = play_real(fixed_actions([0]), GameVariant("Breakout"), **options)
    assert play_real(fixed_actions([0]), GameVariant("Breakout"), **options) == first
    assert play_real(fixed_actions([0]), GameVariant("Breakout"), **options, seed=12) != first


def test_best_fixed_action_of_freeway_is_up():
    action, fresh = best_fixed_action(
        GameVariant("Freeway"), episodes=2, envs_per_game=2, seed=0, epsilon=0.0,
        trial_episodes=1, trial_max_frames=800, max_frames=800, progress=False,
    )  # fmt: skip
    assert action == 2 and [s.seed for s in fresh] == [0, 1]
    assert all(s.score >= 1 and s.truncated for s in fresh)
