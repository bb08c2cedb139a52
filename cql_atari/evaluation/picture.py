"""Draws a step of an episode: the game, the network's input, and its output for every action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cql_atari.core.games import ACTION_NAMES
from cql_atari.core.types import FRAME_SHAPE
from cql_atari.evaluation.watching import Scene

Colour = tuple[int, int, int]
# Colours that the colour-blind tell apart (Okabe and Ito 2008), on dark.
_GROUND, _TEXT, _QUIET = (18, 20, 26), (232, 232, 232), (128, 134, 148)
_BAR, _CHOSEN, _MEAN = (86, 130, 190), (230, 159, 0), (240, 240, 240)
_ZOOM = 2  # of the game and of the network's input; whole, so that no pixel is blurred
_WIDTH, _TOP, _MARGIN = 960, 40, 16
_MIDDLE, _RIGHT = 352, 540  # left edges of the columns
_BARS, _BARS_END, _VALUES = 652, 884, 892  # of the bars, and the numbers behind them
_BELOW = _TOP + _ZOOM * FRAME_SHAPE[0] + 12  # the network's input
_LEAST = 0.005  # a probability below it doesn't widen the shown part of the support
_HISTORY = _ZOOM * FRAME_SHAPE[1]  # steps of the return tokens shown, a pixel each
_CAPTIONS = {
    "distributions": "return distribution of each action; line: Q-value",
    "probabilities": "probability of each action",
    "q_values": "Q-value of each action; bars: softmax",
    "logits": "logit of each action; bars: probability",
}


class _Label(NamedTuple):
    x: int
    y: int
    text: str
    size: int = 12
    colour: Colour = _TEXT


@dataclass
class _Axes:
    """What the distributions' axes show: atoms from low to high, and the tallest bar."""

    support: np.ndarray
    low: int = 10**6
    high: int = 0
    tallest: float = 1e-6

    def widen(self, shares: np.ndarray) -> None:
        """Makes room for distributions [actions, N]; what was shown stays so."""
        (wide,) = np.nonzero(shares.max(0) > _LEAST)
        self.low = min(self.low, wide.min(initial=shares.shape[1] - 1))
        self.high = max(self.high, wide.max(initial=0))
        self.tallest = max(self.tallest, float(shares.max()))


