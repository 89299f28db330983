"""Files of several small trainings, some of which wait for others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lsengine.models import checkpoint

MODULE = """
import time
from pathlib import Path

from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self, run, awaited, naps):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.run, self.awaited, self.naps = run, HERE / awaited, naps

    def forward(self, x):
        if self.run.startswith("broken") and self.training:
            raise ArithmeticError("broken on purpose")
        if self.run.startswith("slow"):
            end = time.monotonic() + 200
            while not self.awaited.exists():
                time.sleep(0.02)
                if self.naps:  # one for each batch
                    break
                assert time.monotonic() < end
        return self.inner(x)
"""


def study(
    folder: Path, *names: str, awaited: str = "go", naps: bool = False, **recipe: Any
) -> Path:
    """Write a file of trainings, each into ``out/NAME``, and the module of their network.

    Those whose names begin with ``slow`` wait at a batch until the ``awaited`` file is in the
    folder, or at every batch a moment (``naps``).  Those that begin with ``broken`` raise while
    they are trained.
    """
    folder.mkdir(exist_ok=True)
    (folder / "nets.py").write_text(MODULE)
    args = {"run": "{train.seed}", "awaited": awaited, "naps": naps}
    content = {
        "name": "net-{train.seed}",
        "model": {"arch": "nets:Net", "args": args},
        "data": {"dataset": "digits", "subset": 60, "splits": ["train"]},
        "train": {
            "output": "out/{train.seed}",
            "epochs": 2,
            "batch_size": 20,
            "lr": 0.05,
            **recipe,
        },
        "matrix": {"train.seed": {name: seed for seed, name in enumerate(names)}},
        "threads": 1,
        "device": "cpu",
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def weights(study: Path) -> dict[str, str]:
    """Return the digest of each network that is trained."""
    files = sorted((study.parent / "out").glob("*/epoch_002.pt"))
    return {file.parent.name: checkpoint.load(file).sha256 for file in files}


def until(happens: Callable[[], object], limit_s: float = 200) -> None:
    """Wait for something to happen."""
    end = time.monotonic() + limit_s
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)
