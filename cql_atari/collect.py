"""Plays games in ALE and writes what it saw as DQN-Replay files.

  python -m cql_atari.collect --data_dir=DIR --games=Breakout,Freeway --steps_per_game=40000

writes `DIR/<Game>/<run>/replay_logs/$store$_*_ckpt.K.gz` (clipped rewards, actions as indices in
the game's minimal set) and, beside that folder, `episodes.jsonl` (one line an episode, with its raw
score and its ROM's MD5) and `collection.json` (how it was made). Sticky actions 0.25, frames as in
Dopamine. A game cut by the frame cap is stored as ended, as Dopamine's runner did when DQN-Replay
was collected; `episodes.jsonl` tells the two apart.

`--behaviour=online` trains an agent from scratch and logs its whole experience, so that the first
suffixes are the first part of its training (`experience.py` says how). Stopped or killed, the same
command goes on.
"""

from __future__ import annotations

import functools
import itertools
import json
import signal
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from cql_atari.core import games
from cql_atari.core.types import Observation, UserError
from cql_atari.recording.folder import EPISODES, FILE, Job, appearing, describe, is_there
from cql_atari.runs import folder
from cql_atari.system import cli

if TYPE_CHECKING:
    from cql_atari.core.settings import Config
    from cql_atari.envs.acting import Player
    from cql_atari.envs.atari import AtariEnv

STICKY = 0.25  # as when DQN-Replay was collected
_REPORT_STEPS = 200
_MIN_SLOTS = 5  # Dopamine's buffer holds at least a stack and a step


def player_maker(behaviour: str, game: str) -> Callable[[], Player]:
    """What `--behaviour` means for a game: a function that makes a player for each episode.

    Args:
      behaviour: "checkpoint:<workdir>", greedy play by the newest checkpoint of a run of ours, or
        a name that `scripted_players.make` knows.
      game: CamelCase name.

    Raises:
      UserError: where there is no such behaviour for the game.
    """
    kind, _, argument = behaviour.partition(":")
    if kind == "checkpoint":
        return _checkpoint_player_maker(Path(argument), game)

    from cql_atari.envs import scripted_players

    scripted_players.make(behaviour, game)  # an unknown name shows before anything is played

    def player() -> Player:
        act = scripted_players.make(behaviour, game)
        return lambda env, stack, rng: act(env.ram, rng)

    return player


def _checkpoint_player_maker(directory: Path, game: str) -> Callable[[], Player]:
    run_games = folder.read_config(directory).data.games
    if game not in run_games:
        raise UserError(f"{directory} wasn't trained on {game}, but on {', '.join(run_games)}")
    position = np.array([run_games.index(game)], np.int32)
    actions = games.to_full_actions(game)

    @functools.cache  # loaded where it plays, once
    def player() -> Player:
        from cql_atari.training import load

        policy = load.load(directory).act()

        def act(env: AtariEnv, stack: np.ndarray, rng: np.random.Generator) -> int:
            scores = policy(Observation.first(stack[None], position))[0]
            return int(actions[scores[actions].argmax()])

        return act

    return player


def play(job: Job, directory: Path, report: Callable[[int], None]) -> None:
    """Plays one game and writes its files into an empty directory.

    Each episode draws one of the job's epsilons: the share of its actions drawn uniformly from the
    minimal set instead of asked of the behaviour.

    Args:
      job: what to play. The last episode is cut when `job.steps` agent steps are reached.
      directory: where `replay_logs`, `episodes.jsonl` and `collection.json` go.
      report: called with the number of steps played since it was last called.
    """
    from cql_atari.data.dopamine.writer import ReplayWriter
    from cql_atari.envs import acting, atari

    rng = np.random.default_rng([job.seed, job.run, zlib.crc32(job.game.encode())])
    seed = int(rng.integers(2**31))
    env = atari.AtariEnv(job.game, seed=seed, sticky=STICKY, rom_dir=job.rom_dir)
    new_player = player_maker(job.behaviour, job.game)
    index = {action: k for k, action in enumerate(games.spec(job.game).actions)}
    (directory / "replay_logs").mkdir()
    # Every episode's padding included, there can't be more than 4 slots a step.
    writer = ReplayWriter(directory / "replay_logs", min(job.slots_per_file, 4 * job.steps + 1))
    left = job.steps
    with open(directory / EPISODES, "w") as log:
        while left:
            epsilon = float(rng.choice(job.epsilons))
            player = acting.exploring(new_player(), epsilon, job.game)
            raw = []
            for step in itertools.islice(acting.episode(env, player, rng), left):
                ended = step.terminal or step.truncated
                writer.add(step.frame, index[step.action], np.clip(step.reward, -1, 1), ended)
                raw.append(step.reward)
                if len(raw) % _REPORT_STEPS == 0:
                    report(_REPORT_STEPS)
            report(len(raw) % _REPORT_STEPS)
            left -= len(raw)
            episode = {
                "game": job.game,
                "run": job.run,
                "score": sum(raw),
                "clipped_return": float(np.clip(raw, -1, 1).sum()),
                "length": len(raw),
                "behaviour": job.behaviour,
                "epsilon": epsilon,
                "seed": seed,
                "terminal": step.terminal,
                "rom_md5": env.rom_md5,
            }
            log.write(json.dumps(episode) + "\n")
    writer.finish()
    (directory / FILE).write_text(json.dumps(job._asdict(), indent=2) + "\n")


