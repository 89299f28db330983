#!/usr/bin/env bash
# Draws every kind of picture into docs/gallery, from surfaces at digits size: `launch/gallery.sh`.
# First it makes the surfaces that are missing; all of them take about twenty minutes.  Then it
# draws every figure by the command that docs/gallery/README.md shows below it.
#
#   ENVIRONMENT=.venv   the Python environment
set -euo pipefail

cd "$(dirname "$0")/.."
export ENVIRONMENT=${ENVIRONMENT:-.venv}
PATH=$(cd "$ENVIRONMENT/bin" && pwd):$PATH
gallery=docs/gallery
page=$gallery/README.md
skip=surfaces/digits/skip repeats=surfaces/digits/sharp_flat/repeats-sgd-wd5e-3
heaviest=190000 # bytes of a figure

needs() { # needs FILE COMMAND...: runs the command unless the file is there
    if [ ! -e "$1" ]; then "${@:2}"; fi
}

trajectory() {
    lsengine train jobs/digits/trajectory.yaml
    lsengine eval jobs/digits/trajectory.yaml
}

watched() { # makes a run that is stopped when about a third of its cells are done
    printf 'extends: ../jobs/demo.yaml\nname: watched\noutput: watched.h5\n' >figures/watched.yaml
    rm -f figures/watched.h5
    lsengine eval figures/watched.yaml --progress none &
    local run=$!
    until [ -e figures/watched.h5 ] && has_a_third figures/watched.h5; do sleep 0.2; done
    kill -USR1 $run
    wait $run || true
}

has_a_third() { # SURFACE: whether a third of its cells are done
    python - "$1" <<'PYTHON'
import sys
import lsengine

counts = lsengine.open(sys.argv[1]).counts()
sys.exit(counts["done"] * 3 < sum(counts.values()))
PYTHON
}

needs surfaces/demo.h5 launch/demo.sh "$ENVIRONMENT"
needs $skip/curvature-resnet20_noshort.h5 launch/studies.sh skip
needs $repeats-bs300.h5 launch/studies.sh repeats
needs surfaces/digits/trajectory.h5 trajectory
needs surfaces/digits/connect-plane.h5 launch/studies.sh connect
needs surfaces/digits/three-minima.h5 launch/studies.sh three
mkdir -p figures
needs figures/watched.h5 watched
needs figures/weights.h5 lsengine histogram checkpoints/demo/epoch_0{00,10,30}.pt \
    --output figures/weights.h5

small() { # small PNG [smooth]: shrinks PNG until its bytes fit; few colours unless smooth
    python - "$1" "$heaviest" "${2-}" <<'PYTHON'
import sys
from pathlib import Path
from PIL import Image

path, heaviest = Path(sys.argv[1]), int(sys.argv[2])
whole = Image.open(path).convert("RGB")
for width in (1200, 1050, 900, 780, 660, 540):
    image = whole.copy()
    image.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    if not sys.argv[3]:
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    if path.stat().st_size <= heaviest:
        break
PYTHON
}

show() { # show NAME TITLE WORD...: draws NAME.png and puts it and its command on the page
    local name=$1 title=$2
    shift 2
    echo "  $name.png"
    lsengine render "$@" --output "$gallery/$name.png" >/dev/null
    case " $* " in
        *' surface '*) small "$gallery/$name.png" smooth ;;
        *) small "$gallery/$name.png" ;;
    esac
    printf '## %s\n\n![%s](%s.png)\n\n```sh\nlsengine render %s\n```\n\n' \
        "$title" "$title" "$name" "$*" >>"$page"
}

watching() { # draws the picture of an unfinished run
    echo "  watched.png"
    timeout --signal=INT 15 lsengine render figures/watched.h5 --as filled --watch \
        --output $gallery/watched.png >/dev/null || true
    small $gallery/watched.png
    printf '## An unfinished run\n\n![Cells not yet computed are lighter and hatched](watched.png)\n\n' >>"$page"
    printf 'The job is `jobs/demo.yaml` with the output `figures/watched.h5`. A signal stopped it at a third of its cells.\n\n' >>"$page"
    printf '```sh\nlsengine render figures/watched.h5 --as filled --watch\n```\n\n' >>"$page"
}

