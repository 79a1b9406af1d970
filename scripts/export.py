"""Exports a finished run's best weights, to share them: no pickle, no data, no path or device of the machine they were
made on.

    python scripts/export.py runs/NAME
    python scripts/export.py runs/NAME --output shared/NAME

Writes   <output>/model.safetensors    the weights
         <output>/config.json          the flags of the run, its classes and results
         <output>/README.md            a model card: data, protocol, metrics, command, commit, an example, limits

scripts/predict.py takes such a folder in place of a run. In Python: utils/experiments/saved_model.py.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import startup

if __name__ == "__main__":
    startup.explain_import_errors()

from dataset.errors import InputError, first_few
from dataset.whole_files import read_json, write_whole
from utils import cli
from utils.experiments import entry_script, saved_model
from utils.training import experiment
from utils.training.run import is_finished
from utils.training.trained import CONFIG, open_trained

DEMO = "\n**Demo data: synthetic. The model knows nothing of the real world.**\n"
CARD = """---
library_name: pytorch
license: {licence}
tags:
{tags}
---

# {title}
{demo}
Trained by `{script}` of a reimplementation of MMCosine (ICASSP 2023), commit `{git_commit}`, torch {torch_version},
{precision}.

| test set | |
|---|---|
{figures}

Data: {dataset}, {n_train} training and {n_test} test clips, {classes} classes ({some}).
Protocol: epoch {best_epoch} of {epochs}, chosen on {chosen}; seed {seed}.
Command:

    {command}

## Use

`model.safetensors` holds the weights, `config.json` the flags and the classes. In the folder of the code:

    python scripts/predict.py THIS_FOLDER {videos}

In Python, from any folder:

```python
import sys
from pathlib import Path

sys.path.insert(0, "CODE")  # the folder of the code

{example}
```

## Limits

{answers} Its figures
hold for data like its test set; people or places that are in training and test data make them too good. The licence of
the training data may restrict the use of weights that were made from it.
"""
EXAMPLE = """from utils.experiments.prediction import Clip, predict
from utils.experiments.saved_model import load

saved = load(Path("THIS_FOLDER"))
answer = predict(saved, Clip(Path("video.mp4")))
print(answer.top("joint"))  # the most probable classes
print(answer.contributions())  # of each modality to the logit of the first"""
PAIR_EXAMPLE = """from utils.experiments.pairs import compare
from utils.experiments.saved_model import load

saved = load(Path("THIS_FOLDER"))
pairs, problems = compare(saved, [Path("a.mp4"), Path("b.mp4")], None, 2.0)  # no face detector, 2 faces a second
print(pairs[0].scores, problems)  # cosines, higher for the same person"""
OF_THE_DATA = "other\nlicense_name: licence-of-the-training-data"
CLASSIFIES = "The model knows the classes it was trained on and answers every video with one of them."
VERIFIES = "The model compares two videos of one speaker each; its scores are no probabilities."
METRICS = ("accuracy", "eer", "min_dcf")


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(description=__doc__, formatter_class=cli.DocstringHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--output", type=Path, help="folder of the export; default: <RUN>/export")
    return parser


def private_flags(run: Path, script_name: str) -> set[str]:
    """The flags that say where the run was made by this entry script. Raises InputError: the script is not here."""
    script = entry_script.of_run(run, script_name, ["get_args_parser"])
    return {name for name, meaning in script.get_args_parser().meanings().items() if meaning.private}


def portable(settings: Mapping[str, object], private: Collection[str]) -> dict[str, object]:
    """The flags without `private` ones, in the command too."""
    kept = {name: value for name, value in settings.items() if name not in private and value is not None}
    return {**kept, "command": portable_command(settings["command"], private)}


def portable_command(command: str, private: Collection[str]) -> str:
    kept, leaves_out = [], False
    for word in shlex.split(command):
        if word.startswith("--"):
            leaves_out = word.removeprefix("--").partition("=")[0] in private
        if not leaves_out:
            kept.append(word)
    return shlex.join(kept)


def without_machine(facts: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if name not in ("pretrained", "teachers", "device")}


def model_card(settings: Mapping[str, object], facts: Mapping[str, object], result: Mapping[str, object]) -> str:
    """README.md."""
    names = [name for name in result if name.startswith(METRICS)]
    verifies = "eer" in result
    test_chosen = result["selection"].startswith("best test")
    tags = ["multimodal", "mmcosine", *facts.get("modalities", ()),
            "speaker-verification" if verifies else "video-classification", str(settings["dataset"])]
    return CARD.format(
        title=experiment.title(settings), demo=DEMO if settings.get("demo") else "", script=settings["script"],
        figures="\n".join(f"| {name} | {shown(name, result[name])} |" for name in names), dataset=settings["dataset"],
        n_train=facts.get("n_train"), classes=len(facts["classes"]), some=first_few(list(facts["classes"])),
        answers=VERIFIES if verifies else CLASSIFIES, example=PAIR_EXAMPLE if verifies else EXAMPLE,
        licence="mit" if settings.get("demo") else OF_THE_DATA,
        tags="\n".join(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in tags),
        videos="a.mp4 b.mp4" if verifies else "video.mp4",
        chosen="the test set: such figures are too good" if test_chosen else "validation data",
        git_commit=result["git_commit"] or "unknown", **{name: result[name] for name in (
            "torch_version", "precision", "n_test", "best_epoch", "epochs", "seed", "command")})


def shown(name: str, value: float) -> str:
    return f"{value:.3f}" if name.startswith("min_dcf") else f"{100 * value:.2f} %"


def main(argv: Sequence[str]) -> dict[str, str]:
    """{"output": the folder}. Raises InputError: no finished run, its files are damaged, or the folder is another's."""
    args = get_args_parser().parse_args(argv)
    content = open_trained(args.run, ["args", "facts", "model"]).content
    result = read_json(args.run / "result.json", f"finish the run with --resume {shlex.quote(str(args.run))}")
    if content.get("epoch") != result.get("best_epoch") or not is_finished(args.run):
        raise InputError(f"{args.run} was continued since its result.json was written: finish it with --resume "
                         f"{shlex.quote(str(args.run))}")
    output = args.output or args.run / "export"
    if (output / "README.md").exists() and not (output / CONFIG).exists():
        raise InputError(f"{output} holds a README.md and no export: name another folder with --output")
    private = private_flags(args.run, str(content["args"].get("script")))
    content = {**content, "args": portable(content["args"], private), "facts": without_machine(content["facts"])}
    result = without_machine({name: value for name, value in result.items()
                              if isinstance(value, str | int | float | None | bool)})
    result["command"] = portable_command(result["command"], private)
    saved_model.write_export(output, content, result)
    write_whole(output / "README.md", model_card(content["args"], content["facts"], result))
    videos = "VIDEO OTHER_VIDEO" if "eer" in result else "VIDEO"
    print(f"exported to {output}; try: python scripts/predict.py {shlex.quote(str(output))} {videos}")
    return {"output": str(output)}


if __name__ == "__main__":
    cli.run(main)
