#!/usr/bin/env bash
# Makes the studies at digits size, from jobs to figures and tables: `launch/studies.sh [STUDY...]`.
#
#   sharp_flat   eight minima of one network: lines between them, curves, planes, weights
#   seeds        the same from two other seeds: lines and curves
#   repeats      ten random directions through two of the minima
#   skip         ResNet-20 and -56, with and without skip connections
#   width        ResNet-32 of three widths, with and without skip connections
#   dense        DenseNet-121 against a network without skip connections
#   trajectory   a training run in its principal plane, in a random one, and towards its start
#   connect      a curve of low loss between two minima, and the straight line
#   three        the plane through three minima
#
# Without a name it makes all of them.  docs/STUDIES.md says what they show; for trajectory and
# connect it is docs/TRAJECTORIES.md.  Figures and tables go to figures/studies.  Figures that the
# documents show go to docs/studies, too.  Each step skips what is done already.  So a second run,
# or a run after an interruption, repeats nothing.
#
#   ENVIRONMENT=.venv   the Python environment       RANKS=3   two workers and a coordinator
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$(cd "${ENVIRONMENT:-.venv}/bin" && pwd):$PATH
ranks=${RANKS:-3}
# There may be more ranks than cores.  Open MPI needs two variables to run as root.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

studies=(sharp_flat seeds repeats skip width dense trajectory connect three)

train() { # JOB...: several networks at once
    lsengine train "$@" --workers "$((ranks > 1 ? ranks - 1 : 1))"
}

evaluate() { # JOB [--only PATTERN]
    mpirun -n "$ranks" lsengine eval "$@"
}

draw() { # FIGURE KIND [OPTION...] -- FILE...: draws PNG and PDF, unless newer than all files
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
            case $figure in
                *.png)
                    lsengine render "$@" --as "$kind" "${options[@]}" --output "${figure%png}pdf"
                    ;;
            esac
            return
        fi
    done
}

show() { # FIGURE NAME [smooth]: into docs/studies, 1200 pixels wide, few colours unless smooth
    python - "$1" "docs/studies/$2.png" "${3-}" <<'PYTHON'
import sys
from PIL import Image

image = Image.open(sys.argv[1]).convert("RGB")
image.thumbnail((1200, 4800), Image.Resampling.LANCZOS)
if not sys.argv[3]:
    image = image.quantize(256, dither=Image.Dither.NONE)
image.save(sys.argv[2], optimize=True)
PYTHON
}

table() { # NAME FILE...: writes NAME.csv, and prints a table, also into NAME.txt
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
    done
    draw "$figures/norms.png" history --quantity weight_norm -- \
        "$checkpoints"/{sgd,adam}-{wd0,wd5e-3}-{bs8,bs300}/history.h5
    if [ ! "$surfaces/weights.h5" -nt "$checkpoints/sgd-wd0-bs8/epoch_060.pt" ]; then
        lsengine histogram "$checkpoints"/sgd-{wd0,wd5e-3}-{bs8/epoch_060,bs300/epoch_120}.pt \
            --output "$surfaces/weights.h5"
    fi
    draw "$figures/weights.png" histogram -- "$surfaces/weights.h5"
    table "$figures/interpolation" "$surfaces"/interpolation-{sgd,adam}-{wd0,wd5e-3}.h5
    for kind in raw filter plane; do
        table "$figures/$kind" "$surfaces/$kind"-{sgd,adam}-{wd0,wd5e-3}-{bs8,bs300}.h5
    done
    python launch/minima.py "$figures" "$surfaces" "$checkpoints" docs/studies/minima.csv |
        tee "$figures/minima.md"
    for kind in minima planes norms weights; do
        show "$figures/$kind.png" $kind
    done
    show "$figures/interpolation-sgd.png" interpolation-sgd
}

