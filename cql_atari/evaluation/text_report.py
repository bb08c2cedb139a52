"""The report as text or Markdown: scores by game, aggregates, actions, and who is above whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cql_atari.evaluation import aggregate, comparison, groups, normalised, score_tables, tables
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import AGENT, CLONING, DATA, agents_of, kind
from cql_atari.evaluation.summary import REFERENCES, aggregate_lines


def report(found: Sequence[Group], against: str | None, markdown: bool, player: str = AGENT) -> str:
    """All tables and sentences as one text; its end says whether the player is above its data's
    mean and above cloning.

    Args:
      found: as `groups.make`.
      against: as there; there is a table of scores for each number.
      markdown: whether to write Markdown.
      player: as `comparison.compare`.
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
    compared = comparison.compare(found, against, player)
    last = [one for one in compared if kind(one.theirs) in (DATA, CLONING)]
    lines = [line for group in agents for line in _aggregates(group)]
    lines += [comparison.sentence(one, against) for one in compared if one not in last]
    lines += [*groups.unfinished_lines(played), *groups.protocol_lines(played), scores.note]
    lines += [comparison.NOTE] if compared else []
    blocks.append("\n".join(f"- {line}" for line in lines))
    if all(len(group.players) == 1 for group in played) and agents:
        actions = score_tables.actions(agents)
        blocks.append(tables.table([actions.header, *actions.rows], markdown))
    if against and compared:
        blocks.append(tables.to_text(comparison.table(compared, against), markdown))
    blocks += [comparison.sentence(one, against) for one in last]
    return "\n\n".join(blocks)


def _aggregates(group: Group) -> list[str]:
    values: dict[str, dict[str, Any]] = {}
    for form in REFERENCES:
        games = list(normalised.normalised(group, form))
        found = aggregate.aggregate(normalised.scores(group, form, games)) if games else {}
        values[form] = {"games": len(games), **found}
    return aggregate_lines(group.name, values)
