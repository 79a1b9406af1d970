#!/usr/bin/env bash
# The paper's linear probes: the joint network plain and with MMCosine, three seeds, then a linear classifier on each
# frozen encoder.
#
#   scripts/ablation_probes.sh                                  # CREMA-D, in data/CREMAD
#   scripts/ablation_probes.sh --script main_SSW.py --scaling 20
#   scripts/ablation_probes.sh --demo --scaling 10              # made data
#   OUTPUT=/disk/runs scripts/ablation_probes.sh                # instead of --output, which the probes would not know
#
# Every flag of scripts/sweep.py may follow, flags for every run behind a --.
set -euo pipefail
python=${PYTHON:-python}
scripts=$(dirname "$0")
output=${OUTPUT:-runs/ablation_probes}
"$python" "$scripts/sweep.py" --output "$output" --script main_CD.py --mmcosine False True --scaling 2 \
    --random_seed 0 1 2 "$@"
if [[ " $* " != *" --dry_run "* ]]; then
    results=("$output"/*/result.json)
    "$python" "$scripts/probe.py" "${results[@]%/result.json}"
fi
