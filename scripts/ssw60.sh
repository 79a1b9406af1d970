#!/usr/bin/env bash
# The paper's SSW60 column, from the tarball on:
#
#     bash scripts/ssw60.sh                                   the data in data/SSW60, runs in runs/ssw60
#     DATA=/disk/ssw60 RUNS=/disk/runs bash scripts/ssw60.sh  elsewhere
#     bash scripts/ssw60.sh --gpu_ids 0,1 --epochs 50         more flags, for every training run
#     bash scripts/ssw60.sh --demo                            the same way with made birds
#
# Runs that are finished are not repeated, so an interrupted recipe goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
DATA=${DATA:-data/SSW60}
RUNS=${RUNS:-runs/ssw60}
PYTHON=${PYTHON:-python}

train() {  # name, flags...
    local name=$1
    shift
    if [ -f "$RUNS/$name/result.json" ]; then
        echo "$RUNS/$name is finished"
    elif [ -f "$RUNS/$name/last.pt" ]; then
        "$PYTHON" main_SSW.py --resume "$RUNS/$name"
    else
        "$PYTHON" main_SSW.py --train --data_root "$DATA" --ckpt_path "$RUNS" --run_name "$name" "$@"
    fi
}

unpack() {  # tarball, folder: what lies beside taxa.csv in it, however deep, comes into the folder
    local inside
    mkdir -p "$2.unpacking"
    tar -xzf "$1" -C "$2.unpacking"
    inside=$(dirname "$(find "$2.unpacking" -name taxa.csv -print -quit)")
    mkdir -p "$2"
    mv "$inside"/* "$2"/
    rm -r "$2.unpacking"
}

# 1. The data. A tarball beside the folder (data/SSW60.tar.gz) is checked and unpacked; frames and sound are extracted.
if [[ " $* " == *" --demo "* ]]; then
    DATA=data/demo_birds
else
    if [ ! -f "$DATA/taxa.csv" ] && [ -f "$DATA.tar.gz" ]; then
        echo "af0a54ea1a897d130d91be8ffe0de81c  $DATA.tar.gz" | md5sum --check
        unpack "$DATA.tar.gz" "$DATA"
    fi
    "$PYTHON" scripts/prepare_ssw60.py --data_root "$DATA" || [[ " $* " == *" --skip_missing "* ]]
fi

# 2. Each encoder alone: recordings for the ear, photographs for the eye. (To start the eye from ImageNet's weights, add
#    --imagenet to its line.)
train audio --modality audio --pretrain_on audio_ml "$@"
train visual --modality visual --pretrain_on images_inat images_nabirds "$@"

# 3. Both together, three fusions, plain and with MMCosine; s = 20 is the paper's best for concat.
start=(--audio_pretrain "$RUNS/audio/best.pt" --visual_pretrain "$RUNS/visual/best.pt")
for fusion in concat film gated; do
    train "$fusion-plain" --fusion_method "$fusion" "${start[@]}" "$@"
    train "$fusion-mmcosine" --fusion_method "$fusion" --mmcosine True --scaling 20 "${start[@]}" "$@"
done

# 4. The column.
"$PYTHON" - "$RUNS" <<'END'
import json, sys
from pathlib import Path

print("top-1 % on the test videos")
for path in sorted(Path(sys.argv[1]).glob("*-*/result.json")):
    result = json.loads(path.read_text())
    print(f"{path.parent.name:20} {100 * result['accuracy']:6.2f}   (demo data)" if result["demo"] else
          f"{path.parent.name:20} {100 * result['accuracy']:6.2f}")
END
