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
fail() { echo "ablation_probes.sh: error: $1" >&2; exit 2; }
if [[ " $* " == *" --output"* ]]; then fail "the probes have to know the folder as well: OUTPUT=DIR in front, not --output"; fi
if [[ " $* " == *"main_Vox.py "* ]]; then fail "runs of main_Vox.py do not classify and cannot be probed"; fi
output=${OUTPUT:-runs/ablation_probes}
"$python" "$scripts/sweep.py" --output "$output" --script main_CD.py --mmcosine False True --scaling 2 \
    --random_seed 0 1 2 "$@"
if [[ " $* " != *" --dry_run "* ]]; then
    results=("$output"/*/result.json)
    "$python" "$scripts/probe.py" "${results[@]%/result.json}"
fi
