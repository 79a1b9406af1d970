"""What a user probably meant by a flag, or by a flag's value, that does not exist."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

# Least ratio of difflib of a suggestion: fusion_metod and fusion_method have 0.96, bs and fps 0.4
SIMILAR = 0.75
SHORTEST_START = 4  # letters of a name that are taken for its beginning
# {our name: what other programs call it}; the first of ours that a script has is suggested
FLAGS_ELSEWHERE = {
    "learning_rate": "lr base_lr init_lr",
    "batch_size": "bs b batch train_batch_size",
    "weight_decay": "wd l2",
    "random_seed": "seed seeds manual_seed",
    "gpu_ids": "gpu gpus gpu_id devices",
    "output": "output_dir out_dir save_dir save_path log_dir work_dir out o",
    "out": "output output_dir out_dir save_dir save_path log_dir work_dir o",
    "num_workers": "workers n_workers j",
    "workers": "num_workers n_workers j",
    "lr_decay_step": "lr_step lr_step_size step_size",
    "lr_decay_ratio": "gamma lr_gamma lr_decay",
    "epochs": "n_epochs num_epochs max_epochs e",
    "optimizer": "optim opt",
    "fusion_method": "fusion",
    "modulation": "method balance balancing",
    "scaling": "scale s",
    "lam": "lambda",
    "ckpt_path": "ckpt checkpoint weights model_path load eval evaluate test",
    "data_root": "data data_dir data_path dataset_path root output",
    "run_name": "name exp_name experiment",
    "amp": "precision mixed_precision fp16 bf16 half",
    "image_size": "img_size input_size resolution",
    "num_frames": "frames n_frames",
    "accumulate": "accum_iter grad_accum accumulation_steps gradient_accumulation_steps",
    "freeze_encoders": "freeze",
    "val_fraction": "val_split",
    "use_tensorboard": "tensorboard",
    "imagenet": "pretrained"}
VALUES_ELSEWHERE = {"off": "fp32 float32 no", "bf16": "bfloat16", "fp16": "float16 half",
                    "concat": "concatenation cat"}


def plain(name: str) -> str:
    """A name as it is compared: without case and punctuation, `OGM-GE` -> `ogmge`."""
    return re.sub(r"[\W_]", "", name.casefold())


def nearest(name: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> str | None:
    """The one of the `known` names that `name` probably means; None where none is similar enough.

    elsewhere: {our name: names in other programs, between spaces}.
    """
    by_plain = {plain(candidate): candidate for candidate in known}
    wanted = plain(name)
    if wanted in by_plain:
        return by_plain[wanted]
    for ours, theirs in elsewhere.items():
        if plain(ours) in by_plain and wanted in map(plain, theirs.split()):
            return by_plain[plain(ours)]
    begun = [text for text in by_plain if text.startswith(wanted)]
    if len(begun) == 1 and len(wanted) >= SHORTEST_START:
        return by_plain[begun[0]]
    near = difflib.get_close_matches(wanted, by_plain, 1, SIMILAR)
    return by_plain[near[0]] if near else None


def did_you_mean(unknown: Iterable[str], known: Sequence[str]) -> str:
    """` (did you mean --scaling?)` for misspelt flags, or flags of other programs; "" where no
    known one is similar."""
    asked = list(dict.fromkeys(flag.split("=")[0] for flag in unknown))
    meant = {flag: near for flag in asked if (near := nearest(flag, known, FLAGS_ELSEWHERE))}
    if len(asked) == 1 and meant:
        return f" (did you mean {meant[asked[0]]}?)"
    told = ", ".join(f"{near} instead of {flag}" for flag, near in meant.items())
    return f" (did you mean {told}?)" if told else ""


def invalid_choice(value: object, choices: Iterable[object]) -> str:
    """What is said of a flag's value that is not among its choices."""
    names = [str(choice) for choice in choices]
    near = nearest(str(value), names, VALUES_ELSEWHERE)
    meant = f"did you mean {near}? " if near else ""
    return f"invalid choice: {str(value)!r} ({meant}choose from {', '.join(names)})"
