"""What a configuration will cost: python -m cql_atari.tools.plan --gin_files=F.

Prints bytes and operations a step, parameters, checkpoint, replay and network traffic, hosts that
feed, and the time and price of the whole run for given devices. Arithmetic only: nothing is
trained, no data are read. `docs/scaling.md` explains each line and has the measured rates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from absl import flags

from cql_atari import config as config_lib
from cql_atari.core.settings import Config
from cql_atari.core.types import FRAME_SHAPE, FRAME_SKIP, STACK, UserError
from cql_atari.methods import build
from cql_atari.system import cli

FLAGS = flags.FLAGS

# Measured by benchmarks/feeds.py (docs/speed.md); overridden by a flag.
FEED_RATE_PER_CORE = 22_900  # transitions/s that one core takes from the replay into batches
PART_BYTES = 14e6  # of a suffix of a million slots that is being read
_TRANSITION_BYTES = 400  # in the replay, compressed; by game from about 300 to 2,000
COLUMN_BYTES = 16  # action, reward, discount, game
# Measured by benchmarks/checkpoints.py: 1.57 GB in 2.6 s to a local disk, synced, and back in 1.0 s
# from the page cache.
SAVE_RATE = 1.57e9 / 2.6  # bytes/s
RESTORE_RATE = 1.57e9 / 1.0
# Assumptions.
REPLICAS_PER_HOST = 8  # as on a TPU v2 or v3 host
FEED_HOST_CORES = 48

_FLOAT_BYTES = 4
_OPTIMIZER_SLOTS = 2  # Adam's two moments
_MOST_REPLICAS = 64  # the paper's; without --replicas


class Devices(NamedTuple):
    """What the run is planned for.

    Attributes:
      replicas: devices (TPU cores or GPUs).
      teraflops: sustained by each of them, 10^12 operations a second.
      price: of a replica-hour, in any currency.
      feed_rate: transitions/s that one host core can feed.
      feed_host_cores: of a host that only feeds.
    """

    replicas: int
    teraflops: float
    price: float
    feed_rate: float
    feed_host_cores: int = FEED_HOST_CORES


class NetworkCost(NamedTuple):
    """A network in numbers: parameters, and operations of a forward pass of one state."""

    trunk: int
    heads: int
    forward: float


def plan(config: Config, network: NetworkCost, devices: Devices) -> list[tuple[str, str]]:
    """The lines (what, how much), in the order in which one follows from another.

    Raises:
      UserError: where the batch's draws don't divide over the replicas.
    """
    feed, batch, online = config.feed, config.batch_size, config.train.phase == "online"
    if online and devices.replicas > 1:
        raise UserError(
            f"--replicas={devices.replicas} with train.phase = 'online': it learns on one device; "
            "leave --replicas out."
        )
    if feed.draws % devices.replicas:
        raise UserError(
            f"{feed.draws} draws a batch don't divide over {devices.replicas} replicas; give "
            f"--replicas a divisor of feed.draws = {feed.draws}."
        )
    window = (STACK + feed.n_step) * math.prod(FRAME_SHAPE)
    batch_bytes = batch * (window + COLUMN_BYTES)
    parameters = network.trunk + network.heads
    checkpoint = checkpoint_bytes(config, parameters)
    operations = build.passes(config) * batch * network.forward
    step_seconds = operations / (devices.replicas * devices.teraflops * 1e12)
    hours = config.train.steps * step_seconds / 3600
    replica_hours = hours * devices.replicas
    rate = batch / step_seconds
    saves, saving = math.ceil(config.train.steps / config.train.save_every), checkpoint / SAVE_RATE
    lines = [
        ("batch", f"{batch:,} transitions = {feed.draws} draws x {feed.transitions_per_draw}; "
                  f"{batch // devices.replicas:,} a replica"),
        ("batch in bytes", f"{_bytes(batch_bytes)} a step, {_bytes(batch_bytes / batch)} "
                           "a transition"),
        ("parameters", f"trunk {network.trunk:,}, heads {network.heads:,}"),
        ("checkpoint", f"{_bytes(checkpoint)}; {config.train.keep} kept, {saves:,} written"),
        ("its time", f"{saving:,.2g} s to save, {checkpoint / RESTORE_RATE:,.2g} s to restore, at "
                     f"{_bytes(SAVE_RATE)}/s and {_bytes(RESTORE_RATE)}/s (local disk, page cache);"
                     f" {saves * saving / 3600:,.1f} h in all"),
        ("compute", f"forward {network.forward / 1e9:.2f} GFLOP a state; "
                    f"{operations / 1e12:.2f} TFLOP a step"),
        ("step", f"{step_seconds * 1e3:,.1f} ms on {devices.replicas} replicas that sustain "
                 f"{devices.teraflops:g} TFLOP/s each, if the data keep up"),
        ("data for it", f"{rate:,.0f} transitions/s, {_bytes(rate * window)}/s; "
                        f"{rate / devices.replicas:,.0f} transitions/s a replica"),
    ]  # fmt: skip
    if online:
        lines += _acting(config, rate)
    if recorded := config.online.offline_share if online else 1.0:
        lines += _reading(config, recorded * rate, devices)
    return [
        *lines,
        ("run", f"{config.train.steps:,} steps, {config.train.steps * batch:.3g} transitions"),
        ("time", f"{hours:,.1f} h = {hours / 24:,.1f} days, {_number(replica_hours)} "
                 "replica-hours; evaluation and checkpoints not counted"),
        ("price", f"{_number(replica_hours)} replica-hours x --price, "
                  + (f"given as {devices.price:g}: {_number(replica_hours * devices.price)}"
                     if devices.price else "what one costs: not given")),
    ]  # fmt: skip


def checkpoint_bytes(config: Config, parameters: int) -> int:
    """Of one checkpoint: the method's networks and the optimizer's moments."""
    return (build.kind(config).networks + _OPTIMIZER_SLOTS) * parameters * _FLOAT_BYTES


def replay_bytes(config: Config, windows: int) -> int:
    """About what so many full windows of a replay take."""
    return windows * config.feed.transitions_per_game * _TRANSITION_BYTES


def _reading(config: Config, rate: float, devices: Devices) -> list[tuple[str, str]]:
    """The lines about feeding `rate` transitions/s of recorded play."""
    feed, cores = config.feed, rate / devices.feed_rate
    feeders = cores / devices.feed_host_cores
    hosts = math.ceil(devices.replicas / REPLICAS_PER_HOST)
    lines = [
        ("host cores for it", f"{math.ceil(cores):,} at {devices.feed_rate:,.0f} transitions/s "
                              "a core"),
        ("feed hosts", f"{math.ceil(feeders):,} of {devices.feed_host_cores} cores, if others than "
                       f"the trainers' feed; {feeders / hosts:.2g} a trainer's host of "
                       f"{REPLICAS_PER_HOST} replicas (both assumed)"),
    ]  # fmt: skip
    if feed.kind == "replay":
        games, read = len(config.data.games), rate / feed.samples_per_insert
        held = games * feed.transitions_per_game
        lines += [
            ("replay", f"{held:,} transitions in {games} windows, about "
                       f"{_bytes(replay_bytes(config, games))}"),
            ("reading", f"{feed.parts_at_once} suffixes a game at once, about "
                        f"{_bytes(games * feed.parts_at_once * PART_BYTES)}"),
            ("its turnover", f"every {held / read / 60:,.0f} min, "
                             f"{read:,.0f} transitions/s read from files"),
        ]  # fmt: skip
    return lines


def _acting(config: Config, rate: float) -> list[tuple[str, str]]:
    """The lines about acting for `rate` transitions/s in batches."""
    online, per_insert = config.online, config.feed.samples_per_insert
    return [
        ("acting for it", f"{rate / per_insert:,.0f} agent steps/s, each drawn {per_insert:g} "
                          "times; where actors are slower, they set the pace"),
        ("experience", f"{online.frames:,} frames = {online.frames // FRAME_SKIP:,} agent steps, "
                       f"the first {online.first_fill:,} before learning; the replay holds "
                       f"{config.feed.transitions_per_game:,}"),
    ]  # fmt: skip


def most_replicas(config: Config) -> int:
    """The most that divide a batch's draws, up to 64; 1 online."""
    if config.train.phase == "online":
        return 1
    return max(n for n in range(1, _MOST_REPLICAS + 1) if config.feed.draws % n == 0)


