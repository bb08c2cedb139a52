"""Rollouts: schedule, games by name, masking, epsilon, calls; scripted and real games."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cql_atari.core.types import EpisodeScore, Observation, Policy, UserError
from cql_atari.envs.atari import AtariEnv
from cql_atari.envs.vector import Switches
from cql_atari.evaluation import rollout
from cql_atari.evaluation.baselines import best_fixed_action, fixed_actions
from cql_atari.evaluation.rollout import GameVariant, play

SEED = 7


class ScriptedEnv:
    """Episode i has length `script[i]`; the reward is the length so far.

    Every frame carries the episode's number and the step within it.
    """

    switches = Switches(mode=3, difficulty=1, rom_md5="abc")

    def __init__(self, script, truncate=False):
        self.script, self.truncate, self.actions = script, truncate, []

    def _stacks(self):
        stacks = np.zeros((1, 4, 84, 84), np.uint8)
        stacks[:, :, 0, 0], stacks[:, :, 0, 1] = self.episode, self.time
        return stacks

    def reset(self, seed):
        self.episode, self.time = seed - SEED, 0
        return self._stacks()

    def send(self, actions):
        assert actions.shape == (1,) and actions.dtype == np.int32
        assert self.time < self.script[self.episode], "it is over"
        self.actions.append(int(actions[0]))
        self.time += 1

    def receive(self):
        ends, none = np.array([self.time == self.script[self.episode]]), np.array([False])
        flags = (none, ends) if self.truncate else (ends, none)
        return self._stacks(), np.array([self.time], np.float32), *flags


@pytest.fixture
def scripted(monkeypatch):
    """Replaces the factory: `scripted[game]` is the script; `scripted.made` the environments."""

    class Scripts(dict):
        def __init__(self):
            self.made, self.options = [], []

    scripts = Scripts()

    def make_vector(game, num_envs, **options):
        made = ScriptedEnv(scripts[game], scripts.get("truncate", False))
        scripts.made.append(made)
        scripts.options.append({"game": game, "num_envs": num_envs, **options})
        return made

    monkeypatch.setattr(rollout, "make_vector", make_vector)
    return scripts


def run(policy, *names, episodes=None, envs=1, **options):
    episodes = 1 if episodes is None and "agent_steps" not in options else episodes
    options = {"seed": SEED, "epsilon": 0.0, "progress": False, **options}
    variants = [GameVariant(name) for name in names]
    return play(policy, variants, episodes=episodes, envs_per_game=envs, **options)


def valued(values, *names):
    """A policy of these games."""
    return Policy(names or ("Pong",), values)


def zeros(seen):
    return np.zeros((len(seen.frames), 18))


def test_return_length_and_numbers_by_hand(scripted):
    scripted["Pong"] = [3, 2, 3]
    scores = run(fixed_actions({"Pong": 3}), "Pong", episodes=3)
    assert [s.score for s in scores] == [6.0, 3.0, 6.0]  # 1+2+3, 1+2
    assert [s.length for s in scores] == [3, 2, 3]
    assert [(s.seed, s.nth) for s in scores] == [(7, 0), (8, 0), (9, 0)]
    assert [s.action_counts[3] for s in scores] == [3, 2, 3]
    assert [sum(s.action_counts) for s in scores] == [3, 2, 3]
    first = scores[0]
    assert (first.game, first.truncated) == ("Pong", False)
    assert (first.mode, first.difficulty, first.rom_md5) == (3, 1, "abc")
    assert [env.actions for env in scripted.made] == [[3] * 8]


@pytest.mark.parametrize("envs", [1, 2, 3, 8])
def test_long_episodes_count_as_often_as_short_ones_whoever_plays_them(scripted, envs):
    scripted["Pong"] = [10, 1, 1, 10, 1, 1, 1, 1]
    scores = run(fixed_actions({"Pong": 0}), "Pong", episodes=4, envs=envs)
    assert [s.length for s in scores] == [10, 1, 1, 10]
    assert len(scripted.made) <= min(envs, 4)


@pytest.mark.parametrize("envs", [1, 2, 8])
def test_agent_steps_end_with_the_episode_that_reaches_them_as_in_dopamine(scripted, envs):
    """Dopamine's loop: `while steps < min_steps: play an episode`."""
    scripted["Pong"] = [9, 1, 4, 6, 2, 30, *[1] * 40]  # begun in advance, then not counted
    for agent_steps, expected in ((1, [9]), (9, [9]), (10, [9, 1]), (11, [9, 1, 4]),
                                  (22, [9, 1, 4, 6, 2]), (23, [9, 1, 4, 6, 2, 30])):  # fmt: skip
        scores = run(fixed_actions({"Pong": 0}), "Pong", agent_steps=agent_steps, envs=envs)
        assert [s.length for s in scores] == expected


