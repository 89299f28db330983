"""Fixtures: trained networks, and curves between them."""

from __future__ import annotations

import pytest

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, connect
from lsengine.training import training
from tests.support.jobs import write_job
from tests.support.minima import write_connection
from tests.support.runs import TRAIN


@pytest.fixture(scope="session")
def minima(tmp_path_factory):
    """A folder with two networks without batch norm, trained on digits from different seeds."""
    folder = tmp_path_factory.mktemp("connect")
    for seed in (0, 1):
        recipe = {"output": f"end{seed}", "epochs": 8, "batch_size": 64, "lr": 0.02, "seed": seed}
        path = write_connection(
            folder, f"end{seed}", model={"arch": "mlp"}, train=recipe, curve=None
        )
        training.run(jobs.load(path, command="train"), progress="none")
    return folder


@pytest.fixture(scope="session")
def connected(minima):
    """Surfaces along the curve and along the line."""
    path = write_connection(minima, "done")
    assert connect.run(path, Options(progress="none"), world=None)[0] == 0
    return store.read(minima / "done.h5"), store.read(minima / "done-line.h5")


@pytest.fixture(scope="session")
def normalised(tmp_path_factory):
    """A folder with two networks with batch norm, and a job that connects them."""
    folder = tmp_path_factory.mktemp("normalised")
    for seed in (0, 1):
        section = {**TRAIN, "output": f"end{seed}", "seed": seed}
        path = write_job(folder, f"end{seed}", model={"arch": "testnets:mlp"}, train=section)
        training.run(jobs.load(path, command="train"), progress="none")
    return folder
