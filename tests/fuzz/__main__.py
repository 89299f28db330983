"""Damaged and hostile input by the ten thousand; `make fuzz` runs it, and a killed run goes on.

python -m tests.fuzz                               # all kinds
python -m tests.fuzz --only surfaces=2000          # some
python -m tests.fuzz --only surfaces=1 --from 1234 # one case again, with its folder kept
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz import driver

ALL = {"surfaces": 30_000, "flips": 50_000, "jobs": 10_000, "checkpoints": 5_000}
ALL |= {"data": 3_000, "places": 2_000}


def _wanted(words: list[str]) -> dict[str, int]:
    return {kind: int(count or ALL[kind]) for kind, _, count in (w.partition("=") for w in words)}


def main() -> int:
    """Run what is asked for, print a table, and return 1 if there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz")
    parser.add_argument("--only", nargs="+", default=list(ALL), metavar="KIND[=CASES]")
    parser.add_argument("--from", dest="first", type=int, help="the first case, of a kind alone")
    parser.add_argument("--results", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-kept"), help="for what fails")
    parser.add_argument("--batch", type=int, default=500, help="cases of one worker; default: 500")
    asked = parser.parse_args()
    wanted = {kind.partition("=")[0]: 0 for kind in asked.only} | _wanted(
        [w if "=" in w else f"{w}=" for w in asked.only]
    )
    if asked.first is not None:
        parts = [(kind, asked.first, count) for kind, count in wanted.items()]
        batches = driver.run(parts, keep=asked.keep)
        for number, args, what, text in (p for batch in batches for p in batch.problems):
            print(f"--- {number}: {args}\n{what}\n{text}")
        print(*(note for batch in batches for note in batch.notes), sep="\n")
    else:
        batches = driver.go_on(wanted, asked.results, asked.batch, asked.keep)
    print(driver.table(batches))
    return int(any(batch.problems for batch in batches))


if __name__ == "__main__":
    sys.exit(main())
