"""The doctor under real launchers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.launchers import run_ranks

Done = subprocess.CompletedProcess[str]


def examine(ranks: int, folder: Path, **options: Any) -> Done:
    """Let some ranks examine a folder; options are those of `run_ranks`."""
    return run_ranks(ranks, ["doctor", "--json", "--output", str(folder)], **options)


def verdicts(done: Done) -> dict[str, dict[str, str]]:
    """Return the checks by name; the last of a name wins."""
    return {check["name"]: check for check in json.loads(done.stdout)}
