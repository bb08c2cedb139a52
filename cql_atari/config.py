"""Fills the settings from gin files and bindings; the only import of gin."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
from absl import logging
from gin import config_parser

from cql_atari.core.settings import SECTIONS, Config, by_name, tuples
from cql_atari.core.settings_check import check
from cql_atari.core.types import UserError
from cql_atari.system.text import shorten

# Where gin_configs/ is: in a checkout beside the package, in an installed wheel inside it.
_PACKAGE = Path(__file__).resolve().parent
HOME = _PACKAGE.parent if (_PACKAGE.parent / "gin_configs").is_dir() else _PACKAGE


_CONFIGURABLES = {
    name: gin.external_configurable(section, name=name, module="cql_atari")
    for name, section in SECTIONS.items()
}
_COMMAND_LINE = "--gin_bindings"
_MOST_FILES = 100  # that one gin file may include, counted each time
_MISTAKES = (
    ValueError, TypeError, SyntaxError, AttributeError, OSError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip


class Binding(NamedTuple):
    """One line `name = value` of a file or of --gin_bindings.

    Attributes:
      name: "section.parameter", or a macro's name.
      value: as written, with `_Macro` in place of %NAME.
      given: the gin file, as the user named it, that has it or includes it; or "--gin_bindings".
      place: the file and line where it stands; or "--gin_bindings".
    """

    name: str
    value: Any
    given: str
    place: str


@dataclasses.dataclass(frozen=True)
class _Macro:
    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


class _AsWritten(config_parser.ParserDelegate):
    """Keeps macros as they are written, and refuses references to functions."""

    def configurable_reference(self, name: str, evaluate: bool) -> None:
        raise ValueError(f"@{name} refers to a function; only values can be set.")

    def macro(self, name: str) -> _Macro:
        return _Macro(name)


def load(gin_files: Sequence[str] = (), gin_bindings: Sequence[str] = ()) -> Config:
    """Reads gin files, then bindings (later ones win), checks every value and locks gin.

    A file that undoes what an earlier one set is reported on stderr; see `undone`.

    Raises:
      UserError: for a missing file, one that imports a module or includes itself, a misspelt name,
        a macro that nothing uses, or a value that doesn't fit.
    """
    bindings = read(gin_files, gin_bindings)
    _check_macros(bindings)
    for line in undone(bindings):
        logging.warning("%s", line)
    values = {binding.name: binding.value for binding in bindings}
    gin.clear_config()
    # Not gin.parse_config_files: it looks for an included file among Python's packages as well.
    with gin.unlock_config():
        for binding in bindings:
            if "." not in binding.name:  # a macro
                continue
            try:
                gin.bind_parameter(binding.name, _resolved(binding.value, values))
            except _MISTAKES as error:
                raise UserError(f"{binding.place}: {_explain(error)}") from error
        sections = {name: make() for name, make in _CONFIGURABLES.items()}
        gin.finalize()
    return check(Config(**{name: tuples(section) for name, section in sections.items()}))


def read(gin_files: Sequence[str] = (), gin_bindings: Sequence[str] = ()) -> list[Binding]:
    """All bindings in order; of the same name the last one wins. Executes nothing.

    Raises:
      UserError: for a file that is missing, can't be parsed, includes itself or imports a module.
    """
    found = [binding for path in gin_files for binding in _read_file(_find(path), path)]
    for text in gin_bindings:
        found += _read_binding(text)
    return found


def undone(bindings: Sequence[Binding]) -> list[str]:
    """Sentences about values that a file changes although an earlier file had set them, too.

    The first file is the base, which later files may change, but no file should undo such a change.
    `--gin_bindings` may change anything.
    """
    defaults = by_name(Config())
    first = bindings[0].given if bindings else ""
    history: dict[str, list[tuple[str, Any]]] = {}
    for binding in bindings:
        if binding.name not in defaults or binding.given == _COMMAND_LINE:
            continue
        states = history.setdefault(binding.name, [("the default", defaults[binding.name])])
        if states[-1][0] == binding.given:  # what a file includes is one with it
            states.pop()
        states.append((binding.given, binding.value))
    return [
        f"{name} = {shorten(repr(new))} ({file}) replaces {shorten(repr(old))} ({earlier}); if the "
        "earlier value should hold, give its file later."
        for name, states in history.items()
        for (_, before), (earlier, old), (file, new) in zip(states, states[1:], states[2:])
        if new != old and (earlier != first or new == before)
    ]


def annotated(config: Config, loaded: Config, bindings: Sequence[Binding]) -> str:
    """The configuration as gin text, which `load` reads back. A comment on each line says where the
    value was set and, if gin_configs/multigame.gin has another one, which.

    Args:
      config: the configuration to show.
      loaded: the result of `load`; where `config` differs from it, a value follows from others.
      bindings: the result of `read`.
    """
    values, given, paper = by_name(config), by_name(loaded), by_name(Config())
    places = {binding.name: binding.place for binding in bindings}
    lines = []
    for name, value in values.items():
        source = places.get(name, "default") if value == given[name] else "follows from others"
        differs = "" if value == paper[name] else f"; multigame.gin: {shorten(repr(paper[name]))}"
        lines.append(f"{name} = {value!r}  # {source}{differs}\n")
    return "".join(lines)


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """A value with each macro replaced by its value; the last binding of a macro counts."""
    if isinstance(value, _Macro):
        if value.name not in values:
            raise ValueError(f"{value} has no value; bind {value.name} = ... as well.")
        if _macros(found := values[value.name]):  # no loop, and no growth without end
            raise ValueError(f"{value.name} = {found!r}: a macro can't refer to another one.")
        return found
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, values) for item in value)
    return value


def _check_macros(bindings: Sequence[Binding]) -> None:
    """Refuses a macro that no value uses: most often a parameter without its section."""
    used = {name for binding in bindings for name in _macros(binding.value)}
    for name, value, _, place in bindings:
        if "." not in name and name not in used:
            near = [known for known in by_name(Config()) if known.endswith(f".{name}")]
            macros = ", ".join(sorted(used)) or "none"
            hint = f"Write section.parameter = value; macros in use: {macros}."
            hint = f"Did you mean {' or '.join(near)}?" if near else hint
            raise UserError(f"{place}: {name} = {shorten(repr(value))} sets nothing. {hint}")


def _macros(value: Any) -> set[str]:
    """Names of the macros in a value."""
    if isinstance(value, (list, tuple)):
        return set().union(*map(_macros, value))
    return {value.name} if isinstance(value, _Macro) else set()


def _read_file(
    path: str, given: str, above: tuple[str, ...] = (), read: list[str] | None = None
) -> Iterator[Binding]:
    """The bindings of a file; an `include` is replaced by the bindings of the file that it names.

    Args:
      path: where the file is.
      given: the file that the user named.
      above: the files that include this one, the outermost first.
      read: every file that was read for the one the user named; grows.
    """
    read = [] if read is None else read
    read.append(path)
    if len(read) > _MOST_FILES:  # files that include one another twice are read 2^depth times
        raise UserError(
            f"gin file {given} includes more than {_MOST_FILES} files, {path} among them."
        )
    real = str(Path(path).resolve())
    if real in above:
        raise UserError(f"gin file {path} includes itself: {' -> '.join([*above, real])}.")
    shown = str(Path(real).relative_to(HOME)) if Path(real).is_relative_to(HOME) else path
    try:
        text = Path(path).read_text()
        for statement in config_parser.ConfigParser(text, _AsWritten()):
            place = f"{shown}, line {statement.location.line_num}"
            if isinstance(statement, config_parser.IncludeStatement):
                yield from _read_file(_find(statement.filename), given, (*above, real), read)
            elif isinstance(statement, config_parser.ImportStatement):
                raise _refused(place, statement)
            elif isinstance(statement, config_parser.BindingStatement):
                yield Binding(_name(statement, place), statement.value, given, place)
    except _MISTAKES as error:
        raise UserError(f"gin file {shown}: {_explain(error)}") from error


def _read_binding(text: str) -> Iterator[Binding]:
    try:
        for statement in config_parser.ConfigParser(text, _AsWritten()):
            if isinstance(statement, config_parser.ImportStatement):
                raise _refused(_COMMAND_LINE, statement)
            if not isinstance(statement, config_parser.BindingStatement):
                raise UserError(f"{_COMMAND_LINE}={text!r}: give section.parameter = value.")
            name = _name(statement, _COMMAND_LINE)
            yield Binding(name, statement.value, _COMMAND_LINE, _COMMAND_LINE)
    except _MISTAKES as error:
        name, equals, value = (part.strip() for part in text.partition("="))
        advice = f"Text needs quotes: {_COMMAND_LINE}=\"{name} = '{value}'\"."
        if not equals:
            advice = "Give section.parameter = value."
        elif value.lower() in ("true", "false", "none"):
            advice = f"Write {name} = {value.capitalize()}."
        elif not re.match(r"[\w~./-]+$", value):
            advice = ""
        message = f"{_COMMAND_LINE}={text!r}: {_explain(error)} {advice}"
        raise UserError(message.rstrip()) from error


def _name(statement: config_parser.BindingStatement, place: str) -> str:
    """ "section.parameter", or a macro's name, which has no parameter."""
    if statement.scope and statement.arg_name:
        raise UserError(
            f"{place}: {statement.scope}/{statement.selector}.{statement.arg_name} has a scope, "
            f"which nothing here reads; delete {statement.scope + '/'!r}."
        )
    section = statement.selector.removeprefix("cql_atari.")
    return f"{section}.{statement.arg_name}" if statement.arg_name else section


