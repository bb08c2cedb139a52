"""python -m cql_atari.report DIR...: scores.json files and data statistics -> tables and verdicts.

Each DIR is searched for `scores.json` files, each with the label of who played: "random",
"best_fixed", "cloning", "agent" or any other name. Two with one label take their folder's name
besides (its path, where two have one name). With --data_dir the mean score of the recorded play
stands beside them.

Runs that differ by `train.seed` only become one learning curve, with an interval over seeds.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from cql_atari.core.types import UserError
from cql_atari.evaluation import curves, players, score_files, tables, text_report
from cql_atari.system import cli


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("no folder given; usage: python -m cql_atari.report DIR [DIR...]")
    values, folders = flags.FLAGS, [Path(argument) for argument in argv[1:]]
    found = players.find_players(folders)
    data = players.data_cells(Path(values.data_dir)) if values.data_dir else {}
    columns = players.make_columns(found, data)
    print(text_report.report(found, columns, values.markdown))
    summary = curves.summarise(curves.find_runs(folders))
    shown = curves.worth_showing(summary)
    if shown:
        print("\n" + tables.curves_table(summary, values.markdown))
    if values.json:
        score_files.write_text(
            Path(values.json), json.dumps(summary, indent=1, allow_nan=False) + "\n"
        )
        print(f"wrote {values.json}")
    if values.figures:
        from cql_atari.evaluation import figures as plots

        out, grouped = Path(values.figures), summary["variants"] if shown else {}
        for path in plots.draw(columns, found, folders, grouped, out):
            print(f"wrote {path}")


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_string("data_dir", None, "Folder with the data's <Game>/<run>/episodes.jsonl.")
    flags.DEFINE_bool("markdown", False, "Print Markdown.")
    flags.DEFINE_string("figures", None, "Folder to write pictures to.")
    flags.DEFINE_string("json", None, "File for the learning curves' numbers, seed by seed.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
