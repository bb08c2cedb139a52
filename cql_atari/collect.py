"""Plays games in ALE and writes the play as DQN-Replay files.

  python -m cql_atari.collect --data_dir=DIR --games=Breakout,Freeway --steps_per_game=40000

writes `DIR/<Game>/<run>/replay_logs/$store$_*_ckpt.K.gz` (clipped rewards, actions as indices in
the game's minimal set) and, beside that folder, `episodes.jsonl` (one line an episode, with its raw
score and its ROM's MD5) and `collection.json` (how it was made). Sticky actions 0.25, frames as in
Dopamine. A game cut by the frame cap is stored as ended, as Dopamine's runner did when DQN-Replay
was collected; `episodes.jsonl` tells the two apart.

`--mixture='fixed:DOWN*0.75@0.3,0.5; scripted*0.25@0.2'` lets several players share the steps.

`--behaviour=online` trains an agent from scratch and logs its whole experience, so that the first
suffixes are the first part of its training (`recording/agent_log.py` says how). Stopped or killed,
the same command goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.recording import scripted
from cql_atari.recording.folder import EPISODES, Job
from cql_atari.recording.mixture import IN_TURNS, ORDERS, WORST_FIRST, format_mixture, parse_mixture
from cql_atari.system import cli, signals

if TYPE_CHECKING:
    from cql_atari.core.settings import Config

_MIN_SLOTS = 5  # Dopamine's buffer holds at least a stack and a step


def _jobs(values: flags.FlagValues) -> list[Job]:
    """The jobs that the flags describe, checked."""
    names = [games.spec(name).name for name in values.games]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--games={','.join(names)} must name each game once, and at least one")
    try:
        epsilons = tuple(float(text) for text in values.epsilons)
    except ValueError as error:
        raise UserError(
            f"--epsilons={','.join(values.epsilons)}: {error}; give numbers from 0 to 1 with "
            "commas between, as in 0.2,0.5"
        ) from error
    if not epsilons or not all(0 <= epsilon <= 1 for epsilon in epsilons):
        raise UserError(f"--epsilons={','.join(values.epsilons)}: each must be from 0 to 1")
    behaviour, mixture, order = values.behaviour, None, None
    if values.mixture is not None:
        mixture = format_mixture(parse_mixture(values.mixture))
        behaviour, epsilons, order = scripted.MIXTURE, (), values.order
    return [
        Job(
            game=name, run=values.run, steps=values.steps_per_game, behaviour=behaviour,
            epsilons=epsilons, slots_per_file=values.slots_per_file, seed=values.seed,
            rom_dir=values.rom_dir, mixture=mixture, order=order,
        )
        for name in names
    ]  # fmt: skip


def _define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "Where to write <Game>/<run>/.", required=True)
    flags.DEFINE_list("games", None, "Games, CamelCase, separated by commas.", required=True)
    flags.DEFINE_integer("steps_per_game", 40_000, "Agent steps (4 frames each).", lower_bound=1)
    flags.DEFINE_string(
        "behaviour",
        "scripted",
        "scripted, random, fixed:<ACTION>, checkpoint:<workdir>, or online: trains as it plays.",
    )
    flags.DEFINE_list(
        "epsilons", "0.2,0.4,0.6,0.8,1.0", "Shares of random actions; each episode draws one."
    )
    flags.DEFINE_string(
        "mixture",
        None,
        "Instead of --behaviour and --epsilons: 'PLAYER*SHARE@EPSILON,...; PLAYER*SHARE@...', "
        "players as in --behaviour (but online), with shares of the steps that sum to 1.",
    )
    flags.DEFINE_enum(
        "order",
        WORST_FIRST,
        ORDERS,
        "Of a mixture. worst_first: its players one after the other, as --mixture names them (name "
        "the worst first). shuffled: each episode draws its player. in_turns: all play in each "
        f"episode, in turns of {scripted.TURN_STEPS} steps on average.",
    )
    flags.DEFINE_integer(
        "run", 1, "Number of the run, as in DQN-Replay.", lower_bound=1, upper_bound=5
    )
    flags.DEFINE_integer(
        "slots_per_file", 1_000_000, "Steps and padding in a file.", lower_bound=_MIN_SLOTS
    )
    flags.DEFINE_integer("seed", 0, "Decides everything that is drawn.", lower_bound=0)
    flags.DEFINE_string("rom_dir", None, "Folder of <rom>.bin files to play, e.g. older ones.")
    flags.DEFINE_integer("processes", 2, "Games played at the same time.", lower_bound=1)
    flags.DEFINE_multi_string("gin_files", [], "Of online: wins over collect_online.gin; repeats.")
    flags.DEFINE_multi_string("gin_bindings", [], "Of online: wins over the files; repeats.")


def main(_: list[str]) -> int:
    values, data_dir = flags.FLAGS, cli.named_folder("data_dir")
    _check_flags_fit(values)
    jobs = _jobs(values)
    online = jobs[0].behaviour == "online"
    if not (_collect_online if online else _collect_here)(jobs, data_dir):
        return signals.EXIT_INTERRUPTED
    for job in jobs:
        _print_summary(job, data_dir / job.game / str(job.run))
    return 0


def _check_flags_fit(values: flags.FlagValues) -> None:
    """Raises a UserError where a flag was given that this way to play doesn't use."""
    way, hint = f"--behaviour={values.behaviour}", ""
    unread: tuple[str, ...] = ("order", "gin_files", "gin_bindings")
    if values.mixture is not None:
        way, unread = "--mixture", ("behaviour", "epsilons", "gin_files", "gin_bindings")
    elif values.behaviour == "online":
        unread = ("order", "epsilons", "processes")
        hint = " (--gin_bindings sets online.epsilon_start and so on)"
    elif values["order"].present:
        hint = ", or name the players by --mixture"
    if given := [name for name in unread if values[name].present]:
        raise UserError(f"--{given[0]} means nothing to {way}; leave it out{hint}.")


