"""The trainer on small episodes in this process: divergence, what is restored, what is loaded."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import Observation, UserError
from cql_atari.evaluation import score_files
from cql_atari.feed import recorded
from cql_atari.methods import build
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.system import signals
from cql_atari.training import load, run, start

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run" / "c51"
SEEN = Observation.first(np.zeros((2, 4, 84, 84), np.uint8), np.array([0, 1], np.int32))


@pytest.fixture(scope="module")
def train():
    """Trains a method whose network is small on episodes that are in memory."""

    def train(directory, *bindings):
        config = tiny.config("evaluation.episodes = 1", "evaluation.max_frames = 40", *bindings)
        directory.mkdir(exist_ok=True)
        recorded_config.record_config(directory, config)

        def open_feed(method, step, **options):
            return recorded.open_feed(config, (), step, reads=method.reads, **options)

        return run.train(config, open_feed, directory, lambda: False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorded, "_load_store", lambda config, *_: tiny.store(config))
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
        yield train


OFTEN = ("train.save_every = 2", "train.keep = 2")


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    """A run of 8 steps."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder, *OFTEN)
    assert checkpoint.steps(folder / "checkpoints") == [6, 8]
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def stored(path: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path / "variables"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if name.endswith("VARIABLE_VALUE")}  # fmt: skip


def test_a_support_that_cuts_returns_off_is_said_once_a_game(train, tmp_path, caplog):
    assert train(tmp_path / "run", "loss.v_max = 0.01", "train.log_every = 2")
    said = [m for m in caplog.messages if "ends of the support, -0.01 and 0.01" in m]
    assert [m.partition(":")[0] for m in said] == list(tiny.GAMES)


@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_a_run_that_diverges_says_so_and_leaves_good_checkpoints(train, trained, rate):
    more = (*OFTEN, "train.steps = 38")
    with pytest.raises(UserError, match=r"(diverged|not finite).*optimizer.learning_rate") as error:
        train(trained, *more, f"optimizer.learning_rate = {rate}")
    assert "checkpoint is good" in str(error.value)
    kept = checkpoint.steps(trained / "checkpoints")
    assert kept[-1] < 38 and len(kept) == 2
    for step in kept:
        for name, values in stored(trained / "checkpoints" / f"{step:010d}").items():
            assert values.dtype.kind != "f" or np.isfinite(values).all(), (step, name)
    assert np.isfinite(load.load(trained).act()(SEEN)).all()
    if rate == 1e20:
        assert train(trained, *more, "optimizer.learning_rate = 1e-4")  # the advice works


def test_a_second_signal_is_not_taken_for_a_stop_that_saved(train, trained, monkeypatch):
    """It may come in the midst of a step or of a save."""

    def call(*_):
        raise signals.EndNow

    monkeypatch.setattr(run.loop, "make_train_call", lambda *_: call)
    with pytest.raises(signals.EndNow):
        train(trained, *OFTEN, "train.steps = 40")


def test_a_weight_that_is_not_finite_is_not_saved_where_relu_hides_it():
    learner = build.build(tiny.config()).learner()
    start.check_finite(learner, "nothing", "nothing")
    kernel = learner.saved["network"].encoder.trainable_variables[0]
    kernel.assign(tf.fill(kernel.shape, np.nan))
    with pytest.raises(UserError, match=r"1 of \d+ variables are not finite, .*kernel.* So it is"):
        start.check_finite(learner, "it is bad", "do")


