"""Runs that commit b437441 wrote still load: configuration, weights, scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cql_atari.core.types import Observation
from cql_atari.evaluation import score_files
from cql_atari.training import load

GOLDEN = Path(__file__).parents[1] / "golden" / "run"


@pytest.mark.parametrize("kind", ["c51", "cloning"])
def test_an_old_run_gives_the_same_q_values(kind):
    loaded = load.load(GOLDEN / kind)
    frames = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), np.uint8)
    q_values = loaded.act()(Observation.first(frames, np.array([0, 1] * 4, np.int32)))
    # Not bit for bit: sums may be taken in another order than they were then.
    expected = np.load(GOLDEN / kind / "q_values.npy")
    np.testing.assert_allclose(q_values, expected, atol=2e-6 * np.abs(expected).max(), rtol=0)
    assert loaded.step == 20
    assert loaded.config.train.method == ("cloning" if kind == "cloning" else "scaled_q")


@pytest.mark.parametrize("kind", ["c51", "cloning"])
def test_old_scores_are_read(kind):
    path = GOLDEN / kind / "scores.json"
    scores = score_files.read(path)
    assert [e.score for e in scores.episodes] == [
        e["score"] for e in json.loads(path.read_text())["episodes"]
    ]
