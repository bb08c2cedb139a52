"""Builds the parts of a run in order and hands them to the main loop: data, agent, learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.types import UserError
from cql_atari.data import sources
from cql_atari.evaluation import rollout, score_files, summary
from cql_atari.feed.recorded import open_feed
from cql_atari.feed.replay.order import Place
from cql_atari.methods.scaled_q import Objective, ScaledQAgent, make_objective, make_optimizers
from cql_atari.networks.q_network import QNetwork, build_q_network
from cql_atari.runs import checkpoint as checkpoint_lib
from cql_atari.runs import folder
from cql_atari.runs import log as logs
from cql_atari.system import hosts as cluster
from cql_atari.training import loop, strategy
from cql_atari.training.start import begin


def train(
    config: Config,
    found: Sequence[sources.Source],
    directory: Path,
    should_stop: Callable[[], bool],
    tpu: str | None = None,
) -> bool:
    """The offline phase: trains from recorded play, evaluates, writes scores.json.

    Args:
      config: what to do.
      found: the recorded play, as `sources.find`.
      directory: the run's folder, which the caller holds; all hosts see it, the chief writes.
      should_stop: turns true when the process is asked to stop; all hosts stop together.
      tpu: as `strategy.make_strategy`.

    Returns:
      Whether the run is finished; False when it was asked to stop (it is saved then).

    Raises:
      UserError: also where another host is gone.
    """
    if config.feed.kind == "memory":
        tf.config.experimental.enable_op_determinism()

    # 1. Devices, then everything that owns variables.
    here = cluster.find(config.train.strategy)
    devices = strategy.make_strategy(config.train.strategy, tpu=tpu)
    split = strategy.divide(
        config.feed.draws,
        config.feed.transitions_per_draw,
        devices.num_replicas_in_sync,
        here.hosts,
    )
    with devices.scope():
        agent = make_agent(config)
    state = training_state(agent)

    # 2. Start policy: go on with this folder's own run; else pre-trained encoder, else scratch.
    checkpoints = directory / "checkpoints"
    start = begin(agent, state, config, directory)
    strategy.check_same_start(devices, start)
    saved = checkpoint_lib.read_extra(checkpoints, start).get("places", {})
    places = {game: Place(*place) for game, place in saved.items()}

    # 3. Data to batches to devices, from the step where the run stands.
    log = logs.make_log(directory) if here.is_chief else lambda *_: None
    evaluate_agent = make_evaluate(config, agent, directory, start, should_stop)

    def evaluate_now(step: int, episodes: int) -> bool:
        scalars = evaluate_agent(step, episodes) if here.is_chief else {}
        if scalars:
            log(step, scalars)
        return scalars is not None

    try:
        if start < config.train.steps:
            with open_feed(config, found, start, places=places, should_stop=should_stop) as feed:

                def save(step: int) -> None:
                    if not here.is_chief:
                        return
                    extra = {"places": feed.places()}
                    checkpoint_lib.save(checkpoints, state, step, config.train.keep, extra)

                finished = loop.learn(
                    agent,
                    loop.make_train_call(agent, devices, use_xla(config.train.jit_compile)),
                    strategy.place(devices, feed.dataset, split),
                    config.train,
                    save=save,
                    log=log,
                    evaluate=lambda step: evaluate_now(step, config.evaluation.curve_episodes),
                    evaluate_every=config.evaluation.every,
                    should_stop=should_stop,
                    agree=lambda stop: any(strategy.across_hosts(devices, stop)),
                )
                strategy.across_hosts(devices, start)  # the chief has saved: now all may leave
            if not finished:
                return False

        # 4. Full episodes with the final weights; the other hosts wait for the chief.
        done = evaluate_now(config.train.steps, config.evaluation.episodes)
        return all(strategy.across_hosts(devices, done))
    except KeyboardInterrupt:
        return False
    except strategy.LOST_HOST as error:
        if here.hosts == 1:
            raise
        raise UserError(strategy.lost_host_message(error)) from error


def make_agent(config: Config) -> ScaledQAgent:
    """Networks, optimizer and objective, initialised from the seed. Call it in the scope."""
    objective = make_objective(config.loss)
    network = make_network(config, objective)
    network.encoder.trainable = config.optimizer.encoder_learning_rate != 0
    return ScaledQAgent(
        network,
        make_network(config, objective) if objective.bootstraps else None,
        make_optimizers(config.optimizer, network),
        objective,
        config.data.games,
        batch_size=config.batch_size,
        n_step=config.feed.n_step,
        transitions_per_draw=config.feed.transitions_per_draw,
        mask_unused_actions=config.loss.mask_unused_actions,
    )


def training_state(agent: ScaledQAgent) -> tf.train.Checkpoint:
    """What a checkpoint holds: everything that training goes on from."""
    parts = {
        "network": agent.network,
        "target_network": agent.target_network,
        "optimizer": agent.optimizer,
        "encoder_optimizer": agent.encoder_optimizer,
    }
    return tf.train.Checkpoint(**{name: part for name, part in parts.items() if part is not None})


def make_network(config: Config, objective: Objective) -> QNetwork:
    """The network that a configuration names."""
    return build_q_network(
        num_games=len(config.data.games),
        num_atoms=objective.num_atoms,
        seed=config.train.seed,
        **vars(config.network),
    )


def use_xla(jit_compile: bool | None) -> bool:
    """XLA on accelerators only, unless told: on CPUs it is slower than oneDNN."""
    return strategy.on_accelerator() if jit_compile is None else jit_compile


def make_q_function(network: QNetwork, objective: Objective) -> rollout.QFunction:
    """A function of NumPy arrays, compiled once a batch shape; see `rollout.QFunction`."""

    @tf.function(reduce_retracing=False)
    def q_values(frames: tf.Tensor, games: tf.Tensor) -> tf.Tensor:
        return objective.q_values(network(frames, games))

    return lambda frames, games: q_values(tf.constant(frames), tf.constant(games)).numpy()


def load_q_function(directory: Path) -> tuple[rollout.QFunction, Config, int]:
    """The newest checkpoint of a recorded run, ready to act, with its configuration and step.

    Reads JSON and variables only, never gin files: those are code.

    Raises:
      UserError: where the run or its checkpoints are missing or damaged.
    """
    config = folder.read_config(directory)
    objective = make_objective(config.loss)
    network = make_network(config, objective)
    step = checkpoint_lib.restore_latest(
        directory / "checkpoints", tf.train.Checkpoint(network=network)
    )
    if step is None:
        raise UserError(f"{directory} has no checkpoint yet; train first.")
    return make_q_function(network, objective), config, step


def make_evaluate(
    config: Config,
    agent: ScaledQAgent,
    directory: Path,
    start: int,
    should_stop: Callable[[], bool],
) -> Callable[[int, int], dict[str, float] | None]:
    """A function (step, episodes) that evaluates the agent and returns scalars for the logs.

    {}: a run that goes on at `start` has these scores already. None: it was asked to stop before it
    was done, and nothing was written.
    """
    q_function = make_q_function(agent.network, agent.objective)

    def interruptible(frames: np.ndarray, heads: np.ndarray) -> np.ndarray:
        if should_stop():
            raise KeyboardInterrupt
        return q_function(frames, heads)

    def evaluate_agent(step: int, episodes: int) -> dict[str, float] | None:
        if step == start > 0 and scores_path(directory, step).exists():
            return {}
        try:
            summary = evaluate(config, interruptible, directory, step=step, episodes=episodes)
        except KeyboardInterrupt:
            return None
        return evaluation_scalars(summary)

    return evaluate_agent


def evaluate(
    config: Config, q_function: rollout.QFunction, directory: Path, *, step: int, episodes: int
) -> dict[str, Any]:
    """Plays full episodes of every game and writes `scores/<step>.json` and `scores.json`.

    Returns:
      The summary, as `summary.summarise`.
    """
    protocol = {**vars(config.evaluation), "episodes": episodes}
    played = rollout.play(
        q_function,
        [
            rollout.GameVariant(game, config.evaluation.mode, config.evaluation.difficulty)
            for game in config.data.games
        ],
        episodes=episodes,
        **{name: protocol[name] for name in
           ("envs_per_game", "epsilon", "sticky", "seed", "max_frames", "rom_dir")},
    )  # fmt: skip
    label = "cloning" if config.loss.kind == "cloning" else "agent"
    run = {"label": label, "step": step, "config": settings.to_dict(config)}
    for path in (scores_path(directory, step), directory / "scores.json"):
        score_files.write(path, played, protocol, run)
    return summary.summarise(played)


def scores_path(directory: Path, step: int) -> Path:
    """Where a run keeps the scores of one step, beside the newest ones in `scores.json`."""
    return directory / "scores" / f"{step:010d}.json"


def evaluation_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """An evaluation as flat scalars for the logs."""
    scalars = {f"evaluation/score/{name}": row["mean"] for name, row in summary["games"].items()}
    for kind in ("human_normalised", "dqn_normalised"):
        for statistic in ("mean", "median", "iqm"):
            if statistic in summary[kind]:
                scalars[f"evaluation/{kind}/{statistic}"] = summary[kind][statistic]["value"]
    return scalars


def count_parameters(config: Config) -> tuple[int, int]:
    """Trainable parameters of (trunk, heads)."""
    network = make_network(config, make_objective(config.loss))

    def count(part: tf.keras.layers.Layer) -> int:
        return sum(int(np.prod(variable.shape)) for variable in part.trainable_variables)

    return count(network.encoder) + count(network.feed_forward), count(network.heads)
