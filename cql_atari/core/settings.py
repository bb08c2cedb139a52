"""The settings of a run: plain dataclasses, one section each. Nothing here knows gin.

Defaults are the paper's main run (Scaled QL, ResNet-101, 40 games). [Q] marks what is quoted from
the paper, "reconstructed" what it doesn't state or could not be confirmed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from cql_atari.core import games
from cql_atari.core.parameter import choice, number
from cql_atari.core.types import UserError


@dataclass(frozen=True)
class Data:
    """The recorded play to learn from.

    Attributes:
      dir: the data folder, with `<Game>/<run>/replay_logs/$store$_*_ckpt.K.gz` or another layout of
        docs/data.md; RLDS may be on gs://. Must be set.
      games: games to train on, one head each, in this order. Default: the paper's 40.
      runs: which of the five runs of each game. Reconstructed: run 1 only.
      suffixes: which file suffixes K (RLDS: splits checkpoint_K); None takes all. Default: 0..9,
        the first 20 % of training (the paper's sub-optimal data; that it is the first 10M
        transitions is reconstructed).
      fraction: the first part of every suffix, so that it is spread evenly over training: 0.01 is
        the transfer phase's 1 %. Of a `.gz` group its first steps, of an RLDS split its first
        episodes (as the authors' later loader does).
      best_fraction: the share of a game's episodes to learn from, the best ones by return (the sum
        of clipped rewards), over all selected runs and suffixes. Below 1 only whole games count, as
        the return of a part isn't known. 0.1 is cloning's best 10 %.
      exclude: JSON file of what to leave out, as `python -m cql_atari.tools.verify --repair`
        writes it.
    """

    dir: str | None = None
    games: tuple[str, ...] = field(default_factory=games.training_games)
    runs: tuple[int, ...] = number((1,), 1, 5)
    suffixes: tuple[int, ...] | None = number(tuple(range(10)), 0)
    fraction: float = number(1.0, 0, 1, above=True)
    best_fraction: float = number(1.0, 0, 1, above=True)
    exclude: str | None = None


@dataclass(frozen=True)
class Feed:
    """How transitions become batches.

    Attributes:
      kind: "replay" (Reverb), "memory" (everything in RAM) or "packed" (any amount of play that
        `python -m cql_atari.tools.pack` packed, read from disk). With the last two every batch is
        uniform over all of the data. A run resumes bit for bit, except with `servers`.
      draws: game draws a batch, uniform with replacement. Reconstructed: 128.
      transitions_per_draw: transitions from each drawn game. Reconstructed: 4; 128 x 4 = 512 [Q].
      n_step: steps of the n-step return. Reconstructed: 3.
      discount: gamma. Reconstructed: 0.99.
      transitions_per_game: transitions that a game's replay holds at a time.
      samples_per_insert: how often each transition is drawn before newer data replace it. 8 as in
        Dopamine's DQN: batches of 32, one every 4 steps.
      parts_at_once: files (suffixes of runs) of a game that the replay reads in turns, so that what
        it holds is a sample over as much of the training time. An open `.gz` suffix of a million
        slots takes about 14 MB, by arithmetic: with 40 games 4 take 2.2 GB beside windows of 4 GB,
        10 would take 5.6 GB.
      memory_gb: most that the memory feed may take, 10^9 bytes; None: 80 % of what is free.
      cache_dir: where the memory feed keeps its frames as a memory-mapped file in place of RAM.
      servers: "host:port" of each `python -m cql_atari.tools.serve_replay` that holds the replay;
        (): it is in this process.
    """

    kind: str = choice("replay", "memory", "packed", meant={"reverb": "replay", "ram": "memory"})
    draws: int = number(128, 1)
    transitions_per_draw: int = number(4, 1)
    n_step: int = number(3, 1)
    discount: float = number(0.99, 0, 1)
    transitions_per_game: int = number(250_000, 1)
    samples_per_insert: float = number(8.0, 0, above=True)
    parts_at_once: int = number(4, 1)
    memory_gb: float | None = number(None, 0, above=True)
    cache_dir: str | None = None
    servers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """The Q-network; see `cql_atari.networks.q_network`. Sizes are reconstructed (paper: ResNet-34,
    -50, -101 with group normalisation, learned spatial embeddings, feature normalisation).

    Attributes:
      encoder: "resnet", or the encoder of IMPALA or of the Nature paper.
      block: of the ResNet.
      depths: of the ResNet's stages: blocks of each.
      widths: of the stages: inner channels; a bottleneck block puts out four times as many.
      strides: of the stages: the first block's.
      stem_kernel: of the ResNet's first convolution, pixels.
      stem_stride: of the same.
      stem_pool: whether a 3 x 3 max-pooling of stride 2 follows it.
      groups: of group normalisation; divides the widths. 0: no normalisation (an ablation).
      impala_width: factor of IMPALA's channels, which are 16, 32 and 32.
      pooling: what makes a vector of the feature map.
      embedding_blocks: learned maps of the spatial embedding.
      feed_forward: widths of the dense layers with ReLU behind the pooling.
      feature_norm: whether the last features are divided by their L2 norm.
      dtype: of convolutions and dense layers; variables, last features and heads are float32.
    """

    encoder: str = choice("resnet", "impala", "nature")
    block: str = choice("bottleneck", "basic")
    depths: tuple[int, ...] = number((3, 4, 23, 3), 1)
    widths: tuple[int, ...] = number((64, 128, 256, 512), 1)
    strides: tuple[int, ...] = number((1, 2, 1, 1), 1)
    stem_kernel: int = number(7, 1, 84)
    stem_stride: int = number(2, 1, 84)
    stem_pool: bool = True
    groups: int = number(4, 0)
    impala_width: int = number(1, 1)
    pooling: str = choice("spatial_embedding", "flatten", "mean")
    embedding_blocks: int = number(8, 1)
    feed_forward: tuple[int, ...] = number((2048, 512), 1)
    feature_norm: bool = True
    dtype: str = choice("float32", "mixed_bfloat16", meant={"bfloat16": "mixed_bfloat16"})


@dataclass(frozen=True)
class Loss:
    """The objective; see `cql_atari.methods.losses`.

    Attributes:
      kind: "c51" [Q], "mse" [Q], "hl_gauss" or, as a negative control, "two_hot" (both Farebrother
        et al. 2024).
      cql_alpha: weight of the CQL term. Reconstructed: 0.05 with C51, 0.1 with MSE.
      num_atoms: atoms (C51) or bins (HL-Gauss). Reconstructed: 51.
      v_max: the support is [v_min, v_max]. Reconstructed: 20.
      v_min: None: -v_max.
      double_q: whether the online network chooses the successor's action. Reconstructed: no.
      mask_unused_actions: whether targets, CQL and cloning use only the actions that a game has.
        Reconstructed; False as in one re-implementation, which masks only when acting.
      auxiliary_cloning: weight of a cloning loss on one more output per action, which shares the
        network, but is used neither for acting nor for targets: it only trains features. Ours, not
        the paper's; 0: there is no such output.
    """

    kind: str = choice("c51", "mse", "hl_gauss", "two_hot")
    cql_alpha: float = number(0.05, 0)
    num_atoms: int = number(51, 2)
    v_max: float = number(20.0, 0, above=True)
    v_min: float | None = None
    double_q: bool = False
    mask_unused_actions: bool = True
    auxiliary_cloning: float = number(0.0, 0)

    @property
    def has_auxiliary_cloning(self) -> bool:
        """Whether there is its output: the network's shape depends on that, not on the weight."""
        return self.auxiliary_cloning > 0