def test_what_is_known_is_not_played_again(scripted):
    scripted.update(Pong=[3, 5, 2, 4], Hero=[2, 2, 2, 2])
    policy = fixed_actions({"Pong": 0, "Hero": 0})
    noted = []
    options = {"episodes": 4, "envs": 2, "epsilon": 0.5}
    whole = run(policy, "Pong", "Hero", **options, note=noted.append)
    assert sorted(noted) == sorted(whole)
    scripted.made.clear()
    for known in ([whole[1]], [whole[0], whole[3], whole[6]], whole):
        noted.clear()
        assert run(policy, "Pong", "Hero", **options, finished=known, note=noted.append) == whole
        assert sorted([*known, *noted]) == sorted(whole)
    by_steps = run(policy, "Pong", agent_steps=9, envs=2, epsilon=0.5)
    noted.clear()
    again = run(policy, "Pong", agent_steps=9, envs=2, epsilon=0.5, finished=by_steps[1:],
                note=noted.append)  # fmt: skip
    assert again == by_steps and by_steps[0] in noted


def test_truncated_only_where_no_terminal(scripted):
    scripted["Pong"] = [2]
    assert not run(fixed_actions({"Pong": 0}), "Pong")[0].truncated
    scripted["truncate"] = True
    assert run(fixed_actions({"Pong": 0}), "Pong")[0].truncated


