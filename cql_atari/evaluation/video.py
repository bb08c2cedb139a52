"""Pictures one after the other as mp4 (H.264, by PyAV) or GIF (by Pillow)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.system import files

SUFFIXES = (".mp4", ".gif")


def check_path(path: Path) -> None:
    """Raises a UserError where a video can't go to a path."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} must end in {' or '.join(SUFFIXES)}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file's name.")


def write(path: Path, pictures: Iterable[np.ndarray], per_second: int) -> None:
    """Writes a video; it is there whole or not at all.

    Args:
      path: ends in .mp4 or .gif.
      pictures: uint8 [height, width, 3], all of one size, both numbers even; at least one.
      per_second: pictures a second.

    Raises:
      UserError: where it can't be written.
    """
    check_path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_as = _mp4 if path.suffix.lower() == ".mp4" else _gif
            write_as(partial, iter(pictures), per_second)
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _mp4(path: Path, pictures: Iterator[np.ndarray], per_second: int) -> None:
    import av

    first = next(pictures)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=per_second, options={"crf": "20"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in itertools.chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _gif(path: Path, pictures: Iterator[np.ndarray], per_second: int) -> None:
    from PIL import Image

    def quantised(picture: np.ndarray) -> Image.Image:
        fast = Image.Quantize.FASTOCTREE
        return Image.fromarray(picture).quantize(128, fast, dither=Image.Dither.NONE)

    first = quantised(next(pictures))
    first.save(
        path, format="GIF", save_all=True, append_images=map(quantised, pictures),
        duration=round(1000 / per_second), loop=0,
    )  # fmt: skip
