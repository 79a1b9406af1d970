#!/usr/bin/env bash
# A comparison that cannot fool its author. For every row, plain ones first: a search over three settings, chosen on
# validation clips of the first split; then the chosen setting with fresh seeds, or on several splits of the data. The
# test set chooses neither a setting nor an epoch; the table says how much better choosing on it would have looked.
#
#   scripts/honest.sh --epochs 100 --lr_decay_step 70                       # CREMA-D, in data/CREMAD, seeds 0 to 4
#   DRY_RUN=True scripts/honest.sh                                          # print the commands only
#   DATASET=digits DATA='data/digits-fold{random_seed}-snr-5' WORKERS=2 \
#       scripts/honest.sh --image_size 64 --audio_seconds 0.6 --epochs 12 --lr_decay_step 9     # a fold for each seed
#   ROWS="audio visual ensemble joint mmcosine" OUTPUT=runs/few scripts/honest.sh
#
# Flags go to every run. Start the same command again to continue: finished runs are not repeated. The table is
# <OUTPUT>/table.md, its runs are in <OUTPUT>/runs.csv, the searches in <OUTPUT>/search. Each row searches three settings:
# its own parameter where it has one, else the learning rate. A setting that diverges is not chosen.
set -euo pipefail
here=$(dirname "$0")
python=${PYTHON:-python} output=${OUTPUT:-runs/honest} seeds=${SEEDS:-0 1 2 3 4} workers=${WORKERS:-1}
script=${SCRIPT:-main_CD.py} rates=${RATES:-0.003 0.01 0.03} modalities=${MODALITIES:-audio visual}
rows=${ROWS:-$modalities ensemble joint multiloss finetuned mmcosine ogm_ge mmcosine_ogm_ge mmpareto agm joint_sum mla}
search_seed=${SEARCH_SEED:-100} val_fraction=${VAL_FRACTION:-0.2} dry_run=${DRY_RUN:-False}
first=${seeds%% *}
read -ra rate <<< "$rates"
usual=${rate[$((${#rate[@]} / 2))]}

fail() { echo "honest.sh: error: $1" >&2; exit 2; }
[[ " $* " != *" --data_root"* && " $* " != *" --dataset"* ]] || fail "name the data with DATASET=NAME DATA=FOLDER scripts/honest.sh"
[[ " $* " != *" --random_seed"* ]] || fail "name the seeds with SEEDS=\"0 1 2\" scripts/honest.sh"
[[ " $seeds " != *" $search_seed "* ]] || fail "the search has the seed $search_seed: leave it out of SEEDS, which are to be fresh"

failed=0  # what fails is told and ends no other row; Ctrl-C ends all
attempt() {
    local status=0
    "$@" || status=$?
    [[ $status -lt 128 ]] || exit $status
    [[ $status -eq 0 ]] || failed=2
}

# alone MODALITY SEED: the run of this encoder alone
alone() {
    local folder found=()
    for folder in "$output"/*-"$1"-plain*-seed"$2"; do
        [[ ${folder##*/} == *_pretrain* || ${folder##*/} == *_teacher* ]] || found+=("$folder")
    done
    ((${#found[@]} < 2)) || fail "several runs of the $1 encoder alone, with seed $2: ${found[*]}"
    echo "${found[0]:-$output/*-$1-plain*-seed$2}"
}

# sweep OUTPUT DATA ARGUMENTS
sweep() {
    local folder=$1 data=$2
    shift 2
    "$python" "$here/sweep.py" --script "$script" --output "$folder" --workers "$workers" --dry_run "$dry_run" "$@" -- \
        ${data:+--data_root "$data"} ${DATASET:+--dataset "$DATASET"} --val_fraction "$val_fraction" \
        --test_every_epoch True "${flags[@]}"
}

# describe ROW SEED -> what: the row's flags, with encoders of this seed; axis: those of its search
describe() {
    what=() axis=(--learning_rate "${rate[@]}")
    case $1 in
        joint) ;;
        joint_sum) what=(--fusion_method sum) ;;  # what mla is compared with
        mla) what=(--modulation mla --fusion_method sum) ;;
        multiloss) what=(--modulation multiloss) ;;
        mmpareto) what=(--modulation mmpareto) axis=(--learning_rate "$usual" --pareto_gamma 1 1.5 2) ;;
        agm) what=(--modulation agm) axis=(--learning_rate "$usual" --agm_alpha 0.5 1 2) ;;
        ogm_ge) what=(--modulation ogm_ge) axis=(--learning_rate "$usual" --alpha 0.1 0.3 0.8) ;;
        mmcosine) what=(--mmcosine True) axis=(--learning_rate "$usual" --scaling 5 10 20) ;;
        mmcosine_ogm_ge)
            what=(--mmcosine True --modulation ogm_ge) axis=(--learning_rate "$usual" --scaling 5 10 20) ;;
        finetuned)
            for modality in $modalities; do
                encoder=$(alone "$modality" "$first")
                what+=(--"${modality}"_pretrain "${encoder/%-seed$first/-seed$2}/best.pt")
            done ;;
        *)
            [[ " $modalities " == *" $1 "* ]] || fail "there is no row $1: see the names in scripts/honest.sh"
            what=(--modality "$1") ;;
    esac
}

flags=("$@")
for row in $rows; do
    [[ $row == ensemble ]] || describe "$row" "$first"  # a misspelt name is told before anything runs
done
for row in $rows; do
    if [[ $row == ensemble ]]; then
        continue  # of the encoders alone, below
    fi
    describe "$row" "$first"
    attempt sweep "$output/search/$row" "${DATA:+${DATA//\{random_seed\}/$first}}" --random_seed "$search_seed" "${what[@]}" \
        "${axis[@]}"
    if [[ $dry_run == True ]]; then
        echo "# then $row with the setting that the validation clips chose, seeds $seeds"
        continue
    fi
    if ! chosen=$("$python" "$here/best_settings.py" "$output/search/$row" --skip_unfinished); then
        failed=2
        continue
    fi
    echo "$row: $chosen"
    describe "$row" "{random_seed}"
    # shellcheck disable=SC2086  # seeds and chosen are words
    attempt sweep "$output" "${DATA:-}" --random_seed $seeds "${what[@]}" "${axis[@]}" $chosen
done

if [[ " $rows " == *" ensemble "* ]]; then
    for seed in $seeds; do
        encoders=()
        for modality in $modalities; do
            encoder=$(alone "$modality" "$seed")
            encoders+=("$encoder")
        done
        made=$output/ensemble-seed$seed
        if [[ $dry_run == True ]]; then
            echo "# then $python $here/ensemble.py of the encoders alone, seed $seed"
        elif [[ ! -f $made/result.json ]]; then
            attempt "$python" "$here/ensemble.py" "${encoders[@]}" --output "$made"
        fi
    done
fi
[[ $dry_run == True ]] || attempt "$python" "$here/sweep.py" --script "$script" --output "$output" --report_only
exit $failed
