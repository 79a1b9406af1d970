#!/usr/bin/env bash
# The paper's sweep of the scale s: MMCosine with concat, beside the plain network, three seeds.
#
#   scripts/ablation_scaling.sh                                                # CREMA-D, in data/CREMAD
#   scripts/ablation_scaling.sh --script main_SSW.py --scaling 10 20 30 40     # SSW60
#   scripts/ablation_scaling.sh --script main_Vox.py --scaling 10 20 30 40     # VoxCeleb
#   scripts/ablation_scaling.sh --demo --workers 2                             # synthetic data
#
# Further flags of scripts/sweep.py may follow; flags after -- go to every run.
exec "${PYTHON:-python}" "$(dirname "$0")/sweep.py" --output runs/ablation_scaling --script main_CD.py \
    --fusion_method concat --mmcosine False True --scaling 2 5 10 30 --random_seed 0 1 2 "$@"
