"""How the decision transformer acts: its memory, and how it draws a return and an action."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from cql_atari.core import games as games_lib
from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, Observation
from cql_atari.networks.transformer import (
    LOWEST_RETURN,
    NUM_RETURNS,
    DecisionTransformer,
    Tokens,
)

BEST_OF = 128  # the notebook's samples of the return, of which it takes the highest ...
RETURN_SCALE = 0.75  # ... after scaling their logits
EXCLUDED = -1e9  # a log-probability that is never drawn, but finite


class TransformerPolicy:
    """A policy that remembers the steps of its window, of every environment.

    A return is drawn at the window's first frame, then an action given that return and the window.
    Where the network sees later steps' returns too, these are what the rewards since leave of it.
    The window moves with every step and its positions are learned, so nothing that was computed for
    an earlier step can be reused: all tokens are computed again.

    Draws depend on `evaluation.seed`, the game's name and the episode's number, so that an
    episode's actions don't depend on other episodes.

    Args:
      config: the run's.
      network: what acts.
    """

    def __init__(self, config: Config, network: DecisionTransformer) -> None:
        self._games = config.data.games
        self._seed = config.evaluation.seed
        self._memory = Memory(network.steps)
        self._generators: dict[int, tuple[int, np.random.Generator]] = {}  # (episode, its draws)
        chosen = config.transformer
        released = chosen.acting == "released"
        available = tf.constant(games_lib.action_mask(self._games))

        @tf.function(autograph=False, reduce_retracing=False)
        def act(
            frames: tf.Tensor, tokens: Tokens, last: tf.Tensor, games: tf.Tensor, noise: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            drawn_returns = {}
            if network.conditioned:
                first = network(frames[:, :1], Tokens(*(part[:, :1] for part in tokens)))
                drawn = draw_return(
                    first.returns[:, 0] * (RETURN_SCALE if released else 1.0),
                    noise[:, NUM_ACTIONS],
                    kappa=0.0 if released else chosen.kappa,
                    best_of=BEST_OF if released else 1,
                )
                drawn_returns["returns"] = drawn + LOWEST_RETURN
                rest = drawn[:, None] - tf.cumsum(tokens.rewards - 1, axis=1, exclusive=True)
                returns = tf.clip_by_value(rest, 0, NUM_RETURNS - 1)
                tokens = tokens._replace(returns=returns)
            logits = tf.gather(network(frames, tokens).actions, last, batch_dims=1)
            allowed = tf.repeat(
                tf.gather(available, games), tf.shape(frames)[0] // tf.shape(games)[0], axis=0
            )
            noisy = score_actions(logits, allowed, noise[:, :NUM_ACTIONS], upper_half=released)
            known = tf.where(allowed, logits, EXCLUDED)
            return {"scores": noisy, "probabilities": tf.nn.softmax(known), **drawn_returns}

        self._act = act

    def __call__(self, seen: Observation) -> np.ndarray:
        """Scores [N, 18] of the actions, see `core.types.Policy`."""
        return self._outputs(seen)["scores"].numpy()

    def watch(self, seen: Observation) -> dict[str, np.ndarray]:
        """The same, and the "probabilities" [N, 18] of the actions and the "returns" drawn, [N]."""
        return {name: output.numpy() for name, output in self._outputs(seen).items()}

    def _outputs(self, seen: Observation) -> dict[str, tf.Tensor]:
        frames, actions, rewards, last = self._memory.recall(seen)
        tokens = Tokens(np.zeros_like(actions), actions, rewards)
        return self._act(
            tf.constant(frames), Tokens(*map(tf.constant, tokens)), tf.constant(last),
            tf.constant(seen.games), tf.constant(self._noise(seen)),
        )  # fmt: skip

    def _noise(self, seen: Observation) -> np.ndarray:
        """float32 [N, 19], uniform in [0, 1): what a row needs for its action and its return."""
        per_game = len(seen.frames) // len(seen.games)
        noise = np.zeros((len(seen.frames), NUM_ACTIONS + 1), np.float32)
        for row, environment in enumerate(seen.environments):
            if environment < 0:  # a row that only fills up the batch
                continue
            episode = int(seen.episodes[row])
            if self._generators.get(environment, (None,))[0] != episode:
                game = self._games[seen.games[row // per_game]]
                key = [self._seed, episode, *game.encode()]
                self._generators[environment] = (episode, np.random.default_rng(key))
            noise[row] = self._generators[environment][1].random(NUM_ACTIONS + 1, np.float32)
        return noise


class Memory:
    """The last steps of every environment's episode, oldest first.

    Args:
      steps: T, how many at most.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._frames = np.zeros((0, steps, *FRAME_SHAPE), np.uint8)
        self._actions = np.zeros((0, steps), np.int32)
        self._rewards = np.zeros((0, steps), np.int32)
        self._counts = np.zeros(0, int)

    def recall(self, seen: Observation) -> tuple[np.ndarray, ...]:
        """Takes in what is seen now.

        Returns:
          frames uint8 [N, T, 84, 84], actions int32 [N, T], signs of rewards int32 [N, T] (as
          `reward_signs`), and the place of the present step, int32 [N]. Later places are of no
          meaning, and so are the present step's action and reward.
        """
        # Rows that fill up the batch are of environment -1, which is the last one here.
        rows = seen.environments
        self._make_room(rows.max(initial=0) + 2)
        going, begins = rows[~seen.begins], rows[seen.begins]
        self._counts[begins] = 0
        before = self._counts[going] - 1
        self._actions[going, before] = seen.actions[~seen.begins]
        self._rewards[going, before] = np.sign(seen.rewards[~seen.begins]) + 1
        full = going[self._counts[going] == self._steps]
        arrays: list[np.ndarray] = [self._frames, self._actions, self._rewards]
        for kept in arrays:
            kept[full, :-1] = kept[full, 1:]
        self._counts[full] -= 1
        last = self._counts[rows]
        self._frames[rows, last] = seen.frames[:, -1]
        self._counts[rows] = last + 1
        return (
            self._frames[rows], self._actions[rows], self._rewards[rows], last.astype(np.int32)
        )  # fmt: skip

    def _make_room(self, environments: int) -> None:
        more = environments - len(self._counts)
        if more > 0:
            for name in ("_frames", "_actions", "_rewards", "_counts"):
                kept = getattr(self, name)
                empty = np.zeros((more, *kept.shape[1:]), kept.dtype)
                setattr(self, name, np.concatenate([kept, empty]))


