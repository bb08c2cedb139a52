"""python -m cql_atari.evaluate --run=DIR | --policy=random|best_fixed: plays, writes scores.json.

`--checkpoint=all` or `--checkpoint=1000,2000` evaluates several checkpoints of a run, `--follow`
each as training saves it. Episodes that are over survive an interruption: the same command plays
what is missing and ends with the same scores.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.games import ACTION_NAMES
from cql_atari.core.types import UserError
from cql_atari.runs import folder, recorded_config
from cql_atari.system import cli, signals

FLAGS = flags.FLAGS
NEWEST, ALL = "newest", "all"
_ONLY_HOW_FAST = ("envs_per_game", "every", "curve_episodes")


def main(_: list[str]) -> int:
    if (FLAGS.run is None) == (FLAGS.policy is None):
        raise UserError("give either --run=DIR or --policy=random|best_fixed.")
    if FLAGS.episodes and FLAGS.agent_steps:
        raise UserError("give --episodes or --agent_steps: each says how long to play.")
    with signals.stop_on_signals() as should_stop:
        try:
            if FLAGS.policy:
                return evaluate_policy(should_stop)
            return evaluate_run(should_stop)
        except KeyboardInterrupt:
            print("stopped; run the same command to go on: finished episodes are kept.",
                  file=sys.stderr)  # fmt: skip
            return signals.EXIT_INTERRUPTED


def evaluate_run(should_stop: Callable[[], bool]) -> int:
    """Evaluates the checkpoints that the flags name."""
    if FLAGS.gin_files:
        raise UserError("--run reads the recorded configuration; --gin_files goes with --policy.")
    if FLAGS.follow and FLAGS.checkpoint != NEWEST:
        raise UserError(f"--follow evaluates every checkpoint; leave --checkpoint at {NEWEST}.")
    run = Path(FLAGS.run)
    out = cli.named_folder("out") if FLAGS.out else run
    recorded = recorded_config.read_config(run)
    config = rebind(recorded, [*FLAGS.gin_bindings, *_length_bindings()])
    games = _chosen_games(recorded.data.games)
    steps = _steps(FLAGS.checkpoint)
    from cql_atari.methods import build

    if out.resolve() == run.resolve():
        _keep_own_scores(recorded, config, games)
    else:
        _keep_others_scores(out, build.kind(config).label, recorded)

    from cql_atari.envs import roms
    from cql_atari.evaluation import summary as summary_lib
    from cql_atari.runs import checkpoint, weights
    from cql_atari.training import follow, load

    roms.warn_where_other(config.data, config.evaluation.rom_dir)
    there = checkpoint.steps(run / folder.CHECKPOINTS)
    # An export has one step, which is looked at with its weights.
    missing = [step for step in steps if step not in there]
    if missing and not weights.is_export(run):
        raise UserError(
            f"{run} has no checkpoint of step {missing[0]}; there are "
            f"{', '.join(map(str, there)) or 'none'}."
        )
    say = functools.partial(print, file=sys.stderr, flush=True)
    opened = load.open_run(run, config.evaluation.seed)
    todo = follow.EvaluationPlan(opened, config, games, out, should_stop, say)
    finished, wrong = True, list[str]()
    if FLAGS.follow:
        finished, wrong = follow.follow(todo)
    elif (FLAGS.checkpoint == ALL and there) or len(steps) > 1:
        wrong = follow.evaluate_each(todo, steps or there)
    else:
        step, summary = follow.evaluate_checkpoint(todo, steps[0] if steps else None)
        print(summary_lib.as_text(build.kind(config).label, summary))
        print(f"wrote {folder.scores_of(out, step)}")
    print(f"next: python -m cql_atari.report {out}")
    if not finished:
        say("no process trains there, and the run isn't finished: repeat this once one does.")
    return cli.EXIT_USER_ERROR if wrong else 0 if finished else signals.EXIT_INTERRUPTED


def _length_bindings() -> list[str]:
    """What --episodes and --agent_steps stand for."""
    if FLAGS.episodes is not None:
        return [f"evaluation.episodes = {FLAGS.episodes}", "evaluation.agent_steps = None"]
    if FLAGS.agent_steps is not None:
        return [f"evaluation.agent_steps = {FLAGS.agent_steps}"]
    return []


def _chosen_games(known: Sequence[str]) -> tuple[str, ...]:
    """The games of --games, all of them without.

    Raises:
      UserError: for one that the run doesn't know.
    """
    chosen = tuple(FLAGS.games or known)
    if unknown := [game for game in chosen if game not in known]:
        raise UserError(f"{FLAGS.run} doesn't know {unknown[0]}; it knows {', '.join(known)}.")
    return tuple(dict.fromkeys(chosen))


def _steps(wanted: str) -> list[int]:
    """The steps of --checkpoint; none for "newest" and "all"."""
    if wanted in (NEWEST, ALL):
        return []
    try:
        return sorted({int(step) for step in wanted.split(",")})
    except ValueError:
        raise UserError(
            f"--checkpoint={wanted}: give {NEWEST}, {ALL}, a step, or several with commas between."
        ) from None


def _keep_own_scores(
    recorded: settings.Config, asked: settings.Config, games: Sequence[str]
) -> None:
    """Refuses to put scores of another protocol, or of some games only, among a run's own.

    Raises:
      UserError: saying which, and to give --out.
    """
    differences = [
        f"evaluation.{name} = {value!r}, recorded with {getattr(recorded.evaluation, name)!r}"
        for name, value in vars(asked.evaluation).items()
        if value != getattr(recorded.evaluation, name) and name not in _ONLY_HOW_FAST
    ]
    if len(games) < len(recorded.data.games):
        differences.append(f"--games={','.join(games)} only")
    if differences:
        raise UserError(
            "these scores would be stored among the run's own, which its learning curve is made "
            f"of, but they differ from those ({'; '.join(differences)}). Give --out, a folder for "
            "them."
        )


def _keep_others_scores(out: Path, label: str, recorded: settings.Config | None = None) -> None:
    """Refuses to replace the scores of another run, or of another player.

    Args:
      out: where scores are to go.
      label: whose.
      recorded: how that run was trained; None: it is no run.

    Raises:
      UserError: saying whose they are, and to give another --out.
    """
    from cql_atari.evaluation import score_files

    whose, is_other = label, (out / folder.CONFIG).exists()
    with contextlib.suppress(UserError):  # none, or damaged ones
        found = score_files.read(out / folder.SCORES)
        whose = found.label
        is_other |= recorded is not None and _differs(found.run.get("config"), recorded)
    if whose != label or is_other:
        whose = repr(whose) if whose != label else "another run"
        raise UserError(
            f"--out={out} is the folder of {whose}, whose scores would be replaced; give a folder "
            "of its own."
        )


def _differs(scored: Any, recorded: settings.Config) -> bool:
    """Whether a scores file's run had other settings than this one.

    Those of `evaluation`, the run's length, and what only one of them has (another version) don't
    count.
    """
    for section, ours in json.loads(json.dumps(settings.to_dict(recorded))).items():
        theirs: Any = scored.get(section) if isinstance(scored, dict) else None
        for name, value in ours.items() if isinstance(theirs, dict) else ():
            counts = section != "evaluation" and (section, name) != ("train", "steps")
            if counts and theirs.get(name, value) != value:
                return True
    return False


def rebind(recorded: settings.Config, bindings: Sequence[str]) -> settings.Config:
    """A run's configuration with other settings of `evaluation`.

    Raises:
      UserError: for a binding that changes anything else.
    """
    config = config_lib.load((), [*settings.to_gin(recorded).splitlines(), *bindings])
    for section in settings.SECTIONS:
        old, new = vars(getattr(recorded, section)), vars(getattr(config, section))
        for name in old if section != "evaluation" else ():
            if old[name] != new[name]:
                raise UserError(
                    f"{section}.{name} = {new[name]!r}, but the run was trained with "
                    f"{old[name]!r}: with --run, --gin_bindings may set `evaluation` only "
                    f"({', '.join(vars(config.evaluation))})."
                )
    return config


def evaluate_policy(should_stop: Callable[[], bool]) -> int:
    """Plays the random policy or each game's best fixed action, as the configuration says."""
    if not FLAGS.out:
        raise UserError("--policy needs --out, the folder for its scores.json.")
    policy, out = FLAGS.policy, cli.named_folder("out")
    if FLAGS.follow or FLAGS.checkpoint != NEWEST:
        raise UserError("--follow and --checkpoint go with --run; a --policy has no checkpoints.")
    chosen = [f"data.games = {tuple(FLAGS.games)!r}"] if FLAGS.games else []
    bindings = [*FLAGS.gin_bindings, *chosen, *_length_bindings()]
    config = config_lib.load(FLAGS.gin_files, bindings)
    _keep_others_scores(out, policy)

    from cql_atari.evaluation import baselines, journal, rollout, score_files, summary

    how = config.evaluation
    names = ("envs_per_game", "sticky", "seed", "max_frames", "rom_dir", "agent_steps")
    options = {name: getattr(how, name) for name in names}
    options["episodes"] = None if how.agent_steps else how.episodes
    options["epsilon"] = 1.0 if policy == "random" else how.epsilon
    protocol = {**vars(how), "episodes": options["episodes"], "epsilon": options["epsilon"]}
    games = config.data.games
    variants = [rollout.GameVariant(game, how.mode, how.difficulty) for game in games]
    key = {"policy": policy, "games": games, "protocol": protocol}
    run: dict[str, object] = {"label": policy}
    with journal.kept(folder.unfinished_of(out / folder.SCORES), key) as known:
        options |= {"finished": known.finished, "note": known.note, "should_stop": should_stop}
        if policy == "random":  # with epsilon 1 nothing else chooses
            still = baselines.fixed_actions(dict.fromkeys(games, 0))
            played = rollout.play(still, variants, **options)
        else:
            best = [baselines.best_fixed_action(variant, **options) for variant in variants]
            played = [score for _, scores in best for score in scores]
            run["actions"] = {game: ACTION_NAMES[action] for game, (action, _) in zip(games, best)}
        score_files.write(out / folder.SCORES, played, protocol, run)
    print(summary.as_text(policy, summary.summarise(played)))
    print(f"wrote {out / folder.SCORES}; next: python -m cql_atari.report {out}")
    return 0


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("run", None, "Folder of a trained run, or of an export.")
    flags.DEFINE_enum("policy", None, ["random", "best_fixed"], "A policy that needs no run.")
    flags.DEFINE_string(
        "checkpoint", NEWEST, "With --run: newest, all, a step, or steps with commas between."
    )
    flags.DEFINE_bool("follow", False, "With --run: each checkpoint as it is saved, to the end.")
    flags.DEFINE_list(
        "games", None, "Only these, e.g. Breakout,Pong; default: all of the run or of data.games."
    )
    flags.DEFINE_integer("episodes", None, "Episodes a game (evaluation.episodes).", 1)
    flags.DEFINE_integer(
        "agent_steps", None, "In place of episodes: whole ones until they have this many steps a "
        "game; Dopamine's protocol: 125000 (evaluation.agent_steps).", 1,
    )  # fmt: skip
    flags.DEFINE_string("out", None, "Folder for the scores; default with --run: the run's own.")
    flags.DEFINE_multi_string("gin_files", [], "With --policy: gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; with --run, of `evaluation` only.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
