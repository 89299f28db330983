"""Fixtures: the checkpoints of a small training."""

from __future__ import annotations

import shutil

import pytest

from tests.support.runs import run_job


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with a run of nine checkpoints, trained once for all tests."""
    folder = tmp_path_factory.mktemp("trajectory")
    run_job(folder)
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """A copy of that folder, for tests that change it."""
    return shutil.copytree(folder, tmp_path / "own")
