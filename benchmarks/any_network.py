"""How many random networks are right, and what is the rest?  By plain float64.

    any_network.py 1000 [--first 0] [--verdicts verdicts.jsonl]

Draws networks and losses by seed (`tests/support/random_networks.py`), evaluates each, and writes
``results/any_network.md``: how many were right, why others were refused, and the seeds of what
was wrong.  Exit code 1 if anything was wrong.  With ``--verdicts`` each verdict is written down at
once, and a benchmark that was stopped goes on after the last one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the generator is among the tests

import torch  # noqa: E402

from tests.support.network_verdicts import Verdict, judge, kind_of  # noqa: E402
from tests.support.random_networks import draw  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "any_network.md"
BAD = ("wrong", "refused though legitimate")


def main() -> int:
    """Judge all seeds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("networks", type=int, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--verdicts", type=Path, help="a file that keeps the verdicts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    seeds = range(arguments.first, arguments.first + arguments.networks)
    known = _kept(arguments.verdicts)
    verdicts = []
    for seed in seeds:
        if seed in known:
            verdicts.append(known[seed])
            continue
        with tempfile.TemporaryDirectory() as folder:
            verdicts.append(judge(draw(seed), Path(folder) / "job"))
        if verdicts[-1].outcome in BAD:
            print(verdicts[-1], flush=True)
        if arguments.verdicts:
            with arguments.verdicts.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(verdicts[-1])) + "\n")
    RESULT.write_text(_report(verdicts, seeds))
    print(RESULT.read_text())
    return int(any(v.outcome == "wrong" for v in verdicts))


def _kept(file: Path | None) -> dict[int, Verdict]:
    """Return the verdicts of a file, by seed; the last one of each."""
    if file is None or not file.exists():
        return {}
    verdicts = [Verdict(**json.loads(line)) for line in file.read_text().splitlines()]
    return {verdict.seed: verdict for verdict in verdicts}


def _report(verdicts: Sequence[Verdict], seeds: range) -> str:
    outcomes = Counter(v.outcome for v in verdicts)
    reasons = Counter(kind_of(v.reason) for v in verdicts if v.outcome == "refused")
    lines = [
        "# Random networks against plain float64",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, on the CPU: "
        f"`benchmarks/any_network.py {len(seeds)} --first {seeds.start}`.",
        "",
        f"{len(seeds)} networks, seeds {seeds.start} to {seeds.stop - 1}.",
        "",
        "| outcome | networks |",
        "| --- | --- |",
        *(f"| {outcome} | {count} |" for outcome, count in outcomes.most_common()),
        "",
        "Refused, by reason (numbers are left out):",
        "",
        "| reason | networks |",
        "| --- | --- |",
        *(f"| {_cell(reason)} | {count} |" for reason, count in reasons.most_common()),
        "",
        "Seeds of what was wrong, or refused though legitimate:",
        "",
        *(f"- {_cell(str(v))}" for v in verdicts if v.outcome in BAD),
    ]
    if not any(v.outcome in BAD for v in verdicts):
        lines.append("none.")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:400]


if __name__ == "__main__":
    sys.exit(main())
