#!/usr/bin/env bash
# The paper's linear probes: the joint network trained plain and with MMCosine, then a linear classifier on each frozen
# encoder.
#
#     bash scripts/ablation_probes.sh                                 CREMA-D in data/CREMAD, runs in runs/probes
#     bash scripts/ablation_probes.sh --demo                          rendered data, minutes
#     RUNS=/disk/runs bash scripts/ablation_probes.sh --gpu_ids 0,1   more flags, for both training runs
#     SCRIPT=main_SSW.py bash scripts/ablation_probes.sh --scaling 20
#
# Runs that are finished are not repeated, so an interrupted recipe goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
SCRIPT=${SCRIPT:-main_CD.py}
RUNS=${RUNS:-runs/probes}
PYTHON=${PYTHON:-python}

train() {  # name, flags...
    local name=$1
    shift
    if [ -f "$RUNS/$name/result.json" ]; then
        echo "$RUNS/$name is finished"
    elif [ -f "$RUNS/$name/last.pt" ]; then
        "$PYTHON" "$SCRIPT" --resume "$RUNS/$name"
    else
        "$PYTHON" "$SCRIPT" --train --ckpt_path "$RUNS" --run_name "$name" "$@"
    fi
}

train plain "$@"
train mmcosine --mmcosine True "$@"
"$PYTHON" scripts/probe.py "$RUNS/plain" "$RUNS/mmcosine"
