"""Learning curves of runs that differ by seed only: means, intervals over seeds, differences.

The chance of training is in these intervals, unlike in those over one run's episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.evaluation import intervals, score_files
from cql_atari.evaluation.summary import by_variant
from cql_atari.system.files import parse_json

FORMAT = 1
FRAMES = "online/frames"
_SAID_BY_THE_START: dict[str, set[str]] = {  # values, as JSON
    "start.encoder_from": {"null"},
    "start.whole_network": {"false", "true"},
    "optimizer.encoder_learning_rate": {"0", "0.0"},
}
_LONGEST_SETTING = 30  # letters of a value in a legend


class Run(NamedTuple):
    """One trained folder.

    Attributes:
      folder: its path.
      seed: `train.seed`.
      steps: `train.steps`, where it is finished.
      settings: the configuration without the seed, flat: {"feed.n_step": 3, ...}.
      scores: variant -> gradient step -> mean score of that evaluation's episodes.
      frames: gradient step -> environment frames by then; empty offline.
      label: who played, as its scores say ("agent", "cloning", ...).
      protocol: how, in a line.
    """

    folder: Path
    seed: int
    steps: int
    settings: dict[str, Any]
    scores: dict[str, dict[int, float]]
    frames: dict[int, float]
    label: str
    protocol: str


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of a `metrics.jsonl` by name, each [(step, value)] in order of steps.

    Where a step stands twice (after a resume) the later line counts. A line that a crash has cut
    is left out with a warning.
    """
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = dict(parse_json(line))
            step = int(row.pop("step"))
            row.pop("time", None)
            values = {name: float(value) for name, value in row.items()}
        except (ValueError, KeyError, TypeError) as error:
            logging.warning("%s, line %d is left out: %r", path, number, error)
            continue
        for name, value in values.items():
            curves.setdefault(name, {})[step] = value
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Every run at or below the folders that has evaluations, `<run>/scores/<step>.json`.

    A second run of the same seed and configuration is left out with a warning: it would make the
    interval too narrow.

    Raises:
      UserError: where a file is malformed.
    """
    found = {
        path.parents[1].resolve(): path.parents[1]
        for folder in folders
        for path in sorted(folder.rglob("scores/[0-9]*.json"))
        if (path.parents[1] / "config.json").is_file()  # else `evaluate` wrote it
    }
    runs: dict[str, Run] = {}
    for folder in found.values():
        run = _read_run(folder)
        key = json.dumps([run.seed, run.settings], sort_keys=True)
        if key in runs:
            logging.warning(
                "%s is left out of the learning curves: same seed %d and configuration as %s",
                folder, run.seed, runs[key].folder,
            )  # fmt: skip
        runs.setdefault(key, run)
    return list(runs.values())


def _read_run(folder: Path) -> Run:
    path = folder / "config.json"
    try:
        config = parse_json(path.read_bytes())
        settings = {f"{s}.{name}": v for s, part in config.items() for name, v in part.items()}
        seed, steps = int(settings.pop("train.seed")), int(settings["train.steps"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no configuration of a train run: {error!r}") from None
    scores: dict[str, dict[int, float]] = {}
    protocols: dict[str, Path] = {}
    label = "agent"
    for path in sorted((folder / "scores").glob("[0-9]*.json")):
        found = score_files.read(path)
        label = str(found.run.get("label", label))
        protocols.setdefault(score_files.protocol_line(found.protocol), path)
        for name, group in by_variant(found.episodes).items():
            mean = float(np.mean([episode.score for episode in group]))
            scores.setdefault(name, {})[int(path.stem)] = mean
    _refuse_mixture(protocols)
    log = folder / "metrics.jsonl"
    frames = dict(read_metrics(log).get(FRAMES, [])) if log.is_file() else {}
    return Run(folder, seed, steps, settings, scores, frames, label, next(iter(protocols)))


def _refuse_mixture(protocols: dict[str, Path]) -> None:
    """Raises a UserError where one curve would hold evaluations under several protocols."""
    if len(protocols) > 1:
        lines = [f"  {path}: {protocol}" for protocol, path in protocols.items()]
        raise UserError(
            "\n".join(["one learning curve would mix evaluations under other protocols:", *lines])
            + "\nMove those that don't belong there to another folder, or evaluate them again "
            "(`python -m cql_atari.evaluate --run=RUN --checkpoint=STEP`)."
        )


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Groups runs that differ by seed only; ready for JSON.

    A group's curve has the evaluations that all its seeds have. The mean over the curve is the
    area under it (trapezoids over gradient steps) by its length. Intervals are 95 % over seeds,
    None for one seed: Student's t for a mean, Welch's for a difference. "dqn_normalised" is None
    for variants and for games without a reference score.

    Returns:
      {"format", "unfinished": {folder name: [step, steps]}, "variants": {name: {"groups": [{name,
      label, protocol, pretrained, folders, seeds, n, steps, frames (mean over seeds; None offline),
      scores [n][steps], mean [steps], ci95 [steps], "final" and "mean_over_curve": {"raw" and
      "dqn_normalised": {value, ci95, by_seed}}}], "differences": [{name, n: [n, n], "final" and
      "mean_over_curve": {"raw" and "dqn_normalised": {value, ci95}}}]}}}. Differences are
      pre-trained minus from scratch, where both have the same steps and protocol.

    Raises:
      UserError: where the seeds of a group have no evaluation in common, or were evaluated under
        different protocols.
    """
    by_settings: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        by_settings.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    variants: dict[str, Any] = {}
    for variant in dict.fromkeys(name for run in runs for name in run.scores):
        members = [group for group in by_settings.values() if variant in group[0].scores]
        names = group_names([group[0].settings for group in members])
        groups = [_group(variant, name, group) for name, group in zip(names, members)]
        variants[variant] = {
            "groups": groups,
            "differences": [
                _difference(mine, theirs)
                for mine in groups
                for theirs in groups
                if mine["pretrained"] and not theirs["pretrained"]
                if mine["steps"] == theirs["steps"] and mine["protocol"] == theirs["protocol"]
            ],
        }
    return {"format": FORMAT, "unfinished": _unfinished(runs), "variants": variants}


