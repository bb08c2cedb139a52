"""The online phase by arithmetic: gradient steps for frames, draws for transitions, epsilon."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from cql_atari.core.settings import Config, Online
from cql_atari.core.types import UserError
from cql_atari.envs import atari
from cql_atari.methods import build

PENDING = 8  # transitions that a writer may be ahead of the table
IN_FLIGHT = 32  # draws that a reader may be ahead of its batches


class Pace(NamedTuple):
    """What the replay's rate limiter holds, by its own counts of one life of a run.

    Attributes:
      samples_per_insert: draws of a transition, on average.
      first_fill: transitions that are there before the first is drawn.
      allowed: bounds of samples_per_insert * inserted - drawn; whoever is ahead waits there.
    """

    samples_per_insert: float
    first_fill: int
    allowed: tuple[float, float]


def complete(config: Config) -> Config:
    """Derives train.steps from online.frames: every transition after the first fill is worth
    `feed.samples_per_insert` rows of a batch.

    Raises:
      UserError: where the phase can't be run so; before anything heavy is imported.
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
    if rows(config)[0] < 1:
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
    steps = int((online.frames / atari.FRAME_SKIP - online.first_fill) / per_step)
    steps -= steps % train.steps_per_call
    if steps < 1:
        least = atari.FRAME_SKIP * (online.first_fill + per_step * train.steps_per_call)
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


def rows(config: Config) -> tuple[int, int]:
    """Rows of a batch that come from what is acted, and from recorded play."""
    recorded = round(config.online.offline_share * config.batch_size)
    return config.batch_size - recorded, recorded


def make_pace(config: Config, frames: int, step: int) -> Pace:
    """The pace of a life that begins with an empty replay after `frames` and at `step`.

    Over all lives, draws = samples_per_insert * (transitions acted - first fill), within a slack.
    A life that refills its replay therefore learns more from that before it acts on: as much as
    it has acted for the refill. The slack is the least with which neither side waits for ever.
    """
    drawn_rows = rows(config)[0]
    per_insert = config.feed.samples_per_insert * drawn_rows / config.batch_size
    first_fill = config.online.first_fill
    slack = per_insert * (_unwritten(config) + PENDING)
    slack += 3 * drawn_rows * config.train.steps_per_call + IN_FLIGHT
    due = per_insert * (first_fill - frames / atari.FRAME_SKIP) + step * drawn_rows
    return Pace(per_insert, first_fill, (due - slack, due + slack))


def budget(config: Config, frames: int) -> int:
    """Frames at which acting ends: `online.frames`, or what a life that begins after `frames` needs
    to fill its replay.
    """
    to_fill = config.online.first_fill + _unwritten(config)
    return max(config.online.frames, frames + to_fill * atari.FRAME_SKIP)


def epsilon(online: Online, frames: int) -> float:
    """The share of random actions after so many frames."""
    done = min(frames / online.epsilon_decay_frames, 1)
    return online.epsilon_start + done * (online.epsilon_end - online.epsilon_start)


def _unwritten(config: Config) -> int:
    """Most steps within the budget that give no transition in the replay: the last n of each copy
    and of each truncated episode, and the step of all copies for which no frames are left.
    """
    truncated = config.online.frames // atari.MAX_FRAMES
    return config.feed.n_step * (config.online.num_envs + truncated) + config.online.num_envs
