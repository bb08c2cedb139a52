"""How far the discounted returns of recorded play reach: what `loss.v_max` has to hold.

Of the clipped rewards from each step to the episode's end, as far as the recording goes.

Usage: python benchmarks/returns.py DIR GAME[,GAME...] [--run=1] [--discount=0.99]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.signal import lfilter

from cql_atari.core.settings import Data
from cql_atari.data import sources


def discounted(rewards: np.ndarray, discount: float) -> np.ndarray:
    """float [T], from each of the steps on, of rewards [T]."""
    return lfilter([1.0], [1.0, -discount], rewards[::-1])[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("games")
    parser.add_argument("--run", type=int, default=1)
    parser.add_argument("--discount", type=float, default=0.99)
    arguments = parser.parse_args()
    data = Data(dir=arguments.directory, games=tuple(arguments.games.split(",")),
                runs=(arguments.run,), suffixes=None)  # fmt: skip
    print("| game | steps | mean | 95 % are below | smallest | largest | beyond ±10 | beyond ±20 |")
    print("|---|---|---|---|---|---|---|---|")
    for source in sources.find_sources(data):
        found = np.concatenate([
            discounted(episode.rewards, arguments.discount)
            for suffix in source.suffixes for episode in sources.read_part(source, suffix)
        ])  # fmt: skip
        beyond = " | ".join(f"{(abs(found) > end).mean():.0%}" for end in (10, 20))
        low, mean, most, high = found.min(), found.mean(), np.quantile(found, 0.95), found.max()
        print(
            f"| {source.game} | {len(found):,} | {mean:.1f} | {most:.1f} | {low:.1f} | {high:.1f} "
            f"| {beyond} |"
        )


if __name__ == "__main__":
    main()
