"""python -m cql_atari.report DIR... [--output PAGE.html]: scores and runs -> tables and a page.

Each DIR is searched for `scores.json` files, each with the label of who played: "random",
"best_fixed", "cloning", "agent" or any other name. Two with one label take their folder's name
besides (its path, where two have one name). With --data_dir the mean score of the recorded play
stands beside them.

Runs that differ by `train.seed` only become one player and one learning curve, with intervals over
seeds; the play of each seed is looked for in the folder `data` beside its runs. --against=NAME
compares them at each NAME=NUMBER that stands in their paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from cql_atari.core.types import UserError
from cql_atari.evaluation import curves, over_seeds, players, score_files, tables, text_report
from cql_atari.system import cli

if TYPE_CHECKING:
    from cql_atari.evaluation.page import Section


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("no folder given; usage: python -m cql_atari.report DIR [DIR...]")
    values, folders = flags.FLAGS, [Path(argument) for argument in argv[1:]]
    found = players.find_players(folders)
    data_dir = Path(values.data_dir) if values.data_dir else None
    groups = over_seeds.find_groups(found.values(), data_dir, values.against)
    many = bool(values.against) or any(len(group.scores) > 1 for group in groups)
    if many:
        fixed = {label: one for label, one in found.items() if not over_seeds.is_trained(one)}
        columns = over_seeds.make_columns(groups, fixed)
        print(over_seeds.report(groups, fixed, values.against, values.markdown))
    else:
        columns = players.make_columns(found, players.data_cells(data_dir) if data_dir else {})
        print(text_report.report(found, columns, values.markdown))
    summary = curves.summarise(curves.find_runs(folders))
    shown = curves.worth_showing(summary)
    if shown:
        print("\n" + tables.curves_table(summary, values.markdown))
    if values.json:
        numbers = {**summary, "scores": over_seeds.to_json(groups)}
        score_files.write_text(
            Path(values.json), json.dumps(numbers, indent=1, allow_nan=False) + "\n"
        )
        print(f"wrote {values.json}")
    if values.output:
        from cql_atari.evaluation import page

        page.write(Path(values.output), folders, sections(folders, found, data_dir))
        print(f"wrote {values.output}, tables and figures in {page.beside(Path(values.output))}")
    if values.figures:
        from cql_atari.evaluation import charts, figures

        if values.against:
            drawn = [charts.score_against(values.against, over_seeds.curves_against(groups))]
        else:  # many runs are compared; a picture of each would say less
            grouped = summary["variants"] if shown else {}
            labels = {player.folder.resolve(): label for label, player in found.items()}
            drawn = charts.of_folders(columns, labels, [] if many else folders, grouped)
        for path in figures.save(drawn, Path(values.figures)):
            print(f"wrote {path}")


def sections(
    folders: Sequence[Path], found: Mapping[str, players.Player], data_dir: Path | None
) -> list[Section]:
    """What stands on the page; sections that have nothing to show are left out."""
    from cql_atari.evaluation import ablations, contents, run_facts, run_sections, score_sections

    gathered = contents.gather(found, [data_dir] if data_dir else folders)
    makers = (
        score_sections.scores, score_sections.aggregates, run_sections.learning, run_sections.sizes,
        ablations.section, run_sections.actions, run_sections.measures, run_facts.section,
    )  # fmt: skip
    return [section for make in makers if (section := make(gathered))]


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("data_dir", None, "Folder with the data's <Game>/<run>/episodes.jsonl.")
    flags.DEFINE_string("output", None, "File for the report as one HTML page (PAGE.html).")
    flags.DEFINE_bool("markdown", False, "Print Markdown.")
    flags.DEFINE_string("figures", None, "Folder to write pictures to.")
    flags.DEFINE_string("json", None, "File for scores and learning curves, seed by seed.")
    flags.DEFINE_string("against", None, "NAME of a NAME=NUMBER in the runs' paths to compare by.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
