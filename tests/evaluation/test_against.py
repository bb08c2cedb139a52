"""Scores against a number in the runs' paths: the figures, the tables, and what is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from made_up import write_scores, write_shares
from matplotlib.collections import PolyCollection

from cql_atari.core.types import UserError
from cql_atari.evaluation import against, figures, groups, intervals, score_files, text_report

NAME = "percent_good_play"
SCORES = {
    0: {"agent": 40, "cloning": 10},
    50: {"agent": 90, "cloning": 20, "cloning_best": 60},
    100: {"agent": 80, "cloning": 120},
}
DATA = {0: 10, 50: 60, 100: 110}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("A")
    write_shares(out, SCORES, DATA)
    return out


def groups_of(folder):
    return groups.make(score_files.find_scores([folder]), [folder], NAME)


def line(panel, style):
    """What is drawn with a mark or dashes in the style's colour, without the thin dots below."""
    (found,) = [
        line for line in panel.lines
        if line.get_color() == style.colour and line.get_marker() in (style.marker, "None")
        if line.get_linewidth() > 1
    ]  # fmt: skip
    return found.get_xydata().tolist()


def test_a_panel_a_game_and_a_line_a_player(folder):
    scores, mean = against.charts(groups_of(folder), NAME)
    assert list(scores.panels) == ["BattleZone", "Freeway"] and scores.x == "good play, %"
    assert list(scores.key) == [
        "random", "best_fixed", "data", "cloning", "cloning (cloning_best)", "agent",
        "95 % interval over 4 seeds (t)",
    ]  # fmt: skip
    battle, freeway, *_ = figures.whole(scores).axes
    assert line(battle, scores.key["agent"]) == [[0, 42.5], [50, 92.5], [100, 82.5]]
    assert line(freeway, scores.key["agent"]) == [[0, 4.25], [50, 9.25], [100, 8.25]]
    assert line(battle, scores.key["data"]) == [[0, 10], [50, 60], [100, 110]]
    assert {y for _, y in line(battle, scores.key["best_fixed"])} == {30}
    # 0 is random play, 1 the data at 100: of every game alike here
    (panel,) = figures.whole(mean).axes
    values = [y for _, y in line(panel, mean.key["agent"])]
    np.testing.assert_allclose(values, [42.5 / 110, 92.5 / 110, 82.5 / 110])


def test_the_mean_counts_from_random_play(tmp_path):
    write_shares(tmp_path, SCORES, DATA)
    random = {"BattleZone": [10], "Freeway": [6]}
    write_scores(tmp_path / f"{NAME}=0" / "random", "random", random)
    _, mean = against.charts(groups_of(tmp_path), NAME)
    (panel,) = figures.whole(mean).axes
    values = [y for _, y in line(panel, mean.key["agent"])]
    battle, freeway = (42.5 - 10) / (110 - 10), (4.25 - 6) / (11 - 6)
    assert values[0] == pytest.approx((battle + freeway) / 2)


def test_bands_are_students_t_or_lowest_to_highest_of_few_seeds(folder, tmp_path):
    write_shares(tmp_path, SCORES, DATA, seeds=(1, 2, 3))
    for place, ends in ((folder, intervals.mean([41, 42, 43, 44])), (tmp_path, (41, 43))):
        scores, _ = against.charts(groups_of(place), NAME)
        battle = figures.whole(scores).axes[0]
        *_, band = (c for c in battle.collections if isinstance(c, PolyCollection))
        agents = band.get_paths()[0].vertices
        at_0 = [y for x, y in agents if x == 0]
        assert (min(at_0), max(at_0)) == pytest.approx(ends)
    assert "lowest to highest of 3 seeds" in scores.key
    assert "lowest to highest of 3 seeds" in scores.caption
    write_shares(tmp_path / "more", SCORES, DATA)
    (tmp_path / f"more/{NAME}=0/4/cloning/scores.json").unlink()  # of all players the fewest count
    scores, _ = against.charts(groups_of(tmp_path / "more"), NAME)
    assert "lowest to highest of 3 to 4 seeds" in scores.key


