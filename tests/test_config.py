"""Every gin file parses, locks and builds; mistakes are told with the fix."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cql_atari import config as config_lib
from cql_atari.core import settings
from cql_atari.core.settings_check import check, most_weights
from cql_atari.core.types import UserError

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("gin_configs/**/*.gin"))
MULTIGAME = "gin_configs/multigame.gin"


@pytest.mark.parametrize("name", FILES)
def test_every_gin_file_parses_over_the_main_one_and_opens_with_its_command(name):
    config_lib.load([MULTIGAME, name])
    head = (ROOT / name).read_text().split("\n\n")[0]
    for needed in ("python -m cql_atari.train", "Must be set", "Cost", "xpect"):
        assert needed in head or needed in (ROOT / name).read_text(), (name, needed)


@pytest.mark.slow
def test_every_gin_file_builds():
    """One network and objective for each distinct setting; one game, since heads are alike, and
    one narrow block: tests/networks builds the ResNets at full size.
    """
    from cql_atari.methods import build

    distinct = {}
    for name in FILES:
        config = config_lib.load([MULTIGAME, name], ["data.games = ('Pong',)"])
        network = config.network
        # What the stages that are left out could have wrong.
        assert len(network.depths) == len(network.widths) == len(network.strides) > 0, name
        assert not network.groups or all(w % network.groups == 0 for w in network.widths), name
        network = dataclasses.replace(
            network,
            depths=(1,),
            widths=(16,),
            strides=(2,),
            feed_forward=tuple(min(width, 64) for width in network.feed_forward),
        )
        transformer = dataclasses.replace(config.transformer, depth=1, width=64)
        masked = dataclasses.replace(config.masked_autoencoder, width=64, depth=1, decoder_depth=1)
        config = dataclasses.replace(
            config, network=network, transformer=transformer, masked_autoencoder=masked
        )
        distinct[network, config.train.method, config.loss.kind] = config
    assert len(distinct) >= 10
    for config in distinct.values():
        trunk, heads = build.count_parameters(config)
        assert trunk > 10_000
        assert (heads > 0) == (config.train.method in ("scaled_q", "cloning"))


def names(folder: str) -> list[str]:
    return [Path(name).stem for name in FILES if f"/{folder}/" in name]


@pytest.mark.parametrize("ablation", names("ablations"))
def test_an_ablation_holds_in_either_order_with_any_network_file(ablation):
    ablated = f"gin_configs/ablations/{ablation}.gin"
    for network in names("networks"):
        files = [ablated, f"gin_configs/networks/{network}.gin"]
        lost = config_lib.undone(config_lib.read([MULTIGAME, *files]))
        if ablation in ("impala", "nature") and not network.startswith("transformer"):
            # Networks themselves: the later one wins, and says so.
            same = network == ablation
            assert same or any(
                "network." in line and all(f in line for f in files) for line in lost
            )
            continue
        first, last = (config_lib.load([MULTIGAME, *order]) for order in (files, files[::-1]))
        assert first == last and lost == []
        assert first != config_lib.load([MULTIGAME, files[1]])


def test_a_value_that_another_file_replaces_is_reported_with_both_files(tmp_path):
    def lost(*given):
        return config_lib.undone(config_lib.read([*map(str, given)], ["feed.n_step = 7"]))

    ablation, quick = "gin_configs/ablations/one_step.gin", "gin_configs/quickstart.gin"
    words = f"feed.n_step = 10 ({quick}) replaces 1 ({ablation})"
    assert [line.split(";")[0] for line in lost(MULTIGAME, ablation, quick)] == [words]
    # The first file is what others are laid over, and what a file includes is one with it.
    assert lost(MULTIGAME, quick) == lost(ablation, quick) == lost("gin_configs/laptop.gin") == []
    # Unless what it changed is as before again.
    (tmp_path / "back.gin").write_text("feed.n_step = 3\n")
    assert len(lost(ablation, tmp_path / "back.gin")) == 1


def test_each_value_says_what_set_it_and_what_multigame_has():
    files, bindings = [MULTIGAME, "gin_configs/laptop.gin"], ["train.seed = 3"]
    config = config_lib.load(files, bindings)
    changed = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=10))
    text = config_lib.annotated(changed, config, config_lib.read(files, bindings))
    lines = dict(line.split(" = ", 1) for line in text.splitlines())
    number = 1 + (ROOT / files[1]).read_text().splitlines().index("feed.kind = 'replay'")
    small = (ROOT / "gin_configs/networks/resnet_small.gin").read_text().splitlines()
    number_small = 1 + small.index("network.depths = (1, 1)")
    assert lines["feed.kind"] == f"'replay'  # gin_configs/laptop.gin, line {number}"
    assert lines["network.depths"] == (
        f"(1, 1)  # gin_configs/networks/resnet_small.gin, line {number_small}; "
        "multigame.gin: (3, 4, 23, 3)"
    )
    assert lines["train.seed"] == "3  # --gin_bindings; multigame.gin: 0"
    assert lines["network.feature_norm"] == "True  # default"
    assert lines["train.steps"] == "10  # follows from others; multigame.gin: 10000000"
    assert config_lib.load((), text.splitlines()) == changed


def test_defaults_are_the_papers_run():
    assert config_lib.load([MULTIGAME]) == settings.Config()


CHANGES = {
    "asymmetric_support": {"loss.v_min", "loss.v_max"},
    "auxiliary_cloning": {"loss.auxiliary_cloning"},
    "best_ten_percent": {"data.best_fraction", "train.method"},
    "bfloat16": {"network.dtype"},
    "cloning": {"train.method"},
    "cloning_beside_cql": {"loss.auxiliary_cloning", "loss.cql_alpha"},
    "double_q": {"loss.double_q"},
    "five_step": {"feed.n_step"},
    "hl_gauss": {"loss.kind", "loss.v_max", "loss.num_atoms"},
    "impala": {
        "network.encoder",
        "network.impala_width",
        "network.pooling",
        "network.feed_forward",
    },
    "mean_pool": {"network.pooling"},
    "mse": {"loss.kind", "loss.cql_alpha"},
    "nature": {"network.encoder", "network.pooling", "network.feed_forward"},
    "no_cql": {"loss.cql_alpha"},
    "no_feature_norm": {"network.feature_norm"},
    "no_group_norm": {"network.groups"},
    "no_spatial_embedding": {"network.pooling"},
    "one_step": {"feed.n_step"},
    "ten_step": {"feed.n_step"},
    "two_hot": {"loss.kind"},
    "unmasked_actions": {"loss.mask_unused_actions"},
}


@pytest.mark.parametrize("name", names("ablations"))
def test_an_ablation_changes_one_thing_or_its_head_says_what_else(name):
    path = f"gin_configs/ablations/{name}.gin"
    assert {binding.name for binding in config_lib.read([path])} == CHANGES[name]
    if len(CHANGES[name]) > 1:
        also = (ROOT / path).read_text().split("# Also: ")[1].split("\n#\n")[0]
        named = {word for word in CHANGES[name] if word in also}
        assert len(CHANGES[name] - named) == 1, "all but the one that it is about"


def test_later_files_and_bindings_win():
    config = config_lib.load(
        [MULTIGAME, "gin_configs/ablations/mse.gin", "gin_configs/ablations/hl_gauss.gin"],
        ["train.seed = 1", "train.seed = 2"],
    )
    assert config.loss.kind == "hl_gauss"
    assert config.train.seed == 2


def test_round_trips_through_gin_text_and_json():
    config = config_lib.load([MULTIGAME], ["data.games = ('Pong', 'Hero')", "data.dir = '/x y'"])
    assert config_lib.load((), settings.to_gin(config).splitlines()) == config
    assert settings.from_dict(json.loads(json.dumps(settings.to_dict(config)))) == config


@pytest.mark.parametrize(
    "binding, words",
    [
        ("feed.kid = 'memory'", ["kid", "kind"]),
        ("fed.kind = 'memory'", ["fed", "feed"]),
        ("feed.kind = 'memry'", ["'memry'", "'memory'"]),
        ("data.games = 'Pong'", ["data.games", "tuple[str, ...]"]),
        ("data.games = ('Breakuot',)", ["Breakuot", "Breakout"]),
        ("data.games = ('Pong', 'Pong')", ["each once"]),
        ("data.games = ()", ["at least one"]),
        ("train.steps_per_call = '10'", ["train.steps_per_call = '10'", "expected int"]),
        ("train.steps_per_call = 16.0", ["train.steps_per_call = 16.0", "expected int"]),
        (f"train.steps = {10**400 + 1}", ["multiple of train.steps_per_call", "next one is 1"]),
        ("evaluation.max_frames = 10_000_000_000", ["from 1 to 2000000000"]),
        ("train.log_every = 7", ["train.log_every", "7", "multiple", "10"]),
        ("train.seed = 1.5", ["train.seed", "1.5", "int"]),
        ("train.seed = True", ["train.seed", "int"]),
        ("cql_alpha = 0.5", ["cql_alpha = 0.5 sets nothing", "mean loss.cql_alpha?"]),
        ("GAME = 'Alien'", ["GAME = 'Alien' sets nothing", "macros in use: none"]),
        ("loss.double_q = true", ["Write loss.double_q = True."]),
        ("feed.n_step = 0", ["feed.n_step", "at least 1"]),
        ("feed.discount = 1.5", ["feed.discount", "from 0 to 1"]),
        ("optimizer.learning_rate = -1.0", ["greater than 0"]),
        ("train.seed = -1", ["train.seed = -1", "from 0 to 18446744073709551615"]),
        (f"train.seed = {2**64}", ["train.seed", "from 0 to"]),
        ("evaluation.seed = -1", ["evaluation.seed = -1", "from 0 to 2000000000"]),
        ("evaluation.seed = 2_147_000_000", ["evaluation.seed", "from 0 to 2000000000"]),
        ("online.port = -1", ["online.port = -1", "from 0 to 65535"]),
        ("online.port = 65_536", ["online.port = 65536", "from 0 to 65535"]),
        ("evaluation.every = -10", ["evaluation.every = -10", "at least 0"]),
        ("loss.num_atoms = 1", ["loss.num_atoms = 1", "at least 2"]),
        ("network.widths = (64, 0, 256, 512)", ["network.widths = (64, 0,", "at least 1"]),
        ("network.groups = -1", ["network.groups = -1", "at least 0"]),
        ("network.impala_width = 0", ["network.impala_width = 0", "at least 1"]),
        ("start.whole_network = True", ["start.whole_network = True", "set start.encoder_from"]),
        ("loss.v_min = 20.0", ["loss.v_min = 20.0 with loss.v_max = 20.0", "no width"]),
        ("loss.cql_alpha = -1", ["loss.cql_alpha = -1", "at least 0"]),
        ("data.runs = (9,)", ["data.runs = (9,)", "from 1 to 5"]),
        ("data.runs = (1, 1)", ["data.runs = (1, 1)", "each once"]),
        ("data.suffixes = ()", ["data.suffixes = ()", "at least one"]),
        ("data.suffixes = (-1,)", ["data.suffixes = (-1,)", "at least 0"]),
        ("data.fraction = 0", ["data.fraction = 0", "above 0 up to 1"]),
        ("data.games = ('Freeway')", ["Write data.games = ('Freeway',)"]),
        ("feed.memory_gb = 0.0", ["feed.memory_gb = 0.0", "greater than 0"]),
        ("feed.n_step = 0.5", ["feed.n_step = 0.5", "int"]),
        ("feed.servers = ('a:99999',)", ["'a:99999'", "1 to 65535"]),
        ("feed.servers = ('a:0',)", ["'a:0'", "1 to 65535"]),
        ("feed.servers = ('a',)", ["'a'", "host:port"]),
        (
            "optimizer.learning_rate = 1e999",
            ["optimizer.learning_rate = inf", "must be finite"],
        ),
        ("transformer.steps = 65", ["transformer.steps = 65", "from 1 to 64"]),
        ("network.stem_stride = 100", ["network.stem_stride = 100", "from 1 to 84"]),
        ("evaluation.mode = -1", ["evaluation.mode = -1", "at least 0"]),
        ("train.strategy = 'gpu'", ["'gpu'", "mean 'mirrored'", "'tpu'"]),
        ("network.dtype = 'bfloat16'", ["mean 'mixed_bfloat16'"]),
        ("train.jit_compile = 1", ["train.jit_compile = 1", "bool | None"]),
        ("feed.kind = '", ["--gin_bindings=", "feed.kind", "parse"]),
        ("train.seed = %missing", ["%missing has no value"]),
        ("data.dir=/d/x", ["'data.dir=/d/x'", "needs quotes", "\"data.dir = '/d/x'\""]),
        ("data.dir = runs/x", ["needs quotes", "\"data.dir = 'runs/x'\""]),
        ("data.dir", ["--gin_bindings='data.dir'", "section.parameter = value"]),
        ("import evil", ["'import evil' would run a module's code"]),
        ("include 'x.gin'", ["section.parameter = value"]),
        ("actor/train.seed = 3", ["has a scope", "'actor/'"]),
        ("train.seed = " + "[" * 5_000 + "]" * 5_000, ["nested too deeply"]),
        ("data.games = ('Pong',", ["isn't closed"]),
    ],
)
def test_mistakes_name_the_value_and_the_fix(binding, words):
    with pytest.raises(UserError) as error:
        config_lib.load([MULTIGAME], [binding])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "bindings",
    [
        ("train.seed = 0", "evaluation.seed = 0", "online.port = 0", "evaluation.every = 0"),
        (f"train.seed = {2**64 - 1}", "evaluation.seed = 2_000_000_000", "online.port = 65_535"),
        ("network.feed_forward = ()", "loss.num_atoms = 2"),
        ("start.whole_network = True", "start.encoder_from = 'runs/a'"),
    ],
)
def test_the_ends_of_ranges_are_taken(bindings):
    config_lib.load([MULTIGAME], bindings)


def test_the_highest_seeds_can_be_used():
    """Where they go: batches, and the consoles of the best fixed action's trials."""
    from cql_atari.evaluation import baselines, rollout
    from cql_atari.feed.sampling import BatchLaw, draw_games

    def highest(section):
        return section.__dataclass_fields__["seed"].metadata["range"].high

    draw_games(BatchLaw(4, 2), 2, highest(settings.Train), 0)
    options = {"episodes": 2, "envs_per_game": 2, "max_frames": 8, "trial_max_frames": 8}
    seed = highest(settings.Evaluation)
    baselines.best_fixed_action(rollout.GameVariant("Pong"), seed=seed, **options)


