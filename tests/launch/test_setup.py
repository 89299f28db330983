"""The set-up: what it promises without making an environment, and the two it has made."""

import configparser
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "launch" / "setup.sh"


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def _requirements() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"].values()
    lists = [config["options"]["install_requires"], *extras]
    return [Requirement(line) for text in lists for line in text.split("\n") if line]


@pytest.mark.parametrize("requirement", _requirements(), ids=str)
def test_the_pinned_version_lies_in_the_range(requirement):
    """Every dependency is pinned, to a version that setup.cfg allows."""
    assert requirement.specifier.contains(_pins()[canonicalize_name(requirement.name)])


def test_an_installation_has_every_file_beside_the_modules():
    """Each is named as package data, and none is a link, which a copy of the project may lose."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["lsengine"].split(", ")
    package = ROOT / "lsengine"
    beside = {p for p in package.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}}
    assert beside == {path for pattern in patterns for path in package.glob(pattern)}
    assert package / "submit" / "rounds.sh" in beside
    assert not [path for path in beside if path.is_symlink()]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--python"],
        ["--serial"],
        ["--lean"],
        ["--python", "python3"],
        ["one", "two"],
    ],
)
def test_wrong_usage_makes_nothing(arguments, tmp_path):
    """Without exactly one folder the script says how it is used, with exit code 2."""
    done = subprocess.run(
        [SETUP, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    options = "[--serial] [--lean] [--python PYTHON]"
    assert (done.returncode, done.stderr) == (2, f"usage: launch/setup.sh {options} DIR\n")
    assert not [*tmp_path.iterdir()]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    """A folder that is no environment is refused, and what it holds stays."""
    (tmp_path / "thesis.tex").touch()
    done = subprocess.run(
        [SETUP, "--serial", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "name another folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("chosen", [[], ["--python", "python3.11"], ["--python", "python3.99"]])
def test_an_old_python_is_refused(tmp_path, chosen):
    """With no Python new enough, or not the chosen one, the script says so, with exit code 3."""
    for name in ["python3.11", "python3"]:
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [SETUP, "--serial", *chosen, tmp_path / "environment"],
        env=os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "needs Python 3.11 or newer" in done.stderr


# Stands for the machine's Python, the environment's, and all other programs of a set-up.
_PROGRAM = """#!/bin/sh
case "$*" in
    *"-m venv"*)
        mkdir -p "$4/bin"
        touch "$4/pyvenv.cfg"
        cp "$0" "$4/bin/python"
        cp "$0" "$4/bin/mpiexec"
        cp "$0" "$4/bin/lsengine" ;;
    *"open("*) exit "${WITHOUT_H5PY-0}" ;;
    -print-multiarch) echo any; exit ;;
    -s*) echo "Status: install ok installed"; exit ;;
    -c*|"-P -c"*) exit ;;
esac
echo "$*" >>"$RECORD"
case "$*" in
    *" pip "*" wheel -q "*) eval "$WHEEL" ;;
    *" torch") eval "$TORCH" ;;
esac
"""


@pytest.fixture
def imitation(tmp_path):
    """An environment variable for each thing that a set-up with imitated programs heeds."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ["python3.11", "dpkg", "gcc", "chromium", "mpirun.openmpi"]:
        (programs / name).write_text(_PROGRAM)
        (programs / name).chmod(0o755)
    (tmp_path / "temporary").mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX"}
    return kept | {
        "PATH": f"{programs}:/usr/bin:/bin",
        "TMPDIR": str(tmp_path / "temporary"),
        "RECORD": str(tmp_path / "record"),
        "WHEEL": "",
        "TORCH": "",
    }


