"""The Python that docs/api.md shows, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny

import cql_atari
from cql_atari.core.types import Observation, UserError
from cql_atari.methods import build
from cql_atari.runs import checkpoint, recorded_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path) -> Path:
    """A run on recorded arrays, where the docs' example looks for one."""
    for game, episode in {played.game: played for played in tiny.episodes()}.items():
        folder = tmp_path / "data" / game / "1" / "arrays"
        folder.mkdir(parents=True)
        ends = np.arange(60) == 59
        np.savez(
            folder / "0.npz", frames=episode.frames, actions=np.zeros(60, int), game=game,
            rewards=episode.rewards, terminals=ends, starts=np.roll(ends, 1), action_set="full",
        )  # fmt: skip
    config = tiny.config(f"data.dir = '{tmp_path / 'data'}'", "data.suffixes = None")
    folder = tmp_path / "runs" / "quickstart" / "agent"
    folder.mkdir(parents=True)
    recorded_config.record_config(folder, config)
    state = tf.train.Checkpoint(**build.build(config).learner().saved)
    checkpoint.save(folder / "checkpoints", state, 8, keep=1)
    return folder


def test_the_documented_lines_run(run, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    monkeypatch.chdir(run.parents[2])
    made: dict = {}
    exec(compile(program, "docs/api.md", "exec"), made)
    assert [episode.game for episode in made["episodes"]] == ["Breakout"] * 2 + ["Freeway"] * 2
    assert made["aggregates"]["games"] == 2 and "iqm" in made["aggregates"]
    assert made["batch"].frames.shape == (2, 8, 7, 84, 84)
    assert made["values"].shape == (8, 18) and np.isfinite(made["values"]).all()


def test_outputs_are_what_the_policy_acts_by(run):
    loaded = cql_atari.load(run, checkpoint=8)
    frames = np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84), np.uint8)
    said = loaded.method.outputs(frames, np.array([0, 1]))
    scores = loaded.act()(Observation.first(frames, np.array([0, 1], np.int32)))
    # Two compiled programs: sums in another order, by processor.
    np.testing.assert_allclose(said["q_values"], scores, atol=1e-5)
    means = (said["distributions"].numpy() * loaded.method.support).sum(-1)
    np.testing.assert_allclose(means, scores, atol=1e-5)


def test_a_folder_without_a_run_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        cql_atari.load(tmp_path)


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, cql_atari; print({'tensorflow', 'numpy', 'gin'} & {*sys.modules})"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "set()"
