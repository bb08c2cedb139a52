"""The configuration in a run's folder: written at its start, read to evaluate or to transfer."""

from __future__ import annotations

import json
from pathlib import Path

from cql_atari.core import settings
from cql_atari.core.settings_check import from_json
from cql_atari.core.types import UserError
from cql_atari.runs import folder
from cql_atari.system import files
from cql_atari.system.text import differences


def record_config(workdir: Path, config: settings.Config, accept_change: bool) -> None:
    """Writes config.gin (to read) and config.json (for evaluation) at the start of a run.

    Raises:
      UserError: where the run there began with another configuration; shows the difference.
    """
    path, text = workdir / folder.CONFIG_GIN, settings.to_gin(config)
    changed = folder.has_begun(workdir) and path.exists() and path.read_text() != text
    if changed and not accept_change:
        changes = differences(path.read_text(), text, "recorded", "asked for")
        raise UserError(
            "\n".join([f"--workdir {workdir} was made with another configuration:", *changes])
            + "\nChoose another --workdir, or go on with the new one by --accept_config_change."
        )
    for name, content in (
        (folder.CONFIG_GIN, text),
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