@pytest.mark.parametrize("phase", ["offline", "online"])
def test_a_random_encoder_is_not_frozen(tmp_path, phase):
    """By the command: what is only read may have been trained so."""
    bindings = ("optimizer.encoder_learning_rate = 0", f"train.phase = {phase!r}",
                "data.games = ('Pong',)")  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "cql_atari.train", f"--workdir={tmp_path / 'run'}",
         *(f"--gin_bindings={binding}" for binding in bindings)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "set start.encoder_from to the workdir" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_gin_file_names_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'gin_configs/multigame.gin'"):
        config_lib.load(["gin_configs/multgame.gin"])
    with pytest.raises(UserError, match="repeat the flag for several: --gin_files=A"):
        config_lib.load(["gin_configs/multigame.gin,gin_configs/quickstart.gin"])


@pytest.mark.parametrize(
    "binding, hint",
    [
        ("train.learning_rate = 1", r"Did you mean optimizer.learning_rate or optimizer.enc"),
        ("loss.n_step = 3", r"Did you mean feed.n_step"),
        ("loss.steps = 3", r"Did you mean (transformer|train).steps or "),
        ("network.width = 3", r"Did you mean network.widths or "),
        ("loss.xyz = 3", r"There are: loss.kind, (?!.*train)"),
    ],
)
def test_a_wrong_name_gets_full_names_its_own_sections_first(binding, hint):
    with pytest.raises(UserError, match=hint):
        config_lib.load([], [binding])


