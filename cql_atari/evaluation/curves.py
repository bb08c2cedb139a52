"""Learning curves of runs that differ by seed only: means, intervals over seeds, differences.

These intervals include the randomness of training; those over one run's episodes don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cql_atari.core import games
from cql_atari.evaluation import groups, intervals, score_files
from cql_atari.evaluation.groups import Group
from cql_atari.evaluation.run_logs import SCORE, read_metrics
from cql_atari.evaluation.score_files import Scores
from cql_atari.evaluation.summary import by_variant
from cql_atari.evaluation.tables import Estimate, Table, Value, number, percent
from cql_atari.runs import folder

FORMAT = 1
FRAMES = "online/frames"
_MEASURES = ("final", "mean_over_curve")
_FORMS = {"raw": number, "dqn_normalised": percent}


class Evaluations(NamedTuple):
    """Evaluations of one run.

    Attributes:
      player: whose.
      scores: variant -> gradient step -> mean score of that evaluation's episodes.
      frames: gradient step -> environment frames by then; empty offline.
      protocol: how they were played, in a line.
    """

    player: Scores
    scores: dict[str, dict[int, float]]
    frames: dict[int, float]
    protocol: str


def read_run(player: Scores) -> Evaluations:
    """A run's evaluations, from its `scores/<step>.json`; where it has none, from its log.

    Raises:
      UserError: where a file is malformed, or evaluations are under several protocols.
    """
    scores: dict[str, dict[int, float]] = {}
    protocols: dict[str, object] = {}
    for step, path in folder.scores_by_step(player.folder).items():
        found = score_files.read(path)
        protocols.setdefault(score_files.protocol_line(found.protocol), path)
        for name, episodes in by_variant(found.episodes).items():
            mean = float(np.mean([episode.score for episode in episodes]))
            scores.setdefault(name, {})[step] = mean
    groups.refuse_mixture("learning curve", protocols)
    log = read_metrics(player.folder)
    if not scores:
        scores = {name[len(SCORE) :]: dict(c) for name, c in log.items() if name.startswith(SCORE)}
    protocol = next(iter(protocols), score_files.protocol_line(player.protocol))
    return Evaluations(player, scores, dict(log.get(FRAMES, [])), protocol)


def summarise(found: Sequence[Group]) -> dict[str, Any]:
    """The curves of all groups that were trained and evaluated more than once; ready for JSON.

    A group's curve has the evaluations that all its seeds have. The mean over the curve is the
    area under it (trapezoids over gradient steps) by its length. Intervals are 95 % over seeds,
    None for one seed: Student's t for a mean, Welch's for a difference. "dqn_normalised" is None
    for variants and for games without a reference score.

    Returns:
      {"format", "unfinished": {folder: [step, steps]}, "variants": {name: {"groups": [{name,
      protocol, pretrained, folders, seeds, n, steps, frames (mean over seeds; None offline), scores
      [n][steps], mean [steps], ci95 [steps], "final" and "mean_over_curve": {"raw" and
      "dqn_normalised": {value, ci95, by_seed}}}], "differences": [{name, n: [n, n], "final" and
      "mean_over_curve": {"raw" and "dqn_normalised": {value, ci95}}}]}}}. Differences are
      pre-trained minus from scratch, where both have the same steps and protocol.

    Raises:
      UserError: as `read_run`, and where a group's seeds were evaluated under different protocols.
    """
    variants: dict[str, Any] = {}
    unfinished = {}
    for group in found:
        runs = [read_run(player) for player in group.players] if group.settings else []
        groups.refuse_mixture("learning curve", {run.protocol: run.player.folder for run in runs})
        for variant in dict.fromkeys(name for run in runs for name in run.scores):
            curve = _curve(variant, group, runs)
            if curve:
                variants.setdefault(variant, {"groups": []})["groups"].append(curve)
        for run in runs:
            last = max((max(curve) for curve in run.scores.values()), default=0)
            if 0 < last < (steps := groups.settings_of(run.player)["train.steps"]):
                unfinished[str(run.player.folder)] = [last, steps]
    for entry in variants.values():
        entry["differences"] = [
            _difference(mine, theirs)
            for mine in entry["groups"] for theirs in entry["groups"]
            if mine["pretrained"] and not theirs["pretrained"]
            if (mine["steps"], mine["protocol"]) == (theirs["steps"], theirs["protocol"])
        ]  # fmt: skip
    return {"format": FORMAT, "unfinished": unfinished, "variants": dict(sorted(variants.items()))}


def _curve(variant: str, group: Group, found: Sequence[Evaluations]) -> dict[str, Any] | None:
    """One of the "groups"; None where the runs have fewer than two evaluations in common."""
    runs = [run for run in found if variant in run.scores]
    steps = sorted(set.intersection(*(set(run.scores[variant]) for run in runs)))
    scores = np.array([[run.scores[variant][step] for step in steps] for run in runs])
    frames = [[run.frames.get(step) for step in steps] for run in runs]
    counted = all(frame is not None for row in frames for frame in row)
    if len(steps) < 2:
        return None
    return {
        "name": group.name,
        "protocol": runs[0].protocol,
        "pretrained": group.settings.get("start.encoder_from") is not None,
        "folders": [str(run.player.folder) for run in runs],
        "seeds": [groups.seed_of(run.player) for run in runs],
        "n": len(runs),
        "steps": steps,
        "frames": np.mean(np.array(frames, float), 0).tolist() if counted else None,
        "scores": scores.tolist(),
        "mean": scores.mean(0).tolist(),
        "ci95": [intervals.mean(column) for column in scores.T.tolist()],
        "final": _both(variant, scores[:, -1].tolist()),
        "mean_over_curve": _both(variant, [mean_over_curve(steps, row) for row in scores]),
    }


def mean_over_curve(steps: Sequence[int], scores: Sequence[float]) -> float:
    """Area under the curve by its length."""
    middles = (np.asarray(scores[1:]) + np.asarray(scores[:-1])) / 2
    return float(np.average(middles, weights=np.diff(steps)))


def _both(variant: str, by_seed: Sequence[float]) -> dict[str, Any]:
    """Raw, and DQN-normalised where `variant` is the name of a game: its default mode."""
    kinds: dict[str, Any] = {"raw": list(by_seed), "dqn_normalised": None}
    if variant in games.table() and games.dqn_normalised(variant, 0.0) is not None:
        kinds["dqn_normalised"] = [games.dqn_normalised(variant, score) for score in by_seed]
    return {
        kind: values
        and {"value": float(np.mean(values)), "ci95": intervals.mean(values), "by_seed": values}
        for kind, values in kinds.items()
    }


def _difference(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": f"{mine['name']} - {theirs['name']}"}
    row["n"] = [mine["n"], theirs["n"]]
    for measure in _MEASURES:
        row[measure] = {
            kind: of
            and {
                "value": of["value"] - theirs[measure][kind]["value"],
                "ci95": intervals.difference(of["by_seed"], theirs[measure][kind]["by_seed"]),
            }
            for kind, of in mine[measure].items()
        }
    return row


def table(summary: dict[str, Any]) -> Table:
    """Final score and mean over the curve of every group, and their differences.

    Args:
      summary: as `summarise`.
    """
    rows: list[list[Value]] = []
    for variant, entry in summary["variants"].items():
        for row in [*entry["groups"], *entry["differences"]]:
            n, steps = row["n"], row.get("steps")
            rows.append([
                variant, row["name"], n if steps else " and ".join(map(str, n)),
                steps[-1] if steps else None,
                *((cell := row[measure][kind]) and Estimate(cell["value"], cell["ci95"], form)
                  for measure in _MEASURES for kind, form in _FORMS.items()),
            ])  # fmt: skip
    note = (
        "± over seeds: 95 % intervals (Student's t; Welch's for differences); mean over the curve: "
        "the area under it by its length in gradient steps. In training fewer episodes are played "
        "than at its end."
    )
    for place, (step, steps) in summary["unfinished"].items():
        note += (
            f" {place} is unfinished: last evaluated at step {step:,} of {steps:,}; its group's "
            "curve ends there and is compared only with others that do."
        )
    header = ["game", "player", "seeds", "steps", "final", "final / DQN", "mean over the curve",
              "mean over the curve / DQN"]  # fmt: skip
    return Table("learning_curves", "Learning curves", header, rows, note)


def worth_printing(summary: dict[str, Any]) -> bool:
    """Whether there is more than single runs from scratch, of which the scores say enough."""
    return any(
        group["n"] > 1 or group["pretrained"]
        for entry in summary["variants"].values()
        for group in entry["groups"]
    )
