#!/usr/bin/env bash
# The paper's Table 1: every fusion, plain and with MMCosine, three seeds.
#
#   scripts/ablation_fusion.sh                                        # CREMA-D, in data/CREMAD
#   scripts/ablation_fusion.sh --script main_SSW.py --scaling 20      # SSW60
#   scripts/ablation_fusion.sh --script main_Vox.py --scaling 10      # VoxCeleb
#   scripts/ablation_fusion.sh --demo --workers 2                     # made data
#
# s on CREMA-D: 2 is the paper's for concat, 50 and more what its authors advise for film and gated. Every flag of
# scripts/sweep.py may follow, flags for every run behind a --. The paper's curves show 100 epochs and a decay at 70:
# -- --epochs 100 --lr_decay_step 70.
exec "${PYTHON:-python}" "$(dirname "$0")/sweep.py" --output runs/ablation_fusion --script main_CD.py \
    --fusion_method concat film gated --mmcosine False True --scaling 2 50 --random_seed 0 1 2 "$@"
