"""What a configuration will take: python -m cql_atari.plan --gin_files=gin_configs/multigame.gin.

Prints bytes and operations a step, parameters, checkpoint, replay and network traffic, and the time
and price of the whole run for given devices. Arithmetic only: nothing is trained, no data are read.
`docs/scaling.md` explains each line and holds the measured rates that it starts from.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from absl import flags

from cql_atari import cli
from cql_atari import config as config_lib
from cql_atari.config import Config
from cql_atari.types import FRAME_SHAPE, STACK, UserError

FLAGS = flags.FLAGS

# Measured by benchmarks/feeds.py (README, "How fast"); overridden by flags.
FEED_RATE_PER_CORE = 22_900  # transitions/s that one core takes from the replay into batches
REPLAY_BYTES = 400  # of a transition in the replay, compressed; by game from about 300 to 2,000
COLUMN_BYTES = 16  # action, reward, discount, game

_FLOAT_BYTES = 4
_OPTIMIZER_SLOTS = 2  # Adam's two moments
_PASSES = 4  # forward, target's forward, backward (twice a forward)


class Devices(NamedTuple):
    """What the run is planned for.

    Attributes:
      replicas: devices (TPU cores or GPUs).
      teraflops: sustained by each of them, 10^12 operations a second.
      price: of a replica-hour, in any currency.
      feed_rate: transitions/s that one host core can feed.
    """

    replicas: int
    teraflops: float
    price: float
    feed_rate: float


class Network(NamedTuple):
    """A network in numbers: parameters, and operations of a forward pass of one state."""

    trunk: int
    heads: int
    forward: float


def plan(config: Config, network: Network, devices: Devices) -> list[tuple[str, str]]:
    """The lines (what, how much), in the order in which one follows from another.

    Raises:
      UserError: where the batch's draws don't divide over the replicas.
    """
    feed, batch = config.feed, config.batch_size
    if feed.draws % devices.replicas:
        raise UserError(
            f"{feed.draws} draws a batch don't divide over {devices.replicas} replicas; give "
            f"--replicas a divisor of feed.draws = {feed.draws}."
        )
    window = (STACK + feed.n_step) * math.prod(FRAME_SHAPE)
    batch_bytes = batch * (window + COLUMN_BYTES)
    parameters = network.trunk + network.heads
    copies = 1 + _OPTIMIZER_SLOTS + (config.loss.kind != "cloning")
    checkpoint = copies * parameters * _FLOAT_BYTES
    passes = _PASSES if config.loss.kind != "cloning" else _PASSES - 1
    operations = passes * batch * network.forward
    step_seconds = operations / (devices.replicas * devices.teraflops * 1e12)
    hours = config.train.steps * step_seconds / 3600
    rate = batch / step_seconds
    saves = math.ceil(config.train.steps / config.train.save_every)
    lines = [
        ("batch", f"{batch:,} transitions = {feed.draws} draws x {feed.transitions_per_draw}; "
                  f"{batch // devices.replicas:,} a replica"),
        ("batch in bytes", f"{_bytes(batch_bytes)} a step, {_bytes(batch_bytes / batch)} "
                           "a transition"),
        ("parameters", f"trunk {network.trunk:,}, heads {network.heads:,}"),
        ("checkpoint", f"{_bytes(checkpoint)}; {config.train.keep} kept, {saves:,} written"),
        ("compute", f"forward {network.forward / 1e9:.2f} GFLOP a state; "
                    f"{operations / 1e12:.2f} TFLOP a step"),
        ("step", f"{step_seconds * 1e3:,.1f} ms on {devices.replicas} replicas that sustain "
                 f"{devices.teraflops:g} TFLOP/s each, if the data keep up"),
        ("data for it", f"{rate:,.0f} transitions/s, {_bytes(rate * window)}/s; "
                        f"{rate / devices.replicas:,.0f} transitions/s a replica"),
        ("host cores for it", f"{math.ceil(rate / devices.feed_rate):,} at "
                              f"{devices.feed_rate:,.0f} transitions/s a core"),
    ]  # fmt: skip
    held = len(config.data.games) * feed.transitions_per_game
    if feed.kind == "replay":
        read = rate / feed.samples_per_insert
        lines += [
            ("replay", f"{held:,} transitions in {len(config.data.games)} tables, about "
                       f"{_bytes(held * REPLAY_BYTES)}"),
            ("its turnover", f"every {held / read / 60:,.0f} min, "
                             f"{read:,.0f} transitions/s read from files"),
        ]  # fmt: skip
    lines += [
        ("run", f"{config.train.steps:,} steps, {config.train.steps * batch:.3g} transitions"),
        ("time", f"{hours:,.1f} h = {hours / 24:,.1f} days, {hours * devices.replicas:,.0f} "
                 "replica-hours, evaluation not counted"),
    ]  # fmt: skip
    if devices.price:
        lines.append(("price", f"{hours * devices.replicas * devices.price:,.0f} at "
                               f"{devices.price:g} a replica-hour"))  # fmt: skip
    return lines


def measure(config: Config) -> Network:
    """Builds the network and counts its parameters and the operations of a forward pass."""
    import tensorflow as tf

    from cql_atari import experiment
    from cql_atari.agent import make_objective

    network = experiment.make_network(config, make_objective(config.loss))
    graph = tf.function(network).get_concrete_function(
        tf.TensorSpec((1, STACK, *FRAME_SHAPE), tf.uint8), tf.TensorSpec((1,), tf.int32)
    ).graph  # fmt: skip
    tf.get_logger().setLevel("ERROR")  # the profiler announces its own retirement
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    profile = tf.compat.v1.profiler.profile(
        graph, options=options(options.float_operation()).with_empty_output().build()
    )
    return Network(*experiment.count_parameters(config), float(profile.total_float_ops))


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --.")
    config = config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings)
    devices = Devices(FLAGS.replicas, FLAGS.teraflops, FLAGS.price, FLAGS.feed_rate)
    lines = plan(config, measure(config), devices)
    width = max(len(what) for what, _ in lines)
    print("\n".join(f"{what:<{width}}  {much}" for what, much in lines))
    return 0


def _define_flags() -> None:
    # Not at import: every command has its own, and a test imports them all.
    flags.DEFINE_multi_string("gin_files", [], "gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; repeats, wins over the files.")
    flags.DEFINE_integer("replicas", 64, "Devices: TPU cores or GPUs.", lower_bound=1)
    flags.DEFINE_float(
        "teraflops", 20.0, "10^12 operations/s that each sustains (a guess; measure yours).",
        lower_bound=1e-6,
    )  # fmt: skip
    flags.DEFINE_float("price", 0.0, "Of a replica-hour, in any currency.", lower_bound=0.0)
    flags.DEFINE_float(
        "feed_rate", FEED_RATE_PER_CORE, "Transitions/s that one host core feeds.", lower_bound=1.0
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
