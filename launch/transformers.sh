#!/usr/bin/env bash
# From nothing to the figures of docs/TRANSFORMERS.md: `launch/transformers.sh`.  Each step skips
# what is done already.  So a second run, or a run after an interruption, repeats nothing.
#
#   ENVIRONMENT=.venv   the Python environment
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$(cd "${ENVIRONMENT:-.venv}/bin" && pwd):$PATH
jobs=jobs/transformers surfaces=surfaces/transformers checkpoints=checkpoints/transformers
figures=docs/transformers
progress=$([ -t 2 ] && echo bar || echo lines)
mkdir -p $surfaces $figures figures

[ -e data/python.txt ] || python $jobs/python_text.py
lsengine train $jobs/characters.yaml --progress "$progress"
[ -e $checkpoints/twin.pt ] || python $jobs/twin.py
[ -e $checkpoints/ascent.pt ] || python $jobs/ascent.py
lsengine train $jobs/adapter.yaml --progress "$progress"
for job in planes units parts trajectory most worst adapter-planes; do
    lsengine eval $jobs/$job.yaml --progress "$progress"
done

show() { # show NAME KIND OPTION... FILE...: a figure of the document, in few colours
    lsengine render "${@:3}" --as "$2" --quantity test_loss --style paper --output $figures/"$1".png
    small "$1"
}

small() { # small NAME: a figure 1200 pixels wide, in few colours
    python - $figures/"$1".png <<'PYTHON'
import sys
from PIL import Image

image = Image.open(sys.argv[1]).convert("RGB")
image.thumbnail((1200, 4800), Image.Resampling.LANCZOS)
image.quantize(256, dither=Image.Dither.NONE).save(sys.argv[1], optimize=True)
PYTHON
}

show planes filled --levels 14 $surfaces/plane-{0,1,8}.h5
show units filled --levels 14 $surfaces/units-{model,twin}-{filter,head}.h5
show parts filled --levels 14 $surfaces/parts-{whole,no-residual,no-norm}.h5
show trajectory trajectory $surfaces/trajectory.h5
show adapter filled --levels 14 $surfaces/adapter-{adapter,model}.h5
python $jobs/basin.py $figures/basin.png
small basin
lsengine trajectory $jobs/trajectory.yaml
lsengine compare $surfaces/plane-{0,1,8}.h5 --quantity test_loss
