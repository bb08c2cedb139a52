"""Scaled Q-learning: offline C51 + CQL over many Atari games with one multi-headed network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cql_atari.training.load import Loaded

__version__ = "0.1.0"


def load(run: str | Path, checkpoint: int | None = None) -> Loaded:
    """A trained run or an exported one, ready to act and to be asked for its values.

    It reads JSON and plain arrays only, and executes nothing in the folder: runs of unknown origin
    can be loaded.

    Args:
      run: the folder of a run (`train --workdir`), or one that `export` wrote.
      checkpoint: of which gradient step; None: the newest intact one.

    Returns:
      (act, config, step, method), see `cql_atari.training.load.Loaded`.

    Raises:
      cql_atari.core.types.UserError: where the run or its checkpoints are missing or damaged, its
        weights are not finite, or its method doesn't act.
    """
    from cql_atari.training import load as loading  # TensorFlow takes its seconds only here

    return loading.load(Path(run), checkpoint)