seeds() {
    local jobs=jobs/digits/sharp_flat surfaces=surfaces/digits/sharp_flat
    local figures=figures/studies/seeds optimizer
    mkdir -p "$figures"
    train "$jobs/seeds.yaml"
    evaluate "$jobs/seeds_curves.yaml" "$jobs/seeds_interpolation.yaml"
    for optimizer in sgd adam; do
        draw "$figures/interpolation-$optimizer.png" curve --quantity train_loss -- \
            "$surfaces/seeds-interpolation-$optimizer"-{wd0,wd5e-3}-seed{1,2}.h5
    done
    table "$figures/interpolation" \
        "$surfaces"/seeds-interpolation-{sgd,adam}-{wd0,wd5e-3}-seed{1,2}.h5
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
    show "$figures/repeats.png" repeats
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
    evaluate "$jobs/curvature.yaml"
    draw "$figures/curvature.png" curvature -- "$surfaces"/curvature-resnet20{,_noshort}.h5
    show "$figures/surfaces.png" skip smooth
    show "$figures/curvature.png" curvature
}

width() {
    local jobs=jobs/digits/width surfaces=surfaces/digits/width figures=figures/studies/width
    mkdir -p "$figures"
    train "$jobs/planes.yaml"
    evaluate "$jobs/planes.yaml"
    local files=("$surfaces"/resnet32{,_noshort}-w{4,8,16}.h5)
    draw "$figures/width.png" contour --scale log -- "${files[@]}"
    table "$figures/width" "${files[@]}"
    show "$figures/width.png" width
}

dense() {
    local jobs=jobs/digits/dense surfaces=surfaces/digits/dense figures=figures/studies/dense
    mkdir -p "$figures"
    train "$jobs/planes.yaml"
    evaluate "$jobs/planes.yaml"
    local files=("$surfaces"/{resnet56_noshort,densenet121}.h5)
    draw "$figures/dense.png" surface --scale log -- "${files[@]}"
    table "$figures/dense" "${files[@]}"
    show "$figures/dense.png" dense smooth
}

trajectory() {
    local jobs=jobs/digits surfaces=surfaces/digits figures=figures/studies/trajectory plane
    mkdir -p "$figures"
    train "$jobs/trajectory.yaml"
    evaluate "$jobs/trajectory.yaml" "$jobs"/trajectory-{random,toward}.yaml
    for plane in trajectory trajectory-{random,toward}; do
        draw "$figures/$plane.png" trajectory -- "$surfaces/$plane.h5"
        lsengine trajectory "$jobs/$plane.yaml" | tee "$figures/$plane.txt"
        show "$figures/$plane.png" $plane
    done
    draw "$figures/trajectory.gif" trajectory -- "$surfaces/trajectory.h5"
}

connect() {
    local jobs=jobs/digits surfaces=surfaces/digits figures=figures/studies/connect
    mkdir -p "$figures"
    train "$jobs/connect-ends.yaml"
    mpirun -n "$ranks" lsengine connect "$jobs/connect.yaml"
    draw "$figures/connect.png" curve -- "$surfaces/connect.h5" "$surfaces/connect-line.h5"
    draw "$figures/connect-plane.png" contour -- "$surfaces/connect-plane.h5"
    show "$figures/connect.png" connect
    show "$figures/connect-plane.png" connect-plane
}

three() {
    local jobs=jobs/digits surfaces=surfaces/digits figures=figures/studies/three
    mkdir -p "$figures"
    train "$jobs/connect-ends.yaml" "$jobs/connect-third.yaml"
    evaluate "$jobs/three-minima.yaml"
    draw "$figures/three-minima.png" filled -- "$surfaces/three-minima.h5"
    show "$figures/three-minima.png" three-minima
}

if [ $# = 0 ]; then
    set -- "${studies[@]}"
fi
for study; do
    if [[ " ${studies[*]} " != *" $study "* ]]; then
        echo "no study $study; there are: ${studies[*]}" >&2
        exit 2
    fi
    "$study"
done
printf '\nThe figures and tables:\n'
find figures/studies -type f | sort | sed 's/^/  /'
