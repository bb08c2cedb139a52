"""python -m cql_atari.report DIR... [--output PAGE.html]: scores and runs -> tables and a page.

Each DIR is searched for `scores.json` files, each with the label of who played: "random",
"best_fixed", "cloning", "agent" or any other name, and for recorded play (or --data_dir is), whose
mean score stands beside them.

Runs that differ by `train.seed` only become one player and one learning curve, with intervals over
seeds. Players of one label have as much of their path besides as tells them apart. --against=NAME
compares them at each NAME=NUMBER that stands in their paths. --player=NAME compares that player,
in place of the agent, with all others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from cql_atari.core.types import UserError
from cql_atari.evaluation import (
    comparison,
    curves,
    groups,
    score_files,
    tables,
    text_report,
)
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.labels import AGENT
from cql_atari.runs import folder
from cql_atari.system import cli

if TYPE_CHECKING:
    from cql_atari.evaluation.figures import Chart
    from cql_atari.evaluation.page import Section


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("no folder given; usage: python -m cql_atari.report DIR [DIR...]")
    values, folders = flags.FLAGS, [Path(argument) for argument in argv[1:]]
    if values.json and Path(values.json).name == folder.SCORES:
        raise UserError(
            f"--json={values.json}: evaluations write {folder.SCORES}, and reports read each; "
            "choose another name, such as report.json"
        )
    found = score_files.find_scores(folders)
    scored = {player.folder.resolve() for player in found}
    runs = folder.holding(folder.CONFIG, folders)
    if missing := [str(run) for run in runs if run.resolve() not in scored]:
        print(f"left out, as they have no scores: {', '.join(missing)}", file=sys.stderr)
    data_dirs = [Path(values.data_dir)] if values.data_dir else folders
    if values.data_dir and not score_files.find_play(data_dirs):
        raise UserError(
            f"--data_dir={values.data_dir} has no <Game>/<run>/episodes.jsonl; "
            "`python -m cql_atari.collect` writes them (DQN-Replay itself has no raw scores)"
        )
    made = groups.make(found, data_dirs, values.against)
    player = comparison.find_player(made, values.player) if values.player else AGENT
    summary = curves.summarise([] if values.against else made)
    if curves.worth_printing(summary):
        print(tables.to_text(curves.table(summary), values.markdown) + "\n")
    print(text_report.report(made, values.against, values.markdown, player))
    if values.json:
        numbers = {**summary, **comparison.to_json(made, values.against, player)}
        score_files.write_text(
            Path(values.json), json.dumps(numbers, indent=1, allow_nan=False) + "\n"
        )
        print(f"wrote {values.json}")
    if values.output:
        from cql_atari.evaluation import against, page

        shown = sections(groups.make(found, data_dirs), player)
        if values.against:
            shown.insert(0, against.section(made, values.against, player))
        page.write(Path(values.output), folders, shown)
        print(f"wrote {values.output}, tables and figures in {page.beside(Path(values.output))}")
    if values.figures:
        from cql_atari.evaluation import figures

        for path in figures.save(_charts(made, folders, summary), Path(values.figures)):
            print(f"wrote {path}")


def _charts(made: Sequence[Group], folders: Sequence[Path], summary: dict[str, Any]) -> list[Chart]:
    from cql_atari.evaluation import against, charts

    if flags.FLAGS.against:
        return against.charts(made, flags.FLAGS.against)
    several = any(len(group.players) > 1 for group in made if group.settings)
    columns = {group.name: groups.cells(group) for group in made}
    names = {p.folder.resolve(): group.name for group in made for p in group.players}
    variants = summary["variants"] if curves.worth_printing(summary) else {}
    # Where many runs are compared, a picture of each would say less.
    return charts.of_folders(columns, names, [] if several else folders, variants)


def sections(found: list[Group], player: str = AGENT) -> list[Section]:
    """What stands on the page; sections that have nothing to show are left out."""
    from cql_atari.evaluation import ablations, page, run_facts, run_sections, score_sections

    contents = page.contents(found, player)
    makers = (
        score_sections.scores, score_sections.aggregates, score_sections.recorded,
        run_sections.learning, run_sections.sizes, ablations.section, run_sections.actions,
        run_sections.measures, run_facts.section,
    )  # fmt: skip
    return [section for make in makers if (section := make(contents))]


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("data_dir", None, "Folder with the data's <Game>/<run>/episodes.jsonl.")
    flags.DEFINE_string("output", None, "File for the report as one HTML page (PAGE.html).")
    flags.DEFINE_bool("markdown", False, "Print Markdown.")
    flags.DEFINE_string("figures", None, "Folder to write pictures to.")
    flags.DEFINE_string("json", None, "File for scores and learning curves, seed by seed.")
    flags.DEFINE_string("player", None, "NAME, as in the tables, to compare with all others.")
    flags.DEFINE_string("against", None, "NAME of a NAME=NUMBER in the runs' paths to compare by.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
