"""The report as text or Markdown: scores by game, aggregates, actions, and who is above whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cql_atari.evaluation import aggregate, comparison, groups, normalised, score_tables, tables
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import CLONING, DATA, agents_of, kind
from cql_atari.evaluation.summary import REFERENCES
from cql_atari.evaluation.tables import Estimate, Value


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
        scores = score_tables.scores(found, at=at)
        blocks += [f"{against} = {at:g}"] if at is not None else []
        blocks.append(tables.table([scores.header, *scores.rows], markdown))
    played = [group for group in found if kind(group.name) != DATA]
    names = agents_of(group.name for group in played)
    agents = [group for group in played if group.name in names and against is None]
    compared = comparison.compare(found, against)
    last = [one for one in compared if kind(one.theirs) in (DATA, CLONING)]
    lines = [line for group in agents for line in _aggregates(group)]
    lines += [comparison.sentence(one, against) for one in compared if one not in last]
    lines += [*groups.protocol_lines(played), scores.note]
    lines += [comparison.NOTE] if compared else []
    blocks.append("\n".join(f"- {line}" for line in lines))
    if all(len(group.players) == 1 for group in played) and agents:
        actions = score_tables.actions(agents)
        blocks.append(tables.table([actions.header, *actions.rows], markdown))
    if against and compared:
        blocks.append(tables.to_text(comparison.table(compared, against), markdown))
    blocks += [comparison.sentence(one, against) for one in last]
    return "\n\n".join(blocks)


def small(label: str, summary: dict[str, Any], markdown: bool = False) -> str:
    """One evaluation in a small table, as commands print it at their end, and its aggregates.

    Args:
      label: who played.
      summary: as `summary.summarise`.
      markdown: whether to write Markdown.
    """
    rows: list[list[Value]] = [
        ["game", "episodes", "mean score", "of human", "of DQN"],
        *([name, row["n"], Estimate(row["mean"], row["ci95"]),
           *(tables.percent(row[form]) for form in REFERENCES)]
          for name, row in summary["games"].items()),
    ]  # fmt: skip
    lines = aggregate_lines(label, {form: summary[form] for form in REFERENCES})
    if markdown:
        lines = ["", *(f"- {line}" for line in lines)]
    return "\n".join([tables.table(rows, markdown), *lines])


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
        found = aggregate.aggregate(normalised.scores(group, form, games)) if games else {}
        values[form] = {"games": len(games), **found}
    return aggregate_lines(group.name, values)
