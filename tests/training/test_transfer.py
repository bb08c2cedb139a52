"""Transfer: the real command at toy size, and how a run begins."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import UserError
from cql_atari.methods import build
from cql_atari.networks import q_network
from cql_atari.recording import scripted
from cql_atari.recording.folder import Job
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.training import start

pytestmark = pytest.mark.slow

GAMES = (*tiny.GAMES, "Pong")  # the last one is held out


def test_every_encoder_says_which_settings_must_agree():
    assert start._SETTINGS.keys() == q_network.ENCODERS.keys()


def run(module: str, *flags: str) -> None:
    ended = processes.run([sys.executable, "-m", f"cql_atari.{module}", *flags])
    assert ended.returncode == 0, ended.stderr


def train(folder: Path, *bindings: str, files: tuple[str, ...] = ()) -> None:
    run("train", f"--workdir={folder}", *(f"--gin_files={file}" for file in files),
        *(f"--gin_bindings={binding}" for binding in (*tiny.BINDINGS, *bindings)))  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for game in GAMES:
        job = Job(game=game, run=1, steps=300, behaviour="random", epsilons=(1.0,),
                  slots_per_file=400, seed=0, rom_dir=None)  # fmt: skip
        scripted.collect_game(folder, job, lambda steps: None)
    return folder


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(folder, f"data.dir = '{data}'", "data.suffixes = None")
    return folder


def stored_encoder(folder: Path) -> list[np.ndarray]:
    """The newest checkpoint's encoder by TensorFlow's reader alone, in order of names."""
    newest = folder / "checkpoints" / f"{max(checkpoint.steps(folder / 'checkpoints')):010d}"
    reader = tf.train.load_checkpoint(str(newest / "variables"))
    names = [name for name in sorted(reader.get_variable_to_shape_map())
             if name.startswith("network/encoder/") and "OPTIMIZER_SLOT" not in name]  # fmt: skip
    return [reader.get_tensor(name) for name in names]


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> list[bool]:
    assert len(a) == len(b) > 5
    return [np.array_equal(x, y) for x, y in zip(a, b)]


def test_the_phase_through_the_real_command(data, pretrained, tmp_path):
    folder = tmp_path / "run"
    train(
        folder, f"data.dir = '{data}'", "GAME = 'Pong'", "data.games = (%GAME,)",
        "data.fraction = 0.5", "evaluation.every = 4", f"start.encoder_from = '{pretrained}'",
        "optimizer.encoder_learning_rate = 0", files=("gin_configs/transfer.gin",),
    )  # fmt: skip
    assert json.loads((folder / "start.json").read_text()) == {
        "encoder_from": str(pretrained), "step": 8, "whole_network": False,
    }  # fmt: skip
    assert recorded_config.read_config(folder).data.suffixes is None
    assert all(equal(stored_encoder(folder), stored_encoder(pretrained)))

    scores = [json.loads((folder / "scores" / f"{step:010d}.json").read_text())
              for step in (0, 4, 8)]  # fmt: skip
    for row in (score["summary"]["games"] for score in scores):
        assert set(row) == {"Pong"}
        expected = (row["Pong"]["mean"] + 20.7) / (16.6 + 20.7)  # atari_games.csv
        assert row["Pong"]["dqn_normalised"] == pytest.approx(expected)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in lines if "evaluation/score/Pong" in line]
    assert [line["step"] for line in curve] == [0, 4, 8]
    assert all("evaluation/dqn_normalised/mean" in line for line in curve)


@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.proof), True])
def test_the_online_phase_begins_there_too(pretrained, tmp_path, whole):
    folder = tmp_path / "run"
    train(
        folder, "train.phase = 'online'", "data.games = ('Freeway',)", "online.mode = 1",
        "evaluation.mode = 1", "loss.cql_alpha = 0.0", "online.frames = 800",
        "online.num_envs = 2", "online.first_fill = 100", "feed.samples_per_insert = 0.8",
        f"start.encoder_from = '{pretrained}'", f"start.whole_network = {whole}",
        "optimizer.learning_rate = 1e-30",
    )  # fmt: skip
    note = json.loads((folder / "start.json").read_text())
    assert note == {"encoder_from": str(pretrained), "step": 8, "whole_network": whole}
    # At this rate nothing is learned: what the run ends with is what it began with.
    assert checkpoint.steps(folder / "checkpoints")[-1] == 10
    for ours, theirs in zip(stored_encoder(folder), stored_encoder(pretrained)):
        np.testing.assert_allclose(ours, theirs, atol=1e-20)
    ours, theirs = (head_of(run, game) for run, game in ((folder, 0), (pretrained, 1)))
    assert np.allclose(ours, theirs, atol=1e-20) == whole


def head_of(folder: Path, game: int) -> np.ndarray:
    """A game's head in the newest checkpoint, by TensorFlow's reader alone."""
    newest = folder / "checkpoints" / f"{max(checkpoint.steps(folder / 'checkpoints')):010d}"
    reader = tf.train.load_checkpoint(str(newest / "variables"))
    return reader.get_tensor("network/heads/kernel/.ATTRIBUTES/VARIABLE_VALUE")[game]


# How a run begins, without processes.


def begin(directory: Path, *bindings: str, is_chief: bool = True):
    config = tiny.config("data.games = ('Pong',)", *bindings)
    method = build.build(config)
    scope = tf.distribute.get_strategy().scope
    learner, step = start.begin(method, config, directory, scope, is_chief)
    return step, learner.saved, tf.train.Checkpoint(**learner.saved)


def encoder(saved) -> list[np.ndarray]:
    """In the order of `stored_encoder`."""
    layers = [layer for layer in saved["network"].encoder.layers if layer.weights]
    named = {
        f"layer_with_weights-{number}/{weight.name.split('/')[-1]}": weight.numpy()
        for number, layer in enumerate(layers)
        for weight in layer.weights
    }
    return [named[name] for name in sorted(named)]


def test_the_encoder_comes_and_nothing_else(pretrained, tmp_path):
    step, run, _ = begin(tmp_path, f"start.encoder_from = '{pretrained}'", "train.seed = 1")
    _, scratch, _ = begin(tmp_path, "train.seed = 1")
    assert step == 0 and int(run["optimizer"].iterations) == 0
    assert all(equal(encoder(run), stored_encoder(pretrained)))
    for part in ("feed_forward", "heads"):
        ours, new = (getattr(a["network"], part).get_weights() for a in (run, scratch))
        assert all(np.array_equal(a, b) for a, b in zip(ours, new))
    for target, online in zip(run["target_network"].variables, run["network"].variables):
        np.testing.assert_array_equal(target, online)


def test_another_host_takes_the_encoder_and_writes_nothing(pretrained, tmp_path):
    binding = f"start.encoder_from = '{pretrained}'"
    _, run, _ = begin(tmp_path, binding, is_chief=False)
    assert all(equal(encoder(run), stored_encoder(pretrained)))
    assert list(tmp_path.iterdir()) == []


def test_a_whole_network_comes_with_the_heads_of_common_games(pretrained, tmp_path):
    games = "data.games = ('Freeway', 'Pong')"  # pre-trained: Breakout, Freeway
    binding = f"start.encoder_from = '{pretrained}'"
    _, run, _ = begin(tmp_path, binding, "start.whole_network = True", games, "train.seed = 1")
    (tmp_path / "scratch").mkdir()
    _, scratch, _ = begin(tmp_path / "scratch", games, "train.seed = 1")
    folder = tmp_path / "source"
    shutil.copytree(pretrained, folder)
    _, source, _ = begin(folder, f"data.games = {tiny.GAMES!r}")
    for part in ("encoder", "feed_forward"):
        ours, theirs = (getattr(a["network"], part).get_weights() for a in (run, source))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs))
    for name in ("kernel", "bias"):
        ours, new, theirs = (getattr(a["network"].heads, name).numpy() for a in
                             (run, scratch, source))  # fmt: skip
        np.testing.assert_array_equal(ours[0], theirs[1])
        np.testing.assert_array_equal(ours[1], new[1])
    for target, online in zip(run["target_network"].variables, run["network"].variables):
        np.testing.assert_array_equal(target, online)
    assert json.loads((tmp_path / "start.json").read_text())["whole_network"] is True


def test_damaged_heads_are_passed_over_with_their_encoder(pretrained, tmp_path):
    there = shutil.copytree(pretrained, tmp_path / "pretrained")
    older, newest = checkpoint.steps(there / "checkpoints")[-2:]
    folder = there / "checkpoints" / f"{newest:010d}"
    heads = tf.train.load_checkpoint(str(folder / "variables")).get_tensor(
        "network/heads/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    )
    (path,) = folder.glob("*data*")
    content = bytearray(path.read_bytes())
    content[content.index(heads.tobytes())] ^= 1
    path.write_bytes(content)
    new = tmp_path / "new"
    new.mkdir()
    games = f"data.games = {tiny.GAMES!r}"
    begin(new, f"start.encoder_from = '{there}'", "start.whole_network = True", games)
    assert json.loads((new / "start.json").read_text())["step"] == older


@pytest.mark.parametrize(
    "binding, words",
    [
        ("loss.v_max = 5.0", "loss.v_max = 20.0 there, 5.0 here"),
        ("network.feed_forward = (5,)", "network.feed_forward = (16,) there, (5,) here"),
        ("data.games = ('Pong',)", "it knows Breakout, Freeway"),
    ],
)
def test_a_whole_network_must_fit_wholly(pretrained, tmp_path, binding, words):
    with pytest.raises(UserError) as error:
        begin(tmp_path, f"start.encoder_from = '{pretrained}'", "start.whole_network = True",
              binding)  # fmt: skip
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_only_that_there_is_auxiliary_cloning_matters_not_its_weight():
    def problems(theirs: float, ours: float) -> list[str]:
        start_here = ("start.encoder_from = 'run'", "start.whole_network = True")
        configs = (tiny.config(f"loss.auxiliary_cloning = {weight}", *start_here)
                   for weight in (theirs, ours))  # fmt: skip
        return start._differences(*configs, tf.keras.Model())

    assert problems(0.1, 0.05) == problems(0.0, 0.0) == []
    assert problems(0.1, 0.0) == ["loss.auxiliary_cloning = 0.1 there, 0.0 here"]
    assert problems(0.0, 0.1) == ["loss.auxiliary_cloning = 0.0 there, 0.1 here"]


TRANSFORMER = (
    "train.method = 'decision_transformer'", "transformer.depth = 1", "transformer.width = 64",
)  # fmt: skip


@pytest.fixture
def transformer(tmp_path):
    """A run of a small decision transformer of other games than Pong."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    config = tiny.config(*TRANSFORMER)
    recorded_config.record_config(folder, config)
    learner = build.build(config).learner()
    state = tf.train.Checkpoint(**learner.saved)
    checkpoint.save(folder / "checkpoints", state, 4, keep=1)
    return folder, learner.saved["network"].get_weights()


