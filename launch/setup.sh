#!/usr/bin/env bash
# Makes a Python environment in DIR with lsengine and everything it can use.
#
#   launch/setup.sh DIR            parallel: h5py on Debian's parallel HDF5, Open MPI 5
#   launch/setup.sh --serial DIR   from pip alone: h5py without MPI, MPICH
#   launch/setup.sh --lean ...     without developers' tools and 3D export, for containers
#
# The first kind needs Debian packages.  If some are missing, root installs them; other users get
# the second kind.  TORCH_INDEX names the package index for torch, if it is not pip's own: there
# are builds for CPUs and for CUDA.  A second run does nothing.  An interrupted environment is
# made again.  An older one is brought up to date.
set -euo pipefail

kind=parallel extras=vision,lit,html,vtk,mesh,netcdf,dev
while [[ ${1-} = --?* ]]; do
    case $1 in
        --serial) kind=serial ;;
        --lean) extras=vision,html,netcdf ;;
        *) break ;;
    esac
    shift
done
if [ $# != 1 ] || [[ ${1:--} = -* ]]; then
    echo "usage: launch/setup.sh [--serial] [--lean] DIR" >&2
    exit 2
fi

# Modules of a cluster set these, and pip would take the packages there for the environment's.
unset PYTHONHOME PYTHONPATH
project=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
venv=$(cd "$1" && pwd)
stamp=$venv/lsengine-setup # "unfinished", or the kind and a hash of what it was made from
log=$(mktemp)
trap 'rm -f "$log" "$log.h5"' EXIT
# Two set-ups of one environment at once would damage it.  A lock on the folder leaves no file.
exec 9<"$venv"
if command -v flock >/dev/null; then flock 9; fi

fail() { echo "launch/setup.sh: $*" >&2; exit 3; }

step() { # step WHAT COMMAND...: runs it, prints one line; its output only if it fails
    local what=$1 start=$SECONDS
    shift
    printf '  %-34s' "$what"
    if ! "$@" >"$log" 2>&1; then
        echo failed
        tail -n 30 "$log" >&2
        fail "\"$what\" failed; run it again when the cause is gone"
    fi
    printf '%4d s\n' $((SECONDS - start))
}

find_python() { # prints the first Python new enough; prefers one that can make environments
    local name modules
    for modules in sys,ensurepip,venv sys; do
        for name in python3.11 python3; do
            if "$name" -c "import $modules; sys.exit(sys.version_info < (3, 11))"; then
                command -v "$name" && return
            fi
        done
    done 2>/dev/null
    fail "needs Python 3.11 or newer: neither python3.11 nor python3 on the PATH is"
}

missing() { # prints the Debian packages that are needed and not installed
    local package
    "$python" -c 'import ensurepip, venv' || echo python3-venv
    if [ $kind = serial ]; then return; fi
    "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' ||
        echo python3-dev
    for package in openmpi-bin libopenmpi-dev libhdf5-openmpi-dev gcc; do
        dpkg -s "$package" | grep -q '^Status: .* installed$' || echo "$package"
    done
} 2>/dev/null

get_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@"
}

create() { # makes an environment, unless a complete one of this kind exists
    if [ "${found%% *}" = "${found:+$kind}" ] && "$venv/bin/python" -m pip --version; then
        return
    fi
    "$python" -m venv --clear "$venv"
}

pip() { # -P: nothing is imported from the current folder
    "$venv/bin/python" -P -m pip --disable-pip-version-check install -q -c constraints.txt "$@"
}

build_h5py() { # against Debian's parallel HDF5 and the headers of the environment's mpi4py
    local arch
    arch=$(gcc -print-multiarch) || return
    # With isolation the build compiles an old mpi4py (20 GB of memory, many minutes).  With a cache
    # it may return a build for another MPI.  With optimisation it takes twice the time for no gain.
    CC=mpicc.openmpi CFLAGS="-O1 -g0" HDF5_MPI=ON HDF5_DIR=/usr/lib/$arch/hdf5/openmpi \
        pip --no-cache-dir --no-build-isolation --no-binary=h5py --no-deps --force-reinstall h5py
}