@pytest.mark.parametrize("values", [{"dta": {}}, {"data": {"dirr": 1}}, {"train": {"seed": "x"}}])
def test_a_recorded_configuration_of_another_version_is_refused(values):
    with pytest.raises(UserError):
        check(settings.from_dict(values))


TINY = {
    "network": {"depths": [1], "widths": [4], "strides": [1], "feed_forward": [4]},
    "masked_autoencoder": {"width": 4, "depth": 1, "decoder_depth": 1},
}
FLAT = {"pooling": "flatten", "stem_stride": 1, "stem_pool": False}


@pytest.mark.parametrize(
    "values",
    [
        {**TINY, "contrastive": {"projection": [100_000]}},
        {**TINY, "network": {**TINY["network"], **FLAT, "widths": [500], "feed_forward": [500]}},
        {**TINY, "network": {**TINY["network"], "pooling": "flatten", "widths": [64]},
         "train": {"method": "contrastive"}, "contrastive": {"projection": []}},
    ],
)  # fmt: skip
def test_a_recorded_network_that_no_machine_can_hold_is_refused(values):
    with pytest.raises(UserError, match="the network would have up to"):
        check(settings.from_dict(values))


@pytest.mark.parametrize(
    "values",
    [
        {**TINY, "train": {"method": "decision_transformer"},
         "transformer": {"depth": 1, "width": 64, "steps": 64}},
        {**TINY, "train": {"method": "contrastive"}, "contrastive": {"projection": [900]}},
        {**TINY, "network": {**TINY["network"], **FLAT}},
        {**TINY, "network": {**TINY["network"], **FLAT, "pooling": "spatial_embedding"}},
    ],
)  # fmt: skip
def test_no_network_has_more_weights_than_are_counted_before_it_is_built(values):
    from cql_atari.methods import build

    config = check(settings.from_dict({**values, "data": {"games": ["Pong"]}}))
    assert sum(build.count_parameters(config)) <= most_weights(config)


