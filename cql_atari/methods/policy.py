"""How a network that gives scores of actions acts: as our `Policy`, and as TF-Agents' policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tf_agents.policies import tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import policy_step, time_step

from cql_atari.core import games as games_lib
from cql_atari.core.types import FRAME_SHAPE, NUM_ACTIONS, STACK, Observation, Policy

# As `Method.outputs`: (frames, games) -> what the network says, by name; first the actions' scores.
Outputs = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def greedy(outputs: Outputs, games: Sequence[str]) -> Callable[[], Policy]:
    """A maker of policies that remember nothing; compiled once a shape of batches.

    Args:
      outputs: of a network with a head for each of the games.
      games: their names, in the order of the heads.
    """

    @tf.function(autograph=False, reduce_retracing=False)
    def scores(frames: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        return _first(outputs(frames, games))

    def values_of(seen: Observation) -> np.ndarray:
        return scores(tf.constant(seen.frames), tf.constant(seen.games)).numpy()

    policy = Policy(tuple(games), values_of)
    return lambda: policy


def watching(outputs: Outputs) -> Callable[[], Callable[[Observation], dict[str, np.ndarray]]]:
    """`Method.watch` of a network that acts by its outputs alone."""
    compiled = tf.function(outputs, autograph=False, reduce_retracing=False)

    def watch(seen: Observation) -> dict[str, np.ndarray]:
        found = compiled(tf.constant(seen.frames), tf.constant(seen.games))
        return {name: output.numpy() for name, output in found.items()}

    return lambda: watch


class GreedyPolicy(tf_policy.TFPolicy):
    """argmax of scores over the game's minimal action set; observations are {"frames", "game"}."""

    def __init__(self, network: tf.keras.Model, outputs: Outputs, games: Sequence[str]):
        observation = {
            "frames": tf.TensorSpec((STACK, *FRAME_SHAPE), tf.uint8),
            "game": tf.TensorSpec((), tf.int32),
        }
        super().__init__(
            time_step.time_step_spec(observation),
            tensor_spec.BoundedTensorSpec((), tf.int32, 0, NUM_ACTIONS - 1),
        )
        self._weights = network.variables  # not the network: saving a policy would save its class
        self._outputs = outputs
        self._unused = tf.constant(~games_lib.action_mask(games))

    def _variables(self):
        return self._weights

    def _action(self, time_step, policy_state, seed):
        del seed
        frames, game = time_step.observation["frames"], time_step.observation["game"]
        scores = _first(self._outputs(frames, game))
        scores = tf.where(tf.gather(self._unused, game), scores.dtype.min, scores)
        return policy_step.PolicyStep(tf.argmax(scores, -1, output_type=tf.int32), policy_state, ())


def _first(outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    return next(iter(outputs.values()))
