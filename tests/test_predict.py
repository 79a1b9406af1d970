"""predict.py and export.py: a trained model's answer about a video is what evaluation says of the prepared clip."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from conftest import ODD, SHOWN
from test_prepare_videos import make_video

import main_CD
import main_SSW
import main_UCF
from dataset.cremad import find_clip
from dataset.demo.actions import make_demo as make_actions
from dataset.demo.birds import make_demo as make_birds
from dataset.errors import DiskError, InputError
from dataset.lists import Clip as Listed
from dataset.preparation.for_prediction import motion_files
from scripts import export, predict, prepare_videos
from utils.experiments import saved_model
from utils.experiments.finished_run import open_run
from utils.experiments.flags import Machine
from utils.experiments.prediction import Clip, files_of, predict_files, windows
from utils.experiments.prediction import predict as ask
from utils.experiments.prediction_figures import draw_clip, draw_time_line
from utils.training.engine import outputs

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def mine(tmp_path_factory, tiny_encoders) -> tuple[Path, Path]:
    """(videos of three classes, a run that was trained on them for two epochs)."""
    root = tmp_path_factory.mktemp("predict")
    for number in range(12):
        make_video(root / "videos" / ("bin", "lay", "p$et")[number % 3] / f"clip {number}.mp4", 0.8, shade=19 * number)
    prepare_videos.main(["--videos", str(root / "videos"), "--data_root", str(root / "data"), "--fps", "4"])
    main_CD.main(["--train", "--mmcosine", "--scaling", "7", "--dataset", "mine", "--data_root", str(root / "data"),
                  "--fps", "4", "--num_frames", "2", "--epochs", "2", "--ckpt_path", str(root), "--run_name", "run",
                  "--num_workers", "0", "--image_size", "64", "--audio_seconds", "0.8", "--amp", "off",
                  "--batch_size", "4", *CPU])
    return root / "videos", root / "run"


def evaluated(run: Path) -> dict[str, dict[str, np.ndarray]]:
    """{test clip: its logits, joint and by modality}, by the path of an evaluation."""
    task = open_run(run, Machine(device="cpu", num_workers=0)).task
    with torch.inference_mode():
        made = [output for output, _ in outputs(task.model, task.test_loader, task.compute)]
    joint, each = torch.cat([one.logits for one in made]), torch.cat([one.modality_logits for one in made], 1)
    return {clip.name: {"joint": joint[k].numpy(), "audio": each[0, k].numpy(), "visual": each[1, k].numpy()}
            for k, clip in enumerate(task.data.test.clips)}


def test_prepared_files_give_the_logits_of_evaluation_and_the_video_nearly_so(mine, tiny_encoders):
    videos, run = mine
    saved = saved_model.load(run, "cpu")
    expected = evaluated(run)
    assert len(expected) == 3 and saved.classes == (run.parent / "data" / "stat.csv").read_text().split()
    for name, logits in expected.items():
        files = find_clip(run.parent / "data", Listed(name, name.split("/")[0]), fps=4)
        found = predict_files(saved, Clip(videos / f"{name}.mp4"), files)
        for of, value in logits.items():
            np.testing.assert_allclose(found.logits[of], value, rtol=1e-5, atol=1e-6)
        from_video, = predict.main([str(run), str(videos / f"{name}.mp4"), *CPU])
        assert np.abs(from_video.logits["joint"] - logits["joint"]).max() < 0.02 * 7, "JPEG and resampling"
        assert sum(found.contributions().values()) == pytest.approx(found.logits["joint"].max(), rel=1e-5)
        lead, *of_each = found.leads().values()
        best, second = np.sort(logits["joint"])[:-3:-1]
        assert lead == pytest.approx(best - second, abs=1e-5) == pytest.approx(sum(of_each), abs=1e-5)
        assert found.top("joint", 1)[0][0] == saved.classes[int(logits["joint"].argmax())]
        assert found.probabilities("audio").sum() == pytest.approx(1)


def test_tables_and_pictures_are_written_and_odd_videos_do_not_stop_the_others(mine, tmp_path, capsys, tiny_encoders):
    videos, run = mine
    first = shutil.ignore_patterns("clip [3-9].mp4", "clip 1?.mp4")  # one of each class
    folder = Path(shutil.copytree(videos, tmp_path / "new", ignore=first))
    (folder / "broken.mp4").write_text("nothing")
    shutil.copy(folder / "bin" / "clip 0.mp4", folder / "lay" / "clip 0.mp4")
    shutil.copy(folder / "bin" / "clip 0.mp4", folder / f"{ODD}.mp4")
    with pytest.raises(InputError, match=r"2 of 6 videos could not be read:\n(?s:.*)broken\.mp4(?s:.*)") as told:
        predict.main([str(run), str(folder), "--out", str(tmp_path / "out"), *CPU])
    assert str(told.value).count("is not UTF-8: rename") == str(told.value).count("broken.mp4") == 1
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    objects = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == 4 and objects[0]["joint_1"] == rows[0]["joint_1"]
    assert {row["joint_1"] for row in rows} <= {"bin", "lay", "p$et"}
    assert float(rows[0]["joint_1_probability"]) >= float(rows[0]["joint_2_probability"])
    pictures = sorted(file.name for file in (tmp_path / "out").glob("*.png"))
    assert len(pictures) == 4 and {"clip 0.png", "clip 0-2.png"} <= set(pictures)
    printed = capsys.readouterr()
    assert "the winning logit" in printed.out and f"{SHOWN}.mp4" not in printed.err  # said once, in the error


def test_a_picture_shows_what_the_table_says(mine, tiny_encoders):
    videos, run = mine
    found = ask(saved_model.load(run, "cpu"), Clip(videos / "bin" / "clip 0.mp4"))
    figure = draw_clip(found)
    bars = {axes.get_title().split("\n")[0]: axes for axes in figure.get_axes() if axes.patches}
    assert set(bars) == {"joint", "audio", "visual"}
    for of, axes in bars.items():
        assert axes.get_xlim() == (0, 1)
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([value for _, value in found.top(of)])
        names = [text.get_text().replace("\\", "") for text in axes.get_yticklabels()]
        assert names == [name for name, _ in found.top(of)]
    shown = [axes.images[0].get_array() for axes in figure.get_axes() if axes.images]
    assert [image.shape for image in shown[:2]] == [(64, 64, 3)] * 2 and shown[2].shape[0] == 257


def test_a_long_video_is_answered_window_by_window(mine, tmp_path, tiny_encoders):
    video = make_video(tmp_path / "long.mp4", 3.0)
    found = predict.main([str(mine[1]), str(video), "--every", "0.5", "--length", "1", "--out", str(tmp_path / "out"),
                          *CPU])
    assert [(one.clip.start, one.clip.end) for one in found] == [(k / 2, k / 2 + 1) for k in range(5)]
    alone, = predict.main([str(mine[1]), str(write_list(tmp_path / "one.csv", "path,start,end\nlong.mp4,1,2")), *CPU])
    np.testing.assert_array_equal(alone.logits["joint"], found[2].logits["joint"])
    part = write_list(tmp_path / "part.csv", "path,start,end\nlong.mp4,1,2.5\nlong.mp4,0.5,\n")
    of_parts = predict.main([str(mine[1]), str(part), "--every", "0.5", "--length", "1", *CPU])
    assert [(one.clip.start, one.clip.end) for one in of_parts] == [(1, 2), (1.5, 2.5), (0.5, 1.5), (1, 2), (1.5, 2.5),
                                                                    (2, 3)]
    np.testing.assert_array_equal(of_parts[0].logits["joint"], found[2].logits["joint"])
    figure = draw_time_line(found)
    line = figure.get_axes()[0].lines[0]
    assert line.get_xdata().tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]
    place = found[0].classes.index(line.get_label().replace("\\", ""))
    assert line.get_ydata() == pytest.approx([one.probabilities("joint")[place] for one in found])
    assert [file.name for file in (tmp_path / "out").glob("*.png")] == ["long.png"]


def test_a_list_may_leave_out_the_end_and_name_videos_that_are_gone(mine, tmp_path, capsys, tiny_encoders):
    make_video(tmp_path / "long.mp4", 2.0)
    listed = write_list(tmp_path / "some.csv", "path,start,end\nlong.mp4,1,\ngone.mp4,,\n")
    with pytest.raises(InputError, match=r"1 of 2 videos could not be read:\n  .*is not there"):
        predict.main([str(mine[1]), str(listed), *CPU])
    assert "long.mp4, 1 s to the end" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"not of main_CD\.py"):
        predict.main([str(mine[1]), str(listed), "--detector", "none", *CPU])


def test_windows_that_were_answered_are_kept_when_a_later_one_fails(mine, tmp_path, tiny_encoders, monkeypatch):
    def until_two(saved: saved_model.SavedModel, clip: Clip):
        if clip.end > 2:
            raise InputError("long.mp4 is damaged after 2 s")
        return ask(saved, clip)

    monkeypatch.setattr(predict, "predict", until_two)
    video = make_video(tmp_path / "long.mp4", 3.0)
    with pytest.raises(InputError, match=r"1 of 1 video could not be read:\n  long.mp4 is damaged after 2 s"):
        predict.main([str(mine[1]), str(video), "--every", "1", "--length", "1", "--out", str(tmp_path / "out"), *CPU])
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 3
    assert (tmp_path / "out" / "long.png").is_file()


def test_a_full_disk_is_no_video_that_cannot_be_read(mine, tmp_path, tiny_encoders):
    (tmp_path / "out").touch()
    with pytest.raises(DiskError, match="out"):
        predict.main([str(mine[1]), str(mine[0] / "bin" / "clip 0.mp4"), "--out", str(tmp_path / "out"), *CPU])


def test_sound_is_read_at_the_rate_that_the_data_set_was_prepared_with(mine, tmp_path, tiny_encoders):
    saved = saved_model.load(mine[1], "cpu")
    saved.args.audio_frontend = "ogm_ge"  # whose own rate is 22,050 Hz
    files = files_of(saved, Clip(mine[0] / "bin" / "clip 0.mp4"), tmp_path)
    assert soundfile.info(files.audio).samplerate == 16000


def write_list(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_windows_cover_a_video_to_its_end():
    assert windows(2.0, 1.0, 3.0) == [(0.0, 2.0)]
    assert windows(5.0, 1.0, 3.0) == [(0, 3), (1, 4), (2, 5)]
    assert windows(5.5, 2.0, 3.0) == [(0, 3), (2, 5), (2.5, 5.5)]


def test_an_export_answers_as_its_run_without_the_data(mine, tmp_path, tiny_encoders):
    videos, run = mine
    video = str(videos / "lay" / "clip 1.mp4")
    before, = predict.main([str(run), video, *CPU])
    out = Path(export.main([str(run), "--output", str(tmp_path / "shared")])["output"])
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    shutil.move(run.parent / "data", tmp_path / "data")
    try:
        after, = predict.main([str(out), video, *CPU])
    finally:
        shutil.move(tmp_path / "data", run.parent / "data")
    assert all(np.array_equal(after.logits[of], before.logits[of]) for of in before.logits)
    card, config = (out / "README.md").read_text(), (out / "config.json").read_text()
    result = json.loads((run / "result.json").read_text())
    command = "--mmcosine --scaling 7 --dataset mine --fps 4 --num_frames 2 --epochs 2 --num_workers 0 --image_size 64"
    for fact in (f"{100 * result['accuracy']:.2f} %", str(result["git_commit"]), command, "9 training and 3"):
        assert fact in card, fact
    assert str(run.parent) not in card + config and "Xeon" not in config
    assert "chosen on the test set" in card
    shared = json.loads(config)["args"]
    assert not {"data_root", "ckpt_path", "run_name"} & set(shared) and shared["scaling"] == 7
    weights = torch.load(run / "best.pt", weights_only=True)["model"]
    loaded = saved_model.load(out, "cpu").model.state_dict()
    assert all(value.equal(loaded[name]) for name, value in weights.items())


def test_a_run_that_was_continued_or_a_folder_of_something_else_is_not_exported(mine, tmp_path, tiny_encoders):
    run = Path(shutil.copytree(mine[1], tmp_path / "run"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds a README\.md and no export"):
        export.main([str(run), "--output", str(tmp_path / "code")])
    assert (tmp_path / "code" / "README.md").read_text() == "mine"
    for name, changed in (("result.json", {"best_epoch": 9}), ("args.json", {"epochs": 4})):
        before = (run / name).read_text()
        (run / name).write_text(json.dumps({**json.loads(before), **changed}))
        with pytest.raises(InputError, match=r"was continued since its result\.json .*--resume"):
            export.main([str(run)])
        (run / name).write_text(before)
    assert export.main([str(run)]) == export.main([str(run)])


def test_the_card_has_front_matter_and_an_example_that_runs_in_another_folder(mine, tmp_path, monkeypatch, capsys,
                                                                              tiny_encoders):
    videos, run = mine
    out = Path(export.main([str(run), "--output", str(tmp_path / "to share")])["output"])
    assert f"python scripts/predict.py {shlex.quote(str(out))} VIDEO" in capsys.readouterr().out
    _, front, card = (out / "README.md").read_text().split("---\n", 2)
    head = dict(line.split(": ") for line in front.splitlines() if ": " in line)
    assert head == {"library_name": "pytorch", "license": "other", "license_name": "licence-of-the-training-data"}
    tags = front.split("tags:\n")[1].splitlines()
    assert tags == [f'- "{tag}"' for tag in (
        "multimodal", "mmcosine", "audio", "visual", "video-classification", "mine")]
    example = card.split("```python\n")[1].split("```")[0]
    for word, place in (("CODE", predict.__file__), ("THIS_FOLDER", out), ("video.mp4", videos / "lay" / "clip 1.mp4")):
        example = example.replace(f'"{word}"', repr(str(Path(place).parents[1] if word == "CODE" else place)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # undoes the example's change of sys.path
    exec(example, {})
    said = predict.main([str(run), str(videos / "lay" / "clip 1.mp4"), *CPU])[0].top("joint", 1)[0][0]
    assert capsys.readouterr().out.startswith(f"[('{said}', ")


def test_the_files_of_an_export_can_be_read_by_those_who_can_read_others_of_the_folder(mine, tmp_path, tiny_encoders):
    out = Path(export.main([str(mine[1]), "--output", str(tmp_path / "shared")])["output"])
    (tmp_path / "shared" / "other").touch()
    assert {file.stat().st_mode for file in out.iterdir()} == {(out / "other").stat().st_mode}


@pytest.mark.parametrize(("name", "content", "kind"), [
    ("notes.mp4", b"Remember: call Ann.\n", "a text file"), ("list.txt", "Grüße\n".encode("latin-1"), "a text file"),
    ("photo.jpg", cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes(), "a photograph"),
    ("photo.MP4", cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes(), "a photograph"),
    ("IMG_1.HEIC", b"\0\0\0\x18ftypheic" + bytes(100), "a photograph"),
    ("video.mp4", b"\n<!DOCTYPE html><html>Not found", "a web page"), ("paper.pdf", b"%PDF-1.5\n\0", "a PDF document"),
    ("notes.txt", "Grüße\n".encode("utf-16"), "a text file")])
def test_what_is_no_video_is_named_as_what_it_is(mine, tmp_path, name, content, kind, tiny_encoders):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^1 of 1 video could not .*\n  .*{name} cannot be read.* it is {kind}"):
        predict.main([str(mine[1]), str(tmp_path / name), *CPU])


def test_pictures_of_videos_with_long_names_are_written(mine, tmp_path, tiny_encoders):
    video = tmp_path / f"{'観光列車' * 20}.mp4"  # 244 bytes
    shutil.copy(mine[0] / "bin" / "clip 0.mp4", video)
    predict.main([str(mine[1]), str(video), "--out", str(tmp_path / "out"), *CPU])
    assert len(list((tmp_path / "out").glob("観光*.png"))) == 1


@pytest.mark.parametrize("damage", ["no weights", "half the weights", "no config", "other format", "script"])
def test_a_damaged_export_is_refused_by_name(mine, tmp_path, damage, tiny_encoders):
    out = Path(export.main([str(mine[1]), "--output", str(tmp_path / "shared")])["output"])
    if damage == "no weights":
        (out / "model.safetensors").unlink()
    elif damage == "half the weights":
        (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:1000])
    elif damage == "no config":
        (out / "config.json").unlink()
    else:
        config = json.loads((out / "config.json").read_text())
        config["format"] = 99 if damage == "other format" else 1
        config["args"]["script"] = "main_XY.py" if damage == "script" else config["args"]["script"]
        (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"shared|main_XY"):
        predict.main([str(out), "video.mp4", *CPU])


@pytest.mark.parametrize(("size", "kept"), [
    ((1280, 720), (427, 240)), ((600, 960), (320, 512)), ((320, 240), (320, 240)), ((200, 300), (200, 300))])
def test_motion_of_a_video_has_so_many_frames_and_fields_of_pictures_that_just_cover_those_of_ucf101(size, kept,
                                                                                                     tmp_path):
    video = make_video(tmp_path / "v.mp4", 0.4, sound=False, size=size)
    files = motion_files(video, 0.0, None, tmp_path, "", num_frames=2, flow="farneback", flow_frames=3)
    assert [len(part) for part in (files.rgb, files.next, files.u, files.v)] == [2, 2, 3, 3]
    assert {cv2.imread(str(part[0])).shape[1::-1] for part in (files.rgb, files.next, files.u, files.v)} == {kept}


def test_a_run_of_motion_answers_about_a_video(tmp_path, tiny_encoders):
    make_actions(tmp_path / "actions", clips_per_group=1)
    main_UCF.main(["--train", "--dataset", "x", "--data_root", str(tmp_path / "actions"), "--epochs", "1",
                   "--ckpt_path", str(tmp_path), "--run_name", "run", "--num_workers", "0", "--image_size", "64",
                   "--flow_frames", "4", "--modality", "all", "--amp", "off", *CPU])
    video = make_video(tmp_path / "v.mp4", 1.0, sound=False, size=(640, 480))
    found = ask(saved_model.load(tmp_path / "run", "cpu"), Clip(video))
    assert set(found.logits) == {"joint", "rgb", "flow", "difference"} and found.inputs["flow"].shape == (8, 64, 64)
    assert len([axes for axes in draw_clip(found).get_axes() if axes.patches]) == 4


def test_a_run_of_birds_answers_with_its_own_lengths_and_frames(tmp_path, tiny_encoders):
    make_birds(tmp_path / "birds", species=4, train_per_class=1, test_per_class=1)
    main_SSW.main(["--train", "--dataset", "x", "--data_root", str(tmp_path / "birds"), "--epochs", "1", "--mmcosine",
                   "--ckpt_path", str(tmp_path), "--run_name", "run", "--num_workers", "0", "--image_size", "64",
                   "--audio_seconds", "1.5", "--num_frames", "2", "--amp", "off", *CPU])
    expected, saved = evaluated(tmp_path / "run"), saved_model.load(tmp_path / "run", "cpu")
    test = open_run(tmp_path / "run", Machine(device="cpu", num_workers=0)).task.data.test
    for files in test.clips:
        found = predict_files(saved, Clip(Path(files.name)), files)
        np.testing.assert_allclose(found.logits["joint"], expected[files.name]["joint"], rtol=1e-5, atol=1e-6)
    video = make_video(tmp_path / "v.mp4", 3.0)
    asked = ask(saved, Clip(video))
    assert asked.item["audio"].shape == found.item["audio"].shape == (24000,)
    assert asked.item["visual"].shape == (2, 3, 64, 64)


@pytest.mark.parametrize(("argv", "told"), [
    (["/nowhere", "v.mp4"], "/nowhere is missing"), (["/", "v.mp4"], "/ is neither a run"),
    (["{run}", "/nowhere.mp4"], r"nowhere\.mp4"),
    (["{run}", "{empty}"], "no video in"), (["{run}", "/nowhere.csv"], "nowhere.csv is missing")])
def test_what_is_not_there_is_named(mine, tmp_path, argv, told, tiny_encoders):
    (tmp_path / "empty").mkdir()
    places = {"run": mine[1], "empty": tmp_path / "empty"}
    with pytest.raises(InputError, match=told):
        predict.main([text.format(**places) for text in argv] + CPU)
