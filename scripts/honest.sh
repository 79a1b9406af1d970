#!/usr/bin/env bash
# A comparison that cannot fool its author. For every row, plain ones first: a search over three settings, chosen on
# validation clips of the first split; then the chosen setting with fresh seeds, or on several splits of the data. The
# test set chooses neither a setting nor an epoch; the table says how much better choosing on it would have looked.
#
#   scripts/honest.sh --epochs 100 --lr_decay_step 70                       # CREMA-D, in data/CREMAD, seeds 0 to 4
#   DRY_RUN=True scripts/honest.sh                                          # print the commands only
#   DATASET=digits-snr-5 DATA='data/digits-fold{random_seed}-snr-5' WORKERS=2 OUTPUT=runs/snr-5 \
#       scripts/honest.sh --image_size 64 --audio_seconds 0.6 --epochs 12 --lr_decay_step 9     # a fold for each seed
#   ROWS="audio visual ensemble joint mmcosine" FUSION=gated OUTPUT=runs/few scripts/honest.sh
#
# Flags go to every run. Start the same command again to continue: finished runs are not repeated. The table is
# <OUTPUT>/table.md, its runs are in <OUTPUT>/runs.csv, the searches in <OUTPUT>/search. Each row searches three settings:
# its own parameter where it has one, else the learning rate. A search is over when each of its runs has a result or has
# diverged, which is not chosen; its choice is kept in chosen.json, never changes, and never looks at test clips.
# finetuned and ensemble combine encoders trained alone: those of the same seed and split, in the search those of the
# search, which have not been trained on its validation clips. Seeds may be added at the end of SEEDS. Several data sets
# may share an OUTPUT if DATASET names them. With folds of speakers, --val_by_speaker True makes the validation clips of
# other speakers too.
set -euo pipefail
here=$(dirname "$0")
python=${PYTHON:-python} output=${OUTPUT:-runs/honest} workers=${WORKERS:-1} script=${SCRIPT:-main_CD.py}
modalities=${MODALITIES:-audio visual} search_seed=${SEARCH_SEED:-100} val_fraction=${VAL_FRACTION:-0.2}
methods="multiloss finetuned mmcosine ogm_ge mmcosine_ogm_ge mmpareto agm joint_sum mla"
rows=${ROWS:-$modalities ensemble joint $methods}
read -ra seeds <<< "${SEEDS:-0 1 2 3 4}"
read -ra rate <<< "${RATES:-0.003 0.01 0.03}"
prefix=${DATASET:+$DATASET-} fused=(${FUSION:+--fusion_method "$FUSION"}) flags=("$@")

fail() { echo "honest.sh: error: $1" >&2; exit 2; }
case ${DRY_RUN:-False} in
    [Tt]rue | 1 | yes) dry_run=True ;;
    [Ff]alse | 0 | no) dry_run=False ;;
    *) fail "DRY_RUN is True or False, not $DRY_RUN" ;;
