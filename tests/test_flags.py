"""Every flag is alive: for each flag of each entry script, what changes when it is given, and nothing else does.

An entry script is run up to the border where it hands a task and named values to `train`; tests/test_connections_*.py
follow these values through training to the numbers. A flag without an entry in EFFECTS or ELSEWHERE fails.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from marked_cremad import make_marked_data
from marked_ucf101 import make_marked_actions

import main_CD
import main_SSW
import main_UCF
import main_Vox
from dataset.demo.birds import make_demo as make_birds
from dataset.demo.identities import make_demo as make_identities

SCRIPTS = {"CD": main_CD, "SSW": main_SSW, "UCF": main_UCF, "Vox": main_Vox}
BASE = ["--train", "--dataset", "tiny", "--run_name", "run", "--amp", "off", "--device", "cpu", "--num_workers", "0",
        "--image_size", "64"]
OWN_BASE = {"CD": ["--audio_seconds", "0.6"], "SSW": ["--audio_seconds", "0.6"], "Vox": ["--audio_frames", "40"],
            "UCF": ["--flow_frames", "3"]}
ITEMS = {"training item", "held-out item"}

# {flag: (its argument, flags that it needs and that the run without it has too, what changes)}; {data}: a folder
Effect = tuple[Sequence[str], Sequence[str], set[str]]


def taught(*names: str) -> list[str]:
    return ["--modulation", "umt", *(word for name in names for word in (f"--{name}_teacher", "another.pt"))]


SHARED: dict[str, Effect] = {
    "ckpt_path": (["{data}/elsewhere"], [], {"folder", "events_folder"}),
    "run_name": (["other"], [], {"folder", "events_folder"}),
    "use_tensorboard": (["False"], [], {"events_folder"}),
    "tensorboard_path": (["{data}/events"], [], {"events_folder"}),
    "fusion_method": (["film"], [], {"fusion", "weights"}),
    "mmcosine": ([], [], {"mmcosine"}),
    "scaling": (["5"], ["--mmcosine"], {"scaling"}),
    "lam": (["0.1"], [], {"lam"}),
    "imagenet": ([], [], {"starts"}),
    "modulation": (["ogm_ge"], [], {"modulation", "method_settings"}),
    "alpha": (["0.7"], ["--modulation", "ogm"], {"method_settings"}),
    "modulation_starts": (["2"], ["--modulation", "ogm"], {"method_settings"}),
    "modulation_ends": (["2"], ["--modulation", "ogm"], {"method_settings"}),
    "uni_weight": (["0.5"], ["--modulation", "multiloss"], {"method_settings"}),
    "pareto_gamma": (["1"], ["--modulation", "mmpareto"], {"method_settings"}),
    "agm_alpha": (["2"], ["--modulation", "agm"], {"method_settings"}),
    "agm_clip": (["0"], ["--modulation", "agm"], {"method_settings"}),
    "agm_ends": (["2"], ["--modulation", "agm"], {"method_settings"}),
    "lfm_weight": (["0.3"], ["--modulation", "lfm"], {"method_settings"}),
    "lfm_divergence": (["js"], ["--modulation", "lfm"], {"method_settings"}),
    "lfm_start": (["0.3"], ["--modulation", "lfm_learned"], {"method_settings"}),
    "lfm_rate": (["2"], ["--modulation", "lfm_learned"], {"method_settings"}),
    "relearn_every": (["5"], ["--modulation", "dnr"], {"method_settings"}),
    "relearn_times": (["1"], ["--modulation", "dnr"], {"method_settings"}),
    "relearn_strength": (["1"], ["--modulation", "dnr"], {"method_settings"}),
    "mcr_uni": (["0"], ["--modulation", "mcr"], {"method_settings"}),
    "mcr_mipd": (["0.5"], ["--modulation", "mcr"], {"method_settings"}),
    "mcr_permutations": (["1"], ["--modulation", "mcr"], {"method_settings"}),
    "pmr_alpha": (["2"], ["--modulation", "pmr"], {"method_settings"}),
    "pmr_entropy": (["0"], ["--modulation", "pmr"], {"method_settings"}),
    "pmr_entropy_epochs": (["3"], ["--modulation", "pmr"], {"method_settings"}),
    "dgl_alpha": (["5"], ["--modulation", "dgl"], {"method_settings"}),
    "dgl_clip": (["1"], ["--modulation", "dgl"], {"method_settings"}),
    "opm_base": (["0.4"], ["--modulation", "opm"], {"method_settings"}),
    "opm_lambda": (["1"], ["--modulation", "opm"], {"method_settings"}),
    "opm_share": (["1"], ["--modulation", "opm"], {"method_settings"}),
    "opm_warmup": (["1"], ["--modulation", "opm"], {"method_settings"}),
    "inforeg_threshold": (["0.1"], ["--modulation", "inforeg"], {"method_settings"}),
    "inforeg_beta": (["0.5"], ["--modulation", "inforeg"], {"method_settings"}),
    "mlb_alpha": (["2"], ["--modulation", "mlb"], {"method_settings"}),
    "mlb_beta": (["1"], ["--modulation", "mlb"], {"method_settings"}),
    "arl_uni": (["0.5"], ["--modulation", "arl"], {"method_settings"}),
    "remix_warmup": (["1"], ["--modulation", "remix"], {"method_settings"}),
    "remix_uni": (["1"], ["--modulation", "remix"], {"method_settings"}),
    "inforeg_formula": (["code"], ["--modulation", "inforeg"], {"method_settings"}),
    "mla_norm": (["frobenius"], ["--modulation", "mla", "--fusion_method", "sum"], {"method_settings"}),
    "mslr_factors": (["0.7"], ["--modulation", "mslr"], {"method_settings"}),
    "mslr_window": (["9"], ["--modulation", "mslr"], {"method_settings"}),
    "recon_epochs": (["3"], ["--modulation", "reconboost", "--fusion_method", "sum"], {"method_settings"}),
    "recon_others": (["0"], ["--modulation", "reconboost", "--fusion_method", "sum"], {"method_settings"}),
    "recon_weight": (["4"], ["--modulation", "reconboost", "--fusion_method", "sum"], {"method_settings"}),
    "recon_agreement": (["1"], ["--modulation", "reconboost", "--fusion_method", "sum"], {"method_settings"}),
    "blend_epochs": (["3"], ["--modulation", "gblend"], {"method_settings"}),
    "batch_size": (["7"], [], {"batch size"}),
    "epochs": (["5"], [], {"epochs"}),
    "optimizer": (["adamw"], [], {"optimizer"}),
    "learning_rate": (["0.5"], [], {"learning_rate"}),
    "weight_decay": (["0.5"], [], {"weight_decay"}),
    "lr_decay_step": (["3"], [], {"lr_decay_step"}),
    "lr_decay_ratio": (["0.5"], [], {"lr_decay_ratio"}),
    "random_seed": (["1"], [], {"random_seed", "loader seed", "weights"}),
    "amp": (["bf16"], [], {"precision"}),
    "compile": ([], [], {"compile"}),
    "accumulate": (["2"], [], {"accumulate"}),
    "num_workers": (["1"], [], {"workers"}),
    "cache": (["ram"], [], {"cache"}),
    "cache_size": (["80"], ["--cache", "ram"], {"cache"}),
    "image_size": (["72"], [], ITEMS),
    "crop_area": (["0.2", "0.3"], [], {"training item"}),
    "crop_ratio": (["0.5", "0.6"], [], {"training item"}),
    "flip": (["False"], [], {"training item"}),
}
AUDIO_VISUAL: dict[str, Effect] = {
    **SHARED,
    "audio_pretrain": (["{data}/some.pt"], [], {"starts"}),
    "visual_pretrain": (["{data}/some.pt"], [], {"starts"}),
    "audio_teacher": (["{data}/some.pt"], taught("audio", "visual"), {"teachers"}),
    "visual_teacher": (["{data}/some.pt"], taught("audio", "visual"), {"teachers"}),
    "umt_weight": (["1"], taught("audio", "visual"), {"method_settings"}),
    "freeze_encoders": ([], ["--modality", "visual", "--imagenet"], {"frozen"}),
    "visual_encoder": (["resnet50"], [], {"encoders", "weights"}),
}
MODALITY_PARTS = {"encoders", "fusion layers", "weights", "front ends", "metrics", *ITEMS}
EFFECTS: dict[str, dict[str, Effect]] = {
    "CD": {**AUDIO_VISUAL,
           "data_root": (["{other}"], [], {"training clips", "held-out clips"}),
           "modality": (["audio"], [], MODALITY_PARTS),
           "audio_encoder": (["resnet34"], [], {"encoders", "weights"}),
           "val_fraction": (["0.3"], [], {"split", "training clips", "held-out clips", "held-out item"}),
           "val_by_speaker": ([], ["--val_fraction", "0.3"], {"training clips", "held-out clips", *ITEMS}),
           "num_frames": (["2"], [], ITEMS), "fps": (["2"], [], ITEMS), "audio_seconds": (["0.7"], [], ITEMS),
           "audio_frontend": (["ogm_ge"], [], {"front ends", *ITEMS})},
    "SSW": {**AUDIO_VISUAL,
            "modality": (["visual"], [], MODALITY_PARTS),
            "audio_encoder": (["resnet34"], [], {"encoders", "weights"}),
            "val_fraction": (["0.5"], [], {"split", "training clips", "held-out clips", "held-out item"}),
            "pretrain_on": (["images_inat"], ["--modality", "visual"],
                            {"split", "training clips", "held-out clips", "facts", *ITEMS}),
            "num_frames": (["2"], [], ITEMS), "audio_seconds": (["0.7"], [], ITEMS),
            "reliable_audio_only": ([], [], {"training clips"})},
    "UCF": {**SHARED,
            "freeze_encoders": ([], ["--modality", "rgb", "--imagenet"], {"frozen"}),
            "modality": (["flow"], [], {*MODALITY_PARTS}),
            "rgb_encoder": (["resnet34"], [], {"encoders", "weights"}),
            "flow_encoder": (["resnet34"], [], {"encoders", "weights"}),
            "difference_encoder": (["resnet34"], ["--modality", "all"], {"encoders", "weights"}),
            "rgb_pretrain": (["{data}/some.pt"], [], {"starts"}), "flow_pretrain": (["{data}/some.pt"], [], {"starts"}),
            "difference_pretrain": (["{data}/some.pt"], ["--modality", "all"], {"starts"}),
            "rgb_teacher": (["{data}/some.pt"], taught("rgb", "flow"), {"teachers"}),
            "flow_teacher": (["{data}/some.pt"], taught("rgb", "flow"), {"teachers"}),
            "difference_teacher": (["{data}/some.pt"], ["--modality", "all", *taught("rgb", "flow", "difference")],
                                   {"teachers"}),
            "umt_weight": (["1"], taught("rgb", "flow"), {"method_settings"}),
            "val_fraction": (["0.5"], [], {"split", "training clips", "held-out clips", *ITEMS}),
            "split": (["2"], [], {"training clips", "held-out clips", "facts", *ITEMS}),
            "num_frames": (["2"], [], ITEMS), "flow": (["farneback"], [], {"facts", *ITEMS}),
            "flow_frames": (["4"], [], {"weights", *ITEMS})},
    "Vox": {**AUDIO_VISUAL,
            "modality": (["audio"], [], MODALITY_PARTS),
            "val_fraction": (["0.5"], [], {"split", "training clips", "held-out clips", "classes", "weights",
                                           "held-out trials", "held-out item"}),
            "trials": (["few=few.csv"], [], {"facts", "held-out trials"}),
            "audio_frames": (["50"], [], {"training item"}), "test_frames": (["50"], [], {"held-out item"}),
            "num_frames": (["3"], [], {"training item"}), "score": (["embedding"], [], {"score", "facts"}),
            "scores_path": (["{data}/scores"], [], {"scores_path"})},
}
# {flag: the test that sees its effect, or why none can}
ELSEWHERE = {
    "output": "test_evaluation.py: test_in_training_output_and_ckpt_path_are_the_same_flag",
    "train": "test_without_train_a_checkpoint_is_evaluated (below)",
    "resume": "test_connections_cd.py, test_connections_ssw.py, test_connections_vox.py",
    "demo": "test_demo_data_is_made_where_data_root_says (below)",
    "dataset": "test_the_dataset_names_the_folder_of_the_data (below)",
    "skip_missing": "test_clips_without_files_are_left_out_only_on_demand (below)",
    "gpu_ids": "test_main_cd.py: test_gpu_ids_start_a_process_each..., test_missing_cards_are_one_message",
    "device": "no second device here; test_main_cd.py: test_missing_cards_are_one_message",
    "log_gradients": "test_gradient_log.py: test_a_run_writes_its_gradients_and_computes_what_it_does_without",
    "test_every_epoch": "test_main_cd.py: test_the_test_set_is_watched...; test_main_vox.py: test_the_bonus_of...",
    "preset": "test_presets.py",
    "help": "argparse's",
}
OVERLAP = {"allow_overlap": "test_same_data.py: test_test_clips_that_were_trained_on_are_refused..."}
ALSO_ELSEWHERE = {
    "CD": OVERLAP,
    "SSW": {**OVERLAP,
            "fps": "test_other_frames_and_rates_are_looked_for_by_ssw (below)",
            "audio_frontend": "test_other_frames_and_rates_are_looked_for_by_ssw (below)",
            "data_root": "test_the_dataset_names_the_folder_of_the_data (below)"},
    "UCF": {**OVERLAP, "data_root": "test_the_dataset_names_the_folder_of_the_data (below)"},
    "Vox": {"data_root": "test_the_dataset_names_the_folder_of_the_data (below)",
            "audio_encoder": "it has one choice"},
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """The smallest data of each entry script, and another of the first."""
    base = tmp_path_factory.mktemp("flags")
    roots = {name: base / name for name in (*SCRIPTS, "other")}
    make_marked_data(roots["CD"])
    shutil.copytree(roots["CD"] / "Image-01-FPS", roots["CD"] / "Image-02-FPS")
    for folder in (roots["CD"] / "Image-02-FPS").iterdir():
        (folder / "00001.jpg").rename(folder / "9.jpg")  # the middle frame is another one
    shutil.copytree(roots["CD"], roots["other"])
    for name in ("train", "test"):
        rows = (roots["other"] / f"{name}.csv").read_text().splitlines()
        (roots["other"] / f"{name}.csv").write_text("\n".join(rows[3:]))
    make_marked_actions(roots["UCF"])
    make_birds(roots["SSW"], species=2, train_per_class=4, test_per_class=1)
    make_unreliable(roots["SSW"])
    make_identities(roots["Vox"], train_identities=4, train_utterances=2, test_identities=3, test_utterances=2)
    rows = (roots["Vox"] / "test_pairs.csv").read_text().splitlines()
    (roots["Vox"] / "few.csv").write_text("\n".join(rows[:-3]))
    torch.save({}, base / "some.pt")
    return roots


def make_unreliable(root: Path) -> None:
    """The first training video's bird is not heard."""
    path = root / "video_ml.csv"
    head, *rows = path.read_text().splitlines()
    columns = head.split(",")
    cells = [row.split(",") for row in rows]
    first = next(row for row in cells if row[columns.index("split")] == "train")
    first[columns.index("reliable_audio")] = "False"
    path.write_text("\n".join([head, *(",".join(row) for row in cells)]))


