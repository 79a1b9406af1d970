"""From the command line to named values: how demo, resumed and evaluated runs fill in the flags.

The parsed flags (`args`) are used in the entry scripts and here; everything else takes named values.
"""

import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset.crops import Crop
from dataset.errors import InputError, first_few
from models.balancing import METHOD_FLAGS, METHODS
from models.fusion import FUSIONS
from utils import distributed
from utils.distributed import print_once
from utils.training import experiment, modalities
from utils.training.flags import Parser, from_imagenet
from utils.training.modalities import Modality, Start
from utils.training.plan import Balancing, Encoders, Optimisation, Output, Plan
from utils.training.presets import Preset, changes, presets_of
from utils.training.roles import INPUT, NETWORK, TRAINING
from utils.training.run_folder import check_resumable
from utils.training.trained import open_trained


def parse(parser: Parser, argv: Sequence[str], demo_defaults: Mapping[str, object]) -> Namespace:
    """Flags from argv; those not given come from the run that is resumed, from the checkpoint that is evaluated, from
    `demo_defaults` under --demo, from the --preset, from the method's `default_settings`, else from the parser.
    `trained` is what is resumed or evaluated, opened. Raises InputError, or exits with status 2 on a wrong flag."""
    given = parser.given(argv)  # a wrong flag is told before a missing file
    if given.get("resume") or given.get("train"):
        given = without_output(parser, given)
    chosen = presets_of(parser.prog)[given["preset"]] if given.get("preset") else None
    preset = parser.given(chosen.argv) if chosen else {}
    if chosen and given.get("train"):
        check_has_needs(parser, chosen, given)
    of_method = METHODS[{**preset, **given}.get("modulation", "none")].default_settings
    defaults = {**parser.defaults(), **of_method, **preset, **(demo_defaults if given.get("demo") else {})}
    command = f"python {parser.prog} {shlex.join(argv)}"
    if given.get("resume"):
        args, command = resumed(parser, defaults, given)
    elif given.get("train"):
        args = Namespace(**{**defaults, **given, "trained": None})
    elif given.get("ckpt_path", defaults["ckpt_path"]) == defaults["ckpt_path"]:
        parser.error("nothing to do: give --train, or --ckpt_path RUN to evaluate a run (or a checkpoint)")
    else:
        args = evaluated(parser, defaults, given)
    changed = {name for name, value in given.items() if value != defaults[name]}
    check_needs(parser, args, changed)
    check_method(parser, args, changed)
    for check in (check_overlap, check_teachers, check_encoders, check_frozen):
        check(parser, args)
    args.data_root = args.data_root or Path("data") / args.dataset
    args.script, args.command = parser.prog, command
    if (args.train or args.resume) and args.preset in presets_of(parser.prog):
        args.preset_changes = preset_changes(parser, args, given)
    return args


def preset_changes(parser: Parser, args: Namespace, given: Mapping[str, object]) -> dict[str, object]:
    """{flag: value} of what departs from the run's preset, also where it is resumed with other flags."""
    preset = parser.given(presets_of(parser.prog)[args.preset].argv)
    usual = {**parser.defaults(), **METHODS[args.modulation].default_settings, **preset}
    before = args.trained.settings.get("preset_changes") if args.trained else None
    names = {**preset, **(before or {}), **departing(parser, given)}
    return changes({name: usual[name] for name in names if name in usual}, settings(args))


def check_has_needs(parser: Parser, preset: Preset, given: Mapping[str, object]) -> None:
    if missing := [flag for flag in parser.given(preset.needs) if not given.get(flag)]:
        parser.error(f"--preset {preset.name} starts from encoders of other runs: give --{' and --'.join(missing)} too "
                     f"({' '.join(preset.needs)})")


def departing(parser: Parser, given: Mapping[str, object]) -> dict[str, object]:
    """Those of the given flags by which a run is another than that of its preset: not the seed, the precision, the
    data, where it runs, or the checkpoints that it starts from, which no preset can name."""
    meanings = parser.meanings()
    return {name: value for name, value in given.items()
            if name not in ("preset", "random_seed", "amp") and not name.endswith(experiment.CHECKPOINTS)
            and meanings[name].role in (NETWORK, INPUT, TRAINING) and meanings[name].is_compared()}


