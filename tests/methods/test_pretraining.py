"""Contrastive coding and the masked autoencoder: what they learn from, and that they don't act."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tiny

from cql_atari.core.types import Batch, UserError
from cql_atari.feed import recorded
from cql_atari.methods import augmentation, build, contrastive, gradient, masked_autoencoder, shared
from cql_atari.networks.decoder import MaskedAutoencoder, Reconstruction
from cql_atari.runs import checkpoint, recorded_config
from cql_atari.training import load, run, start

METHODS = ("contrastive", "masked_autoencoder")
SIZES = (
    "contrastive.projection = (16,)", "masked_autoencoder.width = 32",
    "masked_autoencoder.heads = 2", "masked_autoencoder.depth = 1",
    "masked_autoencoder.decoder_depth = 1",
)  # fmt: skip


def config(method: str, *bindings: str):
    return tiny.config(f"train.method = '{method}'", *SIZES, *bindings)


def batch_of(config) -> Batch:
    return Batch(*(part[0] for part in next(iter(tiny.dataset(config)()))))


def test_a_state_is_to_find_its_own_successor_by_hand():
    scores = tf.constant([[1.0, 3.0, 2.0], [0.0, 5.0, 0.0], [4.0, 9.0, 1.0]])
    # The second row's episode has ended: it has no loss and is nobody's candidate.
    found = contrastive.losses(scores, tf.constant([True, False, True]))
    first = np.log(np.exp(1) + np.exp(2)) - 1
    third = np.log(np.exp(4) + np.exp(1)) - 1
    np.testing.assert_allclose(found["loss/total"], [first, 0, third], rtol=1e-6)
    np.testing.assert_array_equal(found["accuracy/successor"], [0, 0, 0])
    every = contrastive.losses(scores, tf.constant([True] * 3))
    np.testing.assert_array_equal(every["accuracy/successor"], [0, 1, 0])


def test_scores_are_bilinear():
    network = build.build(config("contrastive")).network
    states, successors = np.random.default_rng(0).normal(size=(2, 3, 16)).astype(np.float32)
    expected = states @ network.bilinear.numpy() @ successors.T
    np.testing.assert_allclose(network.scores(states, successors), expected, rtol=1e-4)


def test_errors_over_hidden_and_visible_pixels_by_hand():
    frames = np.zeros((1, 4, 84, 84), np.uint8)
    hidden = np.zeros((1, 84, 84), np.float32)
    hidden[:, :21] = 1  # a quarter
    pixels = np.where(hidden, 0.5, 0.1)[:, None].repeat(4, axis=1).astype(np.float32)
    reconstruction = Reconstruction(tf.constant(pixels), tf.constant(hidden))
    found = masked_autoencoder.losses(reconstruction, frames)
    for name, expected in (("hidden", 0.25), ("visible", 0.01)):
        np.testing.assert_allclose(found[f"error/{name}"], [expected], rtol=1e-5)
    np.testing.assert_allclose(found["loss/total"], [0.25 / 4 + 0.01 * 3 / 4], rtol=1e-5)


@pytest.mark.parametrize("strides", [(2,), (1,)])  # 6 x 6 cells of 14, 11 x 11 of 8 that overhang
def test_patches_join_to_the_frames_that_they_were_cut_from(strides):
    network = build.build(config("masked_autoencoder", f"network.strides = {strides}")).network
    side, cells = {(2,): (14, 6), (1,): (8, 11)}[strides]
    frames = np.random.default_rng(0).normal(size=(2, 4, 84, 84)).astype(np.float32)
    padded = np.zeros((2, 4, side * cells, side * cells), np.float32)
    padded[:, :, :84, :84] = frames
    patches = [
        padded[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side].reshape(2, -1)
        for i in range(cells) for j in range(cells)
    ]  # fmt: skip
    assert network.cells == cells**2
    np.testing.assert_array_equal(network._join(tf.constant(np.stack(patches, axis=1))), frames)


def test_what_is_hidden_is_hidden(monkeypatch):
    network: MaskedAutoencoder = build.build(config("masked_autoencoder")).network
    _, pool = network._parts()
    random = np.random.default_rng(0)
    noise = random.random((1, 36)).astype(np.float32)
    features = random.normal(size=(1, 6, 6, 8)).astype(np.float32)

    def draw(features):
        network._parts = lambda: (lambda frames: tf.constant(features), pool)
        return network(tf.zeros((1, 4, 84, 84), tf.uint8), noise)

    before = draw(features)
    order = np.argsort(noise[0])
    hidden = before.hidden.numpy()[0, ::14, ::14].reshape(-1).astype(bool)
    assert hidden.sum() == 32 and not hidden[order[:4]].any()  # 36 cells, a tenth is 4
    for cell, changes in ((order[0], True), (order[4], False)):
        other = features.copy()
        other[0, cell // 6, cell % 6] += 1
        assert (draw(other).pixels.numpy() != before.pixels.numpy()).any() == changes


def test_the_mask_token_stands_for_hidden_cells_only():
    """Without blocks in the decoder each cell's pixels come from its own token."""
    network = build.build(config("masked_autoencoder")).network
    network.decoder_blocks = []
    random = np.random.default_rng(0)
    frames = tf.constant(random.integers(0, 256, (2, 4, 84, 84), np.uint8))
    noise = tf.constant(random.random((2, network.cells)), tf.float32)
    before = network(frames, noise)
    network.mask_token.assign(random.normal(size=network.mask_token.shape))
    after = network(frames, noise)
    moved = (before.pixels.numpy() != after.pixels.numpy()).any(axis=1)
    np.testing.assert_array_equal(moved, before.hidden.numpy() == 1)