def _set_up(folder, environment):
    return subprocess.run(
        [SETUP, folder], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def _commands(environment) -> list[str]:
    return Path(environment["RECORD"]).read_text().splitlines()


def test_h5py_is_built_beside_the_other_steps(tmp_path, imitation):
    """The build has begun when torch is installed, ends after it, and its wheel comes last."""
    wait = 'until grep -q " torch$" "$RECORD"; do sleep 0.1; done'
    imitation |= {
        "WITHOUT_H5PY": "1",
        "WHEEL": f'{wait}; mkdir "$TMPDIR/h5py"; touch "$TMPDIR/h5py/h5py.whl"',
        "TORCH": 'until grep -q " wheel -q " "$RECORD"; do sleep 0.1; done',
    }
    done = _set_up(tmp_path / "environment", imitation)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  h5py, compiled meanwhile +\d+ s$", done.stdout, re.MULTILINE)
    install = [line for line in _commands(imitation) if " install " in line][-1]
    assert install.endswith("/h5py.whl")
    assert "--force-reinstall" in install
    assert not [*(tmp_path / "temporary").iterdir()]


def test_a_failed_build_of_h5py_ends_the_setup(tmp_path, imitation):
    """The output of the build is shown, no further step is begun, and the exit code is 3."""
    imitation |= {
        "WITHOUT_H5PY": "1",
        "WHEEL": 'echo $PPID >"$RECORD.build"; echo "no MPI compiler"; exit 1',
        "TORCH": 'until [ -s "$RECORD.build" ]; do sleep 0.1; done\n'
        'while kill -0 "$(cat "$RECORD.build")"; do sleep 0.1; done',
    }
    done = _set_up(tmp_path / "environment", imitation)
    assert done.returncode == 3
    assert re.search(r"^  torch +\d+ s\n  h5py, compiled meanwhile +failed$", done.stdout, re.M)
    assert "torchvision" not in done.stdout
    assert done.stderr.startswith("no MPI compiler\n")
    assert '"h5py, compiled meanwhile" failed; run it again' in done.stderr
    assert (tmp_path / "environment" / "lsengine-setup").read_text() == "unfinished\n"


def test_a_failed_step_ends_the_build_of_h5py(tmp_path, imitation):
    """What runs beside a step that fails is ended with it."""
    imitation |= {
        "WITHOUT_H5PY": "1",
        "WHEEL": 'touch "$RECORD.build"; sleep 300',
        "TORCH": 'until [ -e "$RECORD.build" ]; do sleep 0.1; done; echo "no network"; exit 1',
    }
    done = _set_up(tmp_path / "environment", imitation)
    assert done.returncode == 3
    assert done.stderr.startswith("no network\n")
    assert not _processes_with(imitation["RECORD"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_setup_leaves_no_process(number, tmp_path, imitation):
    """A signal ends the step at hand and the build beside it, and removes what they wrote."""
    imitation |= {
        "WITHOUT_H5PY": "1",
        "WHEEL": 'touch "$RECORD.build"; sleep 300',
        "TORCH": 'touch "$RECORD.torch"; sleep 300',
    }
    started = [Path(f"{imitation['RECORD']}.{name}") for name in ["build", "torch"]]
    # Who runs the tests may ignore these signals, and a shell cannot undo that.
    command = ["env", "--default-signal", SETUP, tmp_path / "environment"]
    with subprocess.Popen(
        command, env=imitation, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            _await(lambda: all(path.exists() for path in started))
            os.killpg(process.pid, number)
            assert process.wait(60) == 128 + number
        finally:
            process.kill()
    assert not _processes_with(imitation["RECORD"])
    assert not [*(tmp_path / "temporary").iterdir()]
    assert (tmp_path / "environment" / "lsengine-setup").read_text() == "unfinished\n"


def test_another_index_for_torch_makes_the_environment_anew(tmp_path, imitation):
    """The stamp knows the index, without its address; no TORCH_INDEX leaves torch as it is."""
    folder = tmp_path / "environment"
    stamp = folder / "lsengine-setup"

    def made(**index: str) -> bool:
        Path(imitation["RECORD"]).write_text("")
        done = _set_up(folder, imitation | index)
        assert done.returncode == 0
        return any("-m venv" in line for line in _commands(imitation))

    assert made(TORCH_INDEX="https://name:password@one")
    assert any("--index-url https://name:password@one" in line for line in _commands(imitation))
    assert "password" not in stamp.read_text()
    assert not made(TORCH_INDEX="https://name:password@one")
    assert not made()
    assert made(TORCH_INDEX="https://two")
    stamp.write_text(re.sub(r" \w+", " older", stamp.read_text(), count=1))
    done = _set_up(folder, imitation)
    assert done.returncode == 3
    assert "set it again, or set it to nothing" in done.stderr
    assert made(TORCH_INDEX="")
    assert not made()
    assert len(stamp.read_text().split()) == 2


def _await(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _processes_with(text: str) -> list[Path]:
    """Those that have it in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append(path)
        except OSError:
            continue  # ended in between, or another user's
    return found


def test_this_environment_is_of_the_kind_its_stamp_names():
    """The main environment's h5py has MPI exactly if the set-up said so."""
    _check_kind(Path(sys.prefix), {"parallel", "serial"})


def test_the_pip_only_environment_is_serial():
    """The second environment has h5py without MPI, and its own launcher and lsengine."""
    if not (prefix := os.environ.get("LSENGINE_SERIAL_ENV")):
        pytest.skip("LSENGINE_SERIAL_ENV names no second environment (`make test` does)")
    _check_kind(Path(prefix), {"serial"})


def _check_kind(prefix: Path, allowed: set[str]) -> None:
    stamp = prefix / "lsengine-setup"
    if not stamp.exists():
        pytest.skip(f"{prefix} was not made by launch/setup.sh")
    kind = re.match(r"\w+", stamp.read_text())[0]
    assert kind in allowed
    code = "from mpi4py import MPI; import h5py; print(h5py.get_config().mpi)"
    # What another MPI has left in this process' environment is none of that environment's.
    foreign = ("OMPI_", "PMI", "PMIX_", "PRTE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [prefix / "bin" / "python", "-c", code],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(kind == "parallel")
    assert {"lsengine", "mpiexec"} <= {path.name for path in (prefix / "bin").iterdir()}
