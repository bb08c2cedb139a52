"""Made-up scores and recorded play for tests."""

from __future__ import annotations

import json

import numpy as np

from cql_atari.core.types import EpisodeScore
from cql_atari.evaluation import score_files
from cql_atari.evaluation.summary import default_mode

PROTOCOL = {"epsilon": 0.001, "sticky": 0.25, "max_frames": 27_000}


def episode(game, score, *, seed=0, mode=0, difficulty=0, actions=(0,), truncated=False):
    counts = np.bincount(actions, minlength=18)
    return EpisodeScore(
        game, float(score), len(actions), truncated, seed, 0, mode, difficulty, "md5",
        tuple(counts.tolist()),
    )  # fmt: skip


def write_scores(folder, label, scores, seed=None, **settings):
    """`scores.json` of one episode a score; of a training run where there is a seed."""
    episodes = [
        episode(game, score, mode=default_mode(game))
        for game, values in scores.items() for score in values
    ]  # fmt: skip
    run = {"label": label}
    if seed is not None:
        data = {"dir": str(folder.parent / "data")}
        run["config"] = {"data": data, "train": {"seed": seed, "steps": 9}, "loss": settings}
    score_files.write(folder / "scores.json", episodes, PROTOCOL, run)


def write_data(folder, game, *scores):
    """`data/<game>/1/episodes.jsonl` in the folder."""
    place = folder / "data" / game / "1"
    place.mkdir(parents=True)
    rows = [{"score": score, "length": 9, "terminal": True} for score in scores]
    (place / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_shares(folder, scores, data, seeds=(1, 2, 3, 4)):
    """Runs as `launchers/evidence.sh A` leaves them, of two games: the second's scores are a tenth.

    Args:
      folder: gets percent_good_play=SHARE/SEED/METHOD, and reference policies at the first share.
      scores: {share: {method: score of seed 0}}; every seed's is higher by the seed.
      data: {share: score of every recorded episode}.
      seeds: of each share.
    """
    for share in data:
        for seed in seeds:
            place = folder / f"percent_good_play={share}" / str(seed)
            for game, part in (("BattleZone", 1), ("Freeway", 10)):
                write_data(place, game, data[share] / part)
            for method, score in scores.get(share, {}).items():
                games = {"BattleZone": [score + seed], "Freeway": [(score + seed) / 10]}
                write_scores(place / method, method.partition("_")[0], games, seed, method=method)
    for label, score in (("random", 0), ("best_fixed", 30)):
        place = folder / f"percent_good_play={next(iter(data))}" / label
        write_scores(place, label, {"BattleZone": [score], "Freeway": [score / 10]})
