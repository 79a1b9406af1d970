"""An entry script that learns nothing, for the tests of sweeps: its folder is kept as the real ones keep theirs, and
last.pt holds a line an epoch. Standard library alone when it runs, so that it starts at once."""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

DEMO = {"dataset": "demo"}
SETTINGS = {"dataset": "fake", "fusion_method": "concat", "modality": "both", "modulation": "none", "mmcosine": "False",
            "scaling": "10", "lam": "0", "random_seed": "0", "epochs": "3", "seconds": "0", "fails": "",
            "measure": "accuracy", "data_root": ""}


def get_args_parser():
    """For the sweep: the flags of all entry scripts, and what this one shall do."""
    from utils.training import flags
    from utils.training.modalities import Modality

    modalities = [Modality(name, ("resnet18",), in_channels=None) for name in ("audio", "visual")]
    parser = flags.shared_parser("fake_entry.py", "", modalities)
    parser.add_argument("--seconds", type=float, default=0.0, role="machine", compared=True, help="an epoch lasts")
    parser.add_argument("--fails", default="", role="machine", compared=True,
                        help="seed of the runs that fail, until there is a file `mended`")
    parser.add_argument("--measure", default="accuracy", role="data")
    parser.set_defaults(dataset="fake", epochs=3)
    return parser


def parse(argv):
    from utils.training import options

    return options.parse(get_args_parser(), argv, DEMO)


def own_settings():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("ckpt_path", "run_name", "resume"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--demo", action="store_true")
    for name, default in SETTINGS.items():
        parser.add_argument(f"--{name}", default=default)
    args = parser.parse_known_args()[0]
    args.mmcosine = args.mmcosine == "True"
    if not args.data_root:
        del args.data_root
    for name, kind in {"scaling": float, "lam": float, "seconds": float, "random_seed": int, "epochs": int}.items():
        setattr(args, name, kind(getattr(args, name)))
    return args


def main():
    args = own_settings()
    folder = Path(args.ckpt_path) / args.run_name
    if not args.resume:
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps(vars(args)))
        (folder / "last.pt").touch()
    print("goes on" if args.resume else "begins", flush=True)
    if args.fails == str(args.random_seed) and not folder.with_name("mended").exists():
        sys.exit("fake_entry.py: error: bad luck")
    for epoch in range(len((folder / "last.pt").read_text().splitlines()), args.epochs):
        time.sleep(args.seconds)
        with (folder / "last.pt").open("a") as file:
            file.write(f"{epoch + 1}\n")
    (folder / "result.json").write_text(json.dumps(result(args)))


def result(args):
    """10 points more with MMCosine, 1 with every seed, 2 from film."""
    score = 0.5 + 0.1 * args.mmcosine + 0.01 * args.random_seed + 0.02 * (args.fusion_method == "film")
    metrics = {args.measure: score, f"{args.measure}_audio": score / 2, f"last_test_{args.measure}": score - 0.01}
    return {"dataset": args.dataset, "modality": args.modality, "modalities": ["audio", "visual"],
            "seed": args.random_seed, "epochs": args.epochs, "modulation": args.modulation, **metrics, "n_test": 100,
            "selection": "best test epoch",
            "git_commit": "c0ffee", "command": " ".join(sys.argv), "classes": ["A", "B"]}


def stopped(*_):
    print("stopped", flush=True)
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stopped)
    main()
