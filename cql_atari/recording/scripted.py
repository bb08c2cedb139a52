"""`collect`, except for `--behaviour=online`: players that don't learn play games into files.

One player plays a whole collection, or several share its steps, episode by episode (a mixture).
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.core.types import Observation, UserError
from cql_atari.recording.folder import EPISODES, FILE, Job, appearing, describe_job, is_there
from cql_atari.runs import recorded_config

if TYPE_CHECKING:
    from cql_atari.envs.acting import Player
    from cql_atari.envs.atari import AtariEnv

STICKY = 0.25  # as when DQN-Replay was collected
MIXTURE = "mixture"  # a job's behaviour where its `mixture` says who plays
WORST_FIRST, SHUFFLED = ORDERS = ("worst_first", "shuffled")
_REPORT_STEPS = 200
_SYNTAX = (
    "PLAYER*SHARE@EPSILON,EPSILON,...; PLAYER*SHARE@... with shares that sum to 1, for example "
    "'fixed:DOWN*0.75@0.3,0.5; scripted*0.25@0.2'"
)


class Part(NamedTuple):
    """One player of a collection.

    Attributes:
      behaviour: the player's name, as `player_maker` knows it.
      share: of the collection's steps, above 0 and up to 1.
      epsilons: shares of random actions; each of its episodes draws one.
    """

    behaviour: str
    share: float
    epsilons: tuple[float, ...]


def parse_mixture(text: str) -> tuple[Part, ...]:
    """The players in "fixed:DOWN*0.75@0.3,0.5; scripted*0.25@0.2", in this order.

    Raises:
      UserError: where it has another form, or the shares don't sum to 1.
    """
    parts = []
    for piece in text.split(";"):
        match = re.fullmatch(r"\s*(\S.*)\*([^*@]*)@([^*@]*)", piece)
        try:
            if match is None:
                raise ValueError("there must be a player, a share after * and epsilons after @")
            share, epsilons = float(match[2]), tuple(map(float, match[3].split(",")))
            if not 0 < share <= 1:
                raise ValueError(f"the share {share:g} must be above 0 and at most 1")
            if not all(0 <= epsilon <= 1 for epsilon in epsilons):
                raise ValueError("each epsilon must be from 0 to 1")
            if match[1].strip() == "online":
                raise ValueError("online trains as it plays, alone; it can't share a collection")
        except ValueError as error:
            raise UserError(
                f"--mixture: in {piece.strip()!r}, {error}. Write {_SYNTAX}."
            ) from error
        parts.append(Part(match[1].strip(), share, epsilons))
    total = sum(part.share for part in parts)
    if abs(total - 1) > 1e-6:
        raise UserError(f"--mixture={text!r}: the shares sum to {total:g}. Write {_SYNTAX}.")
    return tuple(parts)


def format_mixture(parts: Sequence[Part]) -> str:
    """A mixture as text that `parse_mixture` reads; equal mixtures give equal texts."""
    return "; ".join(
        f"{part.behaviour}*{part.share!r}@{','.join(map(repr, part.epsilons))}" for part in parts
    )


def parts_of(job: Job) -> tuple[Part, ...]:
    """The players of a job."""
    if job.mixture is None:
        return (Part(job.behaviour, 1.0, job.epsilons),)
    return parse_mixture(job.mixture)


def check_players(job: Job) -> None:
    """Raises UserError where a player can't play the job's game, or its share is no whole step."""
    parts = parts_of(job)
    for part, steps in zip(parts, _budgets(parts, job.steps)):
        player_maker(part.behaviour, job.game)
        if not steps:
            raise UserError(
                f"{part.behaviour} plays none of {job.steps} steps at a share of {part.share:g}; "
                "raise its share or --steps_per_game"
            )


def player_maker(behaviour: str, game: str) -> Callable[[], Player]:
    """A function that makes the player of an episode.

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
    run_games = recorded_config.read_config(directory).data.games
    if game not in run_games:
        raise UserError(f"{directory} wasn't trained on {game}, but on {', '.join(run_games)}")
    position = np.array([run_games.index(game)], np.int32)
    actions = games.to_full_actions(game)

    @functools.cache  # loaded once, in the process that plays
    def player() -> Player:
        from cql_atari.training import load

        policy = load.load(directory).act()

        def act(env: AtariEnv, stack: np.ndarray, rng: np.random.Generator) -> int:
            scores = policy(Observation.first(stack[None], position))[0]
            return int(actions[scores[actions].argmax()])

        return act

    return player


def _budgets(parts: Sequence[Part], steps: int) -> list[int]:
    """Each part's steps, rounded so that they sum to all."""
    ends = [round(steps * share) for share in itertools.accumulate(part.share for part in parts)]
    return np.diff([0, *ends[:-1], steps]).tolist()


def _next_part(
    order: str | None, budgets: list[int], lengths: list[list[int]], rng: np.random.Generator
) -> int:
    """The number of the part that plays the next episode.

    Args:
      order: as the job has it.
      budgets: each part's steps; some are left.
      lengths: of each part, its episodes' lengths so far, in steps.
      rng: asked only where the order is shuffled.
    """
    played = [sum(part) for part in lengths]
    if order != SHUFFLED:
        return int(np.argmax(sum(played) < np.cumsum(budgets)))
    # Players with longer episodes are drawn less often, so that the shares hold at all times.
    usual = sum(played) / max(sum(map(len, lengths)), 1) or 1.0
    weights = np.array([
        budget / (float(np.mean(part)) if part else usual) if done < budget else 0.0
        for budget, part, done in zip(budgets, lengths, played)
    ])  # fmt: skip
    return int(rng.choice(len(weights), p=weights / weights.sum()))


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
    drawn uniformly from the minimal set instead of asked of the player.

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
    makers = [player_maker(part.behaviour, job.game) for part in parts]
    budgets = _budgets(parts, job.steps)
    lengths: list[list[int]] = [[] for _ in parts]
    index = {action: k for k, action in enumerate(games.spec(job.game).actions)}
    (directory / "replay_logs").mkdir()
    # Every episode's padding included, there can't be more than 4 slots a step.
    writer = ReplayWriter(directory / "replay_logs", min(job.slots_per_file, 4 * job.steps + 1))
    left = job.steps
    with open(directory / EPISODES, "w") as log:
        while left:
            turn = _next_part(job.order, budgets, lengths, rng)
            epsilon = float(rng.choice(parts[turn].epsilons))
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
                "behaviour": parts[turn].behaviour,
                "epsilon": epsilon,
                "seed": seed,
                "terminal": step.terminal,
                "rom_md5": env.rom_md5,
            }
            log.write(json.dumps(episode) + "\n")
    _check_all_played(job, parts, lengths)
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
