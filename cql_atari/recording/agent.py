"""`collect --behaviour=online`: an agent trains, and its whole experience is the collection.

Until everything is played the collection is in the hidden folder `<data_dir>/<Game>/.<run>.online`;
the same command goes on with it. The agent's own run stays beside its data, in `agent/`, which is a
workdir like any other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SKIP, UserError
from cql_atari.recording.folder import FILE, IN_USE, Job, describe_job, is_there
from cql_atari.runs import folder as workdir
from cql_atari.runs import recorded_config
from cql_atari.system import files

if TYPE_CHECKING:
    from cql_atari.feed.feed import Feed

GIN_FILE = "gin_configs/collect_online.gin"
Load = Callable[[Sequence[str]], Config]  # (bindings, which win over all others) -> configuration
Train = Callable[..., bool]  # training.run.train


def make_config(job: Job, load: Load) -> Config:
    """The run's configuration: `GIN_FILE`, then the user's, then what the job says.

    Raises:
      UserError: where such a run isn't possible.
    """
    from cql_atari.feed.online.complete import complete

    mine = [
        "train.phase = 'online'",
        f"data.games = ({job.game!r},)",
        f"online.frames = {FRAME_SKIP * job.steps}",
        f"train.seed = {job.seed}",
        f"evaluation.rom_dir = {job.rom_dir!r}",
    ]
    config = load(mine)
    if config.online.actors != "local" or config.online.offline_share:
        raise UserError(
            f"online.actors = {config.online.actors!r}, online.offline_share = "
            f"{config.online.offline_share}: --behaviour=online logs what this process plays and "
            "learns from that alone; leave them at 'local' and 0."
        )
    return complete(config)


def train_and_log(
    jobs: Sequence[Job],
    data_dir: Path,
    load: Load,
    train: Train,
    should_stop: Callable[[], bool],
) -> bool:
    """Collects the games that aren't collected yet, one after the other.

    Args:
      jobs: what to collect.
      data_dir: where to.
      load: makes a configuration.
      train: `training.run.train`.
      should_stop: turns true when the process is asked to stop.

    Returns:
      Whether all are collected; False when it was asked to stop (what was played is saved then).

    Raises:
      UserError: before anything is played, where a job isn't possible, or another collection is in
        its place.
    """
    todo = []
    for job in jobs:
        config = make_config(job, load)
        final = data_dir / job.game / str(job.run)
        if is_there(describe_job(job, _settings(config)), final):
            shutil.rmtree(final / "spool", ignore_errors=True)  # if it was killed right there
        else:
            todo.append((job, config, final))
    return all(_collect_game(*work, train, should_stop) for work in todo)


def _collect_game(
    job: Job, config: Config, final: Path, train: Train, should_stop: Callable[[], bool]
) -> bool:
    folder = final.with_name(f".{final.name}.online")
    with files.hold_folder(folder, IN_USE.format(final), "--data_dir"):
        wanted = describe_job(job, _settings(config))
        if not (folder / FILE).exists() or not is_there(wanted, folder):
            noted = {**wanted, "rom_dir": job.rom_dir}
            files.write_whole(folder / FILE, json.dumps(noted, indent=2) + "\n")

        from cql_atari.feed.online import feed
        from cql_atari.recording.agent_log import Experience
        from cql_atari.runs import checkpoint

        agent, experience = folder / "agent", Experience(folder, job, config)
        agent.mkdir(exist_ok=True)
        recorded_config.record_config(agent, config)

        def open_feed(*args: Any, **options: Any) -> AbstractContextManager[Feed]:
            return feed.open_feed(config, None, *args, recorder=experience, **options)

        with workdir.lock_workdir(agent):  # `evaluate --follow` sees that a process trains there
            finished = train(config, open_feed, agent, should_stop)
        if not finished:
            return False
        experience.finish(checkpoint.read_extra(agent / workdir.CHECKPOINTS, config.train.steps))
        files.move(folder, final)
        shutil.rmtree(final / "spool")
    return True


def _settings(config: Config) -> dict[str, Any]:
    """The configuration by parameter, without the folder of ROMs."""
    values = settings.by_name(config)
    del values["evaluation.rom_dir"]
    return values