@dataclass(frozen=True)
class Transformer:
    """The decision transformer; see `cql_atari.networks.transformer`. Defaults: the paper's 200M.

    Attributes:
      depth: blocks.
      width: of every token; heads have 64 of it.
      steps: of the window that it sees, at most 64, which are 2,496 tokens: attention's memory
        grows with their square.
      dropout: share of the activations, in training.
      return_token: False: its cloning twin, without returns.
      single_return_token: only the window's first return is seen and trained (the notebook's).
      class_weights: the cross-entropies of returns, actions and rewards weigh 1/120, 1/18 and 1/4
        (the notebook's means over classes); False: 1 each.
      acting: "tilted", the return by P(R) exp(kappa (R - low) / (high - low)) and the action by its
        probability (the paper's), or "released", the best of 128 returns and an action of the
        better half (the notebook's).
      kappa: with "tilted".
    """

    depth: int = number(10, 1)
    width: int = number(1280, 1)
    steps: int = number(4, 1, 64)
    dropout: float = number(0.1, 0, 0.99)
    return_token: bool = True
    single_return_token: bool = True
    class_weights: bool = True
    acting: str = choice("tilted", "released")
    kappa: float = number(10.0, 0)


@dataclass(frozen=True)
class Contrastive:
    """Contrastive coding; see `cql_atari.methods.contrastive`.

    Attributes:
      projection: widths of the layers with ReLU that follow the encoder (arXiv 2205.15241, 4.5).
    """

    projection: tuple[int, ...] = number((512, 512), 1)


