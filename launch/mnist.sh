#!/usr/bin/env bash
# ResNet-56 with and without skip connections on Fashion-MNIST or MNIST, from nothing to a figure and
# a table: `launch/mnist.sh fashion` or `launch/mnist.sh mnist`.  Each step skips what is done already.
# So a second run, or a run after an interruption, repeats nothing.
#
#   ENVIRONMENT=.venv   the Python environment
#   FASHION=PATH        Fashion-MNIST: a folder with its four files, or an .npz file
#   MNIST=PATH          MNIST, likewise
#   PUBLISH=1           puts a small copy of the landscapes into docs/studies, too
#
# Without FASHION the data are those of Debian's package, which root installs if it is missing.
# Without MNIST torchvision downloads them into data/mnist.
set -euo pipefail

cd "$(dirname "$0")/.."
name=${1-}
case $name in
    fashion) given=${FASHION-} ;;
    mnist) given=${MNIST-} ;;
    *)
        echo "launch/mnist.sh: no data set '$name'; there are: fashion mnist" >&2
        exit 2
        ;;
esac
package=dataset-fashion-mnist
files=/usr/share/datasets/fashion-mnist
data=()
if [ -n "$given" ]; then
    data=(--set "data.root=$(realpath "$given")")
elif [ "$name" = fashion ] && [ ! -e $files/train-images-idx3-ubyte.gz ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "launch/mnist.sh: Fashion-MNIST is not there: install Debian's package $package" \
            "(as root: apt-get install $package), or give a folder or an .npz file with it:" \
            "FASHION=PATH make fashion (docs/howto/known.md says which files)" >&2
        exit 3
    fi
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $package \
        >/dev/null
fi

PATH=$(cd "${ENVIRONMENT:-.venv}/bin" && pwd):$PATH
progress=$([ -t 2 ] && echo bar || echo lines)
surfaces=(surfaces/$name/resnet56{,_noshort}.h5)
figures=figures/$name
mkdir -p "$figures"

options=("${data[@]}" --workers auto --progress "$progress")
lsengine train "jobs/$name/networks.yaml" "${options[@]}"
lsengine eval "jobs/$name/planes.yaml" "${options[@]}"

draw() { # draw KIND: PNG and PDF, unless newer than both surfaces
    local format figure
    for format in png pdf; do
        figure=$figures/$1.$format
        if [ ! "$figure" -nt "${surfaces[0]}" ] || [ ! "$figure" -nt "${surfaces[1]}" ]; then
            lsengine render "${surfaces[@]}" --as "$1" --scale log --output "$figure"
        fi
    done
}

draw surface
draw filled
if [ -n "${PUBLISH-}" ]; then
    python - "$figures/surface.png" "docs/studies/$name.png" <<'PYTHON'
import sys
from PIL import Image

image = Image.open(sys.argv[1]).convert("RGB")
image.thumbnail((1200, 4800), Image.Resampling.LANCZOS)
image.save(sys.argv[2], optimize=True)
PYTHON
fi

echo
lsengine compare "${surfaces[@]}" --csv "$figures/areas.csv"
python - checkpoints/$name/resnet56{,_noshort}/history.h5 <<'PYTHON'
import sys
import h5py

print("\nAfter the training:")
for path in sys.argv[1:]:
    with h5py.File(path) as file:
        print("  {:<17} training loss {:.3f}, test error {:.2%}".format(
            path.split("/")[-2], file["train_loss"][-1], file["test_error"][-1]))
PYTHON
printf '\nFigures:\n'
printf '  %s\n' "$figures"/{surface,filled}.{png,pdf}
