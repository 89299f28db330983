"""How the archived files of lsengine's were made; run once per format version.

    python -m tests.archive.write FOLDER

The folder is an empty one such as ``/srv/study``: its name is in the files.

A plane of 4 x 3 cells of a small network that raises where its first weight has moved up, with
a trajectory of three checkpoints, and the history of a short training.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

from lsengine import job as jobs
from lsengine.engine import Options, evaluate
from lsengine.errors import CellsFailed
from lsengine.training import training
from tests.support.jobs import write_job


def main(folder: Path) -> None:
    """Write ``surface.h5`` and ``run/history.h5``."""
    job = write_job(
        folder,
        "surface",
        model={
            "arch": "testnets:Fragile",
            "args": {"repaired": "repaired"},
            "checkpoint": "centre.pt",
        },
        grid={"alpha": [-1, 0.5, 4], "beta": [-0.5, 0.5, 3]},
        trajectory={"checkpoints": "epoch_*.pt"},
    )
    centre = torch.load(folder / "centre.pt")["state_dict"]
    torch.manual_seed(0)
    for epoch in (1, 2, 3):
        state = {
            n: t - 0.1 * (3 - epoch) * torch.rand_like(t) if t.is_floating_point() else t
            for n, t in centre.items()
        }
        state["start"] = centre["start"]
        torch.save({"state_dict": state, "epoch": epoch}, folder / f"epoch_{epoch}.pt")
    with suppress(CellsFailed):  # four of them, and one checkpoint
        evaluate([job], Options(progress="none"), world=None)
    recipe = {"output": "run", "epochs": 2, "lr": 0.1, "batch_size": 16}
    training.run(jobs.load(write_job(folder, "history", train=recipe)), progress="none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
