"""By how much players' scores differ in each game: intervals, corrected tests, and sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core.types import UserError
from cql_atari.evaluation import groups, intervals
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import (
    AGENT,
    CLONING,
    DATA,
    ORDER,
    RANDOM,
    agents_of,
    kind,
    rank,
    title,
)
from cql_atari.evaluation.score_files import Scores, protocol_line
from cql_atari.evaluation.summary import by_variant
from cql_atari.evaluation.tables import Estimate, Table, Value, signed, text

NOTE = (
    "clearly: p < 0.05 by Student's t (by Welch's where single runs are compared), after Holm's "
    "correction for all differences of the sentence. The ± of a difference is its 95 % interval, "
    "uncorrected; over seeds it is paired by seed"
)


def find_player(found: Sequence[Group], name: str) -> str:
    """The name of the group that is called `name`, as groups or as tables have it.

    Raises:
      UserError: nobody is called so.
    """
    names = dict.fromkeys(group.name for group in found if kind(group.name) != DATA)
    for known in names:
        if name in (known, title(known)):
            return known
    raise UserError(f"--player={name}: nobody is called so; choose one of: {', '.join(names)}")


class Difference(NamedTuple):
    """By how much one player's mean score in a game is above another's.

    Attributes:
      game: or variant.
      value: of the means.
      ci95: its interval; None where there is none.
      above: in how many seeds it is above 0, of how many; None for single runs.
      p: two-sided p-value of the hypothesis that it is 0; None where that isn't tested.
      at: the number by which groups are compared, if any.
      clear: whether p is below 0.05 after Holm's correction for all rows of the comparison.
    """

    game: str
    value: float
    ci95: tuple[float, float] | None = None
    above: tuple[int, int] | None = None
    p: float | None = None
    at: float | None = None
    clear: bool = False


class Comparison(NamedTuple):
    """`mine` against `theirs`, names of groups: a row a game, or a game and number."""

    mine: str
    theirs: str
    rows: list[Difference]


def compare(
    found: Sequence[Group], against: str | None = None, player: str = AGENT
) -> list[Comparison]:
    """Compares one player with all others or, where nobody has that name, each agent with the
    baselines and its data. Of several baselines of one kind only those nearest to it in the file
    tree are used. The comparisons with data and cloning come last.

    Args:
      found: as `groups.make`.
      against: as there.
      player: the name of a group.
    """
    names = dict.fromkeys(group.name for group in found if kind(group.name) != DATA)
    rows: dict[tuple[str, str], list[Difference]] = {}
    for name in [player] if player in names else agents_of(names):
        for mine in sorted((g for g in found if g.name == name), key=lambda g: g.at or 0):
            rivals = _rivals(mine, found, against, player)
            for theirs in sorted(rivals, key=lambda g: g.at or 0):
                if groups.means(mine).keys() & groups.means(theirs).keys():
                    of = rows.setdefault((name, theirs.name), [])
                    of += differences(mine, theirs)
    ordered = sorted(
        rows, key=lambda pair: (kind(pair[1]) in (DATA, CLONING), rank(pair[1]), pair[1] == CLONING)
    )
    return [Comparison(*pair, _corrected(rows[pair])) for pair in ordered]


def _rivals(mine: Group, found: Sequence[Group], against: str | None, player: str) -> list[Group]:
    others = [
        group for group in found
        if group.name != mine.name and (None in (group.at, mine.at) or group.at == mine.at)
        if mine.name == player or rank(group.name) < rank(mine.name)
    ]  # fmt: skip
    here = groups.place(mine, against)
    nearest: dict[str, int] = {}  # kind of player -> parts of its path that are the same, at most
    shared = []
    for group in others:
        pairs = zip(here, groups.place(group, against))
        shared.append(len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))))
        nearest[kind(group.name)] = max(nearest.get(kind(group.name), 0), shared[-1])
    return [
        group
        for group, parts in zip(others, shared)
        if rank(group.name) == len(ORDER) or parts == nearest[kind(group.name)]
    ]


def differences(mine: Group, theirs: Group) -> list[Difference]:
    """The difference in every game that both have played.

    It is computed over the seeds that both have, paired by seed; a player without a seed is paired
    with every seed. Two single runs are compared over their episodes, by Welch's t.
    """
    if len(mine.players) == len(theirs.players) == 1:
        return _of_single_runs(mine, theirs)
    pairs = [
        (one, other)
        for seed, one in _by_seed(mine, theirs)
        for other_seed, other in _by_seed(theirs, mine)
        if other_seed == seed
    ]
    rows = []
    for game in groups.means(mine):
        if not pairs or any(game not in other.summary["games"] for _, other in pairs):
            continue
        values = [
            one.summary["games"][game]["mean"] - other.summary["games"][game]["mean"]
            for one, other in pairs
        ]
        above = (sum(value > 0 for value in values), len(values))
        rows.append(
            Difference(game, float(np.mean(values)), intervals.mean(values), above,
                       intervals.p_paired(values), _at(mine, theirs))
        )  # fmt: skip
    return rows


def _at(mine: Group, theirs: Group) -> float | None:
    return theirs.at if mine.at is None else mine.at


def _by_seed(group: Group, other: Group) -> Iterator[tuple[int, Scores]]:
    """Each player with its seed; one without a seed with each seed of the other group."""
    return zip(group.seeds or other.seeds, itertools.cycle(group.players))


def _of_single_runs(mine: Group, theirs: Group) -> list[Difference]:
    first, second = (by_variant(group.players[0].episodes) for group in (mine, theirs))
    rows = []
    for game in first:
        if game in second:
            scores = [[episode.score for episode in one[game]] for one in (first, second)]
            value = float(np.mean(scores[0]) - np.mean(scores[1]))
            rows.append(
                Difference(game, value, intervals.difference(*scores), None,
                           intervals.p_welch(*scores), _at(mine, theirs))
            )  # fmt: skip
    return rows


def _corrected(rows: Sequence[Difference]) -> list[Difference]:
    """The rows after Holm's correction. Among differences over seeds, or at several numbers, those
    of single runs aren't tested: their intervals lack the randomness of training.
    """
    if any(row.above or row.at is not None for row in rows):
        rows = [row if row.above else row._replace(p=None) for row in rows]
    corrected = iter(intervals.holm([row.p for row in rows if row.p is not None]))
    return [row._replace(clear=row.p is not None and next(corrected) < 0.05) for row in rows]


def sentence(comparison: Comparison, against: str | None = None) -> str:
    """E.g. "The agent scores higher than cloning in 1 of 2 games, clearly in 1: Freeway +8.0 ± 0.9
    (5 of 5 seeds), Boxing -1.0 ± 2.0 (1 of 5 seeds)."; with several numbers only what is clear.
    """
    rows = comparison.rows
    above = [row for row in rows if row.value > 0]
    clear = [row for row in above if row.clear]
    below = [row for row in rows if row.clear and row.value < 0]
    mine, theirs = _with_article(comparison.mine), _with_article(comparison.theirs)
    if not rows:
        return f"{mine[0].upper()}{mine[1:]} isn't compared with {theirs}: no seed is in both."
    head = f"{mine[0].upper()}{mine[1:]} scores higher than {theirs} in {len(above)} of {len(rows)}"
    numbers = {row.at for row in rows}
    if against is None or len(numbers) < 2:
        clearly = f", clearly in {len(clear) or 'none'}" if above else ""
        if below:
            clearly += f"; it scores clearly lower in {len(below)}"
        return f"{head} games{clearly}: {', '.join(map(_in_words, rows))}."
    games = {row.game for row in rows}
    untested = sum(row.p is None for row in rows)
    single = f" Not tested, for a single seed: {untested}." if untested else ""
    return (
        f"{head} comparisons ({len(games)} games at {len(numbers)} values of "
        f"{against.replace('_', ' ')}), clearly in {_where(clear)}; it scores clearly lower in "
        f"{_where(below)}.{single}"
    )


def _with_article(name: str) -> str:
    if kind(name) == RANDOM:
        return f"random play{name[len(RANDOM) :]}"
    return title(name) if kind(name) == CLONING else f"the {title(name)}"


def _where(rows: Sequence[Difference]) -> str:
    """ "3 (Freeway at 0 and 10, Pong at 0)"."""
    games: dict[str, list[str]] = {}
    for row in rows:
        games.setdefault(row.game, []).append(f"{row.at:g}")
    said = []
    for game, numbers in games.items():
        *first, last = numbers
        said.append(f"{game} at {', '.join(first)} and {last}" if first else f"{game} at {last}")
    return f"{len(rows)} ({'; '.join(said)})" if rows else "none"


def _in_words(row: Difference) -> str:
    words = f"{row.game} {text(Estimate(row.value, row.ci95, signed))}"
    if row.above and row.above[1] > 1:
        words += f" ({row.above[0]} of {row.above[1]} seeds)"
    return words


def table(found: Sequence[Comparison], against: str) -> Table:
    """A row a number and game, a column a comparison; "*" where a difference is clear."""
    found = [one for one in found if any(row.at is not None for row in one.rows)]
    by_case = [{(row.at, row.game): row for row in one.rows if row.at is not None} for one in found]
    rows: list[list[Value]] = []
    for at, game in sorted({case for rows_of in by_case for case in rows_of}):
        cells: list[Value] = [f"{at:g}", game]
        for of in by_case:
            row = of.get((at, game))
            cells.append(row and Estimate(row.value, row.ci95, signed, _note(row)))
        rows.append(cells)
    return Table(
        "differences", "Differences of mean scores",
        [against, "game", *(f"{title(one.mine)} - {title(one.theirs)}" for one in found)], rows,
        "*: clear after Holm's correction for all rows of the column; in brackets: in how many "
        "seeds it is above 0.",
    )  # fmt: skip


def _note(row: Difference) -> str:
    seeds = f"({row.above[0]}/{row.above[1]})" if row.above else ""
    return f"{seeds} *".strip() if row.clear else seeds


def to_json(found: Sequence[Group], against: str | None, player: str = AGENT) -> dict[str, Any]:
    """Every group's mean scores, seed by seed, and the differences between groups: `compare`."""
    scores = [
        {
            "name": group.name,
            "at": group.at,
            "protocol": protocol_line(group.players[0].protocol),
            "scores": [
                {"seed": seed, **{game: row["mean"] for game, row in p.summary["games"].items()}}
                for seed, p in itertools.zip_longest(group.seeds, group.players)
            ],
        }
        for group in found
    ]
    compared = [one._asdict() | {"rows": [row._asdict() for row in one.rows]}
                for one in compare(found, against, player)]  # fmt: skip
    return {"scores": scores, "differences": compared}
