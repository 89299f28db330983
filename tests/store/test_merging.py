"""Cells that several files have: what makes them the same."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import SurfaceError
from lsengine.store.shards import merge

IDENTITY = {"seed": 0}


@pytest.fixture
def two_shards(layout, results, tmp_path):
    """Return a function that makes two files with all cells, the second one changed."""

    def make(factor=1.0, quantity="train_loss", **attributes):
        common = {"fingerprint": "f", "identity": json.dumps(IDENTITY), "precision": "float32"}
        paths = [tmp_path / "one.h5", tmp_path / "other.h5"]
        for path, own in zip(paths, ({}, attributes), strict=True):
            about = {**common, "device_kind": "cpu AVX2", "threads": 4, **own}
            store.create(path, replace(layout, attributes=about))
            writer = store.Writer(path)
            writer.write(results(range(12)))
            writer.close()
        with h5py.File(paths[1], "r+") as file:
            file[quantity][...] *= factor
        return paths

    return make


def test_cells_of_other_processors_agree_to_the_tolerance(two_shards, tmp_path, caplog):
    """Another instruction set changes last bits: no error, but it is said; the first file's win."""
    paths = two_shards(factor=1 + 1e-8, device_kind="cpu AVX512")
    assert merge(paths, tmp_path / "whole.h5").code == 0
    assert "device_kind" in caplog.text
    assert "may differ by 0.0001 of their value" in caplog.text
    found, first = (store.read(path).quantities for path in (tmp_path / "whole.h5", paths[0]))
    np.testing.assert_array_equal(found["train_loss"], first["train_loss"])


def test_an_accuracy_may_jump_by_a_sample_between_processors(two_shards, tmp_path):
    """It is no continuous function, and so is not compared where last bits differ."""
    paths = two_shards(factor=1.02, quantity="train_accuracy", device_kind="cpu AVX512")
    assert merge(paths, tmp_path / "whole.h5").code == 0


@pytest.mark.parametrize(
    ("factor", "attributes"),
    [(1.001, {"device_kind": "cpu AVX512"}), (1 + 1e-8, {}), (1 + 1e-8, {"mpi_library": "other"})],
)
def test_cells_that_differ_otherwise_are_refused(two_shards, tmp_path, factor, attributes):
    """By more than a processor explains, or by anything between files that were made alike."""
    paths = two_shards(factor=factor, **attributes)
    with pytest.raises(SurfaceError, match=r"other\.h5: train_loss of cell 0 is .*12 cells differ"):
        merge(paths, tmp_path / "whole.h5")
    assert not (tmp_path / "whole.h5").exists()


def test_another_job_is_told_by_the_first_key_that_differs(two_shards, tmp_path):
    """Its two values are named with their files."""
    paths = two_shards(fingerprint="g", identity=json.dumps({"seed": "in the job"}))
    with pytest.raises(SurfaceError, match='seed is "in the job" here, 0 there'):
        merge(paths, tmp_path / "whole.h5")