turntable() { # draws four views of a turning landscape, two by two
    echo "  turntable.png"
    lsengine render $skip/resnet56_noshort.h5 --as surface --style lit --scale log \
        --output figures/turning.gif >/dev/null
    python - figures/turning.gif $gallery/turntable.png <<'PYTHON'
import sys
from PIL import Image

turning = Image.open(sys.argv[1])
views = []
for quarter in range(4):
    turning.seek(quarter * turning.n_frames // 4)
    views.append(turning.convert("RGB"))
width, height = views[0].size
sheet = Image.new("RGB", (2 * width, 2 * height))
for place, view in enumerate(views):
    sheet.paste(view, (place % 2 * width, place // 2 * height))
sheet.save(sys.argv[2])
PYTHON
    heaviest=320000 small $gallery/turntable.png smooth # larger: the numbers in four pictures must be readable
    printf '## Turntables\n\n![Four views, a quarter of a turn apart](turntable.png)\n\n' >>"$page"
    printf 'The landscape turns once around, in a GIF or, where ffmpeg is installed, an MP4. Above are four of its views.\n\n' >>"$page"
    printf '```sh\nlsengine render %s --as surface --style lit --scale log --output turning.gif\n```\n\n' \
        $skip/resnet56_noshort.h5 >>"$page"
}

screenshot() { # draws the page of --as html, if there is a browser
    local browser
    browser=$(command -v chromium || command -v google-chrome || true)
    printf '## An interactive page\n\n' >>"$page"
    if [ -n "$browser" ]; then
        echo "  page.png"
        lsengine render $skip/resnet56{,_noshort}.h5 --as html --output figures/page.html >/dev/null
        "$browser" --headless --no-sandbox --disable-gpu-sandbox --use-angle=swiftshader \
            --enable-unsafe-swiftshader --hide-scrollbars --window-size=1200,720 \
            --virtual-time-budget=20000 --screenshot="$PWD/$gallery/page.png" \
            "file://$PWD/figures/page.html" >/dev/null 2>&1
        small $gallery/page.png smooth
    fi
    if [ -e $gallery/page.png ]; then
        printf '![An interactive page](page.png)\n\n' >>"$page"
    fi
    printf '```sh\nlsengine render %s --as html --output page.html\n```\n\n' \
        "$skip/resnet56.h5 $skip/resnet56_noshort.h5" >>"$page"
}

cat >"$page" <<'TEXT'
<!-- blocks not run: `make gallery` runs these commands, once `make studies` has made the surfaces -->
# Gallery

Every kind of picture, of small networks on 8x8 digits. `make gallery` draws all of them again. It first makes the surfaces that are
missing. Below each picture is its command. Add `--output FILE` with a name that ends in `.png`, `.pdf` or `.svg`. [RENDERING.md](../RENDERING.md)
explains the options. The pictures on this page are at most 1200 pixels wide, and flat ones have 256 colours.

TEXT

echo "Drawing the gallery"
show lit 'Lit landscapes' $skip/resnet56.h5 $skip/resnet56_noshort.h5 \
    --as surface --style lit --scale log
show slides 'A style of your own' $skip/resnet20_noshort.h5 \
    --as surface --style $gallery/slides.toml
screenshot
turntable
show surface 'Landscapes with matplotlib alone' $skip/resnet20_noshort.h5 --as surface
show filled 'Filled contours' surfaces/demo.h5 --as filled
watching
show contour 'Contours for one column of a paper' surfaces/demo.h5 --as contour --style paper
show quantile 'Levels with equally many cells between them' $skip/resnet56_noshort.h5 \
    --as filled --scale quantile
show heatmap 'Every cell by itself' $skip/resnet56_noshort.h5 \
    --as heatmap --quantity test_accuracy --style dark
show several 'Several on one scale' $skip/resnet{20,56,20_noshort,56_noshort}.h5 \
    --as contour --scale log
show trajectory 'The path of a training' surfaces/digits/trajectory.h5 --as trajectory
show connection 'A curve of low loss between two minima, in its plane' \
    surfaces/digits/connect-plane.h5 --as contour
show minima 'The plane through three minima' surfaces/digits/three-minima.h5 --as filled
show curvature 'Curvature: ratio, sign and both ends of the spectrum' \
    $skip/curvature-resnet20.h5 --as curvature
show curve 'Curves, with the spread of ten directions' $repeats-bs8.h5 $repeats-bs300.h5 \
    --as curve --quantity train_loss
show history 'How a training went' checkpoints/demo/history.h5 --as history
show histogram 'Weights' figures/weights.h5 --as histogram
