#!/usr/bin/env bash
# The paper's SSW60 results, from the tarball to the table:
#
#     bash scripts/ssw60.sh                                   data in data/SSW60, runs in runs/ssw60
#     DATA=/disk/ssw60 RUNS=/disk/runs bash scripts/ssw60.sh  other folders
#     bash scripts/ssw60.sh --gpu_ids 0,1 --epochs 50         further flags, for every training run
#     bash scripts/ssw60.sh --demo                            the same steps with synthetic birds, runs in runs/ssw60_demo
#
# If the script is interrupted, start it again with the same data and flags: finished runs are not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
if [[ " $* " == *" --demo "* ]]; then
    DATA=${DATA:-data/demo_birds} RUNS=${RUNS:-runs/ssw60_demo}
else
    DATA=${DATA:-data/SSW60} RUNS=${RUNS:-runs/ssw60}
fi

mkdir -p "$RUNS"
if [ -f "$RUNS/recipe.txt" ] && [ "$(cat "$RUNS/recipe.txt")" != "$DATA $*" ]; then
    echo "ssw60.sh: the runs in $RUNS were started with other data or flags ($(cat "$RUNS/recipe.txt")): choose" \
        "another folder with RUNS=..., or remove $RUNS" >&2
    exit 2
fi
echo "$DATA $*" > "$RUNS/recipe.txt"

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

unpack() {  # tarball, folder: moves the folder of taxa.csv, at any depth in the tarball, to the folder
    local taxa
    mkdir -p "$2.unpacking" "$2"
    tar -xzf "$1" -C "$2.unpacking"
    taxa=$(find "$2.unpacking" -name taxa.csv -print -quit)
    if [ -z "$taxa" ]; then
        echo "ssw60.sh: $1 contains no taxa.csv, so it is not SSW60's tarball: download it again. Its content is in $2.unpacking" >&2
        exit 2
    fi
    find "$(dirname "$taxa")" -mindepth 1 -maxdepth 1 ! -name taxa.csv -exec mv -n {} "$2"/ \;
    mv "$taxa" "$2"/  # last, as a sign that everything was moved
    rm -r "$2.unpacking"
}

# 1. The data. A tarball beside the folder (data/SSW60.tar.gz) is checked and unpacked; frames and sound are extracted.
if [[ " $* " != *" --demo "* ]]; then
    if [ ! -f "$DATA/taxa.csv" ] && [ -f "$DATA.tar.gz" ]; then
        echo "af0a54ea1a897d130d91be8ffe0de81c  $DATA.tar.gz" | md5sum --check
        unpack "$DATA.tar.gz" "$DATA"
    fi
    "$PYTHON" scripts/prepare_ssw60.py --data_root "$DATA" || [[ " $* " == *" --skip_missing "* ]]
fi

# 2. Pretrain each encoder: the audio encoder on recordings, the visual encoder on photographs. (To start the visual
#    encoder from ImageNet weights, add --imagenet to its line.)
train audio --modality audio --pretrain_on audio_ml "$@"
train visual --modality visual --pretrain_on images_inat images_nabirds "$@"

# 3. Joint training: three fusions, plain and with MMCosine; s = 20 is the paper's best for concat.
start=(--audio_pretrain "$RUNS/audio/best.pt" --visual_pretrain "$RUNS/visual/best.pt")
for fusion in concat film gated; do
    train "$fusion-plain" --fusion_method "$fusion" "${start[@]}" "$@"
    train "$fusion-mmcosine" --fusion_method "$fusion" --mmcosine True --scaling 20 "${start[@]}" "$@"
done

# 4. The table.
"$PYTHON" - "$RUNS" <<'END'
import json, sys
from pathlib import Path

print("top-1 % on the test videos")
for path in sorted(Path(sys.argv[1]).glob("*-*/result.json")):
    result = json.loads(path.read_text())
    print(f"{path.parent.name:20} {100 * result['accuracy']:6.2f}   (demo data)" if result["demo"] else
          f"{path.parent.name:20} {100 * result['accuracy']:6.2f}")
END
