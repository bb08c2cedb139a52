"""From settings to a method: the list of all methods, and the only place that looks one up."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cql_atari.core.settings import Config
from cql_atari.core.types import UserError
from cql_atari.methods.method import Kind, Method

if TYPE_CHECKING:
    import tensorflow as tf


def _module(name: str) -> Callable[[Config], Method]:
    """`make` of a module of this folder, which is imported (with TensorFlow) only when called."""
    return lambda config: importlib.import_module(f"cql_atari.methods.{name}").make(config)


# What only some methods read: sections of the settings, and single settings.
OF_METHODS = (
    "network", "transformer", "contrastive", "masked_autoencoder", "loss", "train.target_period",
)  # fmt: skip
_WHOLE = ("train.method", "network.feed_forward", "network.feature_norm")
_LOSS = tuple(f"loss.{n}" for n in ("kind", "num_atoms", "v_min", "v_max", "has_auxiliary_cloning"))
_TRANSFORMER = tuple(f"transformer.{name}" for name in ("depth", "width", "steps", "return_token"))
METHODS: dict[str, Kind] = {
    "scaled_q": Kind(
        _module("scaled_q"),
        label="agent",
        settings=("network", "loss", "train.target_period"),
        online=True,
        gives={"encoder": (), "whole_network": (*_WHOLE, *_LOSS)},
        networks=2,
        passes=4,
    ),
    "decision_transformer": Kind(
        _module("decision_transformer"),
        label="decision transformer",
        settings=("transformer", "network.dtype", "loss.mask_unused_actions"),
        gives={"whole_network": ("train.method", *_TRANSFORMER)},
    ),
    "contrastive": Kind(
        _module("contrastive"),
        label="contrastive coding",
        settings=("network", "contrastive"),
        gives={"encoder": ()},
        passes=6,
    ),
    "masked_autoencoder": Kind(
        _module("masked_autoencoder"),
        label="masked autoencoder",
        settings=("network", "masked_autoencoder"),
        gives={"encoder": ()},
    ),
    "cloning": Kind(
        _module("cloning"),
        label="cloning",
        settings=("network", "loss.mask_unused_actions"),
        gives={"encoder": (), "whole_network": _WHOLE},
    ),
}


def kind(config: Config) -> Kind:
    """What is known of the configured method before anything is built.

    Raises:
      UserError: where there is no such method.
    """
    name = config.train.method
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)
        raise UserError(
            f"train.method = {name!r}: choose one of {', '.join(map(repr, METHODS))}; nearest: "
            f"{near[0]!r}."
        )
    return METHODS[name]


def unread(config: Config, name: str) -> str | None:
    """The setting because of which that of this name has no effect; None where it may have one."""
    names = {name, name.partition(".")[0]}
    if names & {*OF_METHODS} and not names & {*kind(config).settings}:
        return f"train.method = {config.train.method!r}"
    online = config.train.phase == "online"
    if (name == "train.steps" and online) or ("online" in names and not online):
        return f"train.phase = {config.train.phase!r}"
    return None


def build(config: Config) -> Method:
    """The configured method, its weights drawn from `train.seed`. Call it in the strategy's scope.

    Raises:
      UserError: where there is no such method, or its network can't be built.
    """
    return kind(config).make(config)


def passes(config: Config) -> int:
    """Forward passes that a gradient step costs; a backward pass counts as two."""
    double_q = config.loss.double_q and not unread(config, "loss.double_q")
    return kind(config).passes + double_q


def count_parameters(config: Config) -> tuple[int, int]:
    """Trainable parameters of (trunk, heads of the games); no heads: all are the trunk's."""
    return parameters_of(build(config).network)


def parameters_of(network: tf.keras.Model) -> tuple[int, int]:
    """As `count_parameters`, of a network that is built."""
    count = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    heads = getattr(network, "heads", None)
    of_heads = sum(math.prod(v.shape) for v in heads.trainable_variables) if heads else 0
    return count - of_heads, of_heads
