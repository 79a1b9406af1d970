"""What TensorBoard is given, read back by TensorBoard itself."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import copy_of, true_logits
from harness import watched
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

import main_CD
from utils.training import experiment
from utils.training.report import metric_names
from utils.training.tensorboard import Events, layout, read_logits

MODALITIES = ("audio", "flow", "rgb_difference")
SHOWN = metric_names("accuracy", MODALITIES)
SCORES = {"loss": 1.5, "accuracy": 0.5, **{f"accuracy_{name}": 0.25 for name in MODALITIES}, "logit_audio": 2.0}
SETTINGS = {**dict.fromkeys(experiment.RECORDED, 0), "fusion_method": "film", "mmcosine": True, "scaling": 7.5,
            "modulation": "none", "dataset": "CREMAD", "random_seed": 3, "modality": "all"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Events of a finished run of one epoch with four iterations."""
    events = Events(tmp_path, charts=layout(MODALITIES, SHOWN))
    columns = {name: torch.arange(4.0) for name in ("loss", *(f"logit_{name}" for name in MODALITIES))}
    events.iterations(columns, 1)
    norms = {f"weight_norm_{name}": 1.0 for name in MODALITIES}
    logits = {f"logit_{name}": 1.0 for name in MODALITIES}
    held_out = {"loss": 1.0, **logits, **dict.fromkeys(SHOWN.values(), 0.5)}
    events.epoch({"train": {"loss": 1.0, **logits, **norms}, "eval": held_out, "method": {"factor_flow": 0.5}}, 1)
    events.finish(SETTINGS, SCORES, 1)
    return tmp_path


@pytest.fixture
def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tags_follow_one_scheme_beside_those_of_the_release(folder, read):
    tags = set(read.Tags()["scalars"])
    assert {tag for tag in tags if tag.split("/")[0] in ("iteration", "data")} == {
        "iteration/loss", "iteration/logit_audio", "iteration/logit_flow", "iteration/logit_rgb_difference",
        "data/logit_a"}
    assert {"train/weight_norm_flow", "eval/accuracy_flow", "result/accuracy", "method/factor_flow"} <= tags
    assert len(list(folder.iterdir())) == 1, "more than one writer"


def test_every_chart_shows_one_curve_per_modality(read):
    content = read.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = {(category.title, chart.title): list(chart.multiline.tag)
              for category in Layout.FromString(content).category for chart in category.chart}
    assert charts["logits of the true class", "per iteration"] == [f"iteration/logit_{name}$" for name in MODALITIES]
    written = read.Tags()["scalars"]
    for title, patterns in charts.items():
        curves = [tag for tag in written if any(re.match(pattern, tag) for pattern in patterns)]
        assert len(curves) == len(patterns) == len(MODALITIES) + (title[0] == "accuracy"), title


def hparams_content(read: EventAccumulator, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(read.SummaryMetadata(tag).plugin_data.content)


def test_hparams_open_with_what_a_comparison_is_about(read):
    shown = hparams_content(read, EXPERIMENT_TAG).experiment
    # TensorBoard's order: what differs between runs, then by name; it ticks five settings and five metrics
    columns = sorted(shown.hparam_infos, key=lambda column: (not column.differs, column.name))
    assert {column.name for column in columns[:5]} == {"fusion_method", "mmcosine", "scaling", "modulation",
                                                       "random_seed"}
    assert [metric.name.tag for metric in shown.metric_infos][:4] == [f"result/{name}" for name in SHOWN.values()]
    values = hparams_content(read, SESSION_START_INFO_TAG).session_start_info.hparams
    assert {column.name for column in columns} == set(values)
    assert (values["mmcosine"].string_value, values["scaling"].number_value, values["random_seed"].number_value) == (
        "True", 7.5, 3)
    assert {metric.name.tag for metric in shown.metric_infos} <= set(read.Tags()["scalars"])


def test_logits_of_older_runs_are_read_by_the_tags_of_the_release(tmp_path):
    assert read_logits(tmp_path, ("audio", "visual")) == {}
    events = Events(tmp_path)
    for name in "av":
        events.scalars("data", {f"logit_{name}": 2.0}, 1)
    events.close()
    assert {name: curve.tolist() for name, curve in read_logits(tmp_path, ("audio", "visual")).items()} == {
        "audio": [[1, 2]], "visual": [[1, 2]]}


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events = Events(None, charts=layout(MODALITIES, SHOWN))
    events.iterations({"loss": torch.ones(1)}, 1)
    events.epoch({"train": {"loss": 1.0}, "eval": {"loss": 1.0}}, 1)
    events.finish(SETTINGS, SCORES, 1)
    assert not list(tmp_path.iterdir())


def test_events_of_iterations_after_the_last_whole_epoch_do_not_outlive_a_resume(varied_runs, tmp_path, tiny_encoders):
    folder = copy_of(varied_runs["plain"].real, tmp_path / "run")
    old = next(folder.glob("events.out.tfevents.*"))
    path = old.rename(folder / re.sub(r"tfevents\.\d+", "tfevents.1000000000", old.name))  # files are read by age
    with path.open("ab") as file:  # as if killed in the third epoch: iterations 9 to 11 are flushed, last.pt has 8
        for step, tag in ((step, tag) for step in (9, 10, 11) for tag in ("logit_a", "logit_v")):
            summary = Summary(value=[Summary.Value(tag=f"data/{tag}", simple_value=999.0)])
            RecordWriter(file).write(Event(wall_time=path.stat().st_mtime, step=step, summary=summary)
                                     .SerializeToString())
    before = EventAccumulator(str(folder)).Reload().Scalars("data/logit_a")
    assert [event.step for event in before] == list(range(1, 12))
    with watched() as borders:
        main_CD.main(["--resume", str(folder), "--epochs", "3"])
    expected = true_logits(varied_runs["plain"]._replace(borders=borders))
    for tag, modality in (("logit_a", "audio"), ("logit_v", "visual")):
        found = EventAccumulator(str(folder)).Reload().Scalars(f"data/{tag}")
        assert [event.step for event in found] == list(range(1, 13)), "an iteration is there twice, or lost"
        np.testing.assert_allclose([event.value for event in found[8:]], expected[modality], rtol=1e-4, atol=1e-5)
