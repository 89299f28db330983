#!/usr/bin/env bash
# The studies at digits size, from jobs to figures and tables: `launch/studies.sh [STUDY...]`.
#
#   sharp_flat   eight minima of one network: lines between them, curves, planes, weights
#   seeds        the same from two other seeds: lines and curves
#   repeats      ten random directions through two of the minima
#   skip         ResNet-20 and -56, with and without skip connections
#
# All of them if none is named.  What they show is in docs/STUDIES.md.  Each step finds out by
# itself what is done already, so a second run, or one after an interruption, repeats nothing.
#
#   ENVIRONMENT=.venv   the Python environment       RANKS=3   two workers and a coordinator
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$(cd "${ENVIRONMENT:-.venv}/bin" && pwd):$PATH
ranks=${RANKS:-3}
# More ranks than cores, perhaps; Open MPI wants to be told twice to run as root.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

train() { # JOB: one network per rank at a time
    mpirun -n "$((ranks > 1 ? ranks - 1 : 1))" lsengine train "$@"
}

evaluate() { # JOB [--only PATTERN]
    mpirun -n "$ranks" lsengine eval "$@"
}

draw() { # FIGURE KIND [OPTION...] -- FILE...: unless the figure is newer than the files
    local figure=$1 kind=$2 options=() file
    shift 2
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    for file; do
        if [ ! "$figure" -nt "$file" ]; then
            lsengine render "$@" --as "$kind" "${options[@]}" --output "$figure"
            return
        fi
    done
}

table() { # NAME FILE...: NAME.csv, and NAME.txt as it is printed here
    local name=$1
    shift
    lsengine compare "$@" --csv "$name.csv" | tee "$name.txt"
}

sharp_flat() {
    local jobs=jobs/digits/sharp_flat surfaces=surfaces/digits/sharp_flat
    local checkpoints=checkpoints/digits/sharp_flat figures=figures/studies/sharp_flat
    mkdir -p "$figures" "$surfaces"
    train "$jobs/minima.yaml"
    evaluate "$jobs/interpolation.yaml" "$jobs/raw.yaml" "$jobs/curves.yaml" "$jobs/planes.yaml"

    local kind optimizer
    for optimizer in sgd adam; do
        draw "$figures/interpolation-$optimizer.png" curve -- \
            "$surfaces/interpolation-$optimizer"-{wd0,wd5e-3}.h5
        for kind in raw filter; do
            draw "$figures/$kind-$optimizer.png" curve --quantity train_loss -- \
                "$surfaces/$kind-$optimizer"-{wd0,wd5e-3}-{bs8,bs300}.h5
        done
    done
    draw "$figures/planes.png" contour -- "$surfaces"/plane-{sgd,adam}-{wd0,wd5e-3}-{bs8,bs300}.h5
    draw "$figures/norms.png" history --quantity weight_norm -- \
        "$checkpoints"/{sgd,adam}-{wd0,wd5e-3}-{bs8,bs300}/history.h5
    if [ ! "$surfaces/weights.h5" -nt "$checkpoints/sgd-wd0-bs8/epoch_060.pt" ]; then
        lsengine histogram "$checkpoints"/sgd-{wd0,wd5e-3}-{bs8,bs300}/epoch_060.pt \
            --output "$surfaces/weights.h5"
    fi
    draw "$figures/weights.png" histogram -- "$surfaces/weights.h5"
    for kind in raw filter plane; do
        table "$figures/$kind" "$surfaces/$kind"-{sgd,adam}-{wd0,wd5e-3}-{bs8,bs300}.h5
    done
}

seeds() {
    local jobs=jobs/digits/sharp_flat surfaces=surfaces/digits/sharp_flat
    local figures=figures/studies/seeds optimizer
    mkdir -p "$figures"
    train "$jobs/seeds.yaml"
    evaluate "$jobs/seeds.yaml" "$jobs/seeds_interpolation.yaml"
    for optimizer in sgd adam; do
        draw "$figures/interpolation-$optimizer.png" curve --quantity train_loss -- \
            "$surfaces/seeds-interpolation-$optimizer"-{wd0,wd5e-3}-seed{1,2}.h5
    done
    table "$figures/filter" "$surfaces"/seeds-{sgd,adam}-{wd0,wd5e-3}-{bs8,bs300}-seed{1,2}.h5
}

repeats() {
    local jobs=jobs/digits/sharp_flat surfaces=surfaces/digits/sharp_flat
    local figures=figures/studies/repeats pair='sgd-wd5e-3-*'
    mkdir -p "$figures"
    train "$jobs/minima.yaml" --only "$pair"
    evaluate "$jobs/repeats.yaml" --only "$pair"
    draw "$figures/repeats.png" curve --quantity train_loss -- \
        "$surfaces"/repeats-sgd-wd5e-3-{bs8,bs300}.h5
    table "$figures/repeats" "$surfaces"/repeats-sgd-wd5e-3-{bs8,bs300}.h5
}

skip() {
    local jobs=jobs/digits/skip surfaces=surfaces/digits/skip figures=figures/studies/skip
    mkdir -p "$figures"
    train "$jobs/networks.yaml"
    evaluate "$jobs/planes.yaml"
    local files=("$surfaces"/resnet{20,56}{,_noshort}.h5)
    draw "$figures/surfaces.png" surface --scale log -- "${files[@]}"
    draw "$figures/contours.png" filled --scale log -- "${files[@]}"
    table "$figures/skip" "${files[@]}"
}

if [ $# = 0 ]; then
    set -- sharp_flat seeds repeats skip
fi
for study; do
    case $study in
        sharp_flat | seeds | repeats | skip) "$study" ;;
        *)
            echo "no study $study; there are: sharp_flat seeds repeats skip" >&2
            exit 2
            ;;
    esac
done
printf '\nThe figures and tables:\n'
find figures/studies -type f | sort | sed 's/^/  /'