def without_output(parser: Parser, given: Mapping[str, object]) -> dict[str, object]:
    """In training --output is another name of --ckpt_path, where the runs' folders are."""
    renamed = {**given}
    output = renamed.pop("output", None)
    if output is None:
        return renamed
    if "ckpt_path" in given and given["ckpt_path"].resolve() != output.resolve():
        parser.error(f"--output {output} and --ckpt_path {given['ckpt_path']} both name the folder that the run's "
                     "folder is made in: give one of them")
    return {**renamed, "ckpt_path": output}


def check_needs(parser: Parser, args: Namespace, changed: set[str]) -> None:
    """Flags without the flag that they need are mistakes on the command line, whose flags are `changed`."""
    for name, meaning in parser.meanings().items():
        if name in changed and meaning.lacks_need(vars(args)):
            parser.error(f"--{name} has no effect without --{meaning.needs}: leave it out, or give --{meaning.needs} "
                         "as well")


def check_overlap(parser: Parser, args: Namespace) -> None:
    loaded = any(files(args, parser.declared, end) for end in experiment.CHECKPOINTS)
    if args.train and getattr(args, "allow_overlap", False) and not loaded:
        parser.error("--allow_overlap is for checkpoints that are evaluated, start encoders or teach: leave it out")


def check_method(parser: Parser, args: Namespace, changed: set[str]) -> None:
    """Flags of a method that is not used are mistakes on the command line, whose flags are `changed`; in an earlier
    run's settings they may be the defaults of its --demo. Flags of several modalities where there is one always are."""
    method = METHODS[args.modulation]
    for flag in METHOD_FLAGS:
        if flag in changed and flag not in method.uses():
            parser.error(f"--{flag} has no effect with --modulation {args.modulation}: leave it out")
    for flag, off in (("lam", 0), ("modulation", "none")):
        if not modalities.is_joint(args.modality) and getattr(args, flag) != off:
            parser.error(f"--{flag} compares the modalities: leave it out with --modality {args.modality}")
    if args.accumulate > args.batch_size:
        parser.error(f"--accumulate {args.accumulate} is more than --batch_size {args.batch_size}: a part needs a clip")
    if args.accumulate > 1 and (method.has_own_step() or method.whole_batches):
        parser.error(f"--accumulate cannot be combined with --modulation {args.modulation}, whose step needs the whole "
                     "batch: use a smaller --batch_size")
    for flag, why in method.without.items():
        if getattr(args, flag) and (args.train or flag != "compile"):  # compiled evaluation is of the network alone
            parser.error(f"--{flag} cannot be combined with --modulation {args.modulation}: {why}")
    if method.fusions and args.fusion_method not in method.fusions:
        parser.error(f"--modulation {args.modulation} is defined for --fusion_method {' or '.join(method.fusions)}")
    if method.optimizers and args.optimizer not in method.optimizers and args.train:
        parser.error(f"--modulation {args.modulation} is defined for --optimizer {' or '.join(method.optimizers)}")
    if len(modalities.chosen(parser.declared, args.modality)) > method.most_modalities:
        parser.error(f"--modulation {args.modulation} is defined for {method.most_modalities} modalities: name them "
                     "with --modality")
    try:
        method.check(args.epochs, **method_settings(args))
    except ValueError as error:
        if args.train:  # a run from before such a rule can still be evaluated
            parser.error(str(error))


def check_teachers(parser: Parser, args: Namespace) -> None:
    """A method that needs teachers has one for each modality that is trained; any other is a mistake."""
    chosen = modalities.chosen(parser.declared, args.modality) if METHODS[args.modulation].needs_teachers else ()
    for name in sorted({modality.name for modality in chosen} ^ files(args, parser.declared, "_teacher").keys()):
        found, flag = f"--modulation {args.modulation} with --modality {args.modality}", f"--{name}_teacher"
        parser.error(f"{flag} has no effect with {found}: leave it out" if getattr(args, f"{name}_teacher") else
                     f"{found} needs the {name} encoder trained alone: {flag} RUN/best.pt")


