"""Plain text for people."""

from __future__ import annotations

import difflib
from collections.abc import Container, Sequence


def columns(rows: Sequence[Sequence[str]], left: Container[int]) -> str:
    """Rows of cells as aligned columns: those in `left` begin at the left, the others end right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        "  ".join(
            cell.ljust(width) if nth in left else cell.rjust(width)
            for nth, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def shorten(words: str, longest: int = 60) -> str:
    """The words, cut after so many characters where they are longer."""
    return words if len(words) <= longest else f"{words[:longest]}..."


def differences(old: str, new: str, old_name: str, new_name: str) -> list[str]:
    """The lines in which two texts differ, marked by - and +; none where they are equal."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), old_name, new_name, lineterm="", n=0
    )
    return [line for line in lines if not line.startswith("@@")]
