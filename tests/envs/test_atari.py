"""Environments against Dopamine's own preprocessing, frame for frame and reward for reward."""

from __future__ import annotations

import ale_py
import numpy as np
import pytest

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.envs.atari import AtariEnv, make_vector

pytestmark = pytest.mark.slow


class OldGym:
    """ale-py's bare environment with the interface that Dopamine's preprocessing wants."""

    def __init__(self, game, seed, sticky, mode):
        self.env = ale_py.AtariEnv(
            game=games.spec(game).rom,
            mode=mode,
            obs_type="grayscale",
            frameskip=1,
            repeat_action_probability=sticky,
            full_action_space=True,
        )
        self.ale, self.observation_space = self.env.ale, self.env.observation_space
        self.ale.setInt("random_seed", seed)  # as it is, not hashed as gymnasium would
        self.env.load_game()

    def reset(self):
        self.env.reset()

    def step(self, action):
        observation, reward, terminal, truncated, info = self.env.step(action)
        assert not truncated
        return observation, reward, terminal, info


def dopamine(game, seed, sticky, mode=None):
    from dopamine.discrete_domains.atari_lib import AtariPreprocessing

    return AtariPreprocessing(OldGym(game, seed, sticky, mode))


def random_actions(*shape):
    return np.random.default_rng(5).integers(0, 18, shape, dtype=np.int32)


# Breakout ends often; SpaceInvaders flickers; CrazyClimber's screen is higher, BattleZone rewards
# are thousands; mode 12 hides Breakout's bricks.
@pytest.mark.parametrize(
    "game, mode, steps, sticky",
    [
        ("Breakout", None, 500, 0.0),
        ("Breakout", None, 500, 0.25),
        ("Breakout", 12, 300, 0.25),
        ("SpaceInvaders", None, 500, 0.25),
        ("CrazyClimber", None, 200, 0.0),
        ("BattleZone", None, 200, 0.25),
    ],
)
def test_frames_rewards_and_ends_equal_dopamines(game, mode, steps, sticky):
    env, oracle = AtariEnv(game, seed=3, sticky=sticky, mode=mode), dopamine(game, 3, sticky, mode)
    np.testing.assert_array_equal(env.reset(), oracle.reset()[..., 0])
    total, ends = 0.0, 0
    for action in random_actions(steps):
        frame, reward, terminal, truncated = env.step(action)
        expected_frame, expected_reward, expected_terminal, _ = oracle.step(action)
        np.testing.assert_array_equal(frame, expected_frame[..., 0])  # at a terminal too
        assert (reward, terminal, truncated) == (expected_reward, expected_terminal, False)
        total, ends = total + reward, ends + terminal
        if terminal:
            np.testing.assert_array_equal(env.reset(), oracle.reset()[..., 0])
    assert frame.shape == (84, 84) and frame.dtype == np.uint8
    assert total > 0
    assert game != "Breakout" or ends > 0


@pytest.mark.parametrize(
    "game, mode, sticky", [("Breakout", None, 0.25), ("Breakout", 12, 0.25), ("Qbert", None, 0.0)]
)
def test_vector_equals_dopamine(game, mode, sticky):
    """Both implementations (mode 12 isn't the default): stacks, seeds, ends and restarts.

    Only the newest frame of a terminal may differ, and it leaves with its stack.
    """
    envs = make_vector(game, 2, seed=8, sticky=sticky, mode=mode)
    oracles = [dopamine(game, 8 + k, sticky, mode) for k in range(2)]
    expected = np.zeros((2, 4, 84, 84), np.uint8)
    expected[:, -1] = [oracle.reset()[..., 0] for oracle in oracles]
    stacks = envs.reset()
    assert stacks.dtype == np.uint8
    np.testing.assert_array_equal(stacks, expected)
    ended, ends = np.zeros(2, bool), 0
    for actions in random_actions(400, 2):
        stacks, rewards, terminals, truncations = envs.step(actions)
        assert (rewards.dtype, terminals.dtype, truncations.dtype) == (np.float32, bool, bool)
        assert not truncations.any()
        for k, oracle in enumerate(oracles):
            if ended[k]:
                expected[k], reward, terminal = 0, 0.0, False
                frame = oracle.reset()
            else:
                expected[k, :-1] = expected[k, 1:].copy()
                frame, reward, terminal, _ = oracle.step(actions[k])
            expected[k, -1] = frame[..., 0]
            assert (rewards[k], terminals[k]) == (reward, terminal)
        np.testing.assert_array_equal(stacks[~terminals], expected[~terminals])
        np.testing.assert_array_equal(stacks[:, :-1], expected[:, :-1])
        ended, ends = terminals, ends + terminals.sum()
    assert ends >= 2


