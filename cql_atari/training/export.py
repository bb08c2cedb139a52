"""Writes a loaded run for other people's programs: plain weights, SavedModel, TF-Agents, ONNX."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf
from tf_agents.policies import policy_saver

from cql_atari.core import games as games_lib
from cql_atari.core import settings
from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SHAPE, STACK, UserError
from cql_atari.evaluation import score_files
from cql_atari.evaluation.score_files import Scores
from cql_atari.methods import policy
from cql_atari.runs import folder, weights
from cql_atari.training import card
from cql_atari.training.load import Loaded

Shapes = dict[str, tuple[int | None, ...]]  # by name; None for the batch
SAVED_MODEL, POLICY, ONNX = "saved_model", "tf_agents_policy", "model.onnx"
_OPSET = 17  # of ONNX


def export(run: Path, loaded: Loaded, out: Path, data: str) -> list[str]:
    """Writes all that the method allows; the folder is there whole or not at all.

    Args:
      run: the folder that `loaded` came from: its scores and its manifest go with it.
      loaded: the run.
      out: a new folder, or an empty one.
      data: the manifest as a table, for the card; "" where there is none.

    Returns:
      The names of what was written.

    Raises:
      UserError: where `out` can't be written.
    """
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        scores, shapes = _write(run, loaded, partial)
        count = sum(math.prod(v.shape) for v in loaded.method.network.trainable_variables)
        text = card.write(
            loaded.config, loaded.step, count, name=out.name, data=data, scores=scores,
            shapes=shapes, onnx=(partial / ONNX).is_file(),
        )  # fmt: skip
        (partial / "README.md").write_text(text)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"can't write --out={out}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(path.name for path in out.iterdir())


def _write(run: Path, loaded: Loaded, out: Path) -> tuple[Scores | None, Shapes]:
    """Writes everything except the card; returns the scores and shapes that the card shows."""
    method, config = loaded.method, without_paths(loaded.config)
    (out / folder.CONFIG).write_text(json.dumps(settings.to_dict(config), indent=1) + "\n")
    weights.save(out / weights.FILE, method.network, {"step": str(loaded.step)})
    if (selection := read_selection(run)) is not None:
        (out / folder.MANIFEST).write_text(json.dumps(selection, indent=1) + "\n")
    if (scores := _scores_of(run, loaded.step)) is not None:
        score_files.write(
            out / folder.SCORES,
            scores.episodes,
            {**scores.protocol, "rom_dir": None},
            {**scores.run, "config": settings.to_dict(config)},
        )
    if method.outputs is None:
        return scores, {}
    shapes = save_model(out / SAVED_MODEL, loaded)
    greedy = policy.GreedyPolicy(method.network, method.outputs, config.data.games)
    policy_saver.PolicySaver(greedy, batch_size=None).save(str(out / POLICY))
    if importlib.util.find_spec("tf2onnx"):
        _save_onnx(out / ONNX, loaded)
    return scores, shapes


def serving(loaded: Loaded) -> Any:
    """The tf.function (frames uint8 [B, 84, 84, 4], newest last; game int32 [B]) -> the method's
    outputs, and "actions" int32 [B]: the greedy ones of each row's game, of the full set of 18.
    """
    outputs = loaded.method.outputs
    assert outputs is not None
    own = games_lib.action_mask(loaded.config.data.games)  # NumPy's: it becomes part of the graph

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, *FRAME_SHAPE, STACK), tf.uint8, "frames"),
            tf.TensorSpec((None,), tf.int32, "game"),
        ],
        autograph=False,
    )
    def act(frames: tf.Tensor, game: tf.Tensor) -> dict[str, tf.Tensor]:
        found = outputs(tf.transpose(frames, (0, 3, 1, 2)), game)
        scores = next(iter(found.values()))
        allowed = tf.where(tf.gather(own, game), scores, scores.dtype.min)
        return {**found, "actions": tf.argmax(allowed, -1, output_type=tf.int32)}

    return act


def save_model(path: Path, loaded: Loaded) -> Shapes:
    """Writes a SavedModel with two signatures.

    "serving_default" is `serving`; "tables" () gives the names of the "games" [G], "action_names"
    [18], which actions are "available" bool [G, 18] and, with distributions, their "support" [N].

    Returns:
      The shapes of the outputs by name; None for B.
    """
    games, support = loaded.config.data.games, loaded.method.support
    columns: dict[str, Any] = {
        "games": list(games),
        "action_names": list(games_lib.ACTION_NAMES),
        "available": games_lib.action_mask(games),
        **({} if support is None else {"support": support}),
    }

    @tf.function(input_signature=[], autograph=False)
    def tables() -> dict[str, tf.Tensor]:
        return {name: tf.constant(column) for name, column in columns.items()}

    module = tf.Module()
    module.weights = loaded.method.network.variables
    act = serving(loaded)
    tf.saved_model.save(module, str(path), {"serving_default": act, "tables": tables})
    outputs = act.get_concrete_function().structured_outputs
    return {name: tuple(output.shape) for name, output in outputs.items()}


def _save_onnx(path: Path, loaded: Loaded) -> None:
    import tf2onnx

    function = serving(loaded)
    tf2onnx.convert.from_function(
        function, function.input_signature, opset=_OPSET, output_path=str(path)
    )


def without_paths(config: Config) -> Config:
    """The configuration without the paths and addresses of this machine."""
    places: dict[str, dict[str, Any]] = {
        "data": {"dir": None, "exclude": None},
        "feed": {"cache_dir": None, "servers": ()},
        "evaluation": {"rom_dir": None},
        "start": {"encoder_from": None, "whole_network": False},
    }
    changed = {
        section: dataclasses.replace(getattr(config, section), **values)
        for section, values in places.items()
    }
    return dataclasses.replace(config, **changed)


def read_selection(run: Path) -> dict[str, Any] | None:
    """The run's manifest without the paths, or None where it has none."""
    try:
        found = json.loads((run / folder.MANIFEST).read_bytes())
        for entry in found["sources"]:
            entry["path"] = None
        return found
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{run / folder.MANIFEST} is damaged: {error!r}") from error


def _scores_of(run: Path, step: int) -> Scores | None:
    """The scores of a step, if the run was evaluated there."""
    for path in (run / folder.SCORES, folder.scores_of(run, step)):
        if path.is_file() and (scores := score_files.read(path)).run.get("step") == step:
            return scores
    return None
