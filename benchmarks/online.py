"""Online phase: agent steps/s against dopamine-rl's own TF C51, at the same setting.

Breakout, Nature network, one update of 32 every 4 agent steps, 3-step returns; ours with 8
environments, Dopamine's RainbowAgent with uniform replay in its own step by step loop, on the same
environment. Each side runs in a process of its own, one after the other in each round, so that a
ratio's sides see the same machine; a warm-up is left out. To reach: ratio >= 1.3.

Usage: python benchmarks/online.py [--rounds 3] [--seconds 30]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

FIRST_FILL, WARM_UP_SECONDS = 1_000, 10
SIDES = ("float32", "mixed_bfloat16", "dopamine")


def ours(dtype: str, seconds: float) -> float:
    """Agent steps/s of `cql_atari.online.train` itself, by its own log."""
    from cql_atari import config as config_lib
    from cql_atari.feed.online import feed
    from cql_atari.feed.online.complete import complete
    from cql_atari.training import run

    files = ["gin_configs/finetune.gin", "gin_configs/ablations/nature.gin"]
    bindings = [
        "GAME = 'Breakout'", "MODE = None", "online.difficulty = None",
        f"network.dtype = '{dtype}'",
        f"online.first_fill = {FIRST_FILL}", "evaluation.every = 0", "train.log_every = 20",
        "train.save_every = 1000000",
    ]  # fmt: skip
    config = complete(config_lib.load(files, bindings))
    with tempfile.TemporaryDirectory() as folder:
        log, started = Path(folder) / "metrics.jsonl", 0.0

        def should_stop() -> bool:
            nonlocal started
            if not started and log.exists():
                started = time.time() + WARM_UP_SECONDS
            return bool(started) and time.time() > started + seconds

        run.train(
            config, functools.partial(feed.open_feed, config, None), Path(folder), should_stop
        )
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if line["time"] >= started]
    frames = lines[-1]["online/frames"] - lines[0]["online/frames"]
    return frames / 4 / (lines[-1]["time"] - lines[0]["time"])


def dopamines(seconds: float) -> float:
    """Agent steps/s of Dopamine's agent and loop."""
    import numpy as np
    import tensorflow as tf

    tf.compat.v1.disable_v2_behavior()
    from dopamine.agents.rainbow import rainbow_agent

    from cql_atari.core import games
    from cql_atari.envs.atari import AtariEnv

    actions = games.spec("Breakout").actions
    env = AtariEnv("Breakout", seed=0)
    with tf.compat.v1.Session() as session:
        agent = rainbow_agent.RainbowAgent(
            session, num_actions=len(actions), update_horizon=3, replay_scheme="uniform",
            min_replay_history=FIRST_FILL, update_period=4, tf_device="/cpu:*",
        )  # fmt: skip
        session.run(tf.compat.v1.global_variables_initializer())
        action = agent.begin_episode(env.reset()[..., None])
        steps, start, end = 0, 0.0, float("inf")
        while time.perf_counter() < end:
            frame, reward, terminal, truncated = env.step(actions[action])
            reward = float(np.clip(reward, -1, 1))
            if terminal or truncated:
                agent.end_episode(reward)
                action = agent.begin_episode(env.reset()[..., None])
            else:
                action = agent.step(reward, frame[..., None])
            steps += 1
            if steps == FIRST_FILL + 1:
                start = time.perf_counter() + WARM_UP_SECONDS
            if start and time.perf_counter() > start and end == float("inf"):
                start, end, steps = (
                    time.perf_counter(),
                    time.perf_counter() + seconds,
                    FIRST_FILL + 2,
                )
        return (steps - FIRST_FILL - 2) / (time.perf_counter() - start)


def measure(side: str, seconds: float) -> float:
    """One side in a process of its own."""
    command = [sys.executable, __file__, f"--side={side}", f"--seconds={seconds}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return float(result.stdout.split()[-1])


def main() -> None:
    """Alternates the sides; prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each side in a round")
    parser.add_argument("--side", choices=SIDES, help="print this one's agent steps/s")
    arguments = parser.parse_args()
    if arguments.side:
        seconds = arguments.seconds
        side = arguments.side
        print(dopamines(seconds) if side == "dopamine" else ours(side, seconds))
        return
    rounds = [
        {side: measure(side, arguments.seconds) for side in SIDES} for _ in range(arguments.rounds)
    ]
    common.emit(
        "online/nature",
        num_envs=8, batch=32, steps_per_update=4,
        **{f"agent_steps_per_second_{side}": common.summarise([r[side] for r in rounds])
           for side in SIDES},
        **{f"ratio_{side}": common.summarise([r[side] / r["dopamine"] for r in rounds])
           for side in SIDES[:2]},
    )  # fmt: skip


if __name__ == "__main__":
    main()