def check_encoders(parser: Parser, args: Namespace) -> None:
    """Flags about the encoder of a modality that is not trained, or two starts of one encoder, are mistakes."""
    names = {modality.name for modality in modalities.chosen(parser.declared, args.modality)}
    if len(names) < FUSIONS[args.fusion_method].least_modalities:
        raise InputError(f"--fusion_method {args.fusion_method} needs at least two modalities: choose another "
                         f"--fusion_method for --modality {args.modality}")
    for name, start in files(args, parser.declared, "_pretrain").items():
        if name not in names:
            raise InputError(f"--{name}_pretrain {start.path}: --modality {args.modality} has no such encoder")
    usual = [modality.name for modality in parser.declared if modality.imagenet]
    for name in args.imagenet.split("+") if isinstance(args.imagenet, str) else usual * args.imagenet:
        if args.imagenet is True and from_imagenet(vars(args), parser.declared):
            break  # a bare flag starts those of the usual encoders that can be started
        if name not in names or getattr(args, f"{name}_pretrain"):
            parser.error(f"--imagenet starts the {name} encoder: leave it out with --{name}_pretrain or --modality "
                         f"{args.modality}")


def check_frozen(parser: Parser, args: Namespace) -> None:
    """Encoders that are not trained must come from somewhere, and cannot be balanced."""
    if args.freeze_encoders and args.log_gradients:
        parser.error("--log_gradients has no effect with --freeze_encoders, whose encoders have no gradients: leave it "
                     "out")
    if args.freeze_encoders and args.modulation != "none":
        parser.error("--freeze_encoders leaves no encoder to balance: leave --modulation out")
    started = {*files(args, parser.declared, "_pretrain"), *from_imagenet(vars(args), parser.declared)}
    for modality in modalities.chosen(parser.declared, args.modality) if args.freeze_encoders else ():
        if modality.name not in started:
            parser.error(f"--freeze_encoders keeps the {modality.name} encoder as it starts: give it a trained one "
                         f"with --{modality.name}_pretrain FILE")


def method_settings(args: Namespace) -> dict[str, object]:
    """The values of the flags that the balancing method uses, by name."""
    return {flag: getattr(args, flag) for flag in METHODS[args.modulation].uses()}


def over(parser: Parser, defaults: Mapping[str, object], saved: Mapping[str, object], given: Mapping[str, object],
         path: Path) -> Namespace:
    """`given` flags over the `saved` settings of the file `path` over `defaults`. Raises InputError: what is saved are
    not flags' values."""
    wrong = [f"--{name} {saved[name]}" for name, action in parser.actions.items()
             if name in saved and not parser.can_have(action, saved[name])]
    if wrong:
        raise InputError(f"{path} is damaged, or was written by another program: among its settings are "
                         f"{first_few(wrong)}")
    restored = {name: Path(saved[name]) if action.type is Path and saved[name] else saved[name]
                for name, action in parser.actions.items() if name in saved}
    return Namespace(**{**defaults, **restored, **given})


def evaluated(parser: Parser, defaults: Mapping[str, object], given: Mapping[str, object]) -> Namespace:
    """The given flags over the settings of the checkpoint; inputs that differ from those it was trained on are noted.
    Raises InputError: of another script, or another network or training is asked for."""
    if given.get("output") and given["output"].exists() and not given["output"].is_dir():
        raise InputError(f"--output {given['output']} is a file: name a folder")
    trained = open_trained(given["ckpt_path"])
    path, saved, meanings = trained.path, trained.settings, parser.meanings()
    check_script(parser, saved, path)
    kept = {name: saved[name] for name, meaning in meanings.items() if meaning.is_from_checkpoint() and name in saved}
    args = over(parser, defaults, kept, {**given, "ckpt_path": path, "trained": trained}, path)
    now = settings(args)
    changed = {name: meanings[name] for name in kept if kept[name] != now[name]}
    network = [name for name, meaning in changed.items() if meaning.role == NETWORK]
    if network:
        trained = ", ".join(f"--{name} {saved[name]}" for name in network)
        raise InputError(f"{path} was trained with {trained}: leave that out")
    idle = [name for name, meaning in changed.items() if meaning.role == TRAINING and not meaning.evaluated]
    if idle:
        raise InputError(f"{path} was trained with another --{', --'.join(idle)}, which has no effect on its "
                         "evaluation: leave it out")
    inputs = ", ".join(f"--{name} {saved[name]}" for name, meaning in changed.items() if meaning.role == INPUT)
    if inputs and distributed.is_first_here():
        print_once(f"note: {path} was trained with {inputs}: the command's values are used")
    return args


def check_script(parser: Parser, saved: Mapping[str, object], path: Path) -> None:
    """Raises InputError: the checkpoint `path`, whose settings are `saved`, is of a run of another entry script."""
    if saved.get("script", parser.prog) != parser.prog:
        raise InputError(f"{path} was made by {saved['script']}: use that script instead of {parser.prog}")