def measure_network(config: Config) -> NetworkCost:
    """Builds the network and counts its parameters and the operations of a forward pass.

    Raises:
      UserError: for a method whose network has no head a game: its passes aren't counted.
    """
    import tensorflow as tf

    network = build.build(config).network
    if not hasattr(network, "heads"):
        raise UserError(
            f"train.method = {config.train.method!r}: plan counts operations of networks with a "
            "head a game only, of 'scaled_q' and 'cloning'. `train --print_config` counts the "
            "parameters of any network."
        )
    graph = tf.function(network).get_concrete_function(
        tf.TensorSpec((1, STACK, *FRAME_SHAPE), tf.uint8), tf.TensorSpec((1,), tf.int32)
    ).graph  # fmt: skip
    tf.get_logger().setLevel("ERROR")  # the profiler announces its own retirement
    options = tf.compat.v1.profiler.ProfileOptionBuilder
    profile = tf.compat.v1.profiler.profile(
        graph, options=options(options.float_operation()).with_empty_output().build()
    )
    return NetworkCost(*build.parameters_of(network), float(profile.total_float_ops))


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def main(_: list[str]) -> int:
    config = config_lib.load(FLAGS.gin_files, FLAGS.gin_bindings)
    if config.train.phase == "online":
        from cql_atari.feed.online.complete import complete

        config = complete(config)
    devices = Devices(
        FLAGS.replicas or most_replicas(config), FLAGS.teraflops, FLAGS.price, FLAGS.feed_rate,
        FLAGS.feed_host_cores,
    )  # fmt: skip
    lines = plan(config, measure_network(config), devices)
    width = max(len(what) for what, _ in lines)
    print("\n".join(f"{what:<{width}}  {much}" for what, much in lines))
    return 0


def _define_flags() -> None:
    flags.DEFINE_multi_string("gin_files", [], "gin file; repeats, later ones win.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; repeats, wins over the files.")
    flags.DEFINE_integer(
        "replicas", None, "Devices: TPU cores or GPUs. Default: the most, up to 64, that divide "
        "feed.draws; 1 online.", lower_bound=1,
    )  # fmt: skip
    flags.DEFINE_float(
        "teraflops", 20.0, "10^12 operations/s that each sustains (a guess; measure yours).",
        lower_bound=1e-6,
    )  # fmt: skip
    flags.DEFINE_float(
        "price", 0.0, "Of a replica-hour, in any currency; 0: not given.", lower_bound=0.0
    )
    flags.DEFINE_float(
        "feed_rate", FEED_RATE_PER_CORE, "Transitions/s that one host core feeds.", lower_bound=1.0
    )
    flags.DEFINE_integer(
        "feed_host_cores", FEED_HOST_CORES, "Cores of a host that only feeds (an assumption).",
        lower_bound=1,
    )  # fmt: skip


if __name__ == "__main__":
    _define_flags()
    cli.run(main)