def test_games_are_found_by_name_and_each_reads_its_own_rows(scripted):
    """Rows depend on the policy's own order of games and on the frame: mixing would show."""
    scripted.update(Boxing=[5, 7], Hero=[2, 3], Krull=[9, 4])
    known = ("Krull", "Alien", "Boxing", "Hero")

    def values(seen):
        rows = np.arange(len(seen.frames))
        values = np.zeros((len(rows), 18), np.float32)
        heads = seen.games.repeat(len(rows) // len(seen.games))
        values[rows, 4 * heads + seen.frames[:, 0, 0, 0]] = 1  # game, episode
        return values

    scores = run(Policy(known, values), "Boxing", "Hero", "Krull", episodes=2, envs=2)
    assert [s.game for s in scores] == ["Boxing", "Boxing", "Hero", "Hero", "Krull", "Krull"]
    for s in scores:
        assert s.action_counts[4 * known.index(s.game) + s.seed - SEED] == s.length


def test_a_game_that_the_policy_does_not_know_is_an_error_that_names_those_it_knows(scripted):
    with pytest.raises(UserError, match="doesn't know Freeway; it knows Pong, Hero"):
        run(fixed_actions({"Pong": 0, "Hero": 0}), "Freeway")


@pytest.mark.parametrize("games, envs, shape", [(1, 1, (1, 1)), (3, 1, (3, 1)), (3, 2, (3, 2)),
                                                (6, 8, (4, 8)), (1, 20, (3, 8)),
                                                (40, 1, (32, 1))])  # fmt: skip
def test_every_call_has_the_same_shape_whatever_is_left(scripted, games, envs, shape):
    """So a row's value can't depend on it, down to its last bit; and no call is compiled anew."""
    from cql_atari.core.games import table

    names = list(table())[:games]
    scripted.update({name: [1 + (i + k) % 4 for k in range(envs)] for i, name in enumerate(names)})
    shapes, live = [], []

    def values(seen):
        shapes.append((len(seen.games), len(seen.frames) // len(seen.games)))
        live.append(int((seen.environments >= 0).sum()))
        assert seen.frames.dtype == np.uint8 and seen.games.dtype == np.int32
        assert not seen.frames[seen.environments < 0].any()
        return zeros(seen)

    scores = run(Policy(tuple(names), values), *names, episodes=envs, envs=envs)
    assert set(shapes) == {shape}
    # What is over is not computed any more.
    assert sum(live) == sum(score.length for score in scores)


def test_only_minimal_actions_and_ties_to_the_lowest(scripted):
    scripted["Breakout"] = [4]  # minimal set: NOOP FIRE RIGHT LEFT = 0 1 3 4
    best_forbidden = np.zeros(18)
    best_forbidden[[2, 17]] = 9.0
    best_forbidden[[3, 4]] = 1.0
    scores = run(valued(lambda seen: best_forbidden[None], "Breakout"), "Breakout")
    assert scores[0].action_counts[3] == 4


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_epsilon_is_uniform_over_the_minimal_set(scripted, epsilon):
    scripted["Breakout"] = [1_000] * 8
    policy = fixed_actions({"Breakout": 1})
    scores = run(policy, "Breakout", episodes=8, envs=8, epsilon=epsilon)
    counts = np.sum([s.action_counts for s in scores], 0)
    expected = 8_000 * epsilon / 4
    for action in (0, 3, 4):
        assert abs(counts[action] - expected) < 5 * np.sqrt(expected)
    assert counts[[0, 1, 3, 4]].sum() == 8_000
    assert abs(counts[1] - 8_000 * (1 - epsilon * 3 / 4)) < 5 * np.sqrt(3 * expected)


def test_an_episodes_chance_depends_on_seed_game_and_number_alone(scripted):
    scripted.update(Boxing=[50] * 10, Hero=[50, 30, 20])
    policy = fixed_actions({"Boxing": 1, "Hero": 1})
    alone = run(policy, "Boxing", episodes=2, envs=1, epsilon=0.5)
    together = run(policy, "Hero", "Boxing", episodes=3, envs=2, epsilon=0.5)
    assert together[3:5] == alone
    assert run(policy, "Boxing", episodes=4, envs=4, epsilon=0.5)[:2] == alone
    counts = [s.action_counts for s in (*alone, together[0])]
    assert all(a != b for a, b in itertools.combinations(counts, 2))  # and on each of them
    scripted["Boxing"] = [50] * 10
    other = run(policy, "Boxing", epsilon=0.5, seed=SEED + 1)
    assert other[0].action_counts not in counts


def test_options_reach_the_environments(scripted):
    scripted["Freeway"] = [1]
    play(
        fixed_actions({"Freeway": 0}), [GameVariant("Freeway", mode=1, difficulty=0)], episodes=1,
        envs_per_game=4, sticky=0.25, seed=7, max_frames=400, rom_dir="roms", progress=False,
    )  # fmt: skip
    assert scripted.options == [
        {"game": "Freeway", "num_envs": 1, "seed": 7, "sticky": 0.25, "mode": 1, "difficulty": 0,
         "rom_dir": "roms", "max_frames": 400}
    ]  # fmt: skip


def test_best_fixed_action_returns_fresh_episodes_of_the_winner(monkeypatch):
    """Action 3 wins the trial by luck of its seeds; the score is that of the fresh ones."""
    calls = []

    def fake_play(policy, variants, *, episodes, seed, **options):
        numbers = np.arange(episodes, dtype=np.int32)
        seen = Observation.first(np.zeros((episodes, 4, 84, 84), np.uint8), np.zeros(1, np.int32))
        actions = policy(seen._replace(episodes=numbers)).argmax(1).tolist()
        calls.append((actions, seed, options))
        lucky = seed > 1_000
        return [_score("Breakout", 5.0 if action == 3 and lucky else 1.0) for action in actions]

    monkeypatch.setattr(rollout, "play", fake_play)
    noted, kept = lambda score: None, ()
    action, fresh = best_fixed_action(
        GameVariant("Breakout"), episodes=4, seed=5, envs_per_game=2, max_frames=108_000,
        agent_steps=None, note=noted, finished=kept,
    )  # fmt: skip
    assert action == 3 and [s.score for s in fresh] == [1.0] * 4
    assert calls[0][:2] == ([0, 0, 1, 1, 3, 3, 4, 4], 1_000_005)
    assert calls[1][:2] == ([3] * 4, 5)
    assert calls[0][2]["max_frames"] == 6_000 and calls[0][2]["note"] is not noted
    assert calls[1][2] == {"envs_per_game": 2, "max_frames": 108_000, "agent_steps": None,
                           "note": noted, "finished": kept}  # fmt: skip


def _score(game, score, length=1):
    return EpisodeScore(game, score, length, False, 0, 0, 0, 0, "", (0,) * 18)


def test_a_tie_goes_to_the_action_that_ends_sooner(monkeypatch):
    def fake_play(policy, variants, *, episodes, **_):
        seen = Observation.first(np.zeros((episodes, 4, 84, 84)), np.zeros(1, np.int32))
        lengths = {0: 1_500, 1: 170, 3: 1_500, 4: 1_500}
        return [_score("Breakout", 0.0, lengths[action]) for action in policy(seen).argmax(1)]

    monkeypatch.setattr(rollout, "play", fake_play)
    action, _ = best_fixed_action(GameVariant("Breakout"), episodes=1, seed=0, trial_episodes=1)
    assert action == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"agent_steps": 0}, "agent_steps is 0"),
        ({"episodes": 1, "agent_steps": 5}, "exactly one of them"),
        ({"envs": 0}, "envs_per_game is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
    ],
)
def test_impossible_arguments(change, message):
    with pytest.raises(UserError, match=message):
        run(fixed_actions({"Pong": 0}), "Pong", **change)