def resumed(parser: Parser, defaults: Mapping[str, object], given: Mapping[str, object]) -> tuple[Namespace, str]:
    """The flags of the run, as its last.pt has them, and the command that started it; of the given flags only those
    that may change in a run may differ."""
    folder, path = given["resume"], given["resume"] / "last.pt"
    check_resumable(folder)
    trained = open_trained(path, ["args", "epoch"])
    saved, meanings, epochs = trained.settings, parser.meanings(), trained.content["epoch"]
    check_script(parser, saved, path)
    added = [name for name, meaning in meanings.items() if meaning.is_compared() and name not in saved]
    if added:
        raise InputError(f"{path} is of an older version of this code, which had no --{', --'.join(added)}: continue "
                         "the run with that version, or start a new run with --train")
    args = over(parser, defaults, saved, {**given, "trained": trained}, path)
    now = settings(args)
    fixed = [name for name, meaning in meanings.items() if name in saved and now[name] != saved[name]
             and not meaning.can_change(saved, now, epochs)]
    if fixed:
        raise InputError(f"--resume continues a run as it was started: leave out --{', --'.join(fixed)}, or start a "
                         "new run with --train")
    named = given.get("ckpt_path", folder.parent) / given.get("run_name", folder.name)
    if named.resolve() != folder.resolve():
        raise InputError(f"--resume {folder} names the folder of the run: leave out --ckpt_path and --run_name")
    if args.epochs < epochs:
        raise InputError(f"{folder} has {epochs} epochs behind it: --epochs {args.epochs} is less")
    args.train = True
    return args, str(saved.get("command"))


def settings(args: Namespace) -> dict[str, object]:
    """The flags as plain values, for args.json and checkpoints."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
            if name != "trained"}


def run_folder(args: Namespace, parts: Sequence[str] = ()) -> Path:
    """Where the run's files are, the same in every process. parts: of the dataset, where it has several."""
    name = args.run_name or experiment.timed_run_name(settings(args), parts)
    return args.resume or args.ckpt_path / distributed.from_main(name)


def encoders(args: Namespace, declared: Sequence[Modality]) -> dict[str, tuple[str, int | None]]:
    """{modality: (encoder, its input channels)} of the modalities that are trained, for `models.make_encoders`."""
    channels = {modality: modality.in_channels * getattr(args, modality.stacked) if modality.stacked else
                modality.in_channels for modality in declared}
    return {modality.name: (getattr(args, f"{modality.name}_encoder"), channels[modality])
            for modality in modalities.chosen(declared, args.modality)}


def crop(args: Namespace) -> Crop:
    """Of training images."""
    return Crop(tuple(args.crop_area), tuple(args.crop_ratio), args.flip)


def starts(args: Namespace, declared: Sequence[Modality]) -> dict[str, Start]:
    """{modality: what its encoder starts from}; the others start from scratch."""
    imagenet = {modality.name: Start(None, modality.input_settings, modality.colours) for modality in declared
                if modality.name in from_imagenet(vars(args), declared)}
    return {**files(args, declared, "_pretrain"), **imagenet}


def files(args: Namespace, declared: Sequence[Modality], end: str) -> dict[str, Start]:
    """{modality: the checkpoint that --<modality><end> names}"""
    return {modality.name: Start(path, modality.input_settings, teaches=end == "_teacher")
            for modality in declared if (path := getattr(args, f"{modality.name}{end}"))}


def evaluation(args: Namespace) -> dict[str, object]:
    """What the `evaluate_checkpoint` of a task takes to write evaluation.json."""
    return {"output": args.output, "settings": settings(args)}


def training(args: Namespace, declared: Sequence[Modality], parts: Sequence[str] = ()) -> Plan:
    """What `train` (utils/training/train.py) takes beside the task."""
    folder = run_folder(args, parts)
    events = experiment.events_folder(folder, args.tensorboard_path) if args.use_tensorboard else None
    return Plan(Encoders(starts(args, declared), files(args, declared, "_teacher"), args.freeze_encoders),
                Optimisation(**{name: getattr(args, name) for name in Optimisation._fields}),
                Balancing(args.modulation, method_settings(args)),
                Output(folder, args.trained, events, settings(args)))
