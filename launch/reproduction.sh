#!/usr/bin/env bash
# The paper's figures on CIFAR-10, from jobs to a checked document: `launch/reproduction.sh STEP...`.
#
#   train      the networks: most of the time
#   evaluate   their surfaces
#   keep       copies finished surfaces and histories into docs/reproduction, without directions
#   draw       draws every figure of which all surfaces are kept, into figures/reproduction
#   publish    puts small copies of the figures, numbers and verdicts into the document
#   check      compares what docs/REPRODUCTION.md says with the kept surfaces; 1 if it is wrong
#
# Training and evaluation take a day of two cores (estimated), study by study in the order of STUDIES:
#
#   networks      figures 1 and 5: ResNets of 20 and 56 layers, with and without skip connections
#   minima        figures 2 and 3: VGG-9 by SGD, small and large batch, with and without weight decay
#   trajectories  figures 8 and 9: the same trainings in planes of their own and in random ones
#   width         figure 6: ResNet-20 of three widths
#   curvature     figure 7: eigenvalues around two of the networks
#   adam          figures 2 and 3: the other four minima
#
# Each step skips what is done already: after an interruption give the same command again.
#
#   CIFAR10=FILE       the data: .npz, or torchvision's folder (default: data/cifar10.npz)
#   STUDIES="networks" some of the studies
#   WORKERS=2          processes at a time, one core each (default: auto, one for each core)
#   NICE=19            their priority: lower numbers come before other work
#   ENVIRONMENT=.venv  the Python environment
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$(cd "${ENVIRONMENT:-.venv}/bin" && pwd):$PATH
jobs=jobs/cifar10 surfaces=surfaces/cifar10 checkpoints=checkpoints/cifar10
kept=docs/reproduction figures=figures/reproduction
steps="train evaluate keep draw publish check"
all="networks minima trajectories width curvature adam"
read -ra studies <<<"${STUDIES:-$all}"
options=(--workers "${WORKERS:-auto}")
if [ -n "${CIFAR10-}" ]; then
    options+=(--set "data.root=$(realpath "$CIFAR10")")
fi

train() { # [--only PATTERN] JOB...
    nice -n "${NICE:-19}" lsengine train "$@" "${options[@]}"
}

evaluate() { # [--only PATTERN] JOB...
    nice -n "${NICE:-19}" lsengine eval "$@" "${options[@]}"
}

train_study() {
    case $1 in
        networks) train $jobs/networks.yaml $jobs/networks-slow.yaml ;;
        minima) train --only 'sgd-*' $jobs/minima.yaml ;;
        width) train $jobs/width.yaml ;;
        adam) train --only 'adam-*' $jobs/minima.yaml ;;
    esac
}

evaluate_study() {
    local of_minima=($jobs/interpolation.yaml $jobs/curves.yaml $jobs/raw.yaml $jobs/planes.yaml)
    case $1 in
        networks) evaluate $jobs/landscapes.yaml $jobs/landscapes-slow.yaml ;;
        minima)
            evaluate --only 'sgd-*' "${of_minima[@]}"
            weights
            ;;
        trajectories) evaluate $jobs/trajectory.yaml $jobs/trajectory-{random,toward}.yaml ;;
        width) evaluate $jobs/width-planes.yaml ;;
        curvature) evaluate $jobs/curvature.yaml ;;
        adam) evaluate --only 'adam-*' "${of_minima[@]}" ;;
    esac
}

weights() { # counts the weights of SGD's minima: a file for each weight decay
    local decay output
    for decay in wd0 wd5e-4; do
        output=$surfaces/weights-$decay.h5
        if [ ! -e "$output" ]; then
            lsengine histogram --name bs128 --name bs1024 --output "$output" \
                "$checkpoints/minima/sgd-$decay-bs128/epoch_060.pt" \
                "$checkpoints/minima/sgd-$decay-bs1024/epoch_120.pt"
        fi
    done
}

keep() {
    local files=() file
    for file in $jobs/*.yaml $surfaces/weights-*.h5; do
        case $file in
            */recipe.yaml | */view.yaml | *\**) ;; # no jobs by themselves; no such files
            *) files+=("$file") ;;
        esac
    done
    python launch/keep.py $kept "${files[@]}"
}

