"""A misspelt flag or value, or one of another program, is answered with ours, never a far one."""

import pytest
from conftest import REPO

import main_CD
import main_SSW
import main_UCF
import main_Vox
from utils import cli
from utils.experiments import entry_script
from utils.spelling import FLAGS_ELSEWHERE, did_you_mean

ENTRY = [main_CD, main_SSW, main_UCF, main_Vox]


def refusal(parser: cli.Parser, argv: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("theirs, ours", [
    ("--lr", "--learning_rate"), ("--lr=0.01", "--learning_rate"), ("-lr", "--learning_rate"),
    ("--bs", "--batch_size"), ("--wd", "--weight_decay"), ("--seed", "--random_seed"),
    ("--gpus", "--gpu_ids"),
    ("--workers", "--num_workers"), ("--lr_step", "--lr_decay_step"), ("--output_dir", "--output"),
    ("--learning-rate", "--learning_rate"), ("--Batch_Size", "--batch_size"),
    ("--batchsize", "--batch_size"),
    ("--epoch", "--epochs"), ("--fusion_metod", "--fusion_method"), ("--scal", "--scaling"),
    ("--optim", "--optimizer"), ("--mmcosin", "--mmcosine")])
def test_the_flag_that_is_meant_is_named_by_every_entry_script(theirs, ours, capsys):
    for script in ENTRY:
        said = refusal(script.get_args_parser(), ["--train", theirs, "1"], capsys)
        assert said.endswith(f"unrecognized arguments: {theirs} 1 (did you mean {ours}?)"), said


@pytest.mark.parametrize("flag", ["--dry_run", "--foo", "--momentum", "--dropout", "--verbose", "-x"])
def test_a_flag_that_resembles_none_of_ours_gets_no_suggestion(flag, capsys):
    for script in ENTRY:
        said = refusal(script.get_args_parser(), [flag, "1"], capsys)
        assert said.endswith(f"unrecognized arguments: {flag} 1")


def test_each_of_several_wrong_flags_is_named_with_the_one_it_stands_for(capsys):
    said = refusal(main_CD.get_args_parser(), ["--lr", "-0.1", "--bs", "2", "--foo"], capsys)
    assert said.endswith("--learning_rate instead of --lr, --batch_size instead of --bs?)")


@pytest.mark.parametrize("flag, value, meant", [
    ("--modulation", "ogmge", "ogm_ge"), ("--modulation", "OGM-GE", "ogm_ge"),
    ("--modulation", "Ogm", "ogm"),
    ("--fusion_method", "Concat", "concat"), ("--fusion_method", "concatenation", "concat"),
    ("--visual_encoder", "ResNet-18", "resnet18"), ("--optimizer", "SGD", "sgd"),
    ("--optimizer", "adam-w", "adamw"),
    ("--amp", "bfloat16", "bf16"), ("--amp", "fp32", "off"), ("--modality", "Audio", "audio"),
    ("--imagenet", "Visual", "visual")])
def test_a_value_is_answered_with_the_choice_that_is_meant(flag, value, meant, capsys):
    said = refusal(main_CD.get_args_parser(), [flag, value], capsys)
    assert f"argument {flag}: invalid choice: {value!r} (did you mean {meant}? choose " in said


def test_a_value_that_resembles_no_choice_gets_the_choices_alone(capsys):
    said = refusal(main_CD.get_args_parser(), ["--optimizer", "lbfgs"], capsys)
    assert said.endswith("--optimizer: invalid choice: 'lbfgs' (choose from sgd, adam, adamw)")


@pytest.mark.parametrize("path", sorted(REPO.glob("scripts/**/*.py")), ids=lambda path: path.name)
def test_every_script_answers_misspelt_flags(path, capsys):
    parser = entry_script.load(path, ["get_args_parser"]).get_args_parser()
    flag = max((text for text in parser.flags() if text.startswith("--")), key=len)
    wrong = f"{flag[:4]}{flag[5:]}"  # a letter is missing
    assert did_you_mean([wrong], parser.flags()) == f" (did you mean {flag}?)"


def test_every_suggestion_for_another_programs_flag_is_a_flag_of_ours():
    parsers = [script.get_args_parser() for script in ENTRY]
    parsers += [entry_script.load(path, ["get_args_parser"]).get_args_parser()
                for path in REPO.glob("scripts/**/*.py")]
    known = {flag.removeprefix("--") for parser in parsers for flag in parser.flags()}
    assert set(FLAGS_ELSEWHERE) <= known
