"""Fixtures: small jobs, and a warm pool of ranks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Tests run beside each other; threads that wait for each other would only burn the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from tests.support.launchers import Pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no long one is left for the end."""
    tests = Path(__file__).parent
    first = (tests / "slurm", tests / "system", tests / "cli")
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in first))


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """A warm pool of five ranks."""
    from tests.support.launchers import Pool

    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Path]:
    """Write small complete jobs in the test's folder; see `tests/support/jobs.py`."""
    from tests.support.jobs import write_job

    return lambda name="job", **changes: write_job(tmp_path, name, **changes)


@pytest.fixture(
    scope="module",
    params=[(kind, steps) for kind in ("mlp", "resnet") for steps in (2, 60)],
    ids=["mlp-away", "mlp-minimum", "resnet-away", "resnet-minimum"],
)
def case_solved(request):
    """A network away from and near a minimum, with the eigenvalues of its dense Hessian."""
    from tests.support.hessians import solved  # imports torch

    return solved(*request.param)
