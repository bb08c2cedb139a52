"""How the decision transformer draws returns and actions, and what it remembers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny

from cql_atari.core import games
from cql_atari.core.types import Observation
from cql_atari.methods import build
from cql_atari.methods import transformer_policy as policy
from cql_atari.methods.transformer_policy import Memory
from cql_atari.networks.transformer import Logits

SMALL = (
    "train.method = 'decision_transformer'",
    "transformer.depth = 1",
    "transformer.width = 64",
)


def uniforms(n: int = 4_000) -> tf.Tensor:
    """Evenly spaced: the drawn shares are then exact to 1 / n."""
    return tf.constant((np.arange(n) + 0.5) / n, tf.float32)


def log_probabilities(shares: dict[int, float]) -> tf.Tensor:
    logits = np.full((1, 121), -1e9, np.float32)
    for place, share in shares.items():
        logits[0, place] = np.log(share)
    return tf.constant(logits)


def drawn_shares(logits, **how):
    n = len(uniforms())
    drawn = policy.draw_return(tf.repeat(logits, n, axis=0), uniforms(), **how).numpy()
    return np.bincount(drawn, minlength=121) / n


def test_without_tilt_a_return_is_drawn_by_its_probability():
    shares = drawn_shares(log_probabilities({20: 0.5, 30: 0.3, 120: 0.2}), kappa=0.0, best_of=1)
    assert shares[[20, 30, 120]] == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)


def test_the_tilt_multiplies_by_the_exponential_of_kappa_times_the_height():
    shares = drawn_shares(log_probabilities({0: 0.9, 120: 0.1}), kappa=10.0, best_of=1)
    assert shares[120] / shares[0] == pytest.approx(0.1 / 0.9 * np.exp(10), rel=0.5)
    near = drawn_shares(log_probabilities({20: 0.5, 32: 0.5}), kappa=10.0, best_of=1)
    assert near[32] / near[20] == pytest.approx(np.exp(10 * 12 / 120), rel=0.01)


def test_best_of_is_the_highest_of_so_many_draws():
    shares = drawn_shares(log_probabilities({20: 0.9, 30: 0.1}), kappa=0.0, best_of=3)
    assert shares[20] == pytest.approx(0.9**3, abs=1e-3)


def test_an_extreme_uniform_number_draws_a_possible_return():
    logits = log_probabilities({20: 0.5, 30: 0.5})
    edges = tf.constant([0.0, np.nextafter(np.float32(1), np.float32(0))])
    drawn = policy.draw_return(tf.repeat(logits, 2, 0), edges, kappa=0.0, best_of=128)
    assert drawn.numpy()[0] == 20 and drawn.numpy()[1] in {30, 120}


def test_actions_are_drawn_by_their_probability_among_those_the_game_has():
    logits = np.full((20_000, 18), 5.0, np.float32)
    logits[:, [0, 3]] = np.log([0.25, 0.75])
    available = np.zeros((20_000, 18), bool)
    available[:, [0, 3]] = True
    noise = np.random.default_rng(0).random(logits.shape, np.float32)
    scores = policy.score_actions(logits, available, noise, upper_half=False).numpy()
    drawn = scores.argmax(1)
    assert np.isfinite(scores).all() and set(drawn) == {0, 3}
    assert (drawn == 3).mean() == pytest.approx(0.75, abs=0.01)
    assert np.isfinite(policy.score_actions(logits, available, 0 * noise, upper_half=True)).all()


def test_the_upper_half_of_a_games_actions_has_one_more_of_an_odd_number():
    logits = np.tile(np.arange(18, dtype=np.float32), (500, 1)) / 10
    available = np.zeros((500, 18), bool)
    available[:, :5] = True
    noise = np.random.default_rng(0).random(logits.shape, np.float32)
    scores = policy.score_actions(logits, available, noise, upper_half=True).numpy()
    assert set(scores.argmax(1)) == {2, 3, 4}
    available[:, 5] = True
    scores = policy.score_actions(logits, available, noise, upper_half=True).numpy()
    assert set(scores.argmax(1)) == {3, 4, 5}


def seen(frames, begins, actions, rewards, environments=None) -> Observation:
    n = len(begins)
    return Observation(
        np.broadcast_to(np.array(frames, np.uint8)[:, None, None, None], (n, 4, 84, 84)),
        np.arange(n, dtype=np.int32),
        np.arange(n, dtype=np.int32) if environments is None else np.array(environments, np.int32),
        np.arange(n, dtype=np.int32),
        np.array(begins),
        np.array(actions, np.int32),
        np.array(rewards, np.float32),
    )


def test_remembers_each_environments_own_steps_until_its_episode_ends():
    memory = Memory(3)
    memory.recall(seen([10, 20], [True, True], [0, 0], [0, 0]))
    memory.recall(seen([11, 21], [False, False], [1, 2], [5, -5]))
    memory.recall(seen([12, 22], [False, True], [3, 0], [0, 0]))
    frames, actions, rewards, last = memory.recall(seen([13, 23], [False, False], [4, 5], [1, 0]))
    assert last.tolist() == [2, 1]
    assert frames[0, :, 0, 0].tolist() == [11, 12, 13]
    assert actions[0, :2].tolist() == [3, 4] and rewards[0, :2].tolist() == [1, 2]
    assert frames[1, :2, 0, 0].tolist() == [22, 23]
    assert actions[1, :1].tolist() == [5] and rewards[1, :1].tolist() == [1]


def test_environments_may_leave_and_rows_may_only_fill_up():
    memory = Memory(2)
    memory.recall(seen([10, 20, 30], [True] * 3, [0] * 3, [0] * 3))
    frames, _, _, last = memory.recall(
        seen([31, 0, 11], [False, True, False], [1, 0, 1], [0] * 3, environments=[2, -1, 0])
    )
    assert frames[0, :, 0, 0].tolist() == [30, 31] and frames[2, :, 0, 0].tolist() == [10, 11]
    assert last.tolist() == [1, 0, 1]


@pytest.fixture(scope="module")
def network():
    return build.build(tiny.config(*SMALL)).network


def player(network, *bindings):
    return policy.TransformerPolicy(tiny.config(*SMALL, *bindings), network)


def first(rows=2, games_=(0, 1)) -> Observation:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (rows, 4, 84, 84), np.uint8)
    return Observation.first(frames, np.array(games_, np.int32))


@pytest.mark.parametrize("acting", ["tilted", "released"])
def test_plays_only_what_a_game_has(network, acting):
    scores = player(network, f"transformer.acting = {acting!r}")(first())
    mask = games.action_mask(tiny.GAMES)
    assert scores.shape == (2, 18) and np.isfinite(scores).all()
    assert all(mask[row, best] for row, best in enumerate(scores.argmax(1)))
    shares = player(network, f"transformer.acting = {acting!r}").watch(first())["probabilities"]
    assert (shares[~mask] == 0).all() and shares.sum(1) == pytest.approx([1, 1])


def test_the_same_seed_plays_the_same_whoever_else_plays(network):
    both, again = (player(network)(first()) for _ in range(2))
    np.testing.assert_array_equal(both, again)
    alone = first()._replace(games=np.array([1], np.int32))
    alone = alone._replace(**{
        name: getattr(alone, name)[1:]
        for name in ("frames", "environments", "episodes", "begins", "actions", "rewards")
    })  # fmt: skip
    np.testing.assert_allclose(player(network)(alone)[0], both[1], atol=1e-4)
    other = player(network, "evaluation.seed = 7")(first())
    assert (other != both).any()


def test_each_game_and_each_episode_has_draws_of_its_own(network):
    """Pong and Carnival have the same actions: the same frames and draws give the same scores."""
    act = player(network, "data.games = ('Pong', 'Carnival')")
    alike = first()._replace(frames=first().frames[:1].repeat(2, axis=0))
    alike = alike._replace(episodes=np.zeros(2, np.int32))
    has = games.action_mask(["Pong"])[0]
    pong, carnival = act(alike)[:, has]
    assert (pong != carnival).all()
    later, _ = act(alike._replace(episodes=np.ones(2, np.int32)))[:, has]
    assert (later != pong).all()


@pytest.mark.parametrize(("acting", "scale", "kappa", "best_of"), [
    ("tilted", 1.0, 10.0, 1), ("released", 0.75, 0.0, 128),
])  # fmt: skip
def test_only_the_released_way_flattens_the_returns_and_takes_the_best_of_many(
    monkeypatch, acting, scale, kappa, best_of
):
    told = []

    def draw(logits, uniform, **how):
        told.append((logits.numpy(), how))
        return tf.zeros(len(logits), tf.int32)

    class Network:
        steps, conditioned = 1, True

        def __call__(self, frames, tokens):
            n, t = frames.shape[:2]
            return Logits(tf.fill([n, t, 121], 4.0), tf.zeros([n, t, 18]), tf.zeros([n, t, 3]))

    monkeypatch.setattr(policy, "draw_return", draw)
    tf.config.run_functions_eagerly(True)
    try:
        bindings = (f"transformer.acting = {acting!r}", "transformer.kappa = 10.0")
        player(Network(), *bindings)(first())
    finally:
        tf.config.run_functions_eagerly(False)
    ((logits, how),) = told
    assert (logits == 4 * scale).all() and how == {"kappa": kappa, "best_of": best_of}


def test_kappa_moves_the_drawn_return(network, monkeypatch):
    drawn = []

    def note(*args, **kwargs):
        found = draw(*args, **kwargs)
        drawn.append(found.numpy())
        return found

    draw = policy.draw_return
    monkeypatch.setattr(policy, "draw_return", note)
    tf.config.run_functions_eagerly(True)
    try:
        for kappa in (0, 1000):
            player(network, f"transformer.kappa = {float(kappa)}")(first(16, (0, 1)))
    finally:
        tf.config.run_functions_eagerly(False)
    assert (drawn[1] == 120).all() and len(set(drawn[0])) > 8


def test_later_returns_are_what_rewards_leave_of_the_first(monkeypatch):
    """As in training, where each step's return to go is told."""
    told = []

    class Network:
        steps, conditioned = 3, True

        def __call__(self, frames, tokens):
            told.append(tokens.returns.numpy())
            n, t = frames.shape[:2]
            returns = tf.one_hot(tf.fill([n, t], 25), 121) * 1e9
            return Logits(returns, tf.zeros([n, t, 18]), tf.zeros([n, t, 3]))

    tf.config.run_functions_eagerly(True)
    try:
        act = policy.TransformerPolicy(tiny.config(*SMALL), Network())
        for step, reward in enumerate((0.0, 4.0, 0.0, -1.0)):
            now = seen([step], [step == 0], [1], [reward])
            act(now._replace(games=np.zeros(1, np.int32)))
    finally:
        tf.config.run_functions_eagerly(False)
    assert told[5][0].tolist() == [25, 24, 24]  # the reward of 4 counts as its sign
    assert told[7][0].tolist() == [25, 25, 26]


def test_the_cloning_twin_plays(network):
    config = tiny.config(*SMALL, "transformer.return_token = False")
    scores = build.build(config).act()(first())
    assert np.isfinite(scores).all()
