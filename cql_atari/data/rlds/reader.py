"""Reads DQN-Replay as RLDS, prepared by TensorFlow Datasets (4.9.10), as episodes, streaming.

A data set is the folder `<dir>/rlu_atari_checkpoints_ordered/<Game>_run_<run>/<version>` (or
`rlu_atari_checkpoints/...`), local or at a `gs://` address: `dataset_info.json` names the splits
`checkpoint_KK` (suffix K) and the lengths of their TFRecord shards; a record is an episode. Records
come in the files' order, which is the order of time in `rlu_atari_checkpoints_ordered` only. How a
record becomes an `Episode`:

* RLDS defines only the last step's observation (`is_last`), not its action and reward. If that step
  is terminal, its frame is the one after the game's end, which `Episode` doesn't hold: the step is
  dropped. If not (the recording was cut), the frame stays as the successor of the step before; its
  action and reward are set to 0, and no transition uses them.
* An episode starts at the game's start unless `is_first` is False there (`tools.convert` writes
  that for the fragments at the edges of `.gz` files; TensorFlow Datasets sets it for every first
  step). If a game were cut between two splits, its parts would not be joined.
* A record of a single, terminal step has no transition and is passed over.

A folder that `tools.convert` made holds `conversion.json` too, with its episodes' extents.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from cql_atari.core import games
from cql_atari.core.types import Episode, Extent
from cql_atari.data import conversion
from cql_atari.data.rlds.files import keep, kept_records, list_shards
from cql_atari.data.rlds.records import episodes_of, extents_of, parse
from cql_atari.data.shared import PathLike, Ranges

_THREADS = 2  # that decode frames


def read_suffix(
    path: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> Iterator[Episode]:
    """Streams the episodes of one split in the files' order.

    Memory: one record and one episode (at most 27,003 steps = 191 MB; a longer one is cut there and
    goes on as a fragment) beside those that the caller holds; never a whole shard.

    Args:
      path: the data set's folder or address, version included.
      game: CamelCase name; its minimal action set maps stored actions to the full 18.
      suffix: K of the split.
      fraction: the share of the split's episodes, from the first one on (0 < fraction <= 1).
      gaps: positions of episodes to pass over unread, each [start, stop).

    Raises:
      UserError: naming file and record: a missing or damaged file; one that holds another number
        of records; a record that is no episode of the game; a reward that is NaN or outside
        [-1, 1]; an action outside the game's set; a frame that isn't an 8-bit grey PNG of 84 x 84;
        an episode that `conversion.json` describes otherwise.
    """
    lookup = games.to_full_actions(game)
    shards = list_shards(path, game, suffix)
    kept = keep(shards, fraction, gaps)
    noted = conversion.noted_extents(path, suffix, len(kept))
    with ThreadPoolExecutor(_THREADS) as pool:
        for position, where, data in kept_records(shards, kept):
            check = functools.partial(
                conversion.check_extents, path, where, noted[position]
            ) if noted else None  # fmt: skip
            yield from episodes_of(data, where, game, lookup, pool, check=check)


def survey(
    path: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> list[Extent] | None:
    """The extents of the episodes that `read_suffix` yields, without reading the split.

    Milliseconds where `conversion.json` has them; None where it doesn't (`count` reads the split).
    For arguments see `read_suffix`.

    Raises:
      UserError: as `read_suffix`, as far as the JSON files show it.
    """
    kept = keep(list_shards(path, game, suffix), fraction, gaps)
    noted = conversion.noted_extents(path, suffix, len(kept))
    return None if noted is None else [*itertools.compress(noted, kept)]


def count(
    path: PathLike, game: str, suffix: int, fraction: float = 1.0, gaps: Ranges = ()
) -> list[Extent]:
    """The extents of the episodes that `read_suffix` yields, by reading the split.

    Checks everything but the frames, which aren't decoded. For arguments and errors
    see `read_suffix`.
    """
    num_actions = len(games.to_full_actions(game))
    shards = list_shards(path, game, suffix)
    return [
        extent
        for _, where, data in kept_records(shards, keep(shards, fraction, gaps))
        for extent in extents_of(parse(data, where, num_actions))
    ]
