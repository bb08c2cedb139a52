"""What a run writes for TensorBoard, read as TensorBoard reads it."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorflow import make_ndarray

from cql_atari.evaluation import run_logs
from cql_atari.runs import folder, log


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> EventAccumulator:
    workdir = tmp_path_factory.mktemp("run")
    log.describe_run(workdir, tiny.config("train.seed = 3", "loss.cql_alpha = 0.25"))
    scalars, pictures = log.make_log(workdir), log.make_picture_log(workdir)
    scalars(7, {"loss/td": 0.5})
    pictures(7, {"masked": np.zeros((4, 4, 1), np.uint8)})
    log.log_actions(workdir, 7, {"Pong": {"NOOP": 0.25, "RIGHT": 0.75}})
    scalars(8, {"loss/td": 0.4})
    assert len(list((workdir / folder.TENSORBOARD).iterdir())) == 1  # file, or later ones are lost
    read = EventAccumulator(str(workdir / folder.TENSORBOARD), {"tensors": 0})
    return read.Reload()


def test_the_configuration_is_text_and_hyper_parameters(found):
    (text,) = found.Tensors("configuration")
    assert b"    loss.cql_alpha = 0.25\n" in text.tensor_proto.string_val[0]
    data = found.SummaryMetadata("_hparams_/session_start_info").plugin_data
    values = plugin_data_pb2.HParamsPluginData.FromString(data.content).session_start_info.hparams
    assert values["loss.cql_alpha"].number_value == 0.25
    assert values["train.seed"].number_value == 3
    assert values["data.games"].string_value == str(tiny.GAMES)
    assert "loss.double_q" not in values  # as in the paper's run


def test_a_line_that_was_cut_does_not_spoil_the_next_one(tmp_path):
    path = tmp_path / folder.METRICS
    for rest in ('{"step": 3, "a', ""):  # killed once, and then stopped in order
        log.make_log(tmp_path)(2, {"a": 1.0})
        with open(path, "a") as file:
            file.write(rest)
    log.make_log(tmp_path)(4, {"a": 2.0})
    assert run_logs.read_metrics(tmp_path) == {"a": [(2, 1.0), (4, 2.0)]}
    assert len(path.read_text().splitlines()) == 4


def test_scalars_go_on_beside_pictures_and_actions(found):
    assert [event.step for event in found.Tensors("loss/td")] == [7, 8]
    (actions,) = found.Tensors("evaluation/actions/Pong")
    buckets = make_ndarray(actions.tensor_proto)  # left edge, right edge, count
    assert buckets[0, 2] == 250 and buckets[-1, 2] == 750
    assert (buckets[0, 0], buckets[-1, 1]) == (0, 3)
