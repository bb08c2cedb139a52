"""How often a trained agent prefers its data's most frequent action, and its cloning output does.

Of states of each game and run of the data (in the quickstart's play 1 is the good player's run, 2
the poor one's). Takes a run with loss.auxiliary_cloning.

Usage: python benchmarks/majority.py WORKDIR [--data_dir=DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from cql_atari.core import games
from cql_atari.core.types import STACK
from cql_atari.data import sources
from cql_atari.methods import scaled_q
from cql_atari.runs import recorded_config
from cql_atari.training import load

STATES = 512  # of each game and run, drawn uniformly from seed 0


def states(source: sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """Some states uint8 [n, 4, 84, 84] of a recording, and all its actions int [steps]."""
    episodes = [e for suffix in source.suffixes for e in sources.read_part(source, suffix)]
    rng = np.random.default_rng(0)
    lengths = np.array([max(0, len(e.frames) - STACK + 1) for e in episodes])
    chosen = rng.integers(lengths.sum(), size=STATES)
    ends = np.cumsum(lengths)
    found = []
    for place in chosen:
        nth = int(np.searchsorted(ends, place, side="right"))
        first = place - (ends[nth] - lengths[nth])
        found.append(episodes[nth].frames[first : first + STACK])
    return np.stack(found), np.concatenate([e.actions for e in episodes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--data_dir", default=None)
    arguments = parser.parse_args()
    config = recorded_config.read_config(arguments.workdir)
    data = dataclasses.replace(config.data, dir=arguments.data_dir or config.data.dir)
    network = load.load(arguments.workdir).method.network
    objective = scaled_q.make_objective(config.loss)
    by_game: dict[str, list[sources.Source]] = {}
    for source in sources.find_sources(data):
        by_game.setdefault(source.game, []).append(source)
    for head, game in enumerate(config.data.games):
        own = np.array(games.spec(game).actions)
        drawn = [states(source) for source in by_game[game]]
        actions = np.concatenate([actions for _, actions in drawn])
        majority = np.bincount(actions).argmax()
        share = (actions == majority).mean()
        print(f"{game}: {games.ACTION_NAMES[majority]} is {share:.0%} of the data's actions")
        for source, (frames, _) in zip(by_game[game], drawn):
            outputs = network(tf.constant(frames), tf.fill([STATES], head))
            q = objective.q_values(outputs[..., : objective.num_atoms]).numpy()[:, own]
            cloned = outputs[..., -1].numpy()[:, own]
            prefers = [(own[x.argmax(1)] == majority).mean() for x in (q, cloned)]
            print(f"  run {source.run}: best by Q in {prefers[0]:.1%} of states, by the "
                  f"auxiliary cloning in {prefers[1]:.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
