"""python -m cql_atari.export RUN --out=DIR: weights for other people's programs, with a card.

DIR then holds `weights.safetensors` and `config.json` (which `cql_atari.load` and every command
that takes a run read), README.md (the card), and of a network that acts on single states a
TensorFlow SavedModel, a TF-Agents policy and, where tf2onnx is installed, an ONNX model.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from cql_atari.core.types import UserError
from cql_atari.system import cli

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError(f"give one folder of a run, not {argv[1:]}: RUN --out=DIR.")
    run, out = Path(argv[1]), cli.named_folder("out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is there already; give a new folder, or remove it.")
    from absl import logging

    from cql_atari.runs import manifest
    from cql_atari.training import export, load

    loaded = load.load(run, FLAGS.checkpoint)
    logging.set_verbosity(logging.ERROR)  # TF-Agents and tf2onnx log every step
    selection = export.read_selection(run)
    data = "" if selection is None else manifest.as_table(selection)
    written = export.export(run, loaded, out, data)
    print(f"wrote {out}, step {loaded.step:,}: {', '.join(written)}")
    if loaded.method.outputs is None:
        print(
            f"no SavedModel: train.method = {loaded.config.train.method!r} acts on a window of "
            "steps that it remembers, which cql_atari.load does."
        )
    elif export.ONNX not in written:
        print("no ONNX model: that takes pip install tf2onnx==1.17.0 onnx==1.17.0.")


def _define_flags() -> None:
    flags.DEFINE_string("out", None, "New folder for the export.", required=True)
    flags.DEFINE_integer("checkpoint", None, "The checkpoint of this step; default: the newest.")


if __name__ == "__main__":
    _define_flags()
    cli.run(main, takes_arguments=True)