def _print_summary(job: Job, directory: Path) -> None:
    """Episodes and mean score; of a mixture by player, too, with the steps that it got."""
    episodes = [json.loads(line) for line in (directory / EPISODES).read_text().splitlines()]
    mean = np.mean([episode["score"] for episode in episodes])
    print(f"{job.game}: {len(episodes)} episodes, mean score {mean:.1f}, {directory}")
    if job.mixture is None or job.order == IN_TURNS:
        return
    for name in dict.fromkeys(part.behaviour for part in scripted.parts_of(job)):
        own = [episode for episode in episodes if episode["behaviour"] == name]
        steps = sum(episode["length"] for episode in own)
        mean = np.mean([episode["score"] for episode in own])
        print(f"  {name}: {steps} steps, {len(own)} episodes, mean score {mean:.1f}")


def _collect_here(jobs: list[Job], data_dir: Path) -> bool:
    signals.interrupt_on_sigterm()
    try:
        scripted.collect_scripted(jobs, data_dir, flags.FLAGS.processes)
    except KeyboardInterrupt:
        print("stopped; the same command starts the unfinished games again.", file=sys.stderr)
        return False
    return True


def _collect_online(jobs: list[Job], data_dir: Path) -> bool:
    from cql_atari import config
    from cql_atari.recording import agent

    def load(bindings: Sequence[str]) -> Config:
        files = [agent.GIN_FILE, *values.gin_files]
        ours = {binding.name for binding in config.read((), bindings)}
        for binding in config.read((), values.gin_bindings):
            if binding.name in ours:
                raise UserError(
                    f"--gin_bindings: {binding.name} follows from --games, --steps_per_game, "
                    "--seed, --rom_dir and --behaviour; set these."
                )
        return config.load(files, [*values.gin_bindings, *bindings])

    def train(*args: Any) -> bool:
        from cql_atari.training import run

        return run.train(*args)

    values = flags.FLAGS
    jobs = [job._replace(epsilons=()) for job in jobs]
    with signals.stop_on_signals() as should_stop:
        finished = agent.train_and_log(jobs, data_dir, load, train, should_stop)
    if not finished:
        print("stopped and saved; run the same command to go on.", file=sys.stderr)
    return finished


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
