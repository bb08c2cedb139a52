"""What the command files share: a user's mistake is a plain message, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable

from absl import app

from cql_atari.core.types import UserError

EXIT_USER_ERROR = 2
EXIT_CTRL_C = 130  # as shells count: 128 + SIGINT


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses flags, runs `main` and exits with its code; 2 and one message for a `UserError`, 130
    for an interruption that `main` lets through.
    """

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:  # before there was anything to save, or a second one
            print("interrupted", file=sys.stderr)
            return EXIT_CTRL_C
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            print(f"error: {error}; free some space and run the same command.", file=sys.stderr)
        return EXIT_USER_ERROR

    # TensorFlow's start-up chatter and gym's farewell (TF-Agents imports it) would bury our output.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.suppress(ImportError):
        from gym_notices import notices

        notices.notices.clear()
    app.run(guarded)