has_parallel_h5py() { # whether h5py has MPI and the version in the constraints
    "$venv/bin/python" -c '
from mpi4py import MPI  # before h5py, so that both use one MPI library
import h5py, sys
sys.exit(f"h5py=={h5py.__version__}\n" not in open("constraints.txt") or not h5py.get_config().mpi)'
} 2>/dev/null

ranks() { # ranks LAUNCHER: two ranks reach each other, and write together if they can
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe \
        timeout 60 "$1" -n 2 "$venv/bin/python" -c '
from mpi4py import MPI
import h5py, sys
path, comm, parallel = sys.argv[1], MPI.COMM_WORLD, sys.argv[2] == "parallel"
assert comm.size == 2, f"the launcher made {comm.size} rank(s) instead of 2"
assert h5py.get_config().mpi == parallel, f"h5py with MPI: {not parallel}"
if parallel:
    with h5py.File(path, "w", driver="mpio", comm=comm) as file:
        file.create_dataset("rank", (2,), "i8", fillvalue=-1)[comm.rank] = comm.rank
    with h5py.File(path, "r", locking=False) as file:
        assert [*file["rank"]] == [0, 1], "a rank did not write"
comm.barrier()' "$log.h5" $kind
}

verify() {
    if [ $kind = parallel ]; then ranks mpirun.openmpi || return; fi
    ranks "$venv/bin/mpiexec" && "$venv/bin/python" -P -m pip check &&
        "$venv/bin/python" -P -c 'import lsengine' && [ -x "$venv/bin/lsengine" ]
}

python=$(find_python)
mapfile -t absent < <(missing)
if [ ${#absent[@]} != 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step "Debian packages" get_packages "${absent[@]}"
    mapfile -t absent < <(missing)
fi
if [[ ${absent[*]} = *python3-venv* ]]; then
    fail "$python makes no environments: install python3-venv"
elif [ ${#absent[@]} != 0 ]; then
    kind=serial
    echo "Without the Debian packages ${absent[*]} the environment is made from pip alone: rank 0" \
        "writes the surface for all ranks, and a run does not survive the death of a worker."
fi
# Only tests need these: a browser for pages, OpenGL in software for lit surfaces.
if [[ $extras = *dev* ]] && ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null; then
    echo "  a browser, for tests of pages"
    get_packages chromium libegl1 libgl1-mesa-dri >"$log" 2>&1 ||
        echo "  there is none: these tests will be skipped"
fi

cd "$project"
made_from=$(cat launch/setup.sh constraints.txt setup.cfg - <<<"$extras" | sha256sum)
recipe="$kind ${made_from%% *}"
found=$(cat "$stamp" 2>/dev/null || true)
if [ "$found" = "$recipe" ] && [ -x "$venv/bin/lsengine" ]; then
    echo "$1 is set up already ($kind)"
    exit
fi
if [ ! -e "$venv/pyvenv.cfg" ] && [ -z "$found" ] && [ -n "$(ls -A "$venv")" ]; then
    fail "$1 holds files that are no environment: name another folder"
fi

echo "Setting up $1 ($kind)"
step "environment" create
echo unfinished >"$stamp"
# First, and pinned: otherwise another package would install the newest torch, many gigabytes.
step "torch" pip ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
mpi=$([ $kind = parallel ] && echo openmpi || echo mpich)
step "MPI and build tools" pip --only-binary=mpi4py \
    setuptools wheel numpy cython pkgconfig mpi4py "$mpi"
if [ $kind = parallel ] && ! has_parallel_h5py; then
    step "h5py, compiled with MPI" build_h5py
fi
# Without dependencies: its wheels may ask for another build of torch than the installed one.
step "torchvision" pip --no-deps torchvision
step "the rest, and lsengine" pip --no-build-isolation -e ".[$extras]"
step "a trial with two ranks" verify
echo "$recipe" >"$stamp"
echo "$1 is set up ($kind, $SECONDS s)"
