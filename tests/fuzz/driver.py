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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fuzz import warm

ROOT = Path(__file__).parents[2]
# With large pages of memory a fork of a worker takes 8 ms, and not 33.
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}


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


def run(wanted: Sequence[tuple[str, int, int]], *, keep: Path | None = None) -> list[Batch]:
    """Run cases in a confined worker: of each kind, from the first, so many.

    Folders of those with problems go to ``keep``.
    """
    begun, codes = monotonic(), {kind: Counter[str]() for kind, _, _ in wanted}
    batches = {kind: Batch(kind, first, count) for kind, first, count in wanted}
    folder = Path(tempfile.mkdtemp(prefix="lsengine-fuzz-"))
    try:
        for told in _lines(wanted, folder):
            batch, number = batches[told["kind"]], str(told["number"])
            if "unmade" in told:
                batch.unmade += 1
                batch.notes.append(f"{number}: {str(told['unmade'])[-300:]}")
            codes[batch.kind].update(str(code) for code in told.get("codes", []))
            batch.problems += [[number, *p] for p in told.get("problems", [])]
            batch.seconds, begun = batch.seconds + monotonic() - begun, monotonic()
        if keep is not None and any(batch.problems for batch in batches.values()):
            shutil.copytree(folder, keep, symlinks=True, dirs_exist_ok=True, ignore=_special)
    finally:
        warm.remove(folder)
    for kind, batch in batches.items():
        batch.codes, batch.commands = dict(sorted(codes[kind].items())), codes[kind].total()
        batch.seconds = round(batch.seconds, 1)
    return list(batches.values())


def _lines(wanted: Sequence[tuple[str, int, int]], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the worker's lines; a worker that ends early is started again after its last case."""
    left = [(kind, first, count) for kind, first, count in wanted if count]
    while left:
        for told in _of_one_worker(left, folder):
            kind, number = told["kind"], told["number"]
            left = left[[k for k, _, _ in left].index(kind) :]
            left[0] = (kind, number + 1, left[0][1] + left[0][2] - number - 1)
            yield told
        left = [part for part in left if part[2]]
        if left:
            kind, first, count = left[0]
            text = (folder / "errors").read_text(errors="replace")[-1500:]
            yield {"kind": kind, "number": first, "problems": [["", "the worker ended", text]]}
            left[0] = (kind, first + 1, count - 1)
            left = [part for part in left if part[2]]


def _of_one_worker(left: list[tuple[str, int, int]], folder: Path) -> Iterator[dict[str, Any]]:
    shutil.rmtree(folder / "world", ignore_errors=True)
    parts = [":".join(map(str, part)) for part in left]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(folder), *parts],
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **LARGE_PAGES, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        process.wait()


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
        (batch,) = run([(kind, first, count)], keep=keep)
        done.append(batch)
        with results.open("a") as file:
            print(json.dumps(asdict(batch)), file=file)
        said = f"{kind} {first}-{first + count - 1}: {batch.commands} commands"
        print(f"{said}, {len(batch.problems)} problems, {batch.seconds:.0f} s", flush=True)
        for number, arguments, what, _ in batch.problems:
            print(f"  {kind} {number}: {arguments}: {what}", flush=True)
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
