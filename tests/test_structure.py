"""The house's own rules: imports go one way, every module imports, gin stays in one file."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path

import pytest

import cql_atari

ROOT = Path(cql_atari.__file__).parent
MODULES = sorted(
    ".".join(("cql_atari", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
)
# Floors from the ground up; a module may import from its own floor and those below.
DOORS = {"__main__", "collect", "evaluate", "export", "play", "report", "train"}
FLOORS = (
    {"core", "system"},
    {"networks", "data", "envs"},
    {"methods", "feed", "evaluation", "runs"},
    {"training", "recording", "tools"},
    {"config"},
    DOORS,
)
LONGEST_CHAIN = 8  # of imports, in files


def floor(module: str) -> int:
    room = module.split(".")[1]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@functools.cache
def imports(module: str) -> set[str]:
    """The package's modules that this one imports anywhere, for types too."""
    tree = ast.parse((ROOT.parent / (module.replace(".", "/") + ".py")).read_text())
    return names_in(tree) & set(MODULES)


def names_in(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def chain(module: str, above: tuple[str, ...] = ()) -> int:
    """Files in the longest chain of imports that begins here."""
    assert module not in above, " -> ".join([*above, module])
    return 1 + max((chain(other, (*above, module)) for other in imports(module)), default=0)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_is_for(module):
    assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for other in imports(module) - {"cql_atari.config"}:
        assert floor(other) <= floor(module), f"{module} imports {other}"


def test_gin_is_imported_in_one_file_only():
    trees = {
        m: ast.parse((ROOT.parent / (m.replace(".", "/") + ".py")).read_text()) for m in MODULES
    }
    users = {
        m for m, tree in trees.items() if any(n.split(".")[0] == "gin" for n in names_in(tree))
    }
    assert users == {"cql_atari.config"}


def test_only_doors_and_tools_read_gin_files():
    users = {m.split(".")[1] for m in MODULES if "cql_atari.config" in imports(m)}
    assert users <= DOORS | {"tools"}


def test_no_circle_and_no_long_chain():
    longest = max(MODULES, key=chain)
    assert chain(longest) <= LONGEST_CHAIN, longest


def test_every_room_has_its_floor():
    assert {module.split(".")[1] for module in MODULES} <= set().union(*FLOORS)