@pytest.mark.parametrize("method", METHODS)
def test_every_weight_learns_the_spatial_embedding_among_them(method):
    settings = config(method)
    learner = build.build(settings).learner()
    found, _ = gradient.gradients(learner, batch_of(settings))
    variables = learner.parameter_groups[0].variables
    assert len({id(v) for v in variables}) == len(learner.saved["network"].trainable_variables)
    still = [v.name for v, g in zip(variables, found) if not np.abs(g).max() > 0]
    # A key's bias shifts all scores of a query alike: attention doesn't see it.
    assert [name for name in still if "key/bias" not in name] == []


def test_an_episodes_end_is_no_successor():
    settings = config("contrastive")
    learner, batch = build.build(settings).learner(), batch_of(settings)
    ended = batch._replace(discounts=tf.concat([[0.0], batch.discounts[1:]], axis=0))
    before = learner.loss(ended)
    assert float(before["loss/total"][0]) == 0
    frames = tf.concat([255 - ended.frames[:1], ended.frames[1:]], axis=0)
    np.testing.assert_allclose(
        learner.loss(ended._replace(frames=frames))["loss/total"], before["loss/total"], rtol=1e-5
    )


@pytest.mark.slow
def test_contrastive_coding_learns_a_batch_by_heart():
    settings = config("contrastive", "optimizer.learning_rate = 1e-2", "optimizer.epsilon = 1e-8")
    learner, batch = build.build(settings).learner(), batch_of(settings)
    step = tf.function(lambda: gradient.gradient_step(learner, batch).by_game)
    sums = [step() for _ in range(60)]
    assert sum(sums[-1]["accuracy/successor"]) == np.count_nonzero(batch.discounts)
    assert sum(sums[-1]["loss/total"]) < 0.2 * sum(sums[0]["loss/total"])


@pytest.mark.slow
def test_the_masked_autoencoder_learns_a_batch_by_heart():
    settings = config(
        "masked_autoencoder", "optimizer.learning_rate = 3e-3", "optimizer.epsilon = 1e-8",
        "masked_autoencoder.mask_share = 0.5", "masked_autoencoder.width = 64", "feed.draws = 2",
    )  # fmt: skip
    learner, batch = build.build(settings).learner(), batch_of(settings)
    # Two patterns, by turns: any visible cell tells which it is. Who can't tell and puts out their
    # mean has half the variance as its error.
    coarse = np.random.default_rng(0).integers(0, 256, (2, 1, 6, 6), np.uint8)
    pattern = np.tile(coarse.repeat(14, axis=2).repeat(14, axis=3), (2, 1, 1, 1))
    batch = batch._replace(frames=tf.zeros_like(batch.frames) + pattern)
    step = tf.function(lambda: gradient.gradient_step(learner, batch).by_game["error/hidden"])
    errors = [float(sum(step())) / 4 for _ in range(100)]
    assert errors[-1] < 0.25 * np.var(pattern / 255) < errors[0]


@pytest.mark.parametrize("method", [*METHODS, "cloning", "scaled_q", "decision_transformer"])
def test_any_method_may_shift_its_frames(method):
    small = ("transformer.depth = 1", "transformer.width = 64")
    bindings = (method, *small, "augmentation.shift = 4", "augmentation.intensity = 0.05")
    settings = config(*bindings)
    part = shared.ParameterGroup(tf.keras.optimizers.legacy.Adam(), [])
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), np.uint8))
    augment = augmentation.augmenter(settings, part)
    first = augment(frames, 0).numpy()
    assert (first != frames.numpy()).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(first, augment(frames, 0))
    assert (first != augment(frames, 1).numpy()).any()
    part.optimizer.iterations.assign(1)
    assert (first != augment(frames, 0).numpy()).any()
    assert augmentation.augmenter(config(method), part)(frames, 0) is frames
    # The method asks for it: its loss is that of other frames.
    asked = []
    learner = build.build(settings)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(augmentation, "shift", lambda f, seed, pixels: asked.append(pixels) or f)
        reads = learner.reads
        learner = learner.learner()
        if hasattr(reads, "length"):
            open_store = recorded.drawing.dataset(
                tiny.store(settings), recorded.BatchLaw(4, 2), reads, seed=0, start_step=0,
                steps_per_call=1,
            )  # fmt: skip
            batch = next(iter(open_store))
            learner.loss(type(batch)(*(column[0] for column in batch)))
        else:
            learner.loss(batch_of(settings))
    assert set(asked) == {4}


