"""What the command files share: flags, exit codes, and a user's mistake as a plain message."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from cql_atari.core.types import UserError
from cql_atari.system import signals

EXIT_USER_ERROR = 2
EXIT_CTRL_C = 130  # as shells count: 128 + SIGINT
EXIT_NO_READER = 141  # 128 + SIGPIPE
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRONG_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR,
               errno.EISDIR, errno.ELOOP)  # fmt: skip


def run(main: Callable[[list[str]], int | None], *, takes_arguments: bool = False) -> None:
    """Parses flags, runs `main` and exits with its code; 2 and one message for a `UserError`, 130
    for an interruption that `main` lets through or a second signal, 141 where the reader of its
    output has left.

    Commands define their flags just before they call this, not when they are imported: several of
    them may be imported in one process.

    Args:
      main: takes the program's name and the arguments that are no flags.
      takes_arguments: whether there may be such arguments.
    """

    def guarded(argv: list[str]) -> int | None:
        try:
            if len(argv) > 1 and not takes_arguments:
                raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
            code = main(argv)
            sys.stdout.flush()  # here, where a reader that is gone is noticed
            return code
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:  # before there was anything to save
            print("interrupted", file=sys.stderr)
            return EXIT_CTRL_C
        except signals.EndNow:
            print("ended at once by a second signal; what was saved before is kept.",
                  file=sys.stderr)  # fmt: skip
            return EXIT_CTRL_C
        except OSError as error:
            if _has_no_reader():  # `| head`; whatever is left to print goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return EXIT_NO_READER
            if error.errno in _FULL:
                advice = "free some space and run the same command"
            elif error.errno in _WRONG_PATH and error.filename:
                advice = "correct the path or its permissions"
            else:
                raise
            print(f"error: {error}; {advice}.", file=sys.stderr)
        return EXIT_USER_ERROR

    # TensorFlow's start-up chatter and gym's farewell (TF-Agents imports it) would bury our output.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.suppress(ImportError):
        from gym_notices import notices

        notices.notices.clear()
    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags. Without any argument the command says what it is for."""
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # absl has shown the help that was asked for, which is no error
        sys.exit(0)
    except flags.Error as error:
        missing = re.findall(r"Flag --(\w+) must have a value", str(error))
        message = f"give --{' and --'.join(missing)}" if missing else str(error)
        usage = f"{(sys.modules['__main__'].__doc__ or '').strip()}\n\n" if len(argv) == 1 else ""
        print(f"{usage}error: {message.rstrip('.')}. --help lists all flags.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def named_folder(flag: str) -> Path:
    """The folder that a flag names.

    Raises:
      UserError: where it is empty (a shell's variable that isn't set), or an address: `Path` would
        take it for a folder of this host.
    """
    value = flags.FLAGS[flag].value
    if not value or "://" in value:
        raise UserError(f"--{flag}={value}: give the path of a folder on this host.")
    return Path(value)


def numbers(flag: str) -> list[int]:
    """The whole numbers that a list flag was given.

    Raises:
      UserError: where it has anything else, or one number twice.
    """
    values = flags.FLAGS[flag].value or []
    if not all(value.isdecimal() for value in values) or len(set(values)) < len(values):
        raise UserError(f"--{flag}={','.join(values)} must be different whole numbers, as in 0,1,2")
    return [int(value) for value in values]


def _has_no_reader() -> bool:
    """Whether standard output is a pipe whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(1, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError:
        return False
