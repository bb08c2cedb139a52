"""`collect`, except for `--behaviour=online`: players that don't learn play games into files.

One player plays a whole collection, or several share its steps (a mixture): episode by episode, or
in turns within each episode, so that no whole episode is a good player's.
"""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import Observation, UserError
from cql_atari.recording.folder import EPISODES, FILE, Job, appearing, describe_job, is_there
from cql_atari.recording.mixture import IN_TURNS, Part, budgets_of, next_part, parse_mixture
from cql_atari.runs import recorded_config

if TYPE_CHECKING:
    from cql_atari.envs.acting import Player
    from cql_atari.envs.atari import AtariEnv

STICKY = 0.25  # as when DQN-Replay was collected
MIXTURE = "mixture"  # a job's behaviour where its `mixture` says who plays
TURN_STEPS = 50  # mean length of a turn within an episode
_REPORT_STEPS = 200


def parts_of(job: Job) -> tuple[Part, ...]:
    """The players of a job."""
    if job.mixture is None:
        return (Part(job.behaviour, 1.0, job.epsilons),)
    return parse_mixture(job.mixture)


def check_players(job: Job) -> None:
    """Raises UserError where a player can't play the job's game, or its share is no whole step."""
    parts = parts_of(job)
    for part, steps in zip(parts, budgets_of(parts, job.steps)):
        player_maker(part.behaviour, job.game)
        if not steps:
            raise UserError(
                f"{part.behaviour} plays none of {job.steps} steps at a share of {part.share:g}; "
                "raise its share or --steps_per_game"
            )


def player_maker(
    behaviour: str, game: str, checkpoints: dict[str, int] | None = None
) -> Callable[[], Player]:
    """A function that makes the player of an episode.

    Args:
      behaviour: "checkpoint:<workdir>", greedy play by the newest checkpoint of a run of ours, or
        a name that `scripted_players.make` knows.
      game: CamelCase name.
      checkpoints: gets the checkpoint's step by behaviour, once one is loaded.

    Raises:
      UserError: where there is no such behaviour for the game.
    """
    if behaviour.partition(":")[0] == "checkpoint":
        return _checkpoint_player_maker(behaviour, game, {} if checkpoints is None else checkpoints)

    from cql_atari.envs import scripted_players

    scripted_players.make(behaviour, game)  # an unknown name shows before anything is played

    def player() -> Player:
        act = scripted_players.make(behaviour, game)
        return lambda env, stack, rng: act(env.ram, rng)

    return player


def _checkpoint_player_maker(
    behaviour: str, game: str, checkpoints: dict[str, int]
) -> Callable[[], Player]:
    directory = Path(behaviour.partition(":")[2])
    run_games = recorded_config.read_config(directory).data.games
    if game not in run_games:
        raise UserError(f"{directory} wasn't trained on {game}, but on {', '.join(run_games)}")
    position = np.array([run_games.index(game)], np.int32)
    actions = games.to_full_actions(game)

    @functools.cache  # loaded once, in the process that plays
    def player() -> Player:
        from cql_atari.training import load

        loaded = load.load(directory)
        if loaded.method.outputs is None:  # it would see every step as the first of an episode
            raise UserError(
                f"checkpoint:{directory} acts on a window of steps, which a player here doesn't "
                "remember; name a run that acts on single states, as 'scaled_q' and 'cloning' do"
            )
        checkpoints[behaviour] = loaded.step
        policy = loaded.act()

        def act(env: AtariEnv, stack: np.ndarray, rng: np.random.Generator) -> int:
            scores = policy(Observation.first(stack[None], position))[0]
            return int(actions[scores[actions].argmax()])

        return act

    return player


def _in_turns(parts: Sequence[Part], makers: Sequence[Callable[[], Player]], game: str) -> Player:
    """An episode's player where all of them play in it; each turn draws a player and an epsilon."""
    from cql_atari.envs import acting

    pairs = [(p, make, epsilon) for p, make in zip(parts, makers) for epsilon in p.epsilons]
    return acting.taking_turns(
        [acting.exploring(make(), epsilon, game) for _, make, epsilon in pairs],
        [part.share / len(part.epsilons) for part, _, _ in pairs],
        TURN_STEPS,
    )


def _check_all_played(job: Job, parts: Sequence[Part], lengths: list[list[int]]) -> None:
    if absent := [part.behaviour for part, own in zip(parts, lengths) if not own]:
        longest = max(max(own) for own in lengths if own)
        raise UserError(
            f"{absent[0]} got none of the {job.steps} steps of {job.game}: another player's "
            f"episode of {longest} steps went on where its share ended; raise --steps_per_game"
        )