labels() { # SURFACE...: what each is called in a picture, a line each: with its test error
    python - launch "$@" <<'PYTHON'
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from measures import Kept
from trained import title, training

for path in map(Path, sys.argv[2:]):
    error = Kept(path.parent).error(training(path.stem))
    measured = f"test error {100 * error:.1f} %".replace(" ", "\N{NO-BREAK SPACE}")
    print(f"{title(path.stem)}: {measured}")
PYTHON
}

picture() { # NAME KIND [OPTION...] -- SURFACE...: a PDF and a PNG
    local name=$1 kind=$2 files=() drawn=() surface called
    shift 2
    while [ "$1" != -- ]; do
        drawn+=("$1")
        shift
    done
    shift
    for surface; do
        if [ ! -e "$kept/$surface.h5" ]; then
            echo "$name: not drawn, $surface is not there yet"
            rm -f "$figures/$name.png" "$figures/$name.pdf"
            return
        fi
        files+=("$kept/$surface.h5")
    done
    if [[ "$kind" = contour || "$kind" = surface ]]; then
        called=$(labels "${files[@]}")
        while read -r surface; do
            drawn+=(--label "$surface")
        done <<<"$called"
    fi
    lsengine render "${files[@]}" --as "$kind" "${drawn[@]}" \
        --output "$figures/$name.png" --output "$figures/$name.pdf"
}

draw() {
    local sgd=(sgd-{wd0,wd5e-4}-{bs128,bs1024})
    local levels=(--scale linear --levels "$(LC_ALL=C seq -s, 0.1 0.5 9.6)") # the paper's
    mkdir -p $figures
    picture figure1 surface --style lit --scale log --limits 0.16 20 -- resnet56_noshort resnet56
    picture figure1-rate surface --style lit --scale log --limits 0.16 3300 -- \
        resnet56_noshort-slow resnet56
    picture figure2-lines curve -- interpolation-sgd-{wd0,wd5e-4}
    picture figure2-norms history --quantity weight_norm -- "${sgd[@]/#/history-}"
    picture figure2-weights-wd0 histogram -- weights-wd0
    picture figure2-weights-wd5e-4 histogram -- weights-wd5e-4
    picture figure3-curves curve --quantity train_loss -- "${sgd[@]/#/filter-}"
    picture figure3-raw curve --quantity train_loss -- "${sgd[@]/#/raw-}"
    picture figure3-planes contour "${levels[@]}" -- "${sgd[@]/#/plane-}"
    picture figure5 contour "${levels[@]}" -- resnet{20,56}{,_noshort}
    picture figure6 contour "${levels[@]}" -- width-resnet20{,_noshort}-w{8,16,32}
    picture figure7 curvature -- curvature-resnet20{,_noshort}
    picture figure8-random trajectory -- trajectory-random
    picture figure8-toward trajectory -- trajectory-toward
    picture figure9 trajectory -- "${sgd[@]/#/trajectory-}"
}

publish() {
    python - $figures $kept <<'PYTHON'
import sys
from pathlib import Path
from PIL import Image

drawn, folder = map(Path, sys.argv[1:])
for old in folder.glob("figure*.png"):
    old.unlink()
for path in sorted(drawn.glob("figure*.png")):
    image = Image.open(path).convert("RGB")
    image.thumbnail((1200, 4800), Image.Resampling.LANCZOS)
    if not path.stem.startswith("figure1"):  # light and shadow need all colours
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(folder / path.name, optimize=True)
PYTHON
    python launch/claims.py --write
}

if [ $# = 0 ]; then
    set -- nothing
fi
for step; do
    if [[ " $steps " != *" $step "* ]]; then
        echo "no step $step; there are: $steps" >&2
        exit 2
    fi
done
for study in "${studies[@]}"; do
    if [[ " $all " != *" $study "* ]]; then
        echo "no study $study; there are: $all" >&2
        exit 2
    fi
done
for study in "${studies[@]}"; do
    for step; do # a study is evaluated before the next one is trained
        case $step in train | evaluate) "${step}_study" "$study" ;; esac
    done
done
for step; do
    case $step in
        keep | draw | publish) "$step" ;;
        check) python launch/claims.py ;;
    esac
done