esac
[[ " $* " != *" --data_root"* && " $* " != *" --dataset"* ]] || fail "name the data with DATASET=NAME DATA=FOLDER scripts/honest.sh"
[[ " $* " != *" --random_seed"* ]] || fail "name the seeds with SEEDS=\"0 1 2\" scripts/honest.sh"
[[ " $* " != *" --fusion_method"* ]] || fail "name the fusion with FUSION=NAME scripts/honest.sh"
[[ " ${seeds[*]} " != *" $search_seed "* ]] || fail "the search has the seed $search_seed: leave it out of SEEDS, which are to be fresh"
[[ ${#seeds[@]} -gt 0 ]] || fail "SEEDS names no seed"
[[ ! $val_fraction =~ ^0*\.?0*$ ]] || fail "VAL_FRACTION=$val_fraction: the validation clips choose, so there have to be some"
[[ ${#rate[@]} -eq 3 ]] || fail "every row searches three settings: give three learning rates with RATES=\"0.003 0.01 0.03\""
for row in $rows; do
    [[ " $modalities ensemble joint $methods " == *" $row "* ]] || fail "there is no row $row: see the names in scripts/honest.sh"
done
first=${DATA:-}
first=${first//\{random_seed\}/${seeds[0]}}  # the data of the searches

failed=0  # what fails is told and ends no other row; Ctrl-C ends all
attempt() {
    local status=0
    "$@" || status=$?
    [[ $status -lt 128 ]] || exit $status
    [[ $status -eq 0 ]] || failed=2
}

# over PROGRAM FOLDER DATA WATCHED ARGUMENTS: a program for the runs in a folder; WATCHED: with the test set every epoch
over() {
    local program=$1 folder=$2 data=$3 watched=$4
    shift 4
    "$python" "$here/$program" --script "$script" --output "$folder" "$@" -- ${data:+--data_root "$data"} \
        ${DATASET:+--dataset "$DATASET"} --val_fraction "$val_fraction" --test_every_epoch "$watched" "${flags[@]}"
}

# search PROGRAM ROW ARGUMENTS: of the row that was described last
search() {
    over "$1" "$output/search/$prefix$2" "$first" False --random_seed "$search_seed" "${what[@]}" "${axis[@]}" "${@:3}"
}

# choose ROW -> chosen[ROW]: the flags that the validation clips chose; winner[ROW]: the run of the search that has them
declare -A chosen winner
choose() {
    local told
    told=$(search studies/best_settings.py "$1") || return
    chosen[$1]=${told%%$'\n'*} winner[$1]=${told##*$'\n'}
}

# encoder MODALITY SEED: the run of this encoder alone; with the seed of the searches, the one that its search chose
encoder() {
    local run=${winner[$1]:-$prefix$1-CHOSEN-seed$search_seed} folder=$output
    [[ $2 != "$search_seed" ]] || folder=$output/search/$prefix$1
    echo "$folder/${run/%-seed$search_seed/-seed$2}"
}

# encoders_known ROW: whether the encoders alone that the row needs were searched, in this start or an earlier one
encoders_known() {
    local modality
    for modality in $modalities; do
        [[ -z ${winner[$modality]:-} && $dry_run == False ]] || continue
        describe "$modality" "$search_seed"
        if ! choose "$modality"; then
            echo "honest.sh: the row $1 needs the encoders alone: put $modalities before it in ROWS" >&2
            return 1
        fi
    done
}

# describe ROW SEED -> what: the row's flags, with encoders of this seed; axis: those of its search
describe() {
    what=("${fused[@]}") axis=(--learning_rate "${rate[@]}")
    local modality at_usual=(--learning_rate "${rate[1]}")
    case $1 in
        joint) ;;
        joint_sum) what=(--fusion_method sum) ;;  # what mla is compared with
        mla) what=(--modulation mla --fusion_method sum) ;;
        multiloss) what+=(--modulation multiloss) ;;
        mmpareto) what+=(--modulation mmpareto) axis=("${at_usual[@]}" --pareto_gamma 1 1.5 2) ;;
        agm) what+=(--modulation agm) axis=("${at_usual[@]}" --agm_alpha 0.5 1 2) ;;
        ogm_ge) what+=(--modulation ogm_ge) axis=("${at_usual[@]}" --alpha 0.1 0.3 0.8) ;;
        mmcosine) what+=(--mmcosine True) axis=("${at_usual[@]}" --scaling 5 10 20) ;;
        mmcosine_ogm_ge)
            what+=(--mmcosine True --modulation ogm_ge) axis=("${at_usual[@]}" --scaling 5 10 20) ;;
        finetuned)
            for modality in $modalities; do
                what+=(--"${modality}"_pretrain "$(encoder "$modality" "$2")/best.pt")
            done ;;
        *) what=(--modality "$1") ;;
    esac
}

over sweep.py "$output/none" "$first" False --dry_run True "${fused[@]}" --learning_rate "${rate[@]}" > /dev/null || fail \
    "every run has these flags: leave out what the rows differ in, learning rates are named with RATES, the fusion with FUSION"
for row in $rows; do
    if [[ $row == ensemble ]]; then
        continue  # of the encoders alone, below
    fi
    if [[ $row == finetuned ]] && ! encoders_known "$row"; then
        failed=2
        continue
    fi
    describe "$row" "$search_seed"
    if [[ $dry_run == True ]]; then
        attempt search sweep.py "$row" --dry_run True
        echo "# then $row with the setting that the validation clips chose, seeds ${seeds[*]}"
        continue
    fi
    if [[ ! -f $output/search/$prefix$row/chosen.json ]]; then  # settings that diverge are no failure: choose judges
        search sweep.py "$row" --workers "$workers" || [[ $? -lt 128 ]] || exit 130
    fi
    if ! choose "$row"; then
        failed=2
        continue
    fi
    echo "$row: ${chosen[$row]}"
    describe "$row" "{random_seed}"
    # shellcheck disable=SC2086  # chosen is words
    attempt over sweep.py "$output" "${DATA:-}" True --workers "$workers" --random_seed "${seeds[@]}" "${what[@]}" \
        "${axis[@]}" ${chosen[$row]}
done

if [[ " $rows " == *" ensemble "* ]] && encoders_known ensemble; then
    for seed in "${seeds[@]}"; do
        members=() made=$output/${prefix}ensemble-seed$seed
        for modality in $modalities; do
            members+=("$(encoder "$modality" "$seed")")
        done
        if [[ $dry_run == True ]]; then
            echo "# then $python $here/ensemble.py ${members[*]} --output $made"
        elif [[ ! -f $made/result.json ]]; then
            attempt "$python" "$here/ensemble.py" "${members[@]}" --output "$made"
        fi
    done
elif [[ " $rows " == *" ensemble "* ]]; then
    failed=2
fi
[[ $dry_run == True ]] || attempt "$python" "$here/sweep.py" --script "$script" --output "$output" --report_only \
    --random_seed "${seeds[@]}"
[[ $failed -eq 0 ]] || echo "honest.sh: not everything could be run: see the messages above" >&2
exit $failed
