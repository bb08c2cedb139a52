"""The contract of a method, a way to learn: all that the rest of the package knows of one.

    build(config) -> Method       the network, and how it acts
    method.learner() -> Learner   its loss, its optimizers, what its checkpoints hold

Nothing outside `methods/` asks which method runs. A new one is a module with a function
`make(config) -> Method` and a `Kind` in `build.METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cql_atari.core.types import Array, Observation, Policy

if TYPE_CHECKING:  # so that a command can ask for a `Kind` without waiting for TensorFlow
    import tensorflow as tf


class Transitions(NamedTuple):
    """Batches of independent n-step transitions: `core.types.Batch`."""

    n_step: int
    discount: float


class Sequences(NamedTuple):
    """Batches of `length` consecutive steps of an episode."""

    length: int


class ParameterGroup(NamedTuple):
    """An optimizer and the variables that it trains."""

    optimizer: tf.keras.optimizers.legacy.Optimizer
    variables: list[tf.Variable]


class Learner(NamedTuple):
    """How a network is trained. A gradient step is `gradient.gradient_step`, for every method.

    Attributes:
      games: names, in the order of a batch's `games`.
      batch_size: rows of a batch over all replicas; what is minimised is the mean over them.
      loss: batch (one replica's rows; it has `games` int32 [B]) -> name -> float32 [B].
        "loss/total" is minimised. Every name is logged as a mean over all rows and, under
        `<name>/<Game>`, over the rows of each game; so a measure is one more name. AutoGraph
        doesn't convert it: `tf.where` and `tf.cond` in place of an `if` on a tensor.
      parameter_groups: the first one's optimizer counts the steps. Variables in no group aren't
        trained.
      saved: what a checkpoint holds, by name. "network" among them is `Method.network`; old
        checkpoints are found by these names.
      after_steps: (step before, step now), called after each call of the training function;
        `crossed` says whether a multiple of a period lies between.
      clip_norm: gradients are scaled down to this global norm; None: never.
      warnings: the scalars of a log line -> what the user should know of the run, by a key; said
        once a key.
    """

    games: tuple[str, ...]
    batch_size: int
    loss: Callable[[Any], dict[str, tf.Tensor]]
    parameter_groups: tuple[ParameterGroup, ...]
    saved: Mapping[str, Any]
    after_steps: Callable[[int, int], None] = lambda before, now: None
    clip_norm: float | None = None
    warnings: Callable[[Mapping[str, float]], Mapping[str, str]] = lambda scalars: {}


class Method(NamedTuple):
    """A network, and what can be done with it.

    Attributes:
      reads: what a batch holds.
      network: all that acting needs: remote actors receive it, evaluation restores it.
      act: makes a policy that remembers nothing yet, one for each evaluation or actor. None: the
        method doesn't act, so a run of it is not evaluated.
      learner: makes what trains the network from its present weights; called once, in the
        strategy's scope, after what the network takes over from another run is restored.
      outputs: (frames uint8 [B, 4, 84, 84], games int32 [D]) -> what the network says of the
        states, by name, each float32 [B, 18, ...]; the greedy action is the best by the first one.
        B = D * c, and each run of c rows shares a game. None: it acts on more than a state.
      support: float32 [N], the values that "distributions" among the outputs are over.
      watch: as `act`, but it makes a function that gives everything that the action is chosen by,
        by name, each [N, ...]: first the scores of the actions; with a network that is conditioned
        on the return to go also "returns" [N].
      pictures: batch -> name -> uint8 [height, width, 1 or 3], pictures of what the network makes
        of some rows; None: there are none.
    """

    reads: Transitions | Sequences
    network: tf.keras.Model
    act: Callable[[], Policy] | None
    learner: Callable[[], Learner]
    outputs: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]] | None = None
    support: np.ndarray | None = None
    watch: Callable[[], Callable[[Observation], dict[str, np.ndarray]]] | None = None
    pictures: Callable[[Any], dict[str, Array]] | None = None


class Kind(NamedTuple):
    """What is known of a method before anything is built.

    Attributes:
      make: builds it from a `Config`; imports TensorFlow.
      label: what its scores are called in reports.
      settings: of the sections and settings in `build.OF_METHODS`, those that it reads.
      online: whether it can learn from what it plays itself.
      gives: what a later run may take over from a run of this method, "encoder" or
        "whole_network", with the settings that both must have in common (for an encoder, beside the
        encoder's own settings).
      networks: copies of the network that a checkpoint holds, beside the optimizers' moments.
      passes: forward passes that a gradient step costs, a backward pass counted as two, without
        those that a setting adds: `build.passes`.
    """

    make: Callable[[Any], Method]
    label: str
    settings: tuple[str, ...]
    online: bool = False
    gives: Mapping[str, tuple[str, ...]] = {}
    networks: int = 1
    passes: int = 3


def crossed(period: int, before: int, now: int) -> bool:
    """Whether a multiple of the period lies in (before, now]; for a period of 0, never."""
    return period > 0 and before // period != now // period
