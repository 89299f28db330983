"""`make gpu-check`: its parts are followed, limited and recorded; the parts need a card."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FACTS = {"python": "3", "packages": {}, "missing": {}, "lsengine": "0"}


@pytest.fixture
def gpu_check(monkeypatch):
    """The script as a module, in little hurry to end its parts."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "_GRACE_S", 0.5)
    return module


def _options(folder, **changes):
    defaults = {"python": sys.executable, "wheels": "", "out": str(folder), "limit": 60.0}
    return Namespace(**{**defaults, "device": "cpu", "small": True, "commit": "", **changes})


def _record(folder):
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def _script(folder, name, text):
    path = folder / f"{name}.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def test_parts_that_fail_or_hang_cost_nothing_else(gpu_check, tmp_path, monkeypatch):
    """What a part told before it was ended is kept, the next ones run, and the status is 1."""
    figure = '{"figure": "note", "text": "told"}'
    hangs = f"import signal\nprint('{figure}', flush=True)\nsignal.pause()"
    parts = [
        gpu_check.Part("runs", _script(tmp_path, "hangs", hangs), 0.1),
        gpu_check.Part("table", _script(tmp_path, "fails", "raise SystemExit('why')"), 0.4),
        gpu_check.Part("networks", _script(tmp_path, "ends", f"print('{figure}')"), 0.5),
    ]
    monkeypatch.setattr(gpu_check.Check, "_look", lambda self: "")
    monkeypatch.setattr(gpu_check.Check, "_parts", lambda self: parts)
    check = gpu_check.Check(_options(tmp_path / "out", limit=20.0))
    check.record["facts"] = FACTS
    assert check.run() == 1
    found = _record(tmp_path / "out")["parts"]
    outcomes = {name: part["outcome"] for name, part in found.items()}
    assert outcomes == {"runs": "out of time", "table": "failed", "networks": "passed"}
    assert [f["text"] for f in found["runs"]["figures"]] == ["told"]
    assert found["table"]["tail"][-1] == "why"
    (page,) = (tmp_path / "out").glob("*.md")
    assert "| runs | out of time |" in page.read_text()


def test_what_lacks_is_said_and_nothing_is_run(gpu_check, tmp_path, monkeypatch, capfd):
    """The status is 3, and the record has the reason."""
    monkeypatch.setattr(gpu_check, "NEEDED", ("json", "no_such_module"))
    assert gpu_check.Check(_options(tmp_path)).run() == 3
    said = capfd.readouterr()
    assert "missing: no_such_module (ModuleNotFoundError" in said.out
    assert "no_such_module cannot be imported; put wheels into a folder" in said.err
    assert "no_such_module" in _record(tmp_path)["refusal"]


def test_a_wheel_is_unpacked_with_its_programs(gpu_check, tmp_path):
    """Modules and data at the top, as if installed there; programs can be started."""
    wheel, name = tmp_path / "thing-1-py3-none-any.whl", "thing-1.data"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/__init__.py", "")
        archive.writestr(f"{name}/data/lib/libthing.so", "")
        archive.writestr(f"{name}/data/bin/data-run", "#!/bin/sh\necho ran")
        archive.writestr(f"{name}/scripts/run", "")
    gpu_check.unpack(wheel, tmp_path / "site")
    for path in ("thing/__init__.py", "lib/libthing.so", "bin/run"):
        assert (tmp_path / "site" / path).exists()
    assert subprocess.check_output([tmp_path / "site" / "bin" / "data-run"]) == b"ran\n"
    assert not (tmp_path / "site" / name).exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"figure": "note", "text": "a"}', {"figure": "note", "text": "a"}),
        (
            "tests/a/test_b.py::test_c[x y] PASSED        [ 12%]",
            {"figure": "test", "name": "tests/a/test_b.py::test_c[x y]", "outcome": "passed"},
        ),
        (
            "tests/a/test_b.py::test_c SKIPPED (no card)  [100%]",
            {"figure": "test", "name": "tests/a/test_b.py::test_c", "outcome": "skipped"},
        ),
        (
            "[gw3] [ 97%] PASSED tests/a/test_b.py::test_c[x y] ",
            {"figure": "test", "name": "tests/a/test_b.py::test_c[x y]", "outcome": "passed"},
        ),
        ('{"figure": "note", # a warning', None),
        ("[gw3] node down: Not properly terminated", None),
        ('{"benchmark": "bench_speed"}', None),
        ("1 passed in 1.00s", None),
    ],
)
def test_figures_are_found_in_what_a_part_prints(gpu_check, line, expected):
    """Lines of JSON of the scripts, and pytest's line of every test."""
    assert list(gpu_check.figures_of(line)) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("outcomes", "status", "expected"),
    [
        (["passed", "skipped"], 0, "passed"),
        (["skipped"], 0, "failed"),
        (["passed", "failed"], 1, "failed"),
        ([], 4, "failed"),
    ],
)
def test_skipping_all_tests_is_no_success_on_a_card(gpu_check, outcomes, status, expected):
    """A card that torch does not see must not look like one that passed."""
    figures = [{"figure": "test", "outcome": outcome} for outcome in outcomes]
    part = {"figures": figures, "exit_status": status}
    assert gpu_check.outcome_of(part, True, needs_tests=True) == expected


@pytest.mark.slow
def test_a_rehearsal_without_a_card_runs_every_part(tmp_path):
    """All parts pass on a CPU, with figures of each kind."""
    script = str(ROOT / "benchmarks" / "gpu_check.py")
    done = subprocess.run(
        [sys.executable, script, "--device", "cpu", "--small", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = _record(tmp_path)["parts"]
    kinds = {name: {f["figure"] for f in part["figures"]} for name, part in parts.items()}
    assert kinds["table"] == {"machine", "cell", "product", "batch", "residence"}
    assert kinds["runs"] >= {"run", "doctor"}
    assert kinds["networks"] == {"cell", "note"}
    figures = [f for part in parts.values() for f in part["figures"]]
    assert all(f["same_bytes"] for f in figures if "same_bytes" in f)
    runs = [f for f in parts["runs"]["figures"] if f["figure"] == "run"]
    assert all(run["right"] for run in runs)
