"""What players are called in reports."""

from __future__ import annotations

from collections.abc import Iterable

AGENT, RANDOM, FIXED, DATA, CLONING = "agent", "random", "best_fixed", "data", "cloning"
HUMAN = "human"  # the reference score; no play of ours
ORDER = (RANDOM, FIXED, DATA, CLONING)  # others, the agents, follow
_TITLES = {FIXED: "best fixed action", DATA: "data's mean"}


def agents_of(players: Iterable[str]) -> list[str]:
    """The labels that are neither baseline nor data, or else the last label there is."""
    labels = list(players)
    return [label for label in labels if rank(label) == len(ORDER)] or labels[-1:]


def kind(label: str) -> str:
    """`cloning` for `cloning (folder)`."""
    return label.partition(" (")[0]


def rank(label: str) -> int:
    """Position in ORDER; agents last."""
    return ORDER.index(kind(label)) if kind(label) in ORDER else len(ORDER)


def title(label: str) -> str:
    """As people read it: "best fixed action" for `best_fixed`, "cloning (best ten percent)".

    A path or a setting (`loss.cql_alpha=0.01`) keeps its name.
    """
    who = kind(label)
    place = label[len(who) :]
    shown = place if set("/.") & set(place) else place.replace("_", " ")
    return _TITLES.get(who, who).replace("_", " ") + shown
