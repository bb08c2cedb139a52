"""The page: what stands on it, that it is whole, and that its numbers are those of its tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import episode

from cql_atari import report
from cql_atari.core import games, settings
from cql_atari.core.types import UserError
from cql_atari.evaluation import figures, groups, intervals, page, score_files

PROTOCOL = {"epsilon": 0.001, "sticky": 0.25, "max_frames": 108_000}
EVIL = '<script>alert("x")</script>$'
VOID = {"meta", "input", "link", "br", "use", "path"}


class Page(HTMLParser):
    """What a test asks of a page: its elements, and that every tag is closed where it should be."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]


def config_of(seed: int, **sections) -> dict:
    config = json.loads(json.dumps(dataclasses.asdict(settings.Config())))
    config["train"] |= {"seed": seed, "steps": 10}
    for section, values in sections.items():
        config[section] |= values
    return config


def write_run(folder, label, scores, seed=None, *, parameters=None, curve=(), **sections):
    """scores: {game: [score, ...]}; curve: {step: score} of the log."""
    run = {"label": label, "step": 10}
    if seed is not None:
        run["config"] = config_of(seed, **sections)
    if parameters:
        run["parameters"] = {"trunk": parameters, "heads": 7}
    played = [
        episode(game, value, actions=(0, 0, games.spec(game).actions[-1]))
        for game, values in scores.items() for value in values
    ]  # fmt: skip
    score_files.write(folder / "scores.json", played, PROTOCOL, run)
    measures = {"q_gap": 0.1, "cql_pull": 0.2, "cql_pull/Freeway": 0.3, "q_gap/Freeway": 0.4}
    lines = [
        {"step": step, "time": 1e9 + 36 * step, "evaluation/score/Freeway": score, **measures}
        for step, score in dict(curve).items()
    ]
    if lines:
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of a base, of an ablation of another size, and of cloning; random, and data."""
    out = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        curve = {0: 0.0, 5: 5.0 + seed, 10: 20.0 + seed}
        base = {"Freeway": [20 + seed, 22 + seed], "Breakout": [9, 11 + 2 * seed]}
        write_run(out / f"base/{seed}", "agent", base, seed, parameters=1_000, curve=curve)
        less = {"Freeway": [10, 12 - seed], "Breakout": [2, 4 + seed]}
        write_run(out / f"<b>mse/{seed}", "agent", less, seed, parameters=2_000, curve=curve,
                  loss={"kind": "mse"}, network={"groups": 2})  # fmt: skip
        write_run(out / f"cloning/{seed}", "cloning", less, seed, train={"method": "cloning"})
    write_run(out / "random", "random", {"Freeway": [0, 0], "Breakout": [1, 2]})
    write_run(out / "theirs", EVIL, {"Freeway": [30], "Breakout": [50]})
    data = out / "data/Freeway/1"
    data.mkdir(parents=True)
    rows = [{"score": score, "length": 9, "terminal": True} for score in (14, 16)]
    (data / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start = {"time": 1e9 - 36, "commit": "0123456789abcdef", "hardware": {"cores": 2},
             "versions": {"python": "3.11"}}  # fmt: skip
    (out / "base/0/system.json").write_text(json.dumps({"starts": [start]}))
    twice = [{"time": 1e9 - 36}, {"time": 1e9 + 340}]
    (out / "<b>mse/0/system.json").write_text(json.dumps({"starts": twice}))
    return out


def write(folder: Path, out: Path) -> Page:
    found = score_files.find_scores([folder])
    page.write(out, [folder], report.sections(groups.make(found, [folder])))
    return Page(out.read_text())


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "a page.html"
    return write(folder, out), out


def table(out: Path, name: str) -> list[dict[str, str]]:
    with open(page.beside(out) / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


TABLES = ("scores", "aggregates_human", "improvement", "aggregates_dqn", "learning_curves", "sizes",
          "ablations", "actions", "measures", "runs", "settings")  # fmt: skip
CHARTS = ("scores", "aggregates", "performance_profile", "improvement", "recorded_play",
          "learning_curves", "size_against_score", "ablations", "actions", "measures",
          "pull_against_gap")  # fmt: skip


def test_every_table_and_figure_is_there_and_linked(made):
    found, out = made
    names = {path.name for path in page.beside(out).iterdir()}
    wanted = {f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "md", "tex")}
    wanted |= {f"{name}.{suffix}" for name in CHARTS for suffix in ("png", "svg")}
    assert names == wanted
    links = [a["href"] for a in found.all("a") if not a["href"].startswith("#")]
    assert sorted(links) == sorted(f"a%20page_files/{name}" for name in wanted)
    assert len(found.tables) == len(TABLES)


def test_it_needs_no_network_and_ids_are_its_own(made):
    found, _ = made
    for tag, attrs in found.elements:
        assert tag not in ("link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert not re.match(r"\w+:|//", attrs.get(name) or ""), attrs
    ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:xlink:href="#|url\(#)([\w.-]+)', made[1].read_text())
    assert used and set(used) <= set(ids)


def test_what_others_wrote_stays_text(made):
    found, out = made
    assert len(found.all("script")) == 1 and "alert" not in out.read_text().split("<script>")[1]
    assert any(EVIL in words for words in found.words)
    assert any("<b>mse" in words for words in found.words)
    svg = (page.beside(out) / "scores.svg").read_text()
    assert "<script" not in svg


def test_numbers_by_hand(made):
    _, out = made
    (freeway,) = [row for row in table(out, "scores") if row["game"] == "Freeway"]
    assert float(freeway["agent (base) (2 seeds)"]) == 21.5
    low, high = intervals.mean([21, 22])
    assert float(freeway["agent (base) (2 seeds), low"]) == low
    assert float(freeway["agent (base) (2 seeds), high"]) == high
    assert float(freeway["data's mean (2 episodes)"]) == 15
    assert freeway[f"{EVIL} (1 episode), low"] == ""  # one episode gives no interval
    assert float(freeway["human"]) == games.spec("Freeway").human
    (mse,) = [row for row in table(out, "ablations") if "mse" in row["ablation"]]
    assert mse["changes"] == "network.groups = 2, loss.kind = mse"
    assert float(mse["Freeway"]) == (11 + 10.5) / 2 - 21.5
    low, high = intervals.difference([11, 10.5], [21, 22])
    assert (float(mse["Freeway, low"]), float(mse["Freeway, high"])) == (low, high)
    both = [
        [np.mean([games.human_normalised(*one) for one in zip(("Freeway", "Breakout"), seed)])
         for seed in seeds]
        for seeds in (((11, 3), (10.5, 3.5)), ((21, 10), (22, 11)))
    ]  # fmt: skip
    name = "IQM, human-normalised"  # each seed's, over two games: their mean
    ends = [float(mse[f"{name}, low"]), float(mse[f"{name}, high"])]
    assert ends == pytest.approx(intervals.difference(*both))
    (size,) = [row for row in table(out, "sizes") if row["player"] == "agent (base)"]
    assert (size["weights"], size["of the heads besides"]) == ("1000", "7")
    by_game = [games.human_normalised(*one) for one in (("Freeway", 21.5), ("Breakout", 10.5))]
    (base,) = [row for row in table(out, "aggregates_human") if row["player"] == "agent (base)"]
    assert float(base["mean"]) == pytest.approx(np.mean(by_game))
    assert {row["player"] for row in table(out, "aggregates_human")} >= {"cloning", "random"}


def test_the_page_shows_the_tables_numbers(made):
    found, out = made
    for shown, name in zip(found.tables, TABLES):
        rows = table(out, name)
        assert len(shown) == len(rows) + 1, name
        for cells, row in zip(shown[1:], rows):
            assert len(cells) == len(shown[0])
            first = row[next(iter(row))]
            assert cells[0] == first, name
    orders = [float(a["data-order"]) for a in found.all("td") if "data-order" in a]
    assert 21.5 in orders


def test_what_was_run(made):
    rows = {(row["player"], row["seed"]): row for row in table(made[1], "runs")}
    first, second = rows["agent (base)", "0"], rows["agent (base)", "1"]
    assert (first["commit"], first["hardware"]) == ("0123456789", "cores 2")
    assert float(first["hours"]) == 0.11 and float(second["hours"]) == 0.1  # 11 x 36 s, 10 x 36 s
    assert rows["random", ""]["hours"] == ""
    # Lines after 36, 216 and 396 s; the second start comes 20 s before the last.
    assert float(rows["agent (<b>mse)", "0"]["hours"]) == round((216 + 20) / 3600, 2)
    settings_rows = {row["setting"]: row for row in table(made[1], "settings")}
    assert settings_rows["loss.kind"]["agent (<b>mse)"] == '"mse"'
    assert settings_rows["loss.kind"]["multigame.gin"] == '"c51"'
    assert "train.seed" not in settings_rows and "feed.n_step" not in settings_rows


def test_ink_follows_the_page_and_files_have_their_own(made):
    _, out = made
    text = out.read_text()
    assert "currentColor" in text and "#222324" not in text and "#fefeff" not in text
    assert "#222324" in (page.beside(out) / "scores.svg").read_text()


def test_one_run_alone_makes_a_page(tmp_path):
    write_run(tmp_path / "agent", "agent", {"Freeway": [3]})
    found = write(tmp_path, tmp_path / "p.html")
    assert [s["id"] for s in found.all("section")] == ["scores", "aggregates", "actions", "runs"]
    assert not (tmp_path / "p_files/improvement.csv").exists()


def test_wide_intervals_leave_the_axis_to_the_scores(tmp_path):
    for seed, score in enumerate((10, 30)):  # Student's t of two: 20 +- 127
        write_run(tmp_path / str(seed), "agent", {"Freeway": [score]}, seed)
    found = score_files.find_scores([tmp_path])
    (chart,) = report.sections(groups.make(found, []))[0].charts
    (panel,) = figures.whole(chart).axes
    low, high = panel.get_xlim()
    human = games.spec("Freeway").human
    assert -0.61 * human <= low <= 0 and human <= high <= 1.61 * human


def test_names_have_as_much_of_the_path_as_it_takes(tmp_path):
    for place, steps in (("a/x/agent", 1), ("b/x/agent", 2), ("b/y/agent", 3)):
        for seed in (0, 1):
            write_run(tmp_path / place / str(seed), "agent", {"Freeway": [1]}, seed,
                      feed={"n_step": steps})  # fmt: skip
    found = groups.make(score_files.find_scores([tmp_path]), [])
    assert [group.name for group in found] == ["agent (a/x)", "agent (b/x)", "agent (y)"]
    assert [group.seeds for group in found] == [[0, 1]] * 3


def test_a_name_says_the_label_twice_only_where_that_tells_players_apart(tmp_path):
    def names(*places):
        for steps, place in enumerate(places, 1):
            write_run(tmp_path / str(len(places)) / place, "agent", {"Freeway": [1]},
                      feed={"n_step": steps})  # fmt: skip
        players = score_files.find_scores([tmp_path / str(len(places))])
        return {group.name for group in groups.make(players, [])}

    assert names("A/agent", "A/mse", "C/x/agent") == {"agent (A)", "agent (mse)", "agent (x)"}
    assert names("A/agent", "A/mse", "C/mse/agent", "D/x/agent") == {
        "agent (A)", "agent (mse)", "agent (mse/agent)", "agent (x)"
    }  # fmt: skip


def test_a_copy_with_the_same_seeds_is_another_player(tmp_path):
    for place in ("a", "b"):
        for seed in (0, 1):
            write_run(tmp_path / place / str(seed), "agent", {"Freeway": [1]}, seed)
    found = groups.make(score_files.find_scores([tmp_path]), [])
    assert [(group.name, group.seeds) for group in found] == [
        ("agent (a)", [0, 1]), ("agent (b)", [0, 1])
    ]  # fmt: skip


def test_seeds_under_two_protocols_are_refused(tmp_path, monkeypatch):
    write_run(tmp_path / "0", "agent", {"Freeway": [3]}, 0)
    monkeypatch.setitem(PROTOCOL, "sticky", 0.0)
    write_run(tmp_path / "1", "agent", {"Freeway": [3]}, 1)
    with pytest.raises(UserError, match=r"(?s)mix.*sticky 0.25.*sticky 0.0"):
        write(tmp_path, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_a_page_that_cannot_be_written_is_a_users_error(tmp_path):
    write_run(tmp_path / "agent", "agent", {"Freeway": [3]})
    with pytest.raises(UserError, match="can't write"):
        write(tmp_path, Path("/proc/x/p.html"))


def test_the_play_of_several_seeds_is_one_player_and_that_of_shares_is_not(tmp_path):
    for share in ("share=0", "share=9"):
        for seed in (1, 2, 3):
            place = tmp_path / share / str(seed)
            data = place / "data/Freeway/1"
            data.mkdir(parents=True)
            row = {"score": seed, "length": 9, "terminal": True}
            (data / "episodes.jsonl").write_text(json.dumps(row))
            if seed < 3:  # the last one isn't trained yet
                write_run(place / "agent", "agent", {"Freeway": [1]}, seed)
    found = groups.make(score_files.find_scores([tmp_path]), [tmp_path])
    assert {group.name: group.seeds for group in found[:2]} == {
        "data (share=0)": [1, 2, 3], "data (share=9)": [1, 2, 3]
    }  # fmt: skip