def test_the_default_mode_said_aloud_is_still_stepped_by_ale_py():
    native = type(make_vector("Breakout", 1, seed=0, sticky=0.0))
    assert type(make_vector("Breakout", 1, seed=0, sticky=0.0, mode=0, difficulty=0)) is native
    assert type(make_vector("Breakout", 1, seed=0, sticky=0.0, difficulty=1)) is not native


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("max_frames", [400, 397])
def test_the_cap_truncates_and_never_raises(mode, max_frames):
    """101 steps of 4 frames: the 100th is cut, the next one starts a new game."""
    env = AtariEnv("Freeway", seed=0, mode=mode, max_frames=max_frames)
    for _ in range(2):
        first = env.reset()
        flags = [env.step(2)[2:] for _ in range(100)]
        assert flags == [(False, False)] * 99 + [(False, True)]

    envs = make_vector("Freeway", 2, seed=0, sticky=0.25, mode=mode, max_frames=max_frames)
    start = envs.reset()
    np.testing.assert_array_equal(start[0, -1], first)
    up = np.full(2, 2, np.int32)
    cut = [envs.step(up)[3].tolist() for _ in range(100)]
    assert cut == [[False, False]] * 99 + [[True, True]]
    stacks, rewards, terminals, truncations = envs.step(up)
    np.testing.assert_array_equal(stacks, start)
    assert not (rewards.any() or terminals.any() or truncations.any())


def test_the_usual_cap_is_108_000_frames_and_a_terminal_wins_over_it(monkeypatch):
    env = AtariEnv("Freeway", seed=0)
    env.reset()
    env._steps = 26_998
    assert env.step(0)[2:] == (False, False)
    assert env.step(0)[2:] == (False, True)

    class Over:
        act = staticmethod(lambda action: 0)
        game_over = staticmethod(lambda with_truncation: True)

    env._steps = 26_999
    monkeypatch.setattr(env, "_ale", Over())
    assert env.step(0)[2:] == (True, False)


@pytest.mark.parametrize("mode", [0, 1])
def test_stacks_are_the_callers_to_keep(mode):
    envs = make_vector("Freeway", 2, seed=0, sticky=0.0, mode=mode)
    kept = [envs.reset()] + [envs.step(np.full(2, 2, np.int32))[0] for _ in range(20)]
    copies = [stacks.copy() for stacks in kept]
    for _ in range(20):
        envs.step(np.zeros(2, np.int32))
    np.testing.assert_array_equal(kept, copies)
    assert len({stacks.tobytes() for stacks in kept}) > 10


def test_seeds_repeat_and_differ():
    def play(seed):
        env = AtariEnv("Pong", seed=seed, sticky=0.25)
        return [env.reset()] + [env.step(action)[0] for action in random_actions(150)]

    np.testing.assert_array_equal(play(1), play(1))
    assert (np.array(play(1)) != np.array(play(2))).any()


def test_modes_and_difficulties_are_played():
    screens = {
        (mode, difficulty): AtariEnv("Freeway", seed=0, mode=mode, difficulty=difficulty)
        for mode in (None, 1)
        for difficulty in (None, 1)
    }
    assert [(e.mode, e.difficulty) for e in screens.values()] == [(0, 0), (0, 1), (1, 0), (1, 1)]

    def after_up(env):
        env.reset()
        return np.array([env.step(2)[0] for _ in range(60)])

    frames = [after_up(env) for env in screens.values()]
    assert len({f.tobytes() for f in frames}) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"game": "Brekout"}, "did you mean Breakout"),
        ({"mode": 3}, r"Breakout has no mode 3; it offers 0, 4, 8, 12, .*44"),
        ({"difficulty": 2}, r"Breakout has no difficulty 2; it offers 0, 1$"),
    ],
)
def test_what_a_game_does_not_have_is_an_error_that_lists_what_it_has(options, message):
    options = {"game": "Breakout", "seed": 0, **options}
    with pytest.raises(UserError, match=message):
        AtariEnv(**options)
    with pytest.raises(UserError, match=message):
        make_vector(num_envs=2, sticky=0.0, **options)


@pytest.mark.parametrize("action", [-1, 18])
@pytest.mark.parametrize("mode", [None, 1])
def test_actions_outside_the_full_set(action, mode):
    env = AtariEnv("Freeway", seed=0, mode=mode)
    env.reset()
    with pytest.raises(UserError, match=str(action)):
        env.step(action)
    envs = make_vector("Freeway", 2, seed=0, sticky=0.0, mode=mode)
    envs.reset()
    with pytest.raises(UserError, match=str(action)):
        envs.step(np.array([0, action]))
    assert envs.step(np.array([0, 17]))[0].shape == (2, 4, 84, 84)


def test_nothing_is_printed(capfd):
    AtariEnv("Breakout", seed=0).reset()
    make_vector("Breakout", 2, seed=0, sticky=0.0).reset()
    assert capfd.readouterr() == ("", "")