def test_no_games_and_unknown_games():
    with pytest.raises(UserError, match="no games"):
        run(fixed_actions({"Pong": 0}))
    with pytest.raises(UserError, match="Breakout"):
        run(fixed_actions({"Pong": 0}), "Brakout")


def test_values_that_are_not_finite_name_the_game(scripted):
    scripted["Breakout"] = [4]
    values = np.zeros((1, 18))
    values[0, 2] = np.inf  # not in the minimal set: harmless
    run(valued(lambda _: values, "Breakout"), "Breakout")
    values[0, 3] = np.nan
    with pytest.raises(UserError, match=r"Breakout.*not finite"):
        run(valued(lambda _: values, "Breakout"), "Breakout")


def test_values_of_the_wrong_shape(scripted):
    scripted["Breakout"] = [4]
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        run(valued(lambda _: np.zeros((1, 4)), "Breakout"), "Breakout")


def test_it_stops_when_asked_and_tells_what_was_over_by_then(scripted):
    scripted["Pong"] = [1, 2, 1_000]
    noted, asked = [], itertools.count()
    with pytest.raises(KeyboardInterrupt):
        run(fixed_actions({"Pong": 0}), "Pong", episodes=3, note=noted.append,
            should_stop=lambda: next(asked) > 100)  # fmt: skip
    assert [score.length for score in noted] == [1, 2]


def test_a_policy_with_a_memory_is_told_all_that_happens(scripted):
    """One environment plays episodes of 2 and 3 steps; rewards are the step's number."""
    scripted["Pong"] = [2, 3]
    told = []

    def values(seen):
        told.append([part[0] for part in seen[2:]])
        return np.eye(18)[[min(len(told), 5)]]

    run(valued(values), "Pong", episodes=2)
    environments, episodes, begins, actions, rewards = zip(*told)
    assert set(environments) == {0} and episodes == (0, 0, 1, 1, 1)
    assert begins == (True, False, True, False, False)
    assert rewards == (0, 1, 0, 1, 2)
    assert actions == (0, 1, 0, 3, 4)  # 2 isn't Pong's


# Real games.


def play_real(policy, *variants, **options):
    options = {"episodes": 3, "envs_per_game": 2, "seed": 11, "progress": False, **options}
    return play(policy, variants, **options)


@pytest.mark.parametrize("mode", [None, 12])
def test_scores_equal_a_plain_loop_over_single_environments(mode):
    """Breakout, always FIRE, sticky: score, length and order of every episode, in both modes."""
    variant = GameVariant("Breakout", mode=mode)
    scores = play_real(fixed_actions({"Breakout": 1}), variant, epsilon=0.0, sticky=0.25)
    expected = []
    for seed in (11, 12, 13):
        env = AtariEnv("Breakout", seed=seed, sticky=0.25, mode=mode)
        env.reset()
        score, length, over = 0.0, 0, False
        while not over:
            _, reward, terminal, truncated = env.step(1)
            score, length, over = score + reward, length + 1, terminal or truncated
        expected.append((seed, 0, score, length))
    assert [(s.seed, s.nth, s.score, s.length) for s in scores] == expected
    assert all(s.mode == (mode or 0) and s.action_counts[1] == s.length for s in scores)
    assert len({s.rom_md5 for s in scores}) == 1 and len(scores[0].rom_md5) == 32


def test_the_policy_sees_the_current_screen():
    """The newest frame that the policy sees is the current one, at every step."""
    seen = []

    def values(view):
        seen.append(view.frames[0, -1].copy())
        return zeros(view)

    options = {"episodes": 1, "envs_per_game": 1, "max_frames": 400}
    play_real(valued(values), GameVariant("Pong"), epsilon=0.0, **options)
    env = AtariEnv("Pong", seed=11, sticky=0.0, max_frames=400)
    expected = [env.reset()] + [env.step(0)[0] for _ in range(99)]
    np.testing.assert_array_equal(seen, expected)


