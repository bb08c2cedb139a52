"""The model card of an export, README.md in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cql_atari.core import games as games_lib
from cql_atari.core.settings import Config
from cql_atari.evaluation import summary, tables
from cql_atari.evaluation.score_files import Scores

_HEAD = """---
license: apache-2.0
library_name: cql_atari
tags: [reinforcement-learning, offline-rl, atari, scaled-q-learning]
---
# {method} on {games}

A network trained by `cql_atari` (train.method = `{method}`, gradient step {step:,}), an independent
reconstruction of Scaled Q-learning ("Offline Q-Learning on Diverse Multi-Task Data Both Scales And
Generalizes", arXiv 2211.15144). Neither the weights nor the code are by the paper's authors.

## Use

```python
import cql_atari

run = cql_atari.load("{name}")  # reads config.json and weights.safetensors only
policy = run.act()
```
"""

_SAVED_MODEL = """Without `cql_atari`, by TensorFlow alone:

```python
import tensorflow as tf

model = tf.saved_model.load("{name}/saved_model")
outputs = model.signatures["serving_default"](frames=frames, game=game)
tables = model.signatures["tables"]()  # names of games and actions; which game has which
```

- `frames`: uint8 [B, 84, 84, 4], grey, newest frame last; each is the maximum of the last two of
  four screens, scaled to 84 x 84 by area.
- `game`: int32 [B], numbers of the table below.
{outputs}
`tf_agents_policy` is a policy of TF-Agents (`SavedModelPyTFEagerPolicy` loads it); it observes
`frames`, uint8 [4, 84, 84], and `game`.{onnx}

**A SavedModel is a program**, and so is a TF-Agents policy: load only programs of people you trust.
`config.json` and `weights.safetensors` are data; loading them runs nothing of their writer's.
"""

_ACTIONS = "`actions`: int32 [B], the greedy ones of each row's game, of ALE's full set of 18."

_RECONSTRUCTED = """## What is reconstructed

The paper states the parts of the network (ResNet, group normalisation, learned spatial embeddings,
feature normalisation, C51), and batch size, learning rate and target period of its main run. Sizes
of the spatial embedding and of the feed-forward layers, strides, groups, the weight of CQL, the
atoms, the n-step return, the list of the 40 games and the protocol of evaluation are reconstructed;
docs/method.md of `cql_atari` says what comes from where. `config.json` holds every value of this
run, which need not be the paper's.

## Licence

Apache 2.0, as the code. The recorded play that the network learned from and the games' ROMs have
terms of their own and are not part of it.
"""


def write(
    config: Config,
    step: int,
    parameters: int,
    *,
    name: str,
    data: str,
    scores: Scores | None,
    shapes: Mapping[str, tuple[int | None, ...]],
    onnx: bool,
) -> str:
    """The card, Markdown.

    Args:
      config: as it is exported.
      step: of the weights.
      parameters: trainable ones.
      name: of the export's folder.
      data: its data manifest as a table; "" where there is none.
      scores: of this step, if there are any.
      shapes: of the SavedModel's outputs, by name; {}: there is no SavedModel.
      onnx: whether there is an ONNX model.
    """
    games = config.data.games
    named = " and ".join(games) if len(games) < 4 else f"{len(games)} games"
    parts = [_HEAD.format(method=config.train.method, games=named, step=step, name=name)]
    if shapes:
        too = "\n`model.onnx` has the SavedModel's inputs and outputs." if onnx else ""
        parts.append(_SAVED_MODEL.format(name=name, outputs=_outputs(shapes), onnx=too))
    values = vars(config.network if shapes else config.transformer)
    if "q_values" in shapes:  # else there is no such loss
        names = ("kind", "num_atoms", "v_min", "v_max")
        values = values | {f"loss.{name}": getattr(config.loss, name) for name in names}
    parts += [_architecture(values, parameters), _games(config), _training(config, data)]
    return "\n".join([*parts, _scores(scores), _RECONSTRUCTED])


def _outputs(shapes: Mapping[str, tuple[int | None, ...]]) -> str:
    lines = []
    for name, shape in sorted(shapes.items()):
        text = f"`{name}`: float32 [{', '.join(str(size or 'B') for size in shape)}]."
        lines.append(_ACTIONS if name == "actions" else text)
    return "".join(f"- {line}\n" for line in lines)


def _architecture(values: Mapping[str, Any], parameters: int) -> str:
    rows = [["setting", "value"], *([name, f"`{value!r}`"] for name, value in values.items())]
    text = f"{parameters:,} trainable parameters, stored as float32."
    return f"## Architecture\n\n{text}\n\n{tables.table(rows, markdown=True)}\n"


def _games(config: Config) -> str:
    rows = [["game", "number", "actions"]]
    for number, game in enumerate(config.data.games):
        names = [games_lib.ACTION_NAMES[action] for action in games_lib.spec(game).actions]
        rows.append([game, str(number), ", ".join(names)])
    return f"## Games\n\n{tables.table(rows, markdown=True)}\n"


def _training(config: Config, data: str) -> str:
    train = config.train
    text = (
        f"A run of {train.steps:,} gradient steps of {config.batch_size} by "
        f"{config.optimizer.kind}; phase {train.phase}, seed {train.seed}."
    )
    if not data:
        return f"## Training\n\n{text} Its folder held no manifest of its data.\n"
    return (
        f"## Training\n\n{text} `manifest.json` has size and checksum of every file.\n\n"
        f"```\n{data}\n```\n"
    )


def _scores(scores: Scores | None) -> str:
    if scores is None:
        return "## Scores\n\nIt was not evaluated at this step.\n"
    protocol = ", ".join(
        f"{name} {value}"
        for name, value in scores.protocol.items()
        if value is not None and name != "rom_dir"  # a path
    )
    text = "One training seed: the intervals cover the randomness of evaluation only. "
    text += f"Protocol: {protocol}."
    found = summary.as_text(scores.label, scores.summary, markdown=True)
    return f"## Scores\n\n{text} ± and [ ] are 95 % intervals.\n\n{found}\n"
