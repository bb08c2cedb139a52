"""The configuration in a run's folder: written at its start, read to evaluate or to transfer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from cql_atari.core import settings
from cql_atari.core.settings_check import from_json
from cql_atari.core.types import UserError
from cql_atari.data.shared import BAD_JSON
from cql_atari.runs import folder
from cql_atari.system import files
from cql_atari.system.text import differences


def check_config(workdir: Path, config: settings.Config, accepted: bool = False) -> None:
    """Raises a UserError where the run there began with another configuration; shows how.

    Also where a new run would begin among the scores of an earlier one.

    Args:
      workdir: the run's folder.
      config: with which it is to go on.
      accepted: whether that may be another one, except for the games: their heads would be others'.
    """
    if not folder.has_begun(workdir):
        if left := [path for step, path in folder.scores_by_step(workdir).items() if step]:
            raise UserError(
                f"{left[-1]} is left of an earlier run, whose checkpoints are gone; reports would "
                "take it for the new one's. Remove that run's files, or choose another --workdir."
            )
        return
    with contextlib.suppress(OSError, *BAD_JSON):  # not `read_config`: it may be an older version's
        games = files.parse_json((workdir / folder.CONFIG).read_bytes())["data"]["games"]
        if accepted and games != list(config.data.games):
            raise UserError(
                f"--workdir {workdir} has heads for {', '.join(games)}, in this order; asked for: "
                f"{', '.join(config.data.games)}. Give it those data.games, or choose another "
                "--workdir (start.encoder_from takes over the encoder)."
            )
    path, text = workdir / folder.CONFIG_GIN, settings.to_gin(config)
    if not accepted and path.exists() and path.read_text() != text:
        changes = differences(path.read_text(), text, "recorded", "asked for")
        raise UserError(
            "\n".join([f"--workdir {workdir} was made with another configuration:", *changes])
            + "\nChoose another --workdir, or go on with the new one by --accept_config_change."
        )


def record_config(workdir: Path, config: settings.Config) -> None:
    """Writes config.gin (to read) and config.json (for evaluation)."""
    for name, content in (
        (folder.CONFIG_GIN, settings.to_gin(config)),
        (folder.CONFIG, json.dumps(settings.to_dict(config), indent=1) + "\n"),
    ):
        files.write_whole(workdir / name, content)


def read_config(workdir: Path) -> settings.Config:
    """The configuration of a recorded run, from its JSON.

    Raises:
      UserError: where there is no configuration, or it doesn't fit this version.
    """
    path = workdir / folder.CONFIG
    if not path.is_file():
        raise UserError(f"{workdir} holds no run (no {folder.CONFIG}); give a train --workdir.")
    return from_json(path.read_bytes(), str(path))
