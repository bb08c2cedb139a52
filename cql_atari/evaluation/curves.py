"""Learning curves of runs that differ by seed only: means, intervals over seeds, differences.

The chance of training is in these intervals, unlike in those over one run's episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from cql_atari.core import games
from cql_atari.core.types import UserError
from cql_atari.evaluation import configurations, intervals, score_files
from cql_atari.evaluation.run_logs import SCORE, read_metrics
from cql_atari.evaluation.summary import by_variant
from cql_atari.system.files import parse_json

FORMAT = 1
FRAMES = "online/frames"


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
        settings = configurations.flat(parse_json(path.read_bytes()))
        return make_run(folder, settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no configuration of a train run: {error!r}") from None


def make_run(
    folder: Path, settings: Mapping[str, Any], label: str = "agent", protocol: str = ""
) -> Run:
    """A run's evaluations, of `scores/<step>.json`; where it has none, of its `metrics.jsonl`.

    Args:
      folder: the run's.
      settings: its configuration, flat, with the seed.
      label: who played, where the scores don't say.
      protocol: of its scores, where `scores/` doesn't say.

    Raises:
      UserError: where a file is malformed, or evaluations are under several protocols.
      KeyError, TypeError, ValueError: where the settings lack seed or steps.
    """
    settings = dict(settings)
    seed, steps = int(settings.pop(configurations.SEED)), int(settings["train.steps"])
    scores: dict[str, dict[int, float]] = {}
    protocols: dict[str, Path] = {}
    for path in sorted((folder / "scores").glob("[0-9]*.json")):
        found = score_files.read(path)
        label = str(found.run.get("label", label))
        protocols.setdefault(score_files.protocol_line(found.protocol), path)
        for name, group in by_variant(found.episodes).items():
            mean = float(np.mean([episode.score for episode in group]))
            scores.setdefault(name, {})[int(path.stem)] = mean
    _refuse_mixture(protocols)
    log = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else {}
    if not scores:
        scores = {name[len(SCORE) :]: dict(c) for name, c in log.items() if name.startswith(SCORE)}
    protocol = next(iter(protocols), protocol)
    return Run(folder, seed, steps, settings, scores, dict(log.get(FRAMES, [])), label, protocol)


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
    runs = sorted(runs, key=lambda run: run.seed)
    alike = configurations.same_but_seed([r.seed for r in runs], [r.settings for r in runs])
    by_settings = [[runs[place] for place in places] for places in alike]
    variants: dict[str, Any] = {}
    for variant in dict.fromkeys(name for run in runs for name in run.scores):
        members = [group for group in by_settings if variant in group[0].scores]
        names = configurations.group_names([group[0].settings for group in members])
        groups = [make_group(variant, name, group) for name, group in zip(names, members)]
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


def make_group(variant: str, name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """One entry of `summarise`'s "groups": runs that differ by seed, in a game or variant.

    Raises:
      UserError: as `summarise`.
    """
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
        "pretrained": configurations.is_pretrained(runs[0].settings),
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
