"""Episodes as videos: the right episode, all of it, readable again, quickly."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import processes
import pytest
import tiny
from PIL import Image

import cql_atari
from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.envs.atari import AtariEnv
from cql_atari.evaluation import picture, rollout, video, watching
from cql_atari.methods import build

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests" / "golden" / "run" / "c51"


def watch(method, game: str, position: int, *, steps: int, epsilon: float = 0.0, seed: int = 3):
    env = AtariEnv(game, seed=seed, sticky=0.25, max_frames=4 * steps, colour=True)
    return list(watching.episode(env, method.watch(), game, position, epsilon=epsilon, seed=seed))


def command(*flags: str) -> subprocess.CompletedProcess:
    return processes.run([sys.executable, "-m", "cql_atari.play", RUN, *flags])


@pytest.mark.slow
def test_the_command_writes_the_episode(tmp_path):
    out = tmp_path / "new" / "episode.mp4"
    ended = command("--game=Freeway", f"--out={out}", "--max_steps=40")
    assert ended.returncode == 0, ended.stderr
    assert f"wrote {out}: Freeway, 40 steps, score 0, cut here" in ended.stdout
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    with av.open(str(out)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 15
    assert len(pictures) == 40 + 1 + 15  # every step, the end, and the end for a second
    # The game at the left in colour, the grey input beside it.
    assert np.ptp(pictures[10][60:440, 20:330].astype(int), axis=2).max() > 60
    assert np.ptp(pictures[10][60:200, 360:500].astype(int), axis=2).max() < 40


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--out=x.avi"], "must end in .mp4 or .gif"),
        (["--out=x.mp4", "--game=Pong"], "--game=Pong: the run has Breakout, Freeway."),
    ],
)
def test_a_mistake_is_told_in_one_message(flags, said):
    ended = command(*flags)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert said in ended.stderr


@pytest.mark.slow
def test_it_is_the_episode_that_an_evaluation_plays():
    run = cql_atari.load(RUN)
    (score,) = rollout.play(
        run.act(), [rollout.GameVariant(game) for game in run.config.data.games][:1], episodes=1,
        envs_per_game=1, epsilon=0.3, sticky=0.25, seed=3, max_frames=4 * 120, progress=False,
    )  # fmt: skip
    scenes = watch(run.method, "Breakout", 0, steps=120, epsilon=0.3)
    assert len(scenes) == 121 == score.length + 1
    done = np.bincount([scene.action for scene in scenes[:-1]], minlength=18)
    assert tuple(done) == score.action_counts
    assert scenes[-1].score == score.score and scenes[-1].end == "cut here"
    assert 10 < sum(scene.random for scene in scenes) < 70


def test_the_score_is_the_sum_of_raw_rewards():
    class Env:
        screen = np.zeros((210, 160, 3), np.uint8)

        def __init__(self):
            self.rewards = [20.0, -3.0, 0.0]

        def reset(self):
            return np.zeros((84, 84), np.uint8)

        def step(self, action):
            reward = self.rewards.pop(0)
            return np.zeros((84, 84), np.uint8), reward, not self.rewards, False

    scenes = list(
        watching.episode(
            Env(), lambda seen: {"scores": np.zeros((1, 18))}, "Pong", 0, epsilon=0.0, seed=0
        )
    )
    assert [scene.score for scene in scenes] == [0, 20, 17, 17]
    assert [scene.end for scene in scenes] == ["", "", "", "game over"]


def test_the_colour_screen_is_what_the_frame_is_made_of():
    env = AtariEnv("Freeway", seed=0, colour=True)
    env.reset()
    for _ in range(5):
        frame = env.step(2)[0]
    assert env.screen.shape == (210, 160, 3)
    # ALE's grey is a weighted sum of its colours; averaged over the picture they go together.
    grey = np.asarray(Image.fromarray(env.screen).convert("L").resize((84, 84), Image.BOX))
    assert np.corrcoef(grey.ravel(), frame.ravel())[0, 1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scaled_q", "cloning", "decision_transformer"])
def test_every_method_is_drawn(method):
    config = tiny.config(
        "data.games = ('Freeway', 'Seaquest')", f"train.method = '{method}'",
        "transformer.depth = 1", "transformer.width = 64",
    )  # fmt: skip
    made = build.build(config)
    scenes = watch(made, "Seaquest", 1, steps=6)
    draw = picture.painter("Seaquest", games.spec("Seaquest").actions, made.support)
    first, *_, last = [draw(scene) for scene in scenes]
    assert first.shape == last.shape == (476, 960, 3) and first.dtype == np.uint8
    # The chosen action's name and bar, and nothing else on the right, are orange.
    orange = (abs(first[40:, 540:].astype(int) - (230, 159, 0)).sum(-1) < 30).any(1)
    row = games.spec("Seaquest").actions.index(scenes[0].action)
    assert orange.any() and set(np.flatnonzero(orange) // (396 // 18)) == {row}
    has_returns = "returns" in scenes[0].said
    assert has_returns == (method == "decision_transformer")


def test_drawing_takes_milliseconds():
    made = build.build(tiny.config("data.games = ('Seaquest',)"))
    scene = watch(made, "Seaquest", 0, steps=1)[0]
    draw = picture.painter("Seaquest", games.spec("Seaquest").actions, made.support)
    times = []
    for _ in range(10):
        start = time.process_time()
        draw(scene)
        times.append(time.process_time() - start)
    assert min(times) < 0.05  # of the processor's; a figure of matplotlib takes more


def test_a_gif_has_every_picture_that_differs(tmp_path):
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (8, 10, 3), np.uint8) for _ in range(5)]
    video.write(tmp_path / "a.gif", pictures, 15)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 5 and image.size == (10, 8)


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    def pictures():
        yield np.zeros((8, 10, 3), np.uint8)
        raise UserError("the play stops here")

    for name in ("a.mp4", "a.gif"):
        with pytest.raises(UserError, match="the play stops here"):
            video.write(tmp_path / name, pictures(), 15)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't write"):
        video.write(tmp_path / "file" / "a.mp4", pictures(), 15)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
