#!/usr/bin/env bash
# The supplement's contrastive loss, alone and with MMCosine, three seeds on CREMA-D.
#
#   scripts/ablation_contrastive.sh                       # CREMA-D, in data/CREMAD
#   scripts/ablation_contrastive.sh --demo --workers 2    # synthetic data
#
# The paper does not give its weight: three values of --lam are tried. Further flags of scripts/sweep.py may follow;
# flags after -- go to every run.
exec "${PYTHON:-python}" "$(dirname "$0")/sweep.py" --output runs/ablation_contrastive --script main_CD.py \
    --fusion_method concat --mmcosine False True --scaling 2 --lam 0 0.01 0.1 1 --random_seed 0 1 2 "$@"
