"""Checks that a configuration's values have the right types and ranges and fit each other.

The choices and ranges of a parameter are declared in `settings`; here are the checks that every
parameter has, and the few rules about several parameters.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from cql_atari.core import games
from cql_atari.core.settings import Config, Network, from_dict
from cql_atari.core.types import NUM_ACTIONS, UserError
from cql_atari.system.files import parse_json

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "bool": (bool,), "str": (str,), "None": (type(None),),
}  # fmt: skip

# 16 GB; the paper's largest network has 98 million weights with all heads. A recorded configuration
# may be of unknown origin: a network that no machine can hold is refused before it is built.
_MOST_WEIGHTS = 4 * 10**9
_MOST_LAYERS = 1_000


def from_json(text: str | bytes, where: str) -> Config:
    """A recorded configuration, checked.

    Args:
      text: what `settings.to_dict` gave, as JSON.
      where: named in errors.

    Raises:
      UserError: where it is no JSON, or not a configuration of this version.
    """
    try:
        return check(from_dict(parse_json(text)))
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check(config: Config) -> Config:
    """Returns the configuration unchanged if every value has the right type and range.

    Raises:
      UserError: naming the parameter, its value and what it may be.
    """
    fields = [
        (f"{section}.{field.name}", getattr(part, field.name), field)
        for section, part in vars(config).items()
        for field in dataclasses.fields(part)
    ]
    for name, value, field in fields:
        _check_type(name, value, str(field.type))
    for name, value, field in fields:  # some ranges depend on another value, which has its type now
        if "choices" in field.metadata:
            _check_choice(name, value, field.metadata)
        if "range" in field.metadata and value is not None:
            _check_numbers(name, value, field.metadata, config.train.steps_per_call)
    _check_together(config)
    return config


def _check_type(name: str, value: Any, hint: str) -> None:
    def fits(item: Any, kind: str) -> bool:
        if isinstance(item, bool):  # an int to Python, not to us
            return kind == "bool"
        if isinstance(item, float) and not math.isfinite(item):
            return False
        return isinstance(item, _KINDS[kind])

    advice = ""
    for option in hint.split(" | "):
        items = re.fullmatch(r"tuple\[(\w+), \.\.\.\]", option)
        if items is None and fits(value, option):
            return
        if items and isinstance(value, tuple) and all(fits(v, items.group(1)) for v in value):
            return
        if items and fits(value, items.group(1)):
            advice = f" Write {name} = ({value!r},): the comma makes it a tuple."
    if isinstance(value, float) and not math.isfinite(value) and not advice:
        advice = " It must be finite."
    raise UserError(f"{name} = {value!r}: expected {hint}.{advice}")


def _check_choice(name: str, value: str, metadata: Mapping[str, Any]) -> None:
    choices, meant = metadata["choices"], metadata["meant"]
    if value in choices:
        return
    near = [meant[value]] if value in meant else difflib.get_close_matches(value, choices, n=1)
    raise UserError(
        f"{name} = {value!r}: choose one of {', '.join(map(repr, choices))}."
        + (f" Did you mean {near[0]!r}?" if near else "")
    )


def _check_numbers(name: str, value: Any, metadata: Mapping[str, Any], per_call: int) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if number not in metadata["range"]:
            each = "each number must be" if isinstance(value, tuple) else "must be"
            raise UserError(f"{name} = {value!r}: {each} {metadata['range']}.")
        if metadata["per_call"] and per_call > 0 and number % per_call:
            raise UserError(
                f"{name} = {value!r}: must be a multiple of train.steps_per_call = {per_call}; "
                f"the next one is {-(-number // per_call) * per_call}."
            )


def _check_size(config: Config) -> None:
    network, transformer, largest = config.network, config.transformer, most_weights(config)
    masked, projection = config.masked_autoencoder, config.contrastive.projection
    layers = (
        sum(network.depths) + len(network.feed_forward) + transformer.depth + masked.depth
        + masked.decoder_depth + len(projection)
    )  # fmt: skip
    if largest > _MOST_WEIGHTS or layers > _MOST_LAYERS:
        raise UserError(
            f"the network would have up to {largest:,} weights in {layers:,} layers; at most "
            f"{_MOST_WEIGHTS:,} in {_MOST_LAYERS:,} are allowed. Lower the sizes in `network` (or "
            "`transformer`, `masked_autoencoder`, `contrastive`)."
        )


def most_weights(config: Config) -> int:
    """About the number of weights of the largest network with these sizes, without building it."""
    network, transformer, masked = config.network, config.transformer, config.masked_autoencoder
    projected = dataclasses.replace(network, feed_forward=config.contrastive.projection)
    outputs = config.loss.num_atoms * len(config.data.games)
    return max(
        _encoder_and_layers(network) + _features(network)[-1] * NUM_ACTIONS * outputs,
        _encoder_and_layers(projected) + _features(projected)[-1] ** 2,  # a bilinear score
        20 * transformer.depth * transformer.width**2
        + (39 * transformer.steps + 500) * transformer.width,  # positions, 39 a step, and others
        20 * (masked.depth + masked.decoder_depth) * masked.width**2,
    )


def _encoder_and_layers(network: Network) -> int:
    blocks = sum(18 * depth * width**2 for depth, width in zip(network.depths, network.widths))
    dense = sum(a * b for a, b in itertools.pairwise(_features(network)))
    embedding = _cells(network) * _features(network)[0]
    return blocks + (150 * network.impala_width) ** 2 + embedding + dense


def _features(network: Network) -> list[int]:
    """Widths from the pooled features on."""
    channels = max(4 * network.widths[-1], 32 * network.impala_width, 64) if network.widths else 0
    maps = {"mean": 1, "flatten": _cells(network), "spatial_embedding": network.embedding_blocks}
    return [channels * maps[network.pooling], *network.feed_forward]


def _cells(network: Network) -> int:
    """Of the feature map, at most."""
    pool = 2 if network.stem_pool else 1
    stride = network.stem_stride * pool * math.prod(network.strides)
    return max(11, math.ceil(84 / stride)) ** 2  # 11 x 11: the other encoders'


def _check_together(config: Config) -> None:
    _check_size(config)
    for game in config.data.games:
        games.spec(game)
    for name in ("games", "runs", "suffixes"):
        values = getattr(config.data, name)
        if values is not None and (not values or len(set(values)) != len(values)):
            raise UserError(f"data.{name} = {values}: name at least one, each once.")
    if config.feed.servers and config.feed.kind != "replay":
        raise UserError(
            f"feed.servers = {config.feed.servers} with feed.kind = {config.feed.kind!r}: servers "
            "hold a replay; set feed.kind to 'replay', or feed.servers to ()."
        )
    for address in config.feed.servers:
        host, _, port = address.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
            raise UserError(
                f"feed.servers: {address!r} is no address; give 'host:port' of each, with a port "
                "from 1 to 65535."
            )
    v_min, v_max = config.loss.v_min, config.loss.v_max
    if v_min is not None and v_min >= v_max:
        raise UserError(
            f"loss.v_min = {v_min!r} with loss.v_max = {v_max!r}: the support has no width; lower "
            "loss.v_min, or set it to None for -loss.v_max."
        )
    if config.start.whole_network and config.start.encoder_from is None:
        raise UserError(
            "start.whole_network = True with start.encoder_from = None: there is no network to "
            "take; set start.encoder_from to the workdir of a pre-trained run, or "
            "start.whole_network to False."
        )
