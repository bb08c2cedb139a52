"""What a configuration's values may be: types, choices, ranges, and what goes together."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Any

from cql_atari.core import games
from cql_atari.core.settings import Config
from cql_atari.core.types import UserError

CHOICES = {
    "feed.kind": ("replay", "memory", "packed"),
    "network.encoder": ("nature", "impala", "resnet"),
    "network.block": ("basic", "bottleneck"),
    "network.pooling": ("spatial_embedding", "flatten", "mean"),
    "network.dtype": ("float32", "mixed_bfloat16"),
    "loss.kind": ("c51", "mse", "hl_gauss"),
    "train.phase": ("offline", "online"),
    "train.strategy": ("none", "mirrored", "multi_worker", "tpu"),
    "online.actors": ("local", "remote"),
    "train.jit_compile": (None, True, False),
}
_AT_LEAST_1 = (
    "feed.draws feed.transitions_per_draw feed.n_step feed.transitions_per_game "
    "network.depths network.widths network.strides network.stem_kernel network.stem_stride "
    "network.groups network.impala_width network.embedding_blocks network.feed_forward "
    "train.steps train.steps_per_call train.target_period train.log_every train.save_every "
    "train.keep evaluation.episodes evaluation.envs_per_game evaluation.curve_episodes "
    "evaluation.max_frames online.frames online.num_envs online.epsilon_decay_frames "
    "online.first_fill"
)
_PERIODS = "train.steps train.target_period train.log_every train.save_every evaluation.every"
_SHARES = (
    "feed.discount evaluation.epsilon evaluation.sticky data.fraction online.sticky "
    "online.epsilon_start online.epsilon_end online.offline_share"
)
_POSITIVE = (
    "optimizer.learning_rate optimizer.epsilon loss.v_max data.fraction feed.samples_per_insert"
)
# A batch's key is unsigned, of 64 bits. A console's seed is signed, of 32, and evaluation adds to
# its own: up to 1,000,000 and the number of the environment.
_RANGES = {
    "train.seed": range(2**64),
    "evaluation.seed": range(2_000_000_001),
    "online.port": range(65_536),
}
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "bool": (bool,), "str": (str,), "None": (type(None),),
}  # fmt: skip


def check(config: Config) -> Config:
    """Returns the configuration unchanged if every value has the right type and range.

    Raises:
      UserError: naming the parameter, its value and what it may be.
    """
    for section, part in vars(config).items():
        for item in dataclasses.fields(part):
            _check_type(f"{section}.{item.name}", getattr(part, item.name), str(item.type))
    for parameter, choices in CHOICES.items():
        section, name = parameter.split(".")
        value = getattr(getattr(config, section), name)
        if value not in choices:
            near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1, cutoff=0.0)
            raise UserError(
                f"{parameter} = {value!r}: choose one of {', '.join(map(repr, choices))}"
                + (f"; nearest: {near[0]!r}." if near else ".")
            )
    for game in config.data.games:
        games.spec(game)
    if not config.data.games or len(set(config.data.games)) != len(config.data.games):
        raise UserError(f"data.games = {config.data.games}: name at least one game, each once.")
    if config.feed.servers and config.feed.kind != "replay":
        raise UserError(
            f"feed.servers = {config.feed.servers} with feed.kind = {config.feed.kind!r}: servers "
            "hold a replay; set feed.kind to 'replay', or feed.servers to ()."
        )
    if config.start.whole_network and config.start.encoder_from is None:
        raise UserError(
            "start.whole_network = True with start.encoder_from = None: there is no network to "
            "take; set start.encoder_from to the workdir of a pre-trained run, or "
            "start.whole_network to False."
        )
    _check_numbers(config)
    return config


def _check_numbers(config: Config) -> None:
    k = config.train.steps_per_call
    for parameters, holds, what in (
        (_AT_LEAST_1, lambda value: value >= 1, "at least 1"),
        ("loss.num_atoms", lambda atoms: atoms >= 2, "at least 2"),
        ("evaluation.every", lambda every: every >= 0, "at least 0 (0: only at the end)"),
        (_PERIODS, lambda value: value % k == 0, f"a multiple of train.steps_per_call = {k}"),
        (_SHARES, lambda value: 0 <= value <= 1, "between 0 and 1"),
        (_POSITIVE, lambda value: value > 0, "greater than 0"),
        ("optimizer.encoder_learning_rate", lambda rate: rate is None or rate >= 0, "at least 0"),
        *(
            (name, range_.__contains__, f"from {range_[0]} to {range_[-1]}")
            for name, range_ in _RANGES.items()
        ),
    ):
        for parameter in parameters.split():
            section, name = parameter.split(".")
            value = getattr(getattr(config, section), name)
            each = value if isinstance(value, tuple) else (value,)
            if not all(map(holds, each)):
                raise UserError(f"{parameter} = {value!r}: must be {what}.")


def _check_type(parameter: str, value: Any, hint: str) -> None:
    def fits(item: Any, kind: str) -> bool:
        # bool is an int to Python, not to us.
        return isinstance(item, _KINDS[kind]) and (kind == "bool" or not isinstance(item, bool))

    for option in hint.split(" | "):
        items = re.fullmatch(r"tuple\[(\w+), \.\.\.\]", option)
        if items is None and fits(value, option):
            return
        if items and isinstance(value, tuple) and all(fits(v, items.group(1)) for v in value):
            return
    raise UserError(f"{parameter} = {value!r}: expected {hint}.")