def test_frame_cap_and_random_play_stay_in_the_minimal_set():
    variants = [GameVariant("Pong"), GameVariant("Freeway")]
    policy = fixed_actions({"Pong": 0, "Freeway": 0})
    scores = play_real(policy, *variants, epsilon=1.0, max_frames=400)
    assert [(s.length, s.truncated) for s in scores] == [(100, True)] * 6
    for s in scores:
        minimal = (0, 1, 3, 4, 11, 12) if s.game == "Pong" else (0, 2, 5)
        assert np.flatnonzero(s.action_counts).tolist() == list(minimal)


def test_same_seed_same_scores_and_another_seed_others():
    options = {"epsilon": 1.0, "sticky": 0.25, "max_frames": 600}
    policy, variant = fixed_actions({"Breakout": 0}), GameVariant("Breakout")
    first = play_real(policy, variant, **options)
    assert play_real(policy, variant, **options) == first
    assert play_real(policy, variant, **options, seed=14) != first


@pytest.mark.slow
def test_best_fixed_action_of_freeway_is_up():
    action, fresh = best_fixed_action(
        GameVariant("Freeway"), episodes=2, envs_per_game=2, seed=0, epsilon=0.0,
        trial_episodes=1, trial_max_frames=800, max_frames=800, progress=False,
    )  # fmt: skip
    assert action == 2 and [s.seed for s in fresh] == [0, 1]
    assert all(s.score >= 1 and s.truncated for s in fresh)


# By the loop that played all of a game's environments in lockstep (commit d19c046), each of these
# being the first episode of its environment: (game, mode, score, length, seed, most frequent).
GOLDEN = {
    0.0: [("Breakout", 0, 0.0, 133, 5, 39), ("Breakout", 0, 0.0, 133, 6, 39),
          ("Freeway", 0, 0.0, 750, 5, 283), ("Freeway", 0, 0.0, 750, 6, 283),
          ("MsPacman", 0, 500.0, 747, 5, 190), ("MsPacman", 0, 500.0, 747, 6, 190),
          ("Breakout", 12, 2.0, 191, 5, 70), ("Breakout", 12, 2.0, 191, 6, 70)],
    0.25: [("Breakout", 0, 1.0, 186, 5, 59), ("Breakout", 0, 7.0, 255, 6, 95),
           ("Freeway", 0, 0.0, 750, 5, 271), ("Freeway", 0, 0.0, 750, 6, 287),
           ("MsPacman", 0, 150.0, 459, 5, 125), ("MsPacman", 0, 230.0, 619, 6, 144),
           ("Breakout", 12, 2.0, 181, 5, 100), ("Breakout", 12, 0.0, 134, 6, 40)],
}  # fmt: skip
PRIMES = np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61])


def by_screen(seen):
    """Every pixel of the stack matters for what is done."""
    sums = seen.frames.astype(int).sum((1, 2, 3))
    return (sums[:, None] * PRIMES % 101).astype(float)


@pytest.mark.parametrize("sticky", GOLDEN)
@pytest.mark.slow
def test_scores_are_those_of_the_lockstep_loop_before(sticky):
    variants = [GameVariant("Breakout"), GameVariant("Freeway"), GameVariant("MsPacman"),
                GameVariant("Breakout", 12, 1)]  # fmt: skip
    policy = Policy(("MsPacman", "Freeway", "Breakout"), by_screen)
    scores = play(policy, variants, episodes=2, envs_per_game=2, epsilon=0.0, sticky=sticky,
                  seed=5, max_frames=3_000, progress=False)  # fmt: skip
    assert [(s.game, s.mode, s.score, s.length, s.seed, max(s.action_counts))
            for s in scores] == GOLDEN[sticky]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("game, mode", [("KungFuMaster", None), ("IceHockey", 2)])
def test_nothing_is_left_of_the_game_before(game, mode):
    """These games keep memory over a reset: the second game on one console would be another."""
    policy, variant = Policy((game,), by_screen), GameVariant(game, mode)
    options = {"episodes": 2, "epsilon": 0.0, "max_frames": 1_600, "seed": 5}
    alone = play_real(policy, variant, **options, envs_per_game=2)
    assert play_real(policy, variant, **options, envs_per_game=1) == alone
