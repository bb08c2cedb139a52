"""The house's own rules: imports go one way, every module imports, gin stays in one file."""

from __future__ import annotations

import ast
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
# Rooms from the ground up; a module may import from its own floor and those below.
FLOORS = (
    {"types", "installation"},
    {"games"},
    {"config", "config_check"},
    {"losses", "networks", "data", "envs"},
    {"feed", "agent", "evaluation", "workdir", "cluster"},
    {
        *("strategy", "checkpoint", "learner", "logs", "workers", "cli", "manifest", "start"),
        *("collection", "experience"),
    },
    {"experiment"},
    {"online"},
    {
        *("act", "collect", "collect_online", "convert", "doctor", "evaluate", "plan", "readiness"),
        *("report", "serve_replay", "train", "verify"),
    },
)


def floor(module: str) -> int:
    room = module.split(".")[1]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports(module: str) -> set[str]:
    """Modules that this one imports anywhere, save under `if TYPE_CHECKING`."""
    tree = ast.parse((ROOT.parent / (module.replace(".", "/") + ".py")).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_is_for(module):
    assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for other in imports(module) & set(MODULES):
        assert floor(other) <= floor(module), f"{module} imports {other}"


def test_gin_is_imported_in_one_file_only():
    users = {m for m in MODULES if any(i.split(".")[0] == "gin" for i in imports(m))}
    assert users == {"cql_atari.config"}


def test_every_room_has_its_floor():
    assert {module.split(".")[1] for module in MODULES} <= set().union(*FLOORS)