def painter(
    game: str, actions: Sequence[int], support: np.ndarray | None
) -> Callable[[Scene], np.ndarray]:
    """Makes the function that draws the scenes of one episode, in order.

    Distributions have common axes over actions and over time: they only ever widen.

    Args:
      game: its name.
      actions: the game's own, indices of the full set.
      support: the values that distributions are over; None: there are none.

    Returns:
      Scene -> uint8 [height, 960, 3]; the height follows from the game's screen and is even.
    """
    fonts = {size: ImageFont.load_default(size) for size in (12, 14, 22)}
    axes = None if support is None else _Axes(support)
    returns: list[float] = []

    def draw(scene: Scene) -> np.ndarray:
        height = _TOP + _ZOOM * len(scene.screen) + _MARGIN
        canvas = np.full((height + height % 2, _WIDTH, 3), _GROUND, np.uint8)
        _place(canvas, scene.screen, _MARGIN)
        _place(canvas, np.repeat(scene.frame[..., None], 3, 2), _MIDDLE)
        tall = min(60, (height - _MARGIN - 24 - _TOP) // len(actions))
        tops = {action: _TOP + tall * row for row, action in enumerate(actions)}
        labels = [_Label(_MARGIN, 10, game, 22), *_words(scene)]
        if axes is not None:
            labels += _draw_distributions(canvas, scene, tops, tall, axes)
        else:
            labels += _draw_shares(canvas, scene, tops, tall)
        if "returns" in scene.said:
            returns.append(float(scene.said["returns"]))
            labels += _draw_returns(canvas, returns[-_HISTORY:])
        image = Image.fromarray(canvas)
        pen = ImageDraw.Draw(image)
        for label in labels:
            pen.text((label.x, label.y), label.text, fill=label.colour, font=fonts[label.size])
        return np.asarray(image)

    return draw


def _place(canvas: np.ndarray, picture: np.ndarray, left: int) -> None:
    large = picture.repeat(_ZOOM, 0).repeat(_ZOOM, 1)
    canvas[_TOP : _TOP + large.shape[0], left : left + large.shape[1]] = large


def _words(scene: Scene) -> list[_Label]:
    """The middle column, and what the right one shows."""
    caption = next((text for name, text in _CAPTIONS.items() if name in scene.said), "")
    done = scene.end or ACTION_NAMES[scene.action] + (" (random)" if scene.random else "")
    return [
        _Label(_MIDDLE, 18, "input, 84 x 84", 14, _QUIET),
        _Label(_RIGHT, 18, caption, 14, _QUIET),
        _Label(_MIDDLE, _BELOW, f"score {scene.score:,.0f}", 22),
        _Label(_MIDDLE, _BELOW + 30, f"step {scene.step:,}", 14),
        _Label(_MIDDLE, _BELOW + 52, done, 22, _CHOSEN),
    ]


def _names_and_numbers(
    scene: Scene, tops: dict[int, int], tall: int, values: np.ndarray
) -> list[_Label]:
    labels = []
    for action, top in tops.items():
        colour, y = _colour(action, scene, _TEXT), top + tall // 2 - 8
        labels.append(_Label(_RIGHT, y, ACTION_NAMES[action], 12, colour))
        labels.append(_Label(_VALUES, y, f"{values[action]:8.3f}", 12, colour))
    return labels


def _draw_distributions(
    canvas: np.ndarray, scene: Scene, tops: dict[int, int], tall: int, axes: _Axes
) -> list[_Label]:
    """Bars of every action's distribution on one ground line, with a line at its mean."""
    shares = scene.said["distributions"][list(tops)]
    q_values = next(iter(scene.said.values()))
    axes.widen(shares)
    half = (axes.support[1] - axes.support[0]) / 2
    left, right = axes.support[axes.low] - half, axes.support[axes.high] + half
    room, width = tall - 5, _BARS_END - _BARS
    for (action, top), distribution in zip(tops.items(), shares):
        heights = distribution[axes.low : axes.high + 1] / axes.tallest
        by_pixel = heights[np.arange(width) * len(heights) // width]
        filled = np.arange(room)[::-1, None] < np.round(by_pixel * room)
        rows = slice(top + 2, top + 2 + room)
        canvas[rows, _BARS:_BARS_END][filled] = _colour(action, scene, _BAR)
        canvas[rows.stop, _BARS:_BARS_END] = _QUIET
        mean = int((q_values[action] - left) / (right - left) * width)
        canvas[rows, _BARS + min(max(mean, 0), width - 1)] = _MEAN
    foot = max(tops.values()) + tall + 2
    return [
        *_names_and_numbers(scene, tops, tall, q_values),
        _Label(_BARS, foot, f"{left:.1f}", colour=_QUIET),
        _Label(_BARS_END - 28, foot, f"{right:.1f}", colour=_QUIET),
    ]


def _draw_shares(canvas: np.ndarray, scene: Scene, tops: dict[int, int], tall: int) -> list[_Label]:
    """A bar an action: its probability where the network says one, else the softmax of scores."""
    values = scene.said.get("probabilities", next(iter(scene.said.values())))
    shares = values[list(tops)]
    if "probabilities" not in scene.said:
        shares = np.exp(shares - shares.max())
        shares /= shares.sum()
    for (action, top), share in zip(tops.items(), shares):
        end = _BARS + round(float(share) * (_BARS_END - _BARS))
        canvas[top + 3 : top + tall - 3, _BARS:end] = _colour(action, scene, _BAR)
    return _names_and_numbers(scene, tops, tall, values)


def _draw_returns(canvas: np.ndarray, returns: Sequence[float]) -> list[_Label]:
    """The return tokens of the last steps as a curve, below the words of the middle column."""
    top, room = _BELOW + 110, 80
    low = min(returns)
    high = max(*returns, low + 1)
    canvas[top + room, _MIDDLE : _MIDDLE + _HISTORY] = _QUIET
    for column, value in enumerate(returns):
        row = top + round((room - 2) * (high - value) / (high - low))
        canvas[row : row + 2, _MIDDLE + column] = _CHOSEN
    text = f"return token {returns[-1]:.0f} ({low:.0f} to {high:.0f})"
    return [_Label(_MIDDLE, _BELOW + 84, text, 14)]


def _colour(action: int, scene: Scene, other: Colour) -> Colour:
    return _CHOSEN if action == scene.action and not scene.end else other
