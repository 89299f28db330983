"""Random kills, hundreds of them: every file must open, with every finished cell, and resume.

The trials are those of `tests/support/kills.py`: a surface is evaluated under mpirun, in
both ways of writing; a worker, the coordinator or everything is killed by SIGKILL at a random
moment; then the file is opened, compared with its digest and checksums, its cells are compared
with an undisturbed run's, and the run is completed and compared byte by byte.  Under ULFM, where a
worker is killed, the run has to end by itself with all cells.  Only trials that killed a living
rank are counted.  The first thing that does not hold ends the soak, and its folder is kept.

    .venv/bin/python benchmarks/soak_kills.py --kills 300 --beside 2
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getloadavg
from pathlib import Path
from typing import Any
from unittest import mock

import harness  # first: it imports MPI before HDF5

sys.path.insert(0, str(harness.ROOT))  # for the tests' own trials
_BATCH_S = 0.005  # a run takes two seconds and more, most of which are the middle of its work


def main() -> None:
    """Run the trials, print how they went, and fail if too few were in the middle of work."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300, help="default: 300")
    parser.add_argument("--seed", type=int, default=1, help="of victims and moments; default: 1")
    parser.add_argument("--beside", type=int, default=1, help="trials at a time; default: 1")
    parser.add_argument(
        "--middle",
        type=float,
        default=0.6,
        help="share of them that has to find work begun and not ended; default: 0.6",
    )
    asked = parser.parse_args()
    kills = 8 if asked.quick else asked.kills
    start, load = time.monotonic(), getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="lsengine-soak-"))
    print(f"python benchmarks/soak_kills.py {' '.join(sys.argv[1:])}; trials in {folder}")
    shares = [kills // asked.beside + (n < kills % asked.beside) for n in range(asked.beside)]
    with ProcessPoolExecutor(asked.beside, mp_context=get_context("spawn")) as pool:
        parts = [
            pool.submit(_soak, folder / str(n), share, asked.seed + n)
            for n, share in enumerate(shares)
        ]
        trials = [trial for part in parts for trial in part.result()]
    shutil.rmtree(folder)
    _report(trials, asked, time.monotonic() - start, harness.context(load))


def _soak(folder: Path, kills: int, seed: int) -> list[Any]:
    """Run trials until so many have killed a living rank; a line now and then."""
    found: list[Any] = []
    kills_of_tests = importlib.import_module("tests.support.kills")
    trials: Iterator[Any] = kills_of_tests.endless_trials(folder, seed, _BATCH_S, [_complete])
    count = 0
    while count < kills:
        found.append(next(trials))
        count += found[-1].victims > 0
        if len(found) % 10 == 0:
            middle = sum(trial.is_in_the_middle for trial in found)
            print(
                f"seed {seed}: {count} of {kills} kills, {middle} in the middle of work, "
                f"{len(found)} runs",
                flush=True,
            )
    return found


def _complete(job: Path) -> int:
    """Evaluate what is missing in this process, without the pauses of the network's batches."""
    from lsengine.engine import Options, evaluate

    with mock.patch("time.sleep", return_value=None):
        return evaluate([job], Options(progress="none"), world=None)


def _report(
    trials: list[Any], asked: argparse.Namespace, seconds: float, context: dict[str, Any]
) -> None:
    killed = [trial for trial in trials if trial.victims]
    middle = sum(trial.is_in_the_middle for trial in killed)
    print(f"runs                     {len(trials)}, of which {len(trials) - len(killed)} had ended")
    print(f"runs killed              {len(killed)}")
    for who, count in sorted(Counter(trial.who for trial in killed).items()):
        inside = sum(trial.is_in_the_middle for trial in killed if trial.who == who)
        print(f"  {who:<22} {count}, in the middle of work {inside}")
    print(f"  in the middle of work  {middle}, {middle / len(killed):.0%}")
    print(f"ranks killed             {sum(trial.victims for trial in killed)}")
    print(f"cells finished before    {sum(trial.done for trial in killed)}")
    print("cells lost, wrong or without checksums, digests broken: none, or this were not printed")
    print(f"seconds                  {seconds:.0f}")
    for key, value in context.items():
        print(f"{key:<24} {value}")
    if middle < asked.middle * len(killed):
        sys.exit(f"too few kills in the middle of work: at least {asked.middle:.0%} are wanted")


if __name__ == "__main__":
    main()
