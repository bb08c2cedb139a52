"""Fills the settings from gin files and bindings; the only import of gin."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import gin

from cql_atari.core.settings import SECTIONS, Config, tuples
from cql_atari.core.settings_check import check
from cql_atari.core.types import UserError

# Where gin_configs/ is: in a checkout beside the package, in an installed wheel inside it.
_PACKAGE = Path(__file__).resolve().parent
HOME = _PACKAGE.parent if (_PACKAGE.parent / "gin_configs").is_dir() else _PACKAGE


_CONFIGURABLES = {
    name: gin.external_configurable(section, name=name, module="cql_atari")
    for name, section in SECTIONS.items()
}
gin.add_config_file_search_path(str(HOME))


def load(gin_files: Sequence[str] = (), gin_bindings: Sequence[str] = ()) -> Config:
    """Reads gin files, then bindings (later ones win), checks every value and locks gin.

    Raises:
      UserError: for a missing file, a misspelt name or a value that doesn't fit.
    """
    paths = [_find(path) for path in gin_files]
    for path in paths:
        _refuse_imports(path)
    gin.clear_config()
    with gin.unlock_config():
        try:
            gin.parse_config_files_and_bindings(paths, list(gin_bindings), finalize_config=False)
            sections = {name: make() for name, make in _CONFIGURABLES.items()}
            gin.finalize()
        except (ValueError, TypeError, SyntaxError, AttributeError, OSError) as error:
            raise UserError(_explain(str(error))) from error
    return check(Config(**{name: tuples(section) for name, section in sections.items()}))


def _refuse_imports(path: str, above: tuple[str, ...] = ()) -> None:
    """Refuses a file that imports a module, itself or through what it includes: that runs code.

    Raises:
      UserError: for an import, or a file that includes itself.
    """
    if path in above:
        raise UserError(f"gin file {path} includes itself: {' -> '.join([*above, path])}.")
    for number, line in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
        if re.match(r"\s*(import|from)\s", line):
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} would run a module's code; nothing here "
                "needs that. Delete the line, and read a stranger's gin file before you use it."
            )
        if included := re.match(r"""\s*include\s+['"](.+)['"]""", line):
            _refuse_imports(_find(included.group(1)), (*above, path))


def _find(path: str) -> str:
    for base in (Path.cwd(), HOME):
        if (base / path).is_file():
            return str(base / path)
    known = sorted(str(p.relative_to(HOME)) for p in HOME.glob("gin_configs/**/*.gin"))
    near = difflib.get_close_matches(path, known, n=1)
    raise UserError(
        f"no gin file {path!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
        + f" There are: {', '.join(known)}"
    )  # fmt: skip


def _explain(message: str) -> str:
    """gin's message, its first paragraph, with the nearest parameter where a name is misspelt."""
    known = [f"{name}.{f.name}" for name, s in SECTIONS.items() for f in dataclasses.fields(s)]
    first = message.strip().split("\n\n")[0].strip()
    wrong = re.search(r"matching '([\w.]+)'|parameter named '(\w+)'", message)
    hint = ""
    if wrong:
        word = wrong.group(1) or wrong.group(2)
        names = [*known, *SECTIONS] if wrong.group(1) else [k.split(".")[1] for k in known]
        near = list(dict.fromkeys(difflib.get_close_matches(word, names, n=3, cutoff=0.4)))
        hint = f" Did you mean {' or '.join(near)}?" if near else f" There are: {', '.join(known)}."
    return f"gin: {first}{hint}"
