#!/usr/bin/env bash
# Tries lsengine on several Pythons, each in an environment of its own, .venv-X.Y, from pip alone.
#
#   launch/pythons.sh [PYTHON]...   3.12 stands for python3.12 on the PATH; a path is a program
#
# Without names: 3.11, 3.12 and 3.13.  What is run is a core set of the tests: reading jobs and
# old surfaces, objectives, storing, merging, reporting and exporting; no browser, cluster or
# parallel HDF5.  TORCH_INDEX is heeded as by launch/setup.sh: the index for CPUs saves gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# = 0 ]; then set -- 3.11 3.12 3.13; fi
rooms=(archive cli export external geometry job objective report store surface)
tests=("${rooms[@]/#/tests/}" tests/test_doctests.py tests/test_files.py tests/test_wording.py)
tools=(hypothesis jsonschema packaging pexpect pytest pytest-rerunfailures scikit-learn trimesh vtk)
export LSENGINE_SERIAL_ENV=
said=()

try() { # try PYTHON: its version and what pytest counted; fails if the environment or a test does
    local program=$1 version environment log
    if [[ $program != */* ]]; then program=python$program; fi
    version=$("$program" -c 'import sys; print(*sys.version_info[:2], sep=".")') || return
    environment=.venv-$version log=$environment/tests.log
    launch/setup.sh --serial --lean --python "$program" "$environment" || return
    "$environment/bin/python" -P -m pip install -q -c constraints.txt "${tools[@]}" || return
    "$environment/bin/python" -m pytest -q --reruns 2 "${tests[@]}" 2>&1 | tee "$log" || return
    said+=("$("$environment/bin/python" -V), torch $("$environment/bin/python" -P -c \
        'import torch; print(torch.__version__)'): $(tail -n 1 "$log")")
}

code=0
for python in "$@"; do
    if ! try "$python"; then
        said+=("$python: failed")
        code=1
    fi
done
printf '%s\n' "${said[@]}"
exit $code