@pytest.mark.parametrize("method", ["contrastive", "scaled_q"])
def test_a_state_and_its_successor_are_shifted_apart(method, monkeypatch):
    """A shift that both share would tell contrastive coding which states belong together."""
    settings, seeds = config(method, "augmentation.shift = 4"), []
    monkeypatch.setattr(
        augmentation, "shift", lambda frames, seed, pixels: seeds.append(seed.numpy()) or frames
    )
    build.build(settings).learner().loss(batch_of(settings))
    state, successor = seeds
    assert (state != successor).any()


def train(settings, directory) -> bool:
    directory.mkdir(exist_ok=True)
    recorded_config.record_config(directory, settings)

    def open_feed(method, step, **options):
        return recorded.open_feed(settings, (), step, reads=method.reads, **options)

    return run.train(settings, open_feed, directory, lambda: False)


@pytest.fixture
def small_store(monkeypatch):
    monkeypatch.setattr(recorded, "_load_store", lambda config, *_: tiny.store(config))
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_is_a_function_of_the_step_and_a_picture_is_drawn(method):
    """What going on bit for bit needs: masks and shifts come from the step and the seed alone."""
    settings = config(method, "augmentation.shift = 4")
    batch, built = batch_of(settings), [build.build(settings) for _ in range(2)]
    losses = []
    for step in (1, 2):
        learners = [method.learner() for method in built]
        for learner in learners:
            learner.parameter_groups[0].optimizer.iterations.assign(step)
        losses.append([learner.loss(batch)["loss/total"].numpy() for learner in learners])
    for one, other in losses:
        np.testing.assert_array_equal(one, other)
    assert (losses[0][0] != losses[1][0]).any()
    ((_, picture),) = built[0].pictures(batch).items()
    assert picture.dtype == np.uint8 and picture.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHODS[0], pytest.param(METHODS[1], marks=pytest.mark.proof)])
def test_a_run_resumes_bit_for_bit_shows_pictures_and_gives_its_encoder(
    method, small_store, tmp_path, caplog
):
    rest = ("optimizer.warmup_steps = 2", "optimizer.cosine = True", "augmentation.shift = 4",
            "optimizer.clip_norm = 0.5", "evaluation.every = 4", "optimizer.beta_2 = 0.95",
            "optimizer.weight_decay = 0.05")  # fmt: skip
    whole = config(method, *rest)
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    stops = iter([False] * 2 + [True] * 100)
    stopped.mkdir()
    recorded_config.record_config(stopped, whole)

    def open_feed(method, step, **options):
        return recorded.open_feed(whole, (), step, reads=method.reads, **options)

    assert not run.train(whole, open_feed, stopped, lambda: next(stops))
    assert 0 < checkpoint.steps(stopped / "checkpoints")[-1] < 8
    assert train(whole, stopped) and train(whole, straight)
    assert "doesn't act" in caplog.text
    weights = []
    for directory in (stopped, straight):
        network = build.build(whole).network
        newest = directory / "checkpoints" / f"{8:010d}"
        checkpoint.restore_network(newest, network)
        weights.append(network.get_weights())
    for a, b in zip(*weights):
        np.testing.assert_array_equal(a, b)

    name = {"contrastive": "nearest_neighbours", "masked_autoencoder": "reconstructions"}[method]
    pictures = sorted(path.name for path in (straight / "pictures").iterdir())
    assert pictures == [f"{name}_{step:010d}.png" for step in (4, 8)]
    picture = tf.io.decode_png((straight / "pictures" / pictures[0]).read_bytes()).numpy()
    assert picture.shape[0] % 84 == 0 and picture.std() > 0
    assert not (straight / "scores.json").exists()
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert "loss/total/Freeway" in lines[0]

    with pytest.raises(UserError, match=r"doesn't act; start another run from its encoder"):
        load.load(straight)
    # Its encoder, and nothing else, goes to Q-learning of another game.
    later = tiny.config("data.games = ('Pong',)", f"start.encoder_from = '{straight}'")
    begun = build.build(later)
    (tmp_path / "later").mkdir()
    start.begin(begun, later, tmp_path / "later", tf.distribute.get_strategy().scope)
    for ours, theirs in zip(begun.network.encoder.get_weights(), network.encoder.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_nearest_neighbours_are_those_of_the_least_angle():
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 84, 84), np.uint8)
    features = np.array([[1, 0], [0, 1], [5, 1]], np.float32)
    picture = contrastive.nearest(frames, features)
    assert picture.shape == (3 * 84, 84 + 4 + 2 * 84, 1)
    in_order = picture[::84, [0, 88, 88 + 84], 0].tolist()
    assert in_order == [[0, 2, 1], [1, 2, 0], [2, 0, 1]]


@pytest.mark.parametrize(
    "bindings, words",
    [
        (("contrastive", "feed.discount = 0"), "marks successors that don't exist"),
        (("masked_autoencoder", "masked_autoencoder.heads = 5"), "must be a multiple of"),
    ],
)
def test_what_cannot_be_learned_is_refused(bindings, words):
    with pytest.raises(UserError, match=words):
        build.build(config(*bindings))