@pytest.mark.parametrize("encoder_rate, kind", [(None, "adam"), (1e-3, "adam"), (None, "lamb")])
def test_a_resumed_run_has_the_configured_rates(tmp_path, encoder_rate, kind):
    def begin(*bindings):
        config = tiny.config(*bindings, f"optimizer.kind = {kind!r}")
        scope = tf.distribute.get_strategy().scope
        return start.begin(build.build(config), config, tmp_path, scope)

    encoder = f"optimizer.encoder_learning_rate = {encoder_rate}"
    learner, _ = begin("optimizer.learning_rate = 1e-3", encoder)
    learner.parameter_groups[0].optimizer.iterations.assign(4)
    learner.parameter_groups[0].optimizer.beta_1 = 0.5
    state = tf.train.Checkpoint(**learner.saved)
    checkpoint.save(tmp_path / "checkpoints", state, 4, keep=1)
    lower = encoder if encoder_rate is None else "optimizer.encoder_learning_rate = 1e-5"
    learner, step = begin("optimizer.learning_rate = 1e-5", lower)
    assert step == int(learner.parameter_groups[0].optimizer.iterations) == 4
    assert len(learner.parameter_groups) == 1 + (encoder_rate is not None)
    for part in learner.parameter_groups:
        assert float(part.optimizer.learning_rate) == pytest.approx(1e-5)
        assert kind == "lamb" or float(part.optimizer.beta_1) == pytest.approx(0.9)


def test_a_run_with_a_schedule_of_its_rate_goes_on(train, tmp_path):
    """With weight decay, too: tests/methods/test_pretraining.py."""
    schedule = ("optimizer.warmup_steps = 2", "optimizer.cosine = True")
    assert train(tmp_path, *schedule, "train.steps = 4")
    assert train(tmp_path, *schedule)
    assert checkpoint.steps(tmp_path / "checkpoints") == [4, 8]


@pytest.mark.parametrize("host", [0, 1])
def test_only_the_chief_writes(train, tmp_path, monkeypatch, host):
    """A second file of events would hide the chief's later scalars from TensorBoard."""
    find = run.cluster.find_hosts
    monkeypatch.setattr(run.cluster, "find_hosts", lambda kind: find(kind)._replace(host=host))
    train(tmp_path, "train.method = 'contrastive'", "train.steps = 2", "evaluation.every = 0")
    written = {path.name for path in tmp_path.iterdir()} - {"config.json", "config.gin"}
    assert ("tensorboard" in written) == ("checkpoints" in written) == (host == 0)
    assert host == 0 or not written


def test_an_earlier_checkpoint_can_be_loaded(trained):
    earlier, newest = load.load(trained, 6), load.load(trained)
    assert (earlier.step, newest.step) == (6, 8)
    assert (earlier.act()(SEEN) != newest.act()(SEEN)).any()
    with pytest.raises(UserError, match="no checkpoint of step 5; there are 6, 8"):
        load.load(trained, 5)


def test_a_run_beyond_its_end_is_not_taken_for_one_at_its_end(train, trained):
    with pytest.raises(UserError, match=r"at step 8 already, beyond train.steps = 4: raise that"):
        train(trained, "train.steps = 4")
    assert not (trained / "scores" / f"{4:010d}.json").exists()


def test_a_run_that_ends_earlier_has_the_scores_of_its_end(train, trained):
    """The later checkpoint is removed, as the message says, and step 6 has scores of a curve."""
    shutil.rmtree(trained / "checkpoints" / f"{8:010d}")
    shutil.copy(trained / "scores" / f"{8:010d}.json", trained / "scores" / f"{6:010d}.json")
    assert train(trained, "train.steps = 6")
    assert score_files.read(trained / "scores.json").run["step"] == 6


def test_weights_that_are_not_finite_are_not_loaded(train, trained):
    learner = build.build(tiny.config()).learner()
    kernel = learner.saved["network"].encoder.trainable_variables[0]
    kernel.assign(tf.fill(kernel.shape, np.nan))
    checkpoint.save(trained / "checkpoints", tf.train.Checkpoint(**learner.saved), 12, keep=9)
    with pytest.raises(UserError, match=r"diverged by step 12: 1 of .* checkpoint, of 6, 8"):
        load.load(trained)
    assert load.load(trained, 8).step == 8
    with pytest.raises(UserError, match=r"can't go on from step 12; remove .*0012"):
        train(trained, "train.steps = 20")


def test_loading_says_nothing_of_what_it_does_not_need(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    program = "import pathlib, sys\nfrom cql_atari.training import load\n"
    program += "load.load(pathlib.Path(sys.argv[1]))"
    ended = processes.run([sys.executable, "-c", program, tmp_path / "run"])
    assert ended.returncode == 0, ended.stderr
    assert "Value in checkpoint could not be found" not in ended.stderr