@pytest.fixture(autouse=True)
def quick_networks(monkeypatch):
    """PyTorch's own initialisation will do, and takes half the time."""
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda weight, **_: weight)


def reached(script: ModuleType, argv: Sequence[str], monkeypatch) -> dict[str, object]:
    """What arrives where training would begin, by what it is called in EFFECTS."""
    found = {}

    def arrive(task, plan) -> dict:
        found.update(of_task(task), modulation=plan.balancing.modulation, method_settings=plan.balancing.settings)
        for part in (plan.encoders, plan.optimisation, plan.output):
            found.update(part._asdict())
        return {}

    monkeypatch.setattr(script, "train", arrive)
    script.main(argv)
    del found["settings"]
    return found


def of_task(task) -> dict[str, object]:
    model = task.model
    held_out = task.held_out
    held_out_data = getattr(held_out, "utterances", held_out)
    known = ("parts", "score", "split", "flow", "trial_lists")
    facts = {name: value for name, value in task.facts.items() if name in known}
    return {"encoders": [type(model.encoder(name)).__name__ for name in model.modalities],
            "fusion": type(model.fusion_module).__name__, "fusion layers": model.fusion_module.modalities,
            "mmcosine": model.mmcosine, "scaling": model.scaling, "weights": digest(first_weights(model)),
            "classes": model.class_weights().shape[1], "front ends": list(map(repr, task.compute.front_ends.items())),
            "precision": task.compute.precision, "batch size": task.loaders.batch_size,
            "loader seed": task.loaders.seed,
            "cache": task.loaders.cache and (task.loaders.cache.kind, task.loaders.cache.size),
            "workers": task.loaders.num_workers, "split": task.split,
            "metrics": task.shown, "facts": facts, "score": getattr(task, "kind", None),
            "scores_path": getattr(task, "scores_path", None),
            "held-out trials": {name: len(one.labels) for name, one in getattr(held_out, "lists", {}).items()},
            "training clips": names_of(task.train), "held-out clips": names_of(held_out_data),
            "training item": item(task.train), "held-out item": item(held_out_data)}


