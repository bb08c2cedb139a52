"""Scripted players: better than random on the real games, and never outside the minimal set."""

from __future__ import annotations

import numpy as np
import pytest

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.envs import scripted_players
from cql_atari.envs.atari import AtariEnv

# Agent steps of an episode, and how far the script must be ahead of random after them.
MARGINS = {
    "Asterix": (400, 1_000),
    "BattleZone": (800, 3_000),
    "Boxing": (300, 10),
    "Breakout": (350, 5),
    "Carnival": (800, 500),
    "DemonAttack": (1_000, 200),
    "Freeway": (360, 6),
    "KungFuMaster": (300, 1_000),
    "Pong": (400, 5),
}


def play(game: str, name: str, steps: int) -> tuple[float, set[int]]:
    """Score and actions of one episode, cut after a number of steps."""
    env, rng = AtariEnv(game, seed=7), np.random.default_rng(7)
    behaviour, score, actions = scripted_players.make(name, game), 0.0, set()
    env.reset()
    for _ in range(steps):
        action = behaviour(env.ram, rng)
        actions.add(action)
        _, reward, terminal, _ = env.step(action)
        score += reward
        if terminal:
            break
    return score, actions


def test_every_script_has_a_margin_to_hold():
    assert MARGINS.keys() == scripted_players.SCRIPTS.keys()


@pytest.mark.parametrize("game", scripted_players.SCRIPTS)
def test_script_beats_random_and_stays_in_the_minimal_set(game):
    steps, margin = MARGINS[game]
    scripted, actions = play(game, "scripted", steps)
    random, _ = play(game, "random", steps)
    assert scripted >= random + margin
    assert actions <= set(games.spec(game).actions)
    assert len(actions) > 1


@pytest.mark.parametrize("game", scripted_players.SCRIPTS)
def test_script_answers_any_memory_within_the_minimal_set(game):
    rng = np.random.default_rng(0)
    behaviour = scripted_players.make("scripted", game)
    memories = [np.zeros(128, np.uint8), np.full(128, 255, np.uint8)]
    memories += list(rng.integers(256, size=(300, 128), dtype=np.uint8))
    answers = {behaviour(memory, rng) for memory in memories}
    assert answers <= set(games.spec(game).actions)
    assert all(isinstance(answer, int) for answer in answers)


@pytest.mark.parametrize("game", ["Breakout", "Amidar", "Boxing"])
def test_random_is_uniform_over_the_minimal_set(game):
    behaviour = scripted_players.make("random", game)
    rng = np.random.default_rng(1)
    answers = [behaviour(np.zeros(128, np.uint8), rng) for _ in range(4_000)]
    actions, counts = np.unique(answers, return_counts=True)
    assert set(actions) == set(games.spec(game).actions)
    expected = 4_000 / len(actions)
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_fixed_action_never_changes():
    behaviour = scripted_players.make("fixed:UPFIRE", "Boxing")
    rng = np.random.default_rng(0)
    assert {behaviour(np.zeros(128, np.uint8), rng) for _ in range(5)} == {
        games.ACTION_NAMES.index("UPFIRE")
    }


@pytest.mark.parametrize("tank_x, action", [(40, "LEFT"), (100, "RIGHT"), (70, "FIRE")])
def test_tank_turns_towards_the_enemy_and_fires(tank_x, action):
    ram = np.zeros(128, np.uint8)
    ram[[46, 48, 84]] = 1, tank_x, 1
    answer = scripted_players.make("scripted", "BattleZone")(ram, np.random.default_rng(0))
    assert games.ACTION_NAMES[answer] == action


def test_a_script_sees_velocity_but_forgets_between_episodes():
    first, then = np.full((2, 128), 100, np.uint8)
    first[54], then[54] = 150, 120  # Pong's ball rises, below the paddle still
    then[49] = 110  # and comes closer
    rng = np.random.default_rng(0)
    behaviour = scripted_players.make("scripted", "Pong")
    behaviour(first, rng)
    assert behaviour(then, rng) == scripted_players.RIGHT  # up, to where it will arrive
    assert (
        scripted_players.make("scripted", "Pong")(then, rng) == scripted_players.LEFT
    )  # down, to where it is


def test_mistakes_are_explained():
    for name, game, parts in (
        ("scripted", "Zaxxon", ["Zaxxon", "Asterix, BattleZone", "random"]),
        ("fixed:UP", "Breakout", ["'UP'", "NOOP, FIRE, RIGHT, LEFT"]),
        ("fixed:", "Breakout", ["NOOP, FIRE"]),
        ("fixed", "Breakout", ["NOOP, FIRE"]),
        ("random:3", "Pong", ["random:3", "scripted"]),
        ("greedy", "Pong", ["greedy", "random", "scripted", "fixed:"]),
        ("random", "Pnog", ["Pnog", "Pong"]),
    ):
        with pytest.raises(UserError) as error:
            scripted_players.make(name, game)
        for part in parts:
            assert part in str(error.value)
