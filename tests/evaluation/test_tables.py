"""Tables: how numbers and intervals are written, and the table of learning curves."""

from __future__ import annotations

from cql_atari.evaluation import curves, tables


def cell(value, half=None):
    return {"value": value, "ci95": None if half is None else (value - half, value + half)}


def measures(raw, normalised):
    return {"raw": raw, "dqn_normalised": normalised}


GROUP = {
    "name": "from scratch", "n": 3, "steps": [0, 4000],
    "final": measures(cell(1234.4, 100), cell(0.5, 0.25)),
    "mean_over_curve": measures(cell(-3.21), None),
}  # fmt: skip
DIFFERENCE = {name: GROUP[name] for name in ("final", "mean_over_curve")}
DIFFERENCE |= {"name": "a - b", "n": [3, 2]}
SUMMARY = {
    "variants": {"Pong": {"groups": [GROUP], "differences": [DIFFERENCE]}},
    "unfinished": {"scratch_1": [500, 4000]},
}


def test_cells_of_the_curves_table():
    table = curves.table(SUMMARY)
    header, rule, group, difference, *lines = tables.to_text(table, True).splitlines()
    assert header.startswith("| game | player | seeds | steps | final | final / DQN | mean over")
    assert rule == "|" + " --- |" * 8
    numbers = "1,234 ± 100 | 50 % ± 25 % | -3.2 | - |"
    assert group == f"| Pong | from scratch | 3 | 4,000 | {numbers}"
    assert difference == f"| Pong | a - b | 3 and 2 | - | {numbers}"
    assert " scratch_1 is unfinished: last evaluated at step 500 of 4,000" in lines[-1]


def test_columns_are_aligned():
    text = tables.table([["a", "bcd"], ["long", "x"]], False)
    assert text == "a     bcd\n---------\nlong  x"