def _refused(place: str, statement: config_parser.ImportStatement) -> UserError:
    return UserError(
        f"{place}: {statement.format()!r} would run a module's code; nothing here needs that. "
        "Delete the line; read gin files of others before you use them."
    )


def _find(path: str) -> str:
    for base in (Path.cwd(), HOME):
        if (base / path).is_file():
            return str(base / path)
    known = sorted(str(p.relative_to(HOME)) for p in HOME.glob("gin_configs/**/*.gin"))
    if "," in path:
        raise UserError(
            f"no gin file {path!r}; repeat the flag for several: --gin_files=A --gin_files=B"
        )
    near = difflib.get_close_matches(path, known, n=1)
    raise UserError(
        f"no gin file {path!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
        + f" There are: {', '.join(known)}"
    )  # fmt: skip


def _explain(error: BaseException) -> str:
    """gin's message, its first line, with the nearest parameter where a name is misspelt."""
    if isinstance(error, (RecursionError, MemoryError)):
        return "gin: brackets are nested too deeply."
    if isinstance(error, tokenize.TokenError):
        return "gin: a bracket or a quote isn't closed."
    known = list(by_name(Config()))
    first = str(error).strip().splitlines()[0]
    if isinstance(error, SyntaxError):
        location = error.args[1] if len(error.args) > 1 else None
        line = f" in line {location[1]}, {location[3].strip()!r}" if location else ""
        message = str(error.args[0]).strip().splitlines()[0].rstrip(".")
        first = f"{re.sub('^malformed node.*', 'Unable to parse value', message)}{line}."
    wrong = re.search(r"matching '([\w.]+)'|parameter named '(\w+)'", first)
    hint = ""
    if wrong:
        if word := wrong.group(1):
            near = difflib.get_close_matches(word, [*known, *SECTIONS], n=3, cutoff=0.4)
        else:
            near, known = _near_parameters(first, wrong.group(2), known)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" There are: {', '.join(known)}."
    return f"gin: {first}{hint}"


def _near_parameters(message: str, word: str, known: list[str]) -> tuple[list[str], list[str]]:
    """The full names of parameters like the word, those of the message's section first; and all
    that may be meant.
    """
    section = re.search(r"Configurable '(\w+)'", message)
    own = [name for name in known if section and name.startswith(f"{section[1]}.")]
    last = {name.split(".")[1] for name in known}
    words = difflib.get_close_matches(word, sorted(last), n=3, cutoff=0.6)
    near = [name for part in words for name in known if name.split(".")[1] == part]
    return sorted(near, key=lambda name: name not in own)[:3], own or known