def draw_return(logits: tf.Tensor, uniform: tf.Tensor, *, kappa: float, best_of: int) -> tf.Tensor:
    """Draws a return's bin as an expert would have it (section 3.4).

    log P(R | expert) = log P(R) + kappa (R - low) / (high - low) + constant. Of several draws the
    highest has the distribution function F^n, so that one uniform number does.

    Args:
      logits: [N, 121] of P(R).
      uniform: [N], in [0, 1).
      kappa: how strongly high returns are preferred; 0: not at all.
      best_of: n.

    Returns:
      int32 [N].
    """
    bins = tf.linspace(0.0, 1.0, NUM_RETURNS)
    distribution = tf.cumsum(tf.nn.softmax(logits + kappa * bins), axis=-1)
    wanted = distribution[:, -1:] * tf.cast(uniform[:, None], tf.float32) ** (1 / best_of)
    drawn = tf.reduce_sum(tf.cast(distribution <= wanted, tf.int32), axis=-1)
    return tf.minimum(drawn, NUM_RETURNS - 1)


def score_actions(
    logits: tf.Tensor, available: tf.Tensor, noise: tf.Tensor, *, upper_half: bool
) -> tf.Tensor:
    """Scores whose argmax is a draw of the softmax over a game's actions (the Gumbel trick).

    Args:
      logits: [N, 18].
      available: bool [N, 18], the actions that the row's game has.
      noise: [N, 18], uniform in [0, 1).
      upper_half: draw from the better half of the game's actions only; of an odd number it has one
        more.

    Returns:
      float32 [N, 18].
    """
    logits = tf.where(available, logits, EXCLUDED)
    if upper_half:
        counts = tf.reduce_sum(tf.cast(available, tf.int32), axis=-1)
        best_first = tf.sort(logits, axis=-1, direction="DESCENDING")
        least = tf.gather(best_first, (counts - 1) // 2, batch_dims=1)
        logits = tf.where(logits >= least[:, None], logits, EXCLUDED)
    tiny = tf.constant(1e-20)  # log 0 is not finite
    return tf.nn.log_softmax(logits) - tf.math.log(-tf.math.log(tf.maximum(noise, tiny)))