def first_weights(model) -> dict[str, torch.Tensor]:
    """Of the fusion, and the first of each encoder: all come from one random generator."""
    encoders = {name: next(model.encoder(name).parameters()).detach() for name in model.modalities}
    return {**encoders, **model.fusion_module.state_dict()}


def names_of(data) -> list[str]:
    if hasattr(data, "clips"):
        return [clip.name for clip in data.clips]
    return [data.utterances[i].wav for i in range(len(data.utterances))]


def item(data) -> str:
    """The last clip as a network would get it, drawn so often that one of the draws is mirrored."""
    torch.manual_seed(0)
    items = [data[len(data) - 1] for _ in range(6)]
    items = [data[len(data) - 1] for _ in range(6)]
    return digest({f"{name} {i}": value for i, item in enumerate(items)
                   for name, value in item.items() if name != "label"})


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_has_an_entry_and_every_entry_a_flag(script):
    further = {f"{modality.name}_{end}" for modality in SCRIPTS[script].MODALITIES if modality.extra
               for end in ("encoder", "pretrain", "teacher")}  # test_<modality>.py
    flags = {action.dest for action in SCRIPTS[script].get_args_parser()._actions} - further
    assert flags == {*EFFECTS[script], *ELSEWHERE, *ALSO_ELSEWHERE.get(script, {})}
    here = {name for name in globals() if name.startswith("test_")}
    reasons = {**ELSEWHERE, **ALSO_ELSEWHERE.get(script, {})}.values()
    assert {reason.split()[0] for reason in reasons if "below" in reason} <= here


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_flag_changes_what_it_names_and_nothing_else(script, roots, monkeypatch, tmp_path, tiny_encoders):
    places = {"data": tmp_path, "other": roots["other"]}
    (tmp_path / "some.pt").touch()
    base = [*BASE, *OWN_BASE[script], "--data_root", str(roots[script]), "--ckpt_path", str(tmp_path / "runs")]
    before: dict[tuple[str, ...], dict] = {}
    wrong = {}
    for flag, (value, needed, expected) in EFFECTS[script].items():
        if tuple(needed) not in before:
            before[tuple(needed)] = reached(SCRIPTS[script], [*base, *needed], monkeypatch)
        plain = before[tuple(needed)]
        given = [f"--{flag}", *(text.format(**places) for text in value)]
        changed = reached(SCRIPTS[script], [*base, *needed, *given], monkeypatch)
        found = {name for name in plain if plain[name] != changed[name]}
        if found != expected:
            wrong[flag] = {"missing": expected - found, "besides": found - expected}
    assert not wrong


