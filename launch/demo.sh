#!/usr/bin/env bash
# From a job to figures: `launch/demo.sh [ENVIRONMENT]`.  Each step skips what is done already.
# So a second run, or a run after an interruption, repeats nothing.
set -euo pipefail

cd "$(dirname "$0")/.."
PATH=$(cd "${1:-.venv}/bin" && pwd):$PATH
# Three ranks, also on fewer cores.  Open MPI needs two variables to run as root.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# Ranks under mpirun cannot see whether there is a terminal.
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
