"""`cql-atari train ...` is `python -m cql_atari.train ...`; the same for every command and tool."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
EXIT_USER_ERROR = 2  # as system/cli.py, which --help must do without: it needs what pip installs
USAGE = "usage: cql-atari COMMAND [--flags]; python -m cql_atari[.tools].COMMAND does the same\n"


def commands() -> dict[str, str]:
    """The module of each command: all files with a main block."""
    found = {}
    for path in [*HERE.glob("*.py"), *HERE.glob("tools/*.py")]:
        if path != Path(__file__) and '__name__ == "__main__"' in path.read_text():
            parts = path.relative_to(HERE.parent).with_suffix("").parts
            found[path.stem] = ".".join(parts)
    return dict(sorted(found.items()))


def main() -> None:
    known = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(USAGE + "commands: " + ", ".join(known))
        return
    if name not in known:
        print(f"error: no command {name!r}; there are {', '.join(known)}.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    del sys.argv[1]
    runpy.run_module(known[name], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
