"""Checks the settings of an online run and derives train.steps; imports nothing heavy."""

from __future__ import annotations

import dataclasses

from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SKIP, UserError
from cql_atari.envs import atari
from cql_atari.feed.online import pace
from cql_atari.methods import build


def complete(config: Config) -> Config:
    """Derives train.steps from online.frames: each transition after the first fill adds
    `feed.samples_per_insert` rows to the batches.

    Raises:
      UserError: where an online run isn't possible with these settings.
    """
    online, train = config.online, config.train
    if len(config.data.games) != 1:
        raise UserError(
            f"data.games = {config.data.games}: the online phase plays one game; name one."
        )
    if train.strategy != "none":
        raise UserError(
            f"train.strategy = {train.strategy!r}: the online phase runs on one device; set 'none'."
        )
    if not build.kind(config).online:
        known = ", ".join(repr(name) for name, kind in build.METHODS.items() if kind.online)
        raise UserError(
            f"train.method = {train.method!r} can't learn from what it plays itself; choose "
            f"{known}."
        )
    if pace.rows(config)[0] < 1:
        raise UserError(
            f"online.offline_share = {online.offline_share} leaves no row of {config.batch_size} "
            "for what is acted; lower it, or use train.phase = 'offline'."
        )
    if not online.first_fill <= config.feed.transitions_per_game:
        raise UserError(
            f"online.first_fill = {online.first_fill} doesn't fit in feed.transitions_per_game = "
            f"{config.feed.transitions_per_game}; lower the one or raise the other."
        )
    per_step = config.batch_size / config.feed.samples_per_insert
    steps = int((online.frames / FRAME_SKIP - online.first_fill) / per_step)
    steps -= steps % train.steps_per_call
    if steps < 1:
        least = FRAME_SKIP * (online.first_fill + per_step * train.steps_per_call)
        raise UserError(
            f"online.frames = {online.frames} leaves nothing to learn with after online.first_fill "
            f"= {online.first_fill} transitions; at least {least:.0f} frames are needed."
        )
    # Fails where the game has no such mode or difficulty.
    atari.AtariEnv(
        config.data.games[0], seed=0, mode=online.mode, difficulty=online.difficulty,
        rom_dir=config.evaluation.rom_dir,
    )  # fmt: skip
    return dataclasses.replace(config, train=dataclasses.replace(train, steps=steps))