def test_what_is_missing_is_a_gap(tmp_path):
    """The agent wasn't run at 50, the other clones only there, one seed of cloning at 0 only."""
    less = {share: dict(methods) for share, methods in SCORES.items()}
    del less[50]["agent"]
    write_shares(tmp_path, less, DATA)
    for seed in (2, 3, 4):
        (tmp_path / f"{NAME}=0/{seed}/cloning/scores.json").unlink()
    found = groups_of(tmp_path)
    scores, mean = against.charts(found, NAME)
    battle = figures.whole(scores).axes[0]
    drawn = line(battle, scores.key["agent"])
    assert drawn[::2] == [[0, 42.5], [100, 82.5]] and np.isnan(drawn[1][1])
    assert np.isnan(line(battle, scores.key["cloning (cloning_best)"])[0][1])
    assert scores.key.keys() == mean.key.keys()
    text = text_report.report(found, NAME, False)
    assert "cloning (1 episode)" in text.split(f"{NAME} = 50")[0]
    assert "agent (not run)" in text.split(f"{NAME} = 50")[1].split(f"{NAME} = 100")[0]
    assert "than cloning in 2 of 4 comparisons (2 games at 2 values" in text


def test_without_random_play_there_is_no_scale(tmp_path):
    write_shares(tmp_path, SCORES, DATA)
    (tmp_path / f"{NAME}=0/random/scores.json").unlink()
    assert len(against.charts(groups_of(tmp_path), NAME)) == 1


@pytest.mark.parametrize(
    "text, number",
    [("10", 10), ("-0.5", -0.5), ("1e-3", 0.001), (".5", 0.5), ("1.2.3", None), (".", None),
     ("1e400", None)],
)  # fmt: skip
def test_the_number_in_a_path(tmp_path, text, number):
    write_scores(tmp_path / f"x={text}" / "1" / "agent", "agent", {"Pong": [1]}, 1)
    if number is None:
        with pytest.raises(UserError, match="has no x=NUMBER in its path"):
            groups.make(score_files.find_scores([tmp_path]), [], "x")
        return
    (group,) = groups.make(score_files.find_scores([tmp_path]), [], "x")
    assert group.at == number


def test_methods_that_lack_a_game_are_not_in_the_mean(tmp_path):
    """A mean over the other games would be another quantity."""
    write_shares(tmp_path, SCORES, DATA)
    for seed in (1, 2):
        write_scores(tmp_path / f"{NAME}=0/{seed}/other", "other", {"Freeway": [9]}, seed)
    scores, mean = against.charts(groups_of(tmp_path), NAME)
    assert "other" in scores.key and "other" not in mean.key


def test_the_page_has_a_section(folder):
    made = against.section(groups_of(folder), NAME)
    assert [chart.name for chart in made.charts] == [
        f"scores_against_{NAME}",
        f"mean_against_{NAME}",
    ]
    (table,) = made.tables
    assert table.header[:2] == [NAME, "game"] and len(table.rows) == 6
    assert any("higher than cloning in 4 of 6 comparisons" in line for line in made.lines)


def test_the_command_prints_differences_and_ends_in_sentences(tmp_path):
    folder = tmp_path / "A"
    write_shares(folder, SCORES, DATA)
    for share in SCORES:  # one seed's differences are others: without any spread t says nothing
        games = {
            "BattleZone": [SCORES[share]["cloning"] + 2],
            "Freeway": [SCORES[share]["cloning"] / 10 + 0.2],
        }
        write_scores(folder / f"{NAME}={share}/1/cloning", "cloning", games, 1, method="cloning")
    options = [f"--against={NAME}", f"--figures={tmp_path / 'f'}"]
    done = subprocess.run(
        [sys.executable, "-m", "cql_atari.report", str(folder), *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    text, *wrote = done.stdout.removesuffix("\n").rsplit("\n", 2)
    assert text == text_report.report(groups_of(folder), NAME, False)
    assert [line.rpartition("/")[2] for line in wrote] == [
        f"scores_against_{NAME}.png", f"mean_against_{NAME}.png",
    ]  # fmt: skip
    (row,) = [line for line in text.splitlines() if line.split()[:2] == ["0", "Freeway"]]
    assert row.endswith("+3.0 ± 0.1 (4/4) *")  # agent - cloning
    assert text.endswith(
        "The agent scores higher than cloning in 4 of 6 comparisons (2 games at 3 values of "
        "percent good play), clearly in 4 (BattleZone at 0 and 50; Freeway at 0 and 50); it scores "
        "clearly lower in 2 (BattleZone at 100; Freeway at 100)."
    )
