"""What a run's folder says of itself, whoever wrote it."""

from __future__ import annotations

import json

import pytest

from cql_atari.core import settings
from cql_atari.core.types import UserError
from cql_atari.runs import folder, recorded_config

GOOD = settings.to_dict(settings.Config())


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "5", '"x"', "", "[" * 100_000, '{"data": ' * 100_000, '{"data": []}',
     '{"data": null}', '{"loss": 1}', '{"train": {"seed": NaN}}', '{"train": {"seed": {}}}',
     '{"train": {"seed": ' + "9" * 5_000 + "}}", "\0", '{"network": {"depths": [[1]]}}'],
)  # fmt: skip
def test_a_configuration_that_is_none_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        recorded_config.read_config(tmp_path)


def test_bytes_that_are_no_text_are_one_clear_error(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match=r"config\.json"):
        recorded_config.read_config(tmp_path)


@pytest.mark.parametrize(
    "section, changes",
    [
        ("network", {"widths": [10**6] * 4}),
        ("network", {"depths": [10**9] * 4}),
        ("network", {"depths": [1] * 10_000, "widths": [1] * 10_000}),
        ("network", {"feed_forward": [10**6, 10**6]}),
        ("network", {"feed_forward": [1] * 10_000}),
        ("network", {"encoder": "impala", "impala_width": 10**6}),
        ("network", {"embedding_blocks": 10**9}),
        ("loss", {"num_atoms": 10**9}),
        ("transformer", {"width": 64 * 10**6}),
        ("transformer", {"depth": 10**6, "width": 64}),
    ],
)
def test_a_network_that_no_machine_here_holds_is_refused_before_it_is_built(
    tmp_path, section, changes
):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**GOOD, section: {**GOOD[section], **changes}}))
    with pytest.raises(
        UserError, match=r"config\.json: the network would have up to [\d,]+ weights"
    ):
        recorded_config.read_config(tmp_path)


def test_the_largest_networks_of_ours_are_far_from_the_limit(tmp_path):
    large = {
        "network": {**GOOD["network"], "depths": (3, 8, 36, 3), "widths": (128, 256, 512, 1024)}
    }
    (tmp_path / "config.json").write_text(json.dumps({**GOOD, **large}))
    assert recorded_config.read_config(tmp_path).network.widths[-1] == 1024


def test_scores_by_step_are_those_of_finished_evaluations(tmp_path):
    for step in (20, 3):
        folder.scores_of(tmp_path, step).parent.mkdir(exist_ok=True)
        folder.scores_of(tmp_path, step).touch()
    folder.unfinished_of(folder.scores_of(tmp_path, 40)).touch()
    (tmp_path / "scores/notes.json").touch()
    found = folder.scores_by_step(tmp_path)
    assert list(found) == [3, 20] and found[20] == folder.scores_of(tmp_path, 20)
    assert folder.unfinished_of(tmp_path / folder.SCORES).name == "scores.unfinished.jsonl"


def test_folders_that_hold_a_file_are_found_once(tmp_path):
    for place in ("a", "a/b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / folder.METRICS).touch()
    assert folder.holding(folder.METRICS, [tmp_path, tmp_path / "a"]) == [
        tmp_path / "a/b", tmp_path / "a"
    ]  # fmt: skip


def test_a_new_run_does_not_begin_among_the_scores_of_an_earlier_one(tmp_path):
    """Somebody has removed the checkpoints; the scores of step 0 are from before the first one."""
    config = settings.Config()
    for step in (0, 20):
        (tmp_path / "scores").mkdir(exist_ok=True)
        folder.scores_of(tmp_path, step).write_text("{}")
        if step == 0:
            recorded_config.check_config(tmp_path, config)
    with pytest.raises(UserError, match=r"scores/0000000020.json is left of an earlier run"):
        recorded_config.check_config(tmp_path, config)
    (tmp_path / "checkpoints" / "0000000020").mkdir(parents=True)
    recorded_config.check_config(tmp_path, config)
