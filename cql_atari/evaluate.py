"""python -m cql_atari.evaluate --run=DIR | --policy=random|best_fixed: writes scores.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.games import ACTION_NAMES
from cql_atari.core.types import UserError
from cql_atari.system import cli

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
    if (FLAGS.run is None) == (FLAGS.policy is None):
        raise UserError("give either --run=DIR or --policy=random|best_fixed.")
    if FLAGS.policy:
        if not FLAGS.out:
            raise UserError("--policy needs --out, the folder for its scores.json.")
        config = config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings)
        evaluate_policy(FLAGS.policy, config, Path(FLAGS.out))
        return
    if FLAGS.gin_files:
        raise UserError("--run reads the recorded configuration; --gin_files goes with --policy.")
    from cql_atari.envs import roms
    from cql_atari.training import load
    from cql_atari.training import run as experiment

    run = Path(FLAGS.run)
    loaded = load.load(run, FLAGS.step)
    config = rebind(loaded.config, FLAGS.gin_bindings)
    roms.warn_where_other(config.data, config.evaluation.rom_dir)
    out = Path(FLAGS.out) if FLAGS.out else run
    if not FLAGS.out:
        _keep_own_scores(run, loaded.config, config, loaded.step)
    experiment.evaluate(
        config, loaded.act(), loaded.method.network, out,
        step=loaded.step, episodes=config.evaluation.episodes,
    )  # fmt: skip
    print(f"wrote {out / 'scores.json'}; next: python -m cql_atari.report {out}")


def _keep_own_scores(
    run: Path, recorded: settings.Config, asked: settings.Config, step: int
) -> None:
    """Refuses to put scores of another protocol, or of an older step, in place of a run's own.

    Raises:
      UserError: saying which, and to give --out.
    """
    differences = [
        f"evaluation.{name} = {value!r}, recorded with {getattr(recorded.evaluation, name)!r}"
        for name, value in vars(asked.evaluation).items()
        if value != getattr(recorded.evaluation, name)
    ]
    from cql_atari.runs import checkpoint

    newest = checkpoint.steps(run / "checkpoints")[-1]
    if step != newest:
        differences.append(f"step {step}, and the newest checkpoint is of step {newest}")
    if differences:
        raise UserError(
            f"these scores would replace the run's own, which its curve is made of, by others "
            f"({'; '.join(differences)}). Give --out, a folder of their own."
        )


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


def evaluate_policy(policy: str, config: settings.Config, out: Path) -> None:
    """Plays the random policy or each game's best fixed action, as the configuration says."""
    from cql_atari.evaluation import rollout, score_files

    names = ("episodes", "envs_per_game", "sticky", "seed", "max_frames", "rom_dir")
    options = {name: getattr(config.evaluation, name) for name in names}
    protocol = {**vars(config.evaluation), **({"epsilon": 1.0} if policy == "random" else {})}
    variants = [
        rollout.GameVariant(game, config.evaluation.mode, config.evaluation.difficulty)
        for game in config.data.games
    ]
    run: dict[str, object] = {"label": policy}
    if policy == "random":
        played = rollout.play(rollout.uniform_random(), variants, epsilon=1.0, **options)
    else:
        options["epsilon"] = config.evaluation.epsilon
        chosen = [rollout.best_fixed_action(variant, **options) for variant in variants]
        played = [score for _, scores in chosen for score in scores]
        run["actions"] = {v.game: ACTION_NAMES[action] for v, (action, _) in zip(variants, chosen)}
    score_files.write(out / "scores.json", played, protocol, run)
    print(f"wrote {out / 'scores.json'}")


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("run", None, "Folder of a trained run (its newest checkpoint plays).")
    flags.DEFINE_enum("policy", None, ["random", "best_fixed"], "A policy that needs no run.")
    flags.DEFINE_integer("step", None, "With --run: the checkpoint of this step, not the newest.")
    flags.DEFINE_string("out", None, "Folder for scores.json; default with --run: the run's own.")
    flags.DEFINE_multi_string("gin_files", [], "With --policy: gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; with --run, of `evaluation` only.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
