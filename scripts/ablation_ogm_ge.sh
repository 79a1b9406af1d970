#!/usr/bin/env bash
# OGM-GE (CVPR 2022) and MMCosine: neither, each alone, both; three seeds on CREMA-D.
#
#   scripts/ablation_ogm_ge.sh                                  # CREMA-D, in data/CREMAD
#   scripts/ablation_ogm_ge.sh --demo --workers 2               # synthetic data
#   scripts/ablation_ogm_ge.sh --fusion_method concat film gated
#
# Further flags of scripts/sweep.py may follow; flags after -- go to every run.
exec "${PYTHON:-python}" "$(dirname "$0")/sweep.py" --output runs/ablation_ogm_ge --script main_CD.py \
    --fusion_method concat --modulation none ogm_ge --mmcosine False True --scaling 2 --random_seed 0 1 2 "$@"
