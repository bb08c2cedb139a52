"""The arithmetic of the online phase: draws for each transition, frames to act, epsilon."""

from __future__ import annotations

from cql_atari.core.settings import Config, Online
from cql_atari.core.types import FRAME_SKIP, MAX_FRAMES
from cql_atari.feed.online.limits import IN_FLIGHT, PENDING, Pace


def rows(config: Config) -> tuple[int, int]:
    """(rows of a batch that come from acting, rows that come from recorded play)."""
    recorded = round(config.online.offline_share * config.batch_size)
    return config.batch_size - recorded, recorded


def make_pace(config: Config, frames: int, step: int) -> Pace:
    """The pace of a process that begins with an empty replay after `frames` and at `step`.

    Over the whole run, draws = samples_per_insert * (transitions acted - first fill), within a
    slack. A process that goes on with a run first refills its replay, and then learns from that as
    much as it has acted for it before it acts on. The slack is the least with which neither side
    waits for ever.
    """
    drawn_rows = rows(config)[0]
    per_insert = config.feed.samples_per_insert * drawn_rows / config.batch_size
    first_fill = config.online.first_fill
    slack = per_insert * (_unwritten(config) + PENDING)
    slack += 3 * drawn_rows * config.train.steps_per_call + IN_FLIGHT
    due = per_insert * (first_fill - frames / FRAME_SKIP) + step * drawn_rows
    return Pace(per_insert, first_fill, (due - slack, due + slack))


def budget(config: Config, frames: int) -> int:
    """Frames at which acting ends: `online.frames`, or what a process that begins after `frames`
    needs to fill its replay, if that is more.
    """
    to_fill = config.online.first_fill + _unwritten(config)
    return max(config.online.frames, frames + to_fill * FRAME_SKIP)


def epsilon(online: Online, frames: int) -> float:
    """The share of random actions after so many frames."""
    done = min(frames / online.epsilon_decay_frames, 1)
    return online.epsilon_start + done * (online.epsilon_end - online.epsilon_start)


def _unwritten(config: Config) -> int:
    """The most steps within the budget that give no transition in the replay: the last n of each
    copy and of each truncated episode, and one step of all copies for which no frames are left.
    """
    truncated = config.online.frames // MAX_FRAMES
    return config.feed.n_step * (config.online.num_envs + truncated) + config.online.num_envs
