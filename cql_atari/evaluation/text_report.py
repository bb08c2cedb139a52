"""The report as text or Markdown: scores by game, aggregates, actions, and who is above whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cql_atari.evaluation import aggregate, comparison, groups, normalised, tables
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import CLONING, DATA, Cell, agents_of, kind, title
from cql_atari.evaluation.summary import REFERENCES
from cql_atari.evaluation.tables import Estimate, Value

INTERVALS = (
    "± and [ ]: 95 % intervals over what is counted in brackets (docs/statistics.md); over seeds "
    "the chance of training is in them, over episodes it is not"
)
_BEST = "data's best episode"


def report(found: Sequence[Group], against: str | None, markdown: bool) -> str:
    """All tables and sentences as one text; its end says whether the agent is above its data's mean
    and above cloning.

    Args:
      found: as `groups.make`.
      against: as there; there is a table of scores for each number.
      markdown: whether to write Markdown.
    """
    blocks: list[str] = []
    numbers: list[float | None] = [*sorted({g.at for g in found if g.at is not None})]
    for at in numbers or [None]:
        blocks += [f"{against} = {at:g}"] if at is not None else []
        blocks.append(tables.table(_scores(found, at, human=against is None), markdown))
    played = [group for group in found if kind(group.name) != DATA]
    agents = agents_of(group.name for group in played)
    single = against is None and all(len(group.players) == 1 for group in played)
    lines = []
    if against is None:
        lines = [line for group in played if group.name in agents for line in _aggregates(group)]
    compared = comparison.compare(found, against)
    last = [one for one in compared if kind(one.theirs) in (DATA, CLONING)]
    lines += [comparison.sentence(one, against) for one in compared if one not in last]
    lines += [*groups.protocol_lines(played), INTERVALS, *([comparison.NOTE] if compared else [])]
    blocks.append("\n".join(f"- {line}" for line in lines))
    if single:
        blocks += [
            tables.table(_actions(group), markdown) for group in played if group.name in agents
        ]
    if against and compared:
        blocks.append(tables.to_text(comparison.table(compared, against), markdown))
    blocks += [comparison.sentence(one, against) for one in last]
    return "\n\n".join(blocks)


def small(label: str, summary: dict[str, Any]) -> str:
    """One evaluation in a small table, as commands print it at their end.

    Args:
      label: who played.
      summary: as `summary.summarise`.
    """
    rows: list[list[Value]] = [
        ["game", "episodes", "mean score", "of human", "of DQN"],
        *([name, row["n"], Estimate(row["mean"], row["ci95"]),
           *(tables.percent(row[form]) for form in REFERENCES)]
          for name, row in summary["games"].items()),
    ]  # fmt: skip
    lines = aggregate_lines(label, {form: summary[form] for form in REFERENCES})
    return "\n".join([tables.table(rows, False), *lines])


def aggregate_lines(label: str, values: dict[str, dict[str, Any]]) -> list[str]:
    """Every aggregate over games with its interval, for both normalisations.

    Args:
      label: of the player.
      values: "human_normalised" and "dqn_normalised" -> {"games": number, aggregate: {"value",
        "ci95"}}.
    """
    lines = []
    for form, reference in REFERENCES.items():
        if number := values[form]["games"]:
            numbers = ", ".join(
                f"{one.title} {tables.text(tables.share(values[form][name]))}"
                for name, one in aggregate.AGGREGATES.items()
            )
            lines.append(f"{label}, {reference}-normalised over {number} games: {numbers}")
    return lines


def _aggregates(group: Group) -> list[str]:
    values: dict[str, dict[str, Any]] = {}
    for form in REFERENCES:
        games = list(normalised.normalised(group, form))
        values[form] = {
            "games": len(games), **(normalised.aggregates(group, form, games) if games else {}),
        }  # fmt: skip
    return aggregate_lines(group.name, values)


def _scores(found: Sequence[Group], at: float | None, human: bool) -> list[list[Value]]:
    """A row a game, a column a player; the data have a second one, for the best episode."""
    header, columns = ["game"], list[dict[str, Value]]()
    here = {group.name: group for group in found if group.at in (at, None)}
    for name in dict.fromkeys(group.name for group in found):
        group = here.get(name)
        header.append(f"{title(name)} ({groups.counted(group) if group else 'not run'})")
        cells = groups.cells(group) if group else {}
        columns.append({game: _estimate(cell) for game, cell in cells.items()})
        if group and kind(name) == DATA:
            header.append(_BEST)
            columns.append(_best_episodes(group))
    played = [group for name, group in here.items() if kind(name) != DATA]
    for name in agents_of(group.name for group in played) if human else ():
        header.append(f"{title(name)} / human")
        columns.append(_of_human(here[name]))
    games = dict.fromkeys(game for group in played for game in groups.means(group))
    return [[*header], *([game, *(of.get(game) for of in columns)] for game in games)]


def _estimate(cell: Cell) -> Estimate:
    return Estimate(cell.mean, cell.ci95, note=cell.note)


def _best_episodes(data: Group) -> dict[str, Value]:
    return {
        game: Estimate(max(player.summary["games"][game]["max"] for player in data.players))
        for game in groups.means(data)
    }


def _of_human(group: Group) -> dict[str, Value]:
    shares = normalised.normalised(group, "human_normalised")
    return {game: tables.percent(float(values.mean())) for game, values in shares.items()}


def _actions(group: Group) -> list[list[Value]]:
    rows: list[list[Value]] = [
        ["game", "most frequent", "share", f"all actions of {title(group.name)} (from 1 %)"]
    ]
    for game, of in groups.action_shares(group).items():
        shares = sorted(of.items(), key=lambda item: -item[1])
        listed = ", ".join(
            f"{name} {tables.percent(share)}" for name, share in shares if share >= 0.01
        )
        rows.append([game, shares[0][0], tables.percent(shares[0][1]), listed])
    return rows
