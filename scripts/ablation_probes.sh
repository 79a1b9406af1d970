#!/usr/bin/env bash
# The paper's linear probes: the joint network plain and with MMCosine, three seeds, then a linear classifier on each
# frozen encoder.
#
#   scripts/ablation_probes.sh                                  # CREMA-D, in data/CREMAD
#   scripts/ablation_probes.sh --script main_SSW.py --scaling 20
#   scripts/ablation_probes.sh --demo --scaling 10              # synthetic data
#   OUTPUT=/disk/runs scripts/ablation_probes.sh                # use this instead of --output
#
# Further flags of scripts/sweep.py may follow; flags after -- go to every run.
set -euo pipefail
python=${PYTHON:-python}
scripts=$(dirname "$0")
fail() { echo "ablation_probes.sh: error: $1" >&2; exit 2; }
if [[ " $* " == *" --output"* ]]; then fail "name the output folder with OUTPUT=DIR scripts/ablation_probes.sh ..., not with --output"; fi
if [[ " $* " == *"main_Vox.py "* ]]; then fail "only classification can be probed: use --script main_CD.py or main_SSW.py"; fi
output=${OUTPUT:-runs/ablation_probes}
"$python" "$scripts/sweep.py" --output "$output" --script main_CD.py --mmcosine False True --scaling 2 \
    --random_seed 0 1 2 "$@"
if [[ " $* " != *" --dry_run "* ]]; then
    results=("$output"/*/result.json)
    "$python" "$scripts/probe.py" "${results[@]%/result.json}"
fi
