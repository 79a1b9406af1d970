#!/usr/bin/env bash
# Every row of a comparison of balancing methods, for any data and any entry script that classifies: the plain rows
# first (joint, each encoder alone, their ensemble, pretrained encoders), then all methods, with and without MMCosine.
#
#   scripts/compare_methods.sh                                        # CREMA-D, in data/CREMAD
#   scripts/compare_methods.sh --demo --dry_run                       # print the commands only
#   scripts/compare_methods.sh --workers 4 -- --epochs 100 --lr_decay_step 70 --val_fraction 0.1
#   MODALITIES="rgb flow" scripts/compare_methods.sh --script main_UCF.py
#   OUTPUT=runs/mine SEEDS="0 1 2" SCALING=20 scripts/compare_methods.sh                # s of MMCosine
#   PARAMETERS="--relearn_every 3 --alpha 0.5" scripts/compare_methods.sh -- --epochs 8   # not of umt, reconboost, mla
#
# Start the same command again to continue: finished runs are not repeated. The table is <OUTPUT>/table.md: mean +- std
# over the seeds, paired differences to joint training with their intervals, and what an epoch costs. Further flags of
# scripts/sweep.py may follow; flags after -- go to every run. What each method does: docs/methods.md.
# shellcheck disable=SC2086  # the lists are words
set -euo pipefail
python=${PYTHON:-python}
output=${OUTPUT:-runs/compare_methods}
seeds=${SEEDS:-0 1 2 3 4}
modalities=${MODALITIES:-audio visual}
parameters=${PARAMETERS:-}
cosine="--mmcosine False True ${SCALING:+--scaling $SCALING}"
fail() { echo "compare_methods.sh: error: $1" >&2; exit 2; }
[[ " $* " != *" --output"* ]] || fail "name the output folder with OUTPUT=DIR scripts/compare_methods.sh ..., not with --output"
[[ " $* " != *" --random_seed"* ]] || fail "name the seeds with SEEDS=\"0 1 2\" scripts/compare_methods.sh ..., not with --random_seed"
[[ " $* " != *" --scaling"* ]] || fail "name the s of MMCosine with SCALING=20 scripts/compare_methods.sh ..., not with --scaling"
[[ " $* " != *"main_Vox.py "* ]] || fail "only classification has all of these rows: use another --script"
failed=0  # a run that fails stops the rows of its sweep's table, not the other sweeps; Ctrl-C does
sweep() {
    local status=0
    "$python" "$(dirname "$0")/sweep.py" --output "$output" "$@" || status=$?
    [[ $status -lt 128 ]] || exit $status
    [[ $status -eq 0 ]] || failed=2
}

# alone MODALITY SEED: the best weights of this encoder alone
alone() {
    local file found=()
    for file in "$output"/*-"$1"-plain*-seed"$2"/best.pt; do
        [[ $file == *_pretrain* || $file == *_teacher* ]] || found+=("$file")  # a further axis is in its name
    done
    ((${#found[@]} < 2)) || fail "several runs of the $1 encoder alone, with seed $2: ${found[*]}"
    echo "${found[0]:-$output/*-$1-plain*-seed$2/best.pt}"
}

# Joint training as it is and with MMCosine, and each encoder alone with their ensemble
sweep --random_seed $seeds $cosine "$@"
sweep --random_seed $seeds --mmcosine False --modality $modalities ensemble "$@"

# Joint networks with the encoders trained alone: that start from them, fine-tuned, and with the encoders frozen; and
# that are taught by them (UMT)
for seed in $seeds; do
    pretrained=() teachers=()
    for modality in $modalities; do
        file=$(alone "$modality" "$seed")
        pretrained+=("--${modality}_pretrain" "$file")
        teachers+=("--${modality}_teacher" "$file")
    done
    sweep --random_seed "$seed" --mmcosine False --freeze_encoders False True "${pretrained[@]}" "$@"
    sweep --random_seed "$seed" $cosine --modulation umt "${teachers[@]}" "$@"
done

# Balancing methods, with and without MMCosine; ReconBoost and MLA need the classifier's layers apart (sum), and MLA's
# head is not MMCosine's
sweep --random_seed $seeds $cosine \
    --modulation ogm ogm_ge gblend pmr multiloss mmpareto agm lfm lfm_learned dnr mcr dgl opm inforeg mslr mlb arl remix \
    tcmax $parameters "$@"
sweep --random_seed $seeds $cosine --fusion_method sum --modulation none reconboost "$@"
sweep --random_seed $seeds --mmcosine False --fusion_method sum --modulation mla "$@"
[[ $failed -eq 0 ]] || echo "compare_methods.sh: not everything could be run: see the messages above" >&2
exit $failed
