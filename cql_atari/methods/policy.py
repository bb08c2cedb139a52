"""How a network that gives values of actions acts: as our `Policy`, and as TF-Agents' policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, time_step

from cql_atari.core import games as games_lib
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, STACK, Observation, Policy

# (frames uint8 [B, 4, 84, 84], games int32 [D]) -> values float32 [B, 18]; B = D * c, and each run
# of c rows shares a game.
Values = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def greedy(values: Values, games: Sequence[str]) -> Callable[[], Policy]:
    """A maker of policies that remember nothing; `values` is compiled once a shape of batches.

    Args:
      values: of a network with a head for each of the games.
      games: their names, in the order of the heads.
    """
    compiled = tf.function(values, autograph=False, reduce_retracing=False)

    def values_of(seen: Observation) -> np.ndarray:
        return compiled(tf.constant(seen.frames), tf.constant(seen.games)).numpy()

    policy = Policy(tuple(games), values_of)
    return lambda: policy


def watching(
    outputs: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
) -> Callable[[], Callable[[Observation], dict[str, np.ndarray]]]:
    """`Method.watch` of a network that acts by its outputs alone."""
    compiled = tf.function(outputs, autograph=False, reduce_retracing=False)

    def watch(seen: Observation) -> dict[str, np.ndarray]:
        said = compiled(tf.constant(seen.frames), tf.constant(seen.games))
        return {name: output.numpy() for name, output in said.items()}

    return lambda: watch


class GreedyPolicy(tf_policy.TFPolicy):
    """argmax of values over the game's minimal action set; observations are {"frames", "game"}."""

    def __init__(self, network: tf.keras.Model, values: Values, games: Sequence[str]):
        observation = {
            "frames": tf.TensorSpec((STACK, *FRAME_SHAPE), tf.uint8),
            "game": tf.TensorSpec((), tf.int32),
        }
        super().__init__(
            time_step.time_step_spec(observation),
            tensor_spec.BoundedTensorSpec((), tf.int32, 0, NUM_ACTIONS - 1),
        )
        self._weights = network.variables  # not the network: saving a policy would save its class
        self._values = values
        self._unused = tf.constant(~games_lib.action_mask(games))

    def _variables(self):
        return self._weights

    def _action(self, time_step, policy_state, seed):
        del seed
        frames, game = time_step.observation["frames"], time_step.observation["game"]
        values = self._values(frames, game)
        values = tf.where(tf.gather(self._unused, game), values.dtype.min, values)
        return policy_step.PolicyStep(tf.argmax(values, -1, output_type=tf.int32), policy_state, ())