def collect_game(data_dir: Path, job: Job, report: Callable[[int], None]) -> None:
    """Plays one game; its folder appears when it is complete.

    Raises:
      UserError: where another process is collecting the same, or a file can't be written. Nothing
        half written stays behind.
    """
    final = data_dir / job.game / str(job.run)
    try:
        with appearing(final) as directory:
            play(job, directory, report)
    except OSError as error:
        raise UserError(
            f"can't write {final} ({error}); free some space or give another --data_dir"
        ) from error


def is_collected(job: Job, data_dir: Path) -> bool:
    """Whether this very collection is there already.

    Raises:
      UserError: where there is another one in its place, or no such ROM.
    """
    return is_there(describe(job), data_dir / job.game / str(job.run))


def collect(jobs: list[Job], data_dir: Path, processes: int) -> None:
    """Collects the games that aren't there yet, up to `processes` at a time.

    Raises:
      UserError: before anything is played, where a job can't be done; or the first that a worker
        met, after the others have been stopped.
    """
    from cql_atari.system import worker_pool

    todo = [job for job in jobs if not is_collected(job, data_dir)]
    for job in todo:
        player_maker(job.behaviour, job.game)
    if todo:
        work = functools.partial(collect_game, data_dir)
        worker_pool.run(work, todo, processes, sum(job.steps for job in todo), "collect")


def _jobs(values: flags.FlagValues) -> list[Job]:
    """The jobs that the flags describe, checked."""
    names = [games.spec(name).name for name in values.games]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--games={','.join(names)} must name each game once, and at least one")
    try:
        epsilons = tuple(float(text) for text in values.epsilons)
    except ValueError as error:
        raise UserError(f"--epsilons={','.join(values.epsilons)}: {error}") from error
    if not epsilons or not all(0 <= epsilon <= 1 for epsilon in epsilons):
        raise UserError(f"--epsilons={','.join(values.epsilons)}: each must be from 0 to 1")
    return [
        Job(
            game=name, run=values.run, steps=values.steps_per_game, behaviour=values.behaviour,
            epsilons=epsilons, slots_per_file=values.slots_per_file, seed=values.seed,
            rom_dir=values.rom_dir,
        )
        for name in names
    ]  # fmt: skip


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
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
    flags.DEFINE_integer("run", 1, "Number of the run, as in DQN-Replay.", lower_bound=1)
    flags.DEFINE_integer(
        "slots_per_file", 1_000_000, "Steps and padding in a file.", lower_bound=_MIN_SLOTS
    )
    flags.DEFINE_integer("seed", 0, "Decides everything that is drawn.", lower_bound=0)
    flags.DEFINE_string("rom_dir", None, "Folder of <rom>.bin files to play, e.g. older ones.")
    flags.DEFINE_integer("processes", 2, "Games played at the same time.", lower_bound=1)
    flags.DEFINE_multi_string("gin_files", [], "Of online: wins over collect_online.gin; repeats.")
    flags.DEFINE_multi_string("gin_bindings", [], "Of online: wins over the files; repeats.")


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
    values, data_dir = flags.FLAGS, Path(flags.FLAGS.data_dir)
    jobs, online = _jobs(values), values.behaviour == "online"
    unfit = ("epsilons", "processes") if online else ("gin_files", "gin_bindings")
    if given := [name for name in unfit if values[name].present]:
        raise UserError(
            f"--{given[0]} means nothing to --behaviour={values.behaviour}; leave it out"
            + (" (--gin_bindings sets online.epsilon_start and so on)." if online else ".")
        )
    if not (_collect_online if online else _collect_here)(jobs, data_dir):
        return folder.EXIT_INTERRUPTED
    for job in jobs:
        log = data_dir / job.game / str(job.run) / EPISODES
        scores = [json.loads(line)["score"] for line in log.read_text().splitlines()]
        print(f"{job.game}: {len(scores)} episodes, mean score {np.mean(scores):.1f}, {log.parent}")
    return 0


def _collect_here(jobs: list[Job], data_dir: Path) -> bool:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        collect(jobs, data_dir, flags.FLAGS.processes)
    except KeyboardInterrupt:
        print("stopped; the same command starts the unfinished games again.", file=sys.stderr)
        return False
    return True


def _collect_online(jobs: list[Job], data_dir: Path) -> bool:
    from cql_atari import config
    from cql_atari.recording import agent

    def load(bindings: Sequence[str]) -> Config:
        files = [agent.GIN_FILE, *values.gin_files]
        return config.load(files, [*values.gin_bindings, *bindings])

    values = flags.FLAGS
    jobs = [job._replace(epsilons=()) for job in jobs]
    with folder.stop_on_signals() as should_stop:
        finished = agent.collect(jobs, data_dir, load, should_stop)
    if not finished:
        print("stopped and saved; run the same command to go on.", file=sys.stderr)
    return finished


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
