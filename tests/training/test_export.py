"""Exports by the real command: what they hold says the same as the run, elsewhere too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny
from tf_agents.policies import py_tf_eager_policy
from tf_agents.trajectories import time_step

import cql_atari
from cql_atari.core import games
from cql_atari.core.types import Observation, UserError
from cql_atari.methods import build
from cql_atari.runs import checkpoint, recorded_config, weights
from cql_atari.training import start

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests" / "golden" / "run" / "c51"
FRAMES = np.random.default_rng(0).integers(0, 256, (6, 4, 84, 84), np.uint8)
GAMES = np.array([0, 1, 1, 0, 1, 0], np.int32)


def export(run: Path, out: Path, *flags: str) -> subprocess.CompletedProcess:
    return processes.run([sys.executable, "-m", "cql_atari.export", run, f"--out={out}", *flags])


def evaluate(*flags: str) -> subprocess.CompletedProcess:
    return processes.run([sys.executable, "-m", "cql_atari.evaluate", *flags])


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    ended = export(RUN, out)
    assert ended.returncode == 0, ended.stderr
    assert f"wrote {out}, step 20" in ended.stdout
    return out


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """The run's own outputs, and the greedy actions of the games' own sets."""
    run = cql_atari.load(RUN)
    said = {name: value.numpy() for name, value in run.method.outputs(FRAMES, GAMES).items()}
    own = games.action_mask(run.config.data.games)[GAMES]
    return {**said, "actions": np.where(own, said["q_values"], -np.inf).argmax(1)}


def agree(found, expected, atol=1e-6):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=atol, rtol=0, err_msg=name)
    assert np.array_equal(found["actions"], expected["actions"])


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cql_atari", "tf_agents", "tensorflow_probability", "reverb"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
inputs = np.load(sys.argv[2])
said = model.signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})
tables = model.signatures["tables"]()
np.savez(sys.argv[3], **{name: output.numpy() for name, output in said.items()})
print([game.decode() for game in tables["games"].numpy()], tables["support"].shape)
"""


def test_the_saved_model_needs_tensorflow_alone(exported, expected, tmp_path):
    np.savez(tmp_path / "in.npz", frames=FRAMES.transpose(0, 2, 3, 1), game=GAMES)
    ended = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(exported / "saved_model"),
         str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
        cwd=tmp_path, text=True, capture_output=True, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "['Breakout', 'Freeway'] (11,)"
    agree(np.load(tmp_path / "out.npz"), expected)


def test_the_plain_weights_are_the_runs(exported, expected):
    loaded = cql_atari.load(exported)
    assert loaded.step == 20
    q_values = loaded.act()(Observation.first(FRAMES, GAMES))
    # Two compiled programs: sums in another order, by processor.
    np.testing.assert_allclose(q_values, expected["q_values"], atol=1e-5)
    # By the names that the checkpoint has for them, and nothing else.
    reader = tf.train.load_checkpoint(str(RUN / "checkpoints" / "0000000020" / "variables"))
    for name, variable in weights.named(loaded.method.network).items():
        stored = reader.get_tensor(f"network/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        assert np.array_equal(variable.numpy(), stored)


def test_the_tf_agents_policy_acts_greedily(exported, expected):
    policy = py_tf_eager_policy.SavedModelPyTFEagerPolicy(
        str(exported / "tf_agents_policy"), load_specs_from_pbtxt=True, batch_time_steps=False
    )
    seen = time_step.restart({"frames": FRAMES, "game": GAMES}, batch_size=len(GAMES))
    assert np.array_equal(policy.action(seen).action, expected["actions"])


def test_the_onnx_model_says_the_same(exported, expected):
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("tf2onnx")
    model = reference.ReferenceEvaluator(str(exported / "model.onnx"))
    said = model.run(None, {"frames": FRAMES.transpose(0, 2, 3, 1), "game": GAMES})
    # Its sums are taken in another order.
    agree(dict(zip(model.output_names, said)), expected, atol=1e-5)


def test_the_card_says_what_it_is(exported):
    text = (exported / "README.md").read_text()
    for part in ("license: apache-2.0", "| Freeway | 1 | NOOP, UP, DOWN |", "`distributions`: fl",
                 "reconstructed", "program", "| Breakout | 2 |", "human-normalised over", "IQM ",
                 "trainable parameters", "model.onnx", "| loss.v_min |"):  # fmt: skip
        assert part in text, part


def test_no_path_of_this_machine_goes_along(exported):
    assert json.loads((RUN / "config.json").read_text())["data"]["dir"]
    for name in ("config.json", "scores.json", "README.md"):
        assert (
            json.loads((RUN / "config.json").read_text())["data"]["dir"]
            not in (exported / name).read_text()
        )


def test_an_existing_folder_is_left_alone(exported):
    before = sorted(exported.iterdir())
    ended = export(RUN, exported)
    assert ended.returncode == 2 and "is there already" in ended.stderr
    assert sorted(exported.iterdir()) == before


@pytest.mark.parametrize("damage", ["cut", "no safetensors", "another network", "no step"])
def test_a_strangers_export_is_checked(exported, tmp_path, damage):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("config.json", weights.FILE):
        shutil.copy(exported / name, folder)
    file, said = folder / weights.FILE, "is damaged, or no safetensors file"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "no safetensors":
        file.write_bytes(b"\x80\x04\x95pickle")
    elif damage == "another network":
        other = build.build(tiny.config("network.feed_forward = (8,)"))
        weights.save(file, other.network, {"step": "1"})
        said = r"feed_forward/layer_with_weights-0/bias: float32\(8,\) there, float32\(16,\) exp"
    else:
        weights.save(file, cql_atari.load(exported).method.network, {})
        said = "doesn't say of which step"
    with pytest.raises(UserError, match=said):
        cql_atari.load(folder)


def test_another_step_of_an_export_is_refused(exported):
    with pytest.raises(UserError, match="no checkpoint of step 5; there are 20"):
        cql_atari.load(exported, 5)


def test_an_export_plays_its_step_and_is_no_start_for_training(exported, tmp_path):
    flags = (f"--run={exported}", f"--out={tmp_path / 'out'}", "--episodes=1")
    short = "--gin_bindings=evaluation.max_frames=40"
    ended = evaluate(*flags, "--checkpoint=20", short)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "scores" / f"{20:010d}.json").exists()
    ended = evaluate(*flags, "--checkpoint=5", short)
    assert ended.returncode == 2 and "no checkpoint of step 5; there are 20" in ended.stderr
    with pytest.raises(UserError, match="is an export; give the run that it was made from"):
        config = tiny.config(f"start.encoder_from = '{exported}'")
        start.begin(build.build(config), config, tmp_path, tf.distribute.get_strategy().scope)


def test_a_transformer_gives_its_weights_and_says_why_no_more(tmp_path):
    config = tiny.config(
        "train.method = 'decision_transformer'", "transformer.depth = 1", "transformer.width = 64"
    )
    (tmp_path / "run").mkdir()
    recorded_config.record_config(tmp_path / "run", config)
    saved = tf.train.Checkpoint(**build.build(config).learner().saved)
    checkpoint.save(tmp_path / "run" / "checkpoints", saved, 8, keep=1)
    ended = export(tmp_path / "run", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert "no SavedModel: train.method = 'decision_transformer' acts on a window" in ended.stdout
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {"README.md", "config.json", weights.FILE}
    assert "loss.kind" not in (tmp_path / "out" / "README.md").read_text()  # it has no such loss
    ours, theirs = (weights.named(cql_atari.load(tmp_path / name).method.network)
                    for name in ("run", "out"))  # fmt: skip
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in ours)
