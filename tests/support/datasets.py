"""Data sets loaded as a job would."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lsengine import data
from lsengine.job import schema


def load(dataset, *, root=None, job_folder=Path(), seed=0, exact=False, **options):
    """Load as a job would."""
    spec = schema.DataSpec(dataset=dataset, root=None if root is None else str(root), **options)
    return data.load(spec, root=root, job_folder=job_folder, seed=seed, exact=exact)


def arrays(folder, **more):
    """Write an .npz of six tiny images; more arrays replace or, if None, remove."""
    rng = np.random.default_rng(0)
    content = {
        "x_train": rng.integers(0, 256, (6, 2, 3, 4), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.integers(0, 256, (3, 2, 3, 4), dtype=np.uint8),
        "y_test": np.array([0, 1, 3]),
        **more,
    }
    np.savez(folder / "a.npz", **{k: v for k, v in content.items() if v is not None})
    return folder / "a.npz"
