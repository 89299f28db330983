"""Start confined workers, and count what became of their cases.

A file has a line of JSON for each batch of cases: a run that was ended goes on after the last.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]


@dataclass
class Batch:
    """What became of some cases of a kind; ``problems`` are number, command, what, and output."""

    kind: str
    first: int
    count: int
    commands: int = 0
    unmade: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    problems: list[list[str]] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def run(kind: str, first: int, count: int, *, keep: Path | None = None) -> Batch:
    """Run cases of a kind in a confined worker; folders of those with problems go to ``keep``."""
    begun, batch = monotonic(), Batch(kind, first, count)
    codes: Counter[str] = Counter()
    folder = Path(tempfile.mkdtemp(prefix="lsengine-fuzz-"))
    try:
        for told in _lines(kind, first, count, folder, batch):
            if "unmade" in told:
                batch.unmade += 1
                batch.notes.append(f"{told['number']}: {str(told['unmade'])[-300:]}")
            codes.update(str(code) for code in told.get("codes", []))
            batch.problems += [[str(told["number"]), *p] for p in told.get("problems", [])]
        if keep is not None and batch.problems:
            shutil.copytree(folder, keep, symlinks=True, dirs_exist_ok=True, ignore=_special)
    finally:
        from tests.fuzz import warm

        warm.remove(folder)
    batch.codes, batch.commands = dict(sorted(codes.items())), codes.total()
    batch.seconds = round(monotonic() - begun, 1)
    return batch


def _lines(kind: str, first: int, count: int, folder: Path, batch: Batch):  # type: ignore[no-untyped-def]
    """Yield the worker's lines; a worker that ends early is started again after its last case."""
    end = first + count
    while first < end:
        command = [sys.executable, "-m", "tests.fuzz.worker", folder, kind, first, end - first]
        with (folder / "errors").open("a+") as errors:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                text=True,
            )
            assert process.stdout is not None
            last = first - 1
            for line in process.stdout:
                told = json.loads(line)
                last = told["number"]
                yield told
            if process.wait() or last < end - 1:
                errors.seek(0)
                text = errors.read()[-1500:]
                batch.problems.append([str(last + 1), "", "the worker itself ended", text])
                last += 1
        shutil.rmtree(folder / "world", ignore_errors=True)
        first = last + 1


def _special(folder: str, names: list[str]) -> set[str]:
    """Leave out what cannot be copied: FIFOs and devices, and links."""
    paths = {name: Path(folder) / name for name in names}
    return {n for n, p in paths.items() if p.is_symlink() or not (p.is_file() or p.is_dir())}


def go_on(wanted: dict[str, int], results: Path, size: int, keep: Path) -> list[Batch]:
    """Run as many cases of each kind as wanted, the kinds in turns; return all batches."""
    done = (
        [Batch(**json.loads(line)) for line in results.read_text().splitlines()]
        if (results.exists())
        else []
    )
    have = {(batch.kind, batch.first) for batch in done}
    todo = [
        (first, kind, min(size, count - first))
        for kind, count in wanted.items()
        for first in range(0, count, size)
        if (kind, first) not in have
    ]
    for first, kind, count in sorted(todo, key=lambda t: (t[0] / wanted[t[1]], t[1])):
        batch = run(kind, first, count, keep=keep)
        done.append(batch)
        with results.open("a") as file:
            print(json.dumps(asdict(batch)), file=file)
        print(
            f"{kind} {first}: {batch.commands} commands, {len(batch.problems)} problems, "
            f"{batch.seconds:.0f} s",
            flush=True,
        )
    return done


def table(batches: list[Batch]) -> str:
    """Return the numbers for people: a row per kind, then each problem."""
    lines = ["| kind | cases | commands | exit codes | not made | problems |", "| --- " * 6 + "|"]
    for kind in dict.fromkeys(batch.kind for batch in batches):
        mine = [batch for batch in batches if batch.kind == kind]
        codes = sum((Counter(batch.codes) for batch in mine), Counter())
        said = ", ".join(f"{code}: {n:,}" for code, n in sorted(codes.items()))
        numbers = [sum(getattr(b, name) for b in mine) for name in ("count", "commands", "unmade")]
        problems = sum(len(batch.problems) for batch in mine)
        lines.append(
            f"| {kind} | {numbers[0]:,} | {numbers[1]:,} | {said} | {numbers[2]:,} | {problems} |"
        )
    for batch in batches:
        lines += [f"- {batch.kind} {n}: `{args}`: {what}" for n, args, what, _ in batch.problems]
    return "\n".join(lines)