def test_without_train_a_checkpoint_is_evaluated(roots, finished_runs, tiny_encoders, monkeypatch):
    monkeypatch.setattr(main_CD, "train", lambda *_, **__: pytest.fail("trained"))
    path = finished_runs["plain"] / "best.pt"
    assert main_CD.main(["--ckpt_path", str(path), "--num_workers", "0"])["ckpt_path"] == str(path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_demo_data_is_made_where_data_root_says(script, tmp_path, monkeypatch):
    def make(root: Path) -> None:
        raise KeyboardInterrupt(str(root))

    monkeypatch.setattr(SCRIPTS[script], "make_demo", make)
    with pytest.raises(KeyboardInterrupt, match=str(tmp_path / "here")):
        SCRIPTS[script].main(["--train", "--demo", "--device", "cpu", "--data_root", str(tmp_path / "here")])


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_dataset_names_the_folder_of_the_data(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv, folder in ((["--dataset", "unheard"], "data/unheard"),
                         (["--dataset", "unheard", "--data_root", "elsewhere"], "elsewhere")):
        with pytest.raises(ValueError, match=folder):
            SCRIPTS[script].main(["--train", "--device", "cpu", *argv])


@pytest.mark.parametrize("script", SCRIPTS)
def test_clips_without_files_are_left_out_only_on_demand(script, roots, tmp_path, monkeypatch):
    root = Path(shutil.copytree(roots[script], tmp_path / "data"))
    folder, kind = {"CD": ("AudioWAV", "*.wav"), "SSW": ("video_ml-16000Hz", "*.wav"), "Vox": ("train/wav", "*.wav"),
                    "UCF": ("frames", "*_c0?")}[script]
    missing = sorted((root / folder).rglob(kind))[0]
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    argv = [*BASE, *OWN_BASE[script], "--data_root", str(root), "--ckpt_path", str(tmp_path)]
    with pytest.raises(ValueError, match=f"{missing.stem}.*"):
        reached(SCRIPTS[script], argv, monkeypatch)
    clips = reached(SCRIPTS[script], [*argv, "--skip_missing"], monkeypatch)
    names = [*clips["training clips"], *clips["held-out clips"]]
    whole = reached(SCRIPTS[script], [*BASE, *OWN_BASE[script], "--data_root", str(roots[script])], monkeypatch)
    assert len(names) == len([*whole["training clips"], *whole["held-out clips"]]) - 1


@pytest.mark.parametrize(("flags", "part"), [(["--fps", "2"], "video_ml-2fps"),
                                             (["--audio_frontend", "ogm_ge"], "video_ml-22050Hz")])
def test_other_frames_and_rates_are_looked_for_by_ssw(roots, flags, part):
    with pytest.raises(ValueError, match=part):
        main_SSW.main([*BASE, "--data_root", str(roots["SSW"]), *flags])
