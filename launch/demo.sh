#!/usr/bin/env bash
# From a job to figures: `launch/demo.sh [ENVIRONMENT]`.  Each step finds out by itself what
# is done already, so a second run, or one after an interruption, repeats nothing.
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$(cd "${1:-.venv}/bin" && pwd):$PATH
# Three ranks on however few cores there are; Open MPI wants to be told twice to run as root.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# mpirun hides the terminal from its ranks.
progress=$([ -t 2 ] && echo bar || echo lines)

surface=surfaces/demo.h5
lsengine train jobs/demo.yaml --progress "$progress"
mpirun -n 3 lsengine eval jobs/demo.yaml --progress "$progress"

mkdir -p figures
for format in png pdf; do
    for view in filled:contour surface:surface; do
        figure=figures/demo-${view#*:}.$format
        if [ ! "$figure" -nt "$surface" ]; then
            lsengine render "$surface" --as "${view%:*}" --output "$figure"
        fi
    done
done

printf '\nThe surface and its figures:\n'
printf '  %s\n' "$surface" figures/demo-{contour,surface}.{png,pdf}