def test_all_of_a_decision_transformer_goes_to_any_game(transformer, tmp_path):
    folder, weights = transformer
    binding = f"start.encoder_from = '{folder}'"
    _, run, _ = begin(tmp_path, binding, "start.whole_network = True", *TRANSFORMER,
                      "train.seed = 1")  # fmt: skip
    for ours, theirs in zip(run["network"].get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((tmp_path / "start.json").read_text())["step"] == 4


@pytest.mark.parametrize(
    "bindings, words",
    [
        (TRANSFORMER, "don't share the encoder; with start.whole_network = True all of it"),
        ((*TRANSFORMER, "start.whole_network = True", "transformer.width = 128"),
         "transformer.width = 64 there, 128 here"),
        ((), "'decision_transformer' there, 'scaled_q' here: these don't share the encoder"),
        (("start.whole_network = True",), "these don't share the whole network"),
        (("train.method = 'masked_autoencoder'",), "these don't share the encoder"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_take_another_says_why(transformer, tmp_path, bindings, words):
    new = tmp_path / "new"
    new.mkdir()
    with pytest.raises(UserError) as error:
        begin(new, f"start.encoder_from = '{transformer[0]}'", *bindings)
    assert words in str(error.value)
    assert list(new.iterdir()) == []


def test_a_transformer_takes_no_encoder(pretrained, tmp_path):
    with pytest.raises(UserError, match=r"'scaled_q' there, 'decision_transformer' here: these"):
        begin(tmp_path, f"start.encoder_from = '{pretrained}'", *TRANSFORMER)


@pytest.mark.parametrize("method, rate", [("contrastive", None), ("masked_autoencoder", 0)])
def test_an_encoder_that_never_acted_is_transferred_on_real_play(
    method, rate, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    real = (f"data.dir = '{data}'", "data.suffixes = None", "train.steps = 4")
    sizes = ("masked_autoencoder.width = 32", "masked_autoencoder.heads = 2",
             "masked_autoencoder.depth = 1", "masked_autoencoder.decoder_depth = 1",
             "contrastive.projection = (16,)")  # fmt: skip
    first, second = tmp_path / "first", tmp_path / "second"
    train_here(first, *real, *sizes, f"train.method = '{method}'")
    train_here(second, *real, f"optimizer.encoder_learning_rate = {rate}",
               "data.games = ('Pong',)", "evaluation.max_frames = 40",
               f"start.encoder_from = '{first}'", "optimizer.learning_rate = 1e-2")  # fmt: skip
    same = equal(stored_encoder(second), stored_encoder(first))
    assert all(same) if rate == 0 else not any(same)
    assert (second / "scores.json").exists() and not (first / "scores.json").exists()


def train_here(folder: Path, *bindings: str) -> None:
    """The experiment on recorded play, in this process."""
    from cql_atari.data import sources
    from cql_atari.feed import recorded
    from cql_atari.training import run

    config = tiny.config(*bindings)
    folder.mkdir()
    recorded_config.record_config(folder, config)
    found = sources.find_sources(config.data)

    def open_feed(method, step, **options):
        return recorded.open_feed(config, found, step, reads=method.reads, **options)

    assert run.train(config, open_feed, folder, lambda: False)


def test_on_two_replicas_every_one_has_the_encoder(pretrained, tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        _, run, _ = begin(tmp_path, f"start.encoder_from = '{pretrained}'")
    for replica in range(2):
        values = [v.values[replica].numpy() for v in run["network"].encoder.variables]
        assert {value.tobytes() for value in values} == {
            value.tobytes() for value in stored_encoder(pretrained)
        }


def test_a_runs_own_checkpoint_comes_first(pretrained, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(pretrained, gone)
    own = tmp_path / "own"
    own.mkdir()
    binding = f"start.encoder_from = '{gone}'"
    _, run, state = begin(own, binding)
    run["optimizer"].iterations.assign(6)
    for variable in run["network"].variables:
        variable.assign_add(tf.ones_like(variable))
    expected = run["network"].get_weights()
    checkpoint.save(own / "checkpoints", state, 6, keep=1)
    shutil.rmtree(gone)
    step, again, _ = begin(own, binding)
    assert step == 6
    for ours, theirs in zip(again["network"].get_weights(), expected):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "bindings, words",
    [
        (
            ["network.widths = (16,)"],
            ["network.widths = (8,) there, (16,) here",
             "layer 0 kernel: (8, 8, 4, 8) there, (8, 8, 4, 16) here"],
        ),
        (
            ["network.pooling = 'flatten'"],
            ["network.pooling = 'spatial_embedding' there, 'flatten' here",
             "embedding: (6, 6, 8, 2) there, absent here"],
        ),
        (
            ["network.depths = (2,)"],
            ["network.depths = (1,) there, (2,) here", "absent there, (3, 3, 8, 8) here"],
        ),
        (["network.groups = 2"], ["network.groups = 4 there, 2 here"]),  # no shape tells it
        (["network.encoder = 'nature'"], ["network.encoder = 'resnet' there, 'nature' here"]),
    ],
)  # fmt: skip
def test_another_encoder_is_refused_with_settings_and_layers(pretrained, tmp_path, bindings, words):
    with pytest.raises(UserError) as error:
        begin(tmp_path, f"start.encoder_from = '{pretrained}'", *bindings)
    for word in (*words, str(pretrained), "gin files"):
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_other_feed_forward_layers_are_no_matter(pretrained, tmp_path):
    begin(tmp_path, f"start.encoder_from = '{pretrained}'", "network.feed_forward = (5, 7)",
          "network.feature_norm = False", "network.impala_width = 3")  # fmt: skip


def test_what_is_no_pretrained_run_is_refused(pretrained, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no run"):
        begin(tmp_path, f"start.encoder_from = '{tmp_path / 'empty'}'")
    shutil.copy(pretrained / "config.json", tmp_path / "empty")
    with pytest.raises(UserError, match=r"empty.*\n.*no checkpoint yet"):
        begin(tmp_path, f"start.encoder_from = '{tmp_path / 'empty'}'")
    assert not (tmp_path / "start.json").exists()