@pytest.mark.parametrize("line", ["import evil", "from evil import x", "  import os.path as p"])
def test_a_gin_file_that_imports_is_refused_before_anything_runs(tmp_path, monkeypatch, line):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "inner.gin").write_text(f"train.seed = 1\n{line}\n")
    (tmp_path / "outer.gin").write_text(f"include '{tmp_path}/inner.gin'\n")
    for name in ("inner", "outer"):
        with pytest.raises(UserError, match=r"inner.gin, line 2: .*would run a module's code"):
            config_lib.load([str(tmp_path / f"{name}.gin")])


@pytest.mark.parametrize(
    "text, words",
    [
        ("include '{folder}/../{name}/loop.gin'\n", "includes itself"),
        ("include 'none.gin'\n", "no gin file 'none.gin'"),
        ("A = %B\nB = %A\ntrain.seed = %A\n", "A = %B: a macro can't refer to another one"),
        ("data.games = " + "[" * 5_000 + "\n", "nested too deeply"),
        ("train.seed = 1\ndata.dir = /x\n", "loop.gin: .*line 2, 'data.dir = /x'"),
        ("data.dir = 'x\n", "loop.gin: "),
        ("\0\1", "loop.gin: "),
        ("train.seed = @feed()\n", "@feed refers to a function"),
        ("data.games = (\n", "isn't closed"),
    ],
)
def test_a_hostile_or_broken_gin_file_is_one_clear_error(tmp_path, text, words):
    path = tmp_path / "loop.gin"
    path.write_text(text.format(folder=tmp_path, name=tmp_path.name))
    with pytest.raises(UserError, match=words):
        config_lib.load([str(path)])


def test_includes_without_end_are_one_clear_error_at_once(tmp_path):
    """Each file of a chain includes the next one twice: 2^40 files; and a chain of a thousand."""
    for name, count, times in (("doubling", 40, 2), ("chain", 1_000, 1)):
        for k in range(count):
            following = f"include '{tmp_path}/{name}{k + 1}.gin'\n"
            (tmp_path / f"{name}{k}.gin").write_text(following * times)
        (tmp_path / f"{name}{count}.gin").write_text("train.seed = 1\n")
        with pytest.raises(UserError, match=rf"{name}0\.gin includes more than 100 files"):
            config_lib.load([str(tmp_path / f"{name}0.gin")])


def test_a_file_that_includes_others_is_found_from_any_folder(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "cql_atari.train", "--gin_files=gin_configs/quickstart.gin",
         "--gin_bindings=data.dir='nowhere'", f"--workdir={tmp_path / 'run'}"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "nowhere" in ended.stderr