@dataclass(frozen=True)
class MaskedAutoencoder:
    """The masked autoencoder; see `cql_atari.networks.decoder`. Defaults: arXiv 2406.06037's.

    Attributes:
      mask_share: share of the feature map's cells that are hidden.
      width: of every token.
      heads: of attention; divide the width.
      depth: blocks over the visible cells.
      decoder_depth: blocks over all cells.
    """

    mask_share: float = number(0.9, 0, 1, above=True)
    width: int = number(512, 1)
    heads: int = number(4, 1)
    depth: int = number(4, 1)
    decoder_depth: int = number(3, 1)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the frames in training, for any method; see `methods.augmentation`.

    Attributes:
      shift: pixels that a state is moved by at most, in both directions; 0: never.
      intensity: one standard deviation of the factor of a state's grey levels; 0: none.
    """

    shift: int = number(0, 0, 83)
    intensity: float = number(0.0, 0)


@dataclass(frozen=True)
class Optimizer:
    """The optimizer and its learning rate.

    Attributes:
      kind: "adam" or "lamb".
      learning_rate: 2e-4 [Q, App. B.3].
      epsilon: of the division; reconstructed (the DR3 setting).
      beta_2: memory of the squared gradients.
      weight_decay: decoupled; of matrices and kernels only.
      warmup_steps: over which the rate rises from 0.
      cosine: whether the rate then falls along a cosine, to 0 at train.steps.
      clip_norm: gradients are scaled down to this global norm; None: never.
      encoder_learning_rate: of the encoder; None: the same; 0: the encoder is frozen (of the
        transfer phase it is unknown whether the paper's figures show frozen or trained encoders).
    """

    kind: str = choice("adam", "lamb")
    learning_rate: float = number(2e-4, 0, above=True)
    epsilon: float = number(3.125e-4, 0, above=True)
    beta_2: float = number(0.999, 0, 1)
    weight_decay: float = number(0.0, 0)
    warmup_steps: int = number(0, 0)
    cosine: bool = False
    clip_norm: float | None = number(None, 0, above=True)
    encoder_learning_rate: float | None = number(None, 0)


@dataclass(frozen=True)
class Start:
    """What a new run takes over from another run, in place of random weights.

    Attributes:
      encoder_from: workdir of a pre-trained run whose newest checkpoint gives the encoder; the
        feed-forward layers and heads are new (reconstructed). None: from scratch.
      whole_network: take the feed-forward layers too, and the heads of the games that both runs
        have: a variant of a training game begins with what was learned of the game.
    """

    encoder_from: str | None = None
    whole_network: bool = False


@dataclass(frozen=True)
class Online:
    """The online phase: acts in ALE and learns from that. One game; all values reconstructed.

    Attributes:
      frames: emulator frames of experience, 4 an agent step; train.steps follows from it.
      num_envs: environments stepped together by an actor.
      mode: ALE game mode to play; None: the game's default.
      difficulty: ALE difficulty; None: the game's default.
      sticky: probability that the console repeats the previous action while acting.
      epsilon_start: share of random actions at first ...
      epsilon_end: ... and after epsilon_decay_frames, linear in between (Dopamine's DQN).
      epsilon_decay_frames: emulator frames.
      first_fill: transitions in the replay before learning starts (Dopamine's DQN: 20,000).
      offline_share: share of every batch that comes from the recorded play of `data`.
      actors: where the actors are: "local" (in this process) or "remote" (processes that
        `python -m cql_atari.tools.act` starts).
      port: of the replay that remote actors reach; 0: any free one.
    """

    frames: int = number(3_000_000, 1)
    num_envs: int = number(8, 1, 1024)
    mode: int | None = number(None, 0)
    difficulty: int | None = number(None, 0)
    sticky: float = number(0.25, 0, 1)
    epsilon_start: float = number(1.0, 0, 1)
    epsilon_end: float = number(0.01, 0, 1)
    epsilon_decay_frames: int = number(1_000_000, 1)
    first_fill: int = number(20_000, 1)
    offline_share: float = number(0.0, 0, 1)
    actors: str = choice("local", "remote")
    port: int = number(0, 0, 65_535)


@dataclass(frozen=True)
class Train:
    """The loop. All counts are gradient steps and multiples of steps_per_call.

    Attributes:
      method: how to learn: "scaled_q", or what it is compared with: "cloning",
        "decision_transformer", "contrastive" or "masked_autoencoder"; see
        `cql_atari.methods.build`.
      phase: "offline" (recorded play) or "online" (acts and learns).
      seed: of weights, batches and online acting; evaluation has `evaluation.seed`.
      steps: gradient steps of the run. Reconstructed: 10M for ResNet-101.
      steps_per_call: gradient steps a call of the compiled training function.
      target_period: steps between hard copies into the target network [Q, App. B.3].
      log_every: steps between log lines.
      save_every: steps between checkpoints.
      keep: checkpoints kept.
      strategy: "none" (one device), "mirrored" (all GPUs of this host), "multi_worker" (one process
        a host, named by TF_CONFIG or SLURM's environment) or "tpu" (--tpu of train says which).
      jit_compile: XLA; None: on accelerators only (on CPUs it is slower).
    """

    method: str = "scaled_q"
    phase: str = choice("offline", "online")
    seed: int = number(0, 0, 2**64 - 1)  # a batch's key is unsigned, of 64 bits
    steps: int = number(10_000_000, 1, per_call=True)
    steps_per_call: int = number(10, 1)
    target_period: int = number(2_000, 1, per_call=True)
    log_every: int = number(1_000, 1, per_call=True)
    save_every: int = number(10_000, 1, per_call=True)
    keep: int = number(3, 1)
    strategy: str = choice(
        "none", "mirrored", "multi_worker", "tpu",
        meant={"cpu": "none", "gpu": "mirrored", "gpus": "mirrored", "multi_gpu": "mirrored"},
    )  # fmt: skip
    jit_compile: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """Full episodes in ALE; the protocol is mostly reconstructed, see docs/evaluation.md.

    Attributes:
      every: gradient steps between evaluations during training, the first one before it begins; 0:
        only at the end. With a method that doesn't act: between its pictures.
      curve_episodes: episodes a game at those.
      episodes: episodes a game at the end of the run and for `cql_atari.evaluate`.
      agent_steps: in place of `episodes`: whole episodes until they have this many agent steps a
        game, the last one played to its end, as Dopamine does with 125,000. None: `episodes`.
      envs_per_game: environments stepped together, a game.
      epsilon: probability of a uniformly random action.
      sticky: probability that the console repeats the previous action.
      max_frames: cap on an episode, in emulator frames.
      seed: of environments and epsilon.
      rom_dir: folder of older ROM files, or None for those that ale-py ships.
      mode: ALE game mode of every game; None: each game's default.
      difficulty: ALE difficulty of every game; None: each game's default.
    """

    every: int = number(62_500, 0, per_call=True)
    curve_episodes: int = number(4, 1)
    episodes: int = number(16, 1)
    agent_steps: int | None = number(None, 1)
    envs_per_game: int = number(8, 1, 1024)
    epsilon: float = number(0.001, 0, 1)
    sticky: float = number(0.0, 0, 1)
    max_frames: int = number(108_000, 1, 2_000_000_000)  # the console counts in 32 bits
    # A console's seed is signed, of 32 bits; evaluation adds up to 1,000,000 and the episode.
    seed: int = number(1_000, 0, 2_000_000_000)
    rom_dir: str | None = None
    mode: int | None = number(None, 0)
    difficulty: int | None = number(None, 0)


@dataclass(frozen=True)
class Config:
    """Everything a run is made from."""

    data: Data = field(default_factory=Data)
    feed: Feed = field(default_factory=Feed)
    network: Network = field(default_factory=Network)
    transformer: Transformer = field(default_factory=Transformer)
    contrastive: Contrastive = field(default_factory=Contrastive)
    masked_autoencoder: MaskedAutoencoder = field(default_factory=MaskedAutoencoder)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    evaluation: Evaluation = field(default_factory=Evaluation)
    start: Start = field(default_factory=Start)
    online: Online = field(default_factory=Online)

    @property
    def batch_size(self) -> int:
        """Transitions a gradient step, over all replicas."""
        return self.feed.draws * self.feed.transitions_per_draw


SECTIONS: dict[str, Any] = {part.name: part.default_factory for part in dataclasses.fields(Config)}


def by_name(config: Config) -> dict[str, Any]:
    """Every value by "section.parameter", the name that gin files use."""
    return {
        f"{section}.{name}": value
        for section, part in vars(config).items()
        for name, value in vars(part).items()
    }


def to_gin(config: Config) -> str:
    """The full configuration as gin text, one binding a line; `config.load` reads it back."""
    return "".join(f"{name} = {value!r}\n" for name, value in by_name(config).items())


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict` after a round trip through JSON; `settings_check.check` it.

    Raises:
      UserError: for unknown or missing sections and parameters.
    """
    try:
        if (loss := values.get("loss", {})).get("kind") == "cloning":  # in older runs
            values = {**values, "loss": {**loss, "kind": Loss.kind}}
            values["train"] = {**values.get("train", {}), "method": "cloning"}
        return Config(**{name: tuples(SECTIONS[name](**part)) for name, part in values.items()})
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"the recorded configuration doesn't fit this version: {error}. Use the version that "
            "wrote it; a run's system.json names its commit."
        ) from error


def tuples(section: Any) -> Any:
    """The section with its lists made tuples: JSON and gin may give lists."""
    lists = {k: tuple(v) for k, v in vars(section).items() if isinstance(v, list)}
    return dataclasses.replace(section, **lists) if lists else section