def play_job(job: Job, directory: Path, report: Callable[[int], None]) -> None:
    """Plays one game and writes its files into an empty directory.

    Each episode has one player, and draws one of the player's epsilons: the share of its actions
    drawn uniformly from the minimal set instead of asked of the player. With the order "in_turns"
    the players take turns in every episode, and each turn draws both; shares then hold on average.

    Args:
      job: what to play. The last episode is cut when `job.steps` agent steps are reached.
      directory: where `replay_logs`, `episodes.jsonl` and `collection.json` go.
      report: called with the number of steps played since it was last called.

    Raises:
      UserError: where a player got no step, as others' episodes took its share.
    """
    from cql_atari.data.dopamine.writer import ReplayWriter
    from cql_atari.envs import acting, atari

    rng = np.random.default_rng([job.seed, job.run, zlib.crc32(job.game.encode())])
    seed = int(rng.integers(2**31))
    env = atari.AtariEnv(job.game, seed=seed, sticky=STICKY, rom_dir=job.rom_dir)
    parts = parts_of(job)
    checkpoints: dict[str, int] = {}
    makers = [player_maker(part.behaviour, job.game, checkpoints) for part in parts]
    budgets = budgets_of(parts, job.steps)
    lengths: list[list[int]] = [[] for _ in parts]
    index = {action: k for k, action in enumerate(games.spec(job.game).actions)}
    (directory / "replay_logs").mkdir()
    # Every episode's padding included, there can't be more than 4 slots a step.
    writer = ReplayWriter(directory / "replay_logs", min(job.slots_per_file, 4 * job.steps + 1))
    left = job.steps
    with open(directory / EPISODES, "w") as log:
        while left:
            if job.order == IN_TURNS:
                turn, epsilon, behaviour = 0, None, MIXTURE
                player = _in_turns(parts, makers, job.game)
            else:
                turn = next_part(job.order, budgets, lengths, rng)
                epsilon, behaviour = float(rng.choice(parts[turn].epsilons)), parts[turn].behaviour
                player = acting.exploring(makers[turn](), epsilon, job.game)
            raw = []
            for step in itertools.islice(acting.episode(env, player, rng), left):
                ended = step.terminal or step.truncated
                writer.add(step.frame, index[step.action], np.clip(step.reward, -1, 1), ended)
                raw.append(step.reward)
                if len(raw) % _REPORT_STEPS == 0:
                    report(_REPORT_STEPS)
            report(len(raw) % _REPORT_STEPS)
            left -= len(raw)
            lengths[turn].append(len(raw))
            episode = {
                "game": job.game,
                "run": job.run,
                "score": sum(raw),
                "clipped_return": float(np.clip(raw, -1, 1).sum()),
                "length": len(raw),
                "behaviour": behaviour,
                "epsilon": epsilon,
                "seed": seed,
                "terminal": step.terminal,
                "rom_md5": env.rom_md5,
            }
            log.write(json.dumps(episode) + "\n")
    if job.order != IN_TURNS:
        _check_all_played(job, parts, lengths)
    writer.finish()
    made = {**job._asdict(), "checkpoints": checkpoints}
    (directory / FILE).write_text(json.dumps(made, indent=2) + "\n")


def collect_game(data_dir: Path, job: Job, report: Callable[[int], None]) -> None:
    """Plays one game; its folder appears when it is complete.

    Raises:
      UserError: where another process is collecting the same, or a file can't be written. Nothing
        half written stays behind.
    """
    final = data_dir / job.game / str(job.run)
    try:
        with appearing(final) as directory:
            play_job(job, directory, report)
    except OSError as error:
        raise UserError(
            f"can't write {final} ({error}); free some space or give another --data_dir"
        ) from error


def is_collected(job: Job, data_dir: Path) -> bool:
    """Whether this very collection is there already.

    Raises:
      UserError: where there is another one in its place, or no such ROM.
    """
    return is_there(describe_job(job), data_dir / job.game / str(job.run))


def collect_scripted(jobs: list[Job], data_dir: Path, processes: int) -> None:
    """Collects the games that aren't collected yet, up to `processes` at a time.

    Raises:
      UserError: before anything is played, where a job isn't possible; or the first error of a
        worker, after the others have stopped.
    """
    from cql_atari.system import worker_pool

    todo = [job for job in jobs if not is_collected(job, data_dir)]
    for job in todo:
        check_players(job)
    if todo:
        work = functools.partial(collect_game, data_dir)
        worker_pool.run_jobs(work, todo, processes, sum(job.steps for job in todo), "collect")
