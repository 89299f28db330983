#!/usr/bin/env bash
# Makes a Python environment in DIR with lsengine and everything it can use.
#
#   launch/setup.sh DIR            parallel: h5py on Debian's parallel HDF5, Open MPI 5
#   launch/setup.sh --serial DIR   from pip alone: h5py without MPI, MPICH
#   launch/setup.sh --lean ...     without developers' tools and 3D export, for containers
#   launch/setup.sh --python PYTHON ...    with this Python, such as python3.13, and no other
#
# The first kind needs Debian packages.  If some are missing, root installs them; other users get
# the second kind.  TORCH_INDEX names the package index for torch: there are builds for CPUs and for
# CUDA.  Empty, it means pip's own index.  Not set, the torch that is there stays.  Another index
# makes the environment again.  A second run does nothing.  An interrupted environment is made
# again.  An older one is brought up to date.
set -euo pipefail

kind=parallel extras=vision,safetensors,lit,html,vtk,mesh,netcdf,dev chosen=
while [[ ${1-} = --?* ]]; do
    case $1 in
        --serial) kind=serial ;;
        --lean) extras=vision,safetensors,html,netcdf ;;
        --python) chosen=${2-} && shift $(($# > 1)) ;;
        *) break ;;
    esac
    shift
done
if [ $# != 1 ] || [[ ${1:--} = -* ]]; then
    echo "usage: launch/setup.sh [--serial] [--lean] [--python PYTHON] DIR" >&2
    exit 2
fi

# Modules of a cluster set these, and pip would take the packages there for the environment's.
unset PYTHONHOME PYTHONPATH
project=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
venv=$(cd "$1" && pwd)
# "unfinished", or the kind, a hash of what it was made from, and one of TORCH_INDEX if it has one
stamp=$venv/lsengine-setup
work=$(mktemp -d)
building= # the process that builds h5py beside the steps

clean() { # end what still runs, and remove what it wrote
    local job tries
    set +e
    trap '' INT TERM HUP
    for job in $(jobs -pr); do
        kill -- "-$job"
        for ((tries = 0; tries < 100; tries++)); do kill -0 -- "-$job" && sleep 0.1 || break; done
        kill -KILL -- "-$job"
    done
    wait
    rm -rf "$work"
} 2>/dev/null
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Two set-ups of one environment at once would damage it.  A lock on the folder leaves no file.
exec 9<"$venv"
if command -v flock >/dev/null; then flock 9; fi

fail() { echo "launch/setup.sh: $*" >&2; exit 3; }

start() { # start NAME COMMAND...: as a process group, so that it can be ended as a whole
    local name=$1
    shift
    set -m
    { SECONDS=0 && "$@" && echo $SECONDS >"$work/$name.seconds"; } \
        >"$work/$name.log" 2>&1 </dev/null &
    set +m
}

seconds() { printf '%4d s\n' "$(<"$work/$1.seconds")"; }

finish() { # finish NAME WHAT PROCESS: the seconds it took; its output only if it fails
    if ! wait "$3"; then
        echo failed
        tail -n 30 "$work/$1.log" >&2
        fail "\"$2\" failed; run it again when the cause is gone"
    fi
    seconds "$1"
}

running() { [[ " $(jobs -pr | xargs) " = *" $1 "* ]]; }

step() { # step WHAT COMMAND...: one line with seconds
    # If h5py could not be built, nothing else is worth its time.
    if [ -n "$building" ] && ! running "$building"; then finish_h5py; fi
    printf '  %-34s' "$1"
    start step "${@:2}"
    finish step "$1" $!
}

find_python() { # prints the first Python new enough; prefers one that can make environments
    local name modules names=("${chosen:-python3.11}")
    if [ -z "$chosen" ]; then names+=(python3); fi
    for modules in sys,ensurepip,venv sys; do
        for name in "${names[@]}"; do
            if "$name" -c "import $modules; sys.exit(sys.version_info < (3, 11))"; then
                command -v "$name" && return
            fi
        done
    done 2>/dev/null
    if [ -n "$chosen" ]; then fail "needs Python 3.11 or newer: $chosen is none, or is not there"; fi
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
    if [ ! -e "$work/updated" ]; then apt-get update -qq && touch "$work/updated" || return; fi
    apt-get install -qq -y --no-install-recommends "$@"
}

create() { # a new environment, unless the one there is whole, of this kind and the chosen Python
    if [ "$found_kind $found_index" != "$kind $index" ] ||
        { [ -n "$chosen" ] && [ "$("$venv/bin/python" -V)" != "$("$python" -V)" ]; } ||
        ! "$venv/bin/python" -m pip --version
    then
        "$python" -m venv --clear "$venv" || return
    fi
    # Python's own pip takes three times as long to read an index.
    pip install pip==26.3
}

pip() { # pip COMMAND ARGUMENT...; -P: the folder at hand is not for importing from
    TMPDIR=$work "$venv/bin/python" -P -m pip --disable-pip-version-check "$1" -q -c constraints.txt "${@:2}"
}

# Alone, pip compiles modules one after another, those of tests, too.  See `bytecode`.
install() { pip install --no-compile "$@"; }

bytecode() { # for all modules but tests, on all cores
    # Templates and files for a newer Python cannot be compiled: that is no failure.
    "$venv/bin/python" -P -m compileall -q -j 0 -x 'site-packages/.*/tests?/' "$venv"/lib || :
}

build_h5py() { # a wheel, against Debian's parallel HDF5 and the headers of the environment's mpi4py
    local arch
    arch=$(gcc -print-multiarch) || return
    printf '[build_ext]\nparallel = %d\n' "$(nproc)" >"$work/build.cfg"
    # distutils compiles several files at a time if a settings file says so; Cython does not.
    # Isolated, the build compiles an old mpi4py (20 GB of memory, many minutes); cached, it
    # returns what was built for another MPI; optimised, it takes twice the time for no gain.
    CC=mpicc.openmpi CFLAGS="-O1 -g0" HDF5_MPI=ON HDF5_DIR=/usr/lib/$arch/hdf5/openmpi \
        DIST_EXTRA_CONFIG=$work/build.cfg pip wheel --no-cache-dir --no-build-isolation \
        --no-binary=h5py --no-deps -w "$work/h5py" h5py
}

finish_h5py() {
    local process=$building
    building=
    printf '  %-34s' "h5py, compiled meanwhile"
    finish h5py "h5py, compiled meanwhile" "$process"
}

hurry_mpi() { # Open MPI's way over libfabric sleeps for a second in every rank that does not take it
    local settings=$venv/etc/openmpi-mca-params.conf
    if [ ! -e "$settings" ] || grep -q '^btl' "$settings"; then return; fi
    echo 'btl = ^ofi' >>"$settings"
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
        timeout --foreground 60 "$1" -n 2 "$venv/bin/python" -c '
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
comm.barrier()' "$work/trial.h5" $kind
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
    printf '  %-34s' "a browser, for tests of pages"
    start browser get_packages chromium libegl1 libgl1-mesa-dri
    if wait $!; then seconds browser; else echo "none: these tests will be skipped"; fi
fi

cd "$project"
found=$(cat "$stamp" 2>/dev/null || true)
read -r found_kind _ found_index <<<"$found"
# A hash, because the address of an index may hold a password.
index=${TORCH_INDEX-$found_index}
if [ -n "${TORCH_INDEX-}" ]; then index=$(sha256sum <<<"$TORCH_INDEX" | cut -c -64); fi
version=${chosen:+ $("$python" -V)}
made_from=$(cat launch/setup.sh constraints.txt setup.cfg - <<<"$extras$version" | sha256sum)
recipe="$kind ${made_from%% *}${index:+ $index}"
if [ "$found" = "$recipe" ] && [ -x "$venv/bin/lsengine" ]; then
    echo "$1 is set up already ($kind)"
    exit
fi
if [ -n "$index" ] && [ -z "${TORCH_INDEX-}" ]; then
    fail "$1 is out of date, and TORCH_INDEX said where its torch came from:" \
        "set it again, or set it to nothing for pip's own index"
fi
if [ ! -e "$venv/pyvenv.cfg" ] && [ -z "$found" ] && [ -n "$(ls -A "$venv")" ]; then
    fail "$1 holds files that are no environment: name another folder"
fi

echo "Setting up $1 ($kind)"
step "environment" create
echo unfinished >"$stamp"
mpi=$([ $kind = parallel ] && echo openmpi || echo mpich)
step "MPI and build tools" pip install --only-binary=mpi4py \
    setuptools wheel packaging numpy cython pkgconfig mpi4py "$mpi"
hurry_mpi
if [ $kind = parallel ] && ! has_parallel_h5py; then
    start h5py build_h5py
    building=$!
fi
# Before others, and pinned: whatever asks for torch would take the newest, of many gigabytes.
step "torch" install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
# Alone, because its wheels may ask for another build of torch than the one that is there.
step "torchvision" install --no-deps torchvision
# This brings pip's h5py for a while, because the other one is still being built.
step "the rest, and lsengine" install --no-build-isolation -e ".[$extras]"
step "bytecode" bytecode
if [ -n "$building" ]; then finish_h5py; fi
if [ -d "$work/h5py" ]; then
    step "h5py in place of pip's" pip install --no-deps --force-reinstall "$work"/h5py/*.whl
fi
step "a trial with two ranks" verify
echo "$recipe" >"$stamp"
echo "$1 is set up ($kind, $SECONDS s)"
