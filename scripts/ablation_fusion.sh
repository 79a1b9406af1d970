#!/usr/bin/env bash
# The paper's Table 1: every fusion, plain and with MMCosine, three seeds.
#
#   scripts/ablation_fusion.sh                                        # CREMA-D, in data/CREMAD
#   scripts/ablation_fusion.sh --script main_SSW.py --scaling 20      # SSW60
#   scripts/ablation_fusion.sh --script main_Vox.py --scaling 10      # VoxCeleb
#   scripts/ablation_fusion.sh --demo --workers 2                     # synthetic data
#
# s on CREMA-D: the paper's best is 2 for concat; its authors recommend 50 or more for film and gated. Further flags of
# scripts/sweep.py may follow; flags after -- go to every run. The schedule of the paper's curves is
# -- --epochs 100 --lr_decay_step 70.
exec "${PYTHON:-python}" "$(dirname "$0")/sweep.py" --output runs/ablation_fusion --script main_CD.py \
    --fusion_method concat film gated --mmcosine False True --scaling 2 50 --random_seed 0 1 2 "$@"