def group_names(settings: Sequence[dict[str, Any]]) -> list[str]:
    """What each configuration starts from, and the other settings by which they differ."""
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: [json.dumps(one.get(key)) for one in settings] for key in keys}
    differing = [
        key for key in keys if len(set(values[key]) - _SAID_BY_THE_START.get(key, set())) > 1
    ]
    names = []
    for number, one in enumerate(settings):
        parts = [_start(one)]
        for key in differing:
            if one.get(key) is not None:
                text = values[key][number].strip('"')
                short = text if len(text) <= _LONGEST_SETTING else f"…{text[-_LONGEST_SETTING:]}"
                parts.append(f"{key}={short}")
        names.append(", ".join(parts))
    return names


def _start(settings: dict[str, Any]) -> str:
    start = "from scratch"
    if _is_pretrained(settings):
        start = f"pre-trained {'network' if settings.get('start.whole_network') else 'encoder'}"
    if settings.get("optimizer.encoder_learning_rate") != 0:
        return start
    return "frozen encoder" if start == "pre-trained encoder" else f"{start}, frozen encoder"


def _is_pretrained(settings: dict[str, Any]) -> bool:
    return settings.get("start.encoder_from") is not None


def _group(variant: str, name: str, runs: Sequence[Run]) -> dict[str, Any]:
    _refuse_mixture({run.protocol: run.folder for run in runs})
    common = set.intersection(*(set(run.scores.get(variant, {})) for run in runs))
    if not common:
        folders = ", ".join(str(run.folder) for run in runs)
        raise UserError(f"no evaluation of {variant} at a step that all have: {folders}")
    steps = sorted(common)
    scores = np.array([[run.scores[variant][step] for step in steps] for run in runs])
    frames = [[run.frames.get(step) for step in steps] for run in runs]
    counted = all(frame is not None for row in frames for frame in row)
    return {
        "name": name,
        "label": runs[0].label,
        "protocol": runs[0].protocol,
        "pretrained": _is_pretrained(runs[0].settings),
        "folders": [run.folder.resolve().name for run in runs],
        "seeds": [run.seed for run in runs],
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
    """Area under the curve by its length; of a single point, its score."""
    if len(steps) == 1:
        return float(scores[0])
    middles = (np.asarray(scores[1:]) + np.asarray(scores[:-1])) / 2
    return float(np.average(middles, weights=np.diff(steps)))


def _both(variant: str, by_seed: Sequence[float]) -> dict[str, Any]:
    """Raw, and DQN-normalised where `variant` is the name of a game: its default mode."""
    kinds: dict[str, Any] = {"raw": list(by_seed), "dqn_normalised": None}
    if variant in games.table() and games.spec(variant).dqn is not None:
        kinds["dqn_normalised"] = [games.dqn_normalised(variant, score) for score in by_seed]
    return {
        kind: values
        and {
            "value": float(np.mean(values)),
            "ci95": intervals.mean(values),
            "by_seed": values,
        }
        for kind, values in kinds.items()
    }


def _difference(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": f"{mine['name']} - {theirs['name']}"}
    row["n"] = [mine["n"], theirs["n"]]
    for measure in ("final", "mean_over_curve"):
        row[measure] = {
            kind: of
            and {
                "value": of["value"] - theirs[measure][kind]["value"],
                "ci95": intervals.difference(of["by_seed"], theirs[measure][kind]["by_seed"]),
            }
            for kind, of in mine[measure].items()
        }
    return row


def _unfinished(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Runs whose last evaluation isn't at their last step: [where it is, last step]."""
    stands = [(run, max(max(curve) for curve in run.scores.values())) for run in runs]
    return {run.folder.name: [step, run.steps] for run, step in stands if step < run.steps}


def worth_showing(summary: dict[str, Any]) -> bool:
    """Whether there is more than single runs from scratch, of which reports say enough."""
    return any(
        group["n"] > 1 or group["pretrained"]
        for entry in summary["variants"].values()
        for group in entry["groups"]
    )
