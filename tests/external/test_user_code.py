"""The user's own modules."""

from __future__ import annotations

import sys

import pytest

from lsengine.errors import UsageError
from tests.support.networks import build

MODULE = """
import torch
from torch import nn
from helper_{tag} import WIDTH

def make(outputs=2):
    import late_{tag}
    return nn.Linear(WIDTH, outputs)

def fail():
    raise RuntimeError("no luck today")
"""


@pytest.fixture
def user_folder(tmp_path):
    """A job's folder with a module of the user's and modules that one imports."""
    (tmp_path / "usermodel_a.py").write_text(MODULE.format(tag="a"))
    (tmp_path / "helper_a.py").write_text("WIDTH = 3")
    (tmp_path / "late_a.py").write_text("")
    (tmp_path / "broken_a.py").write_text("1 / 0")
    (tmp_path / "hungry_a.py").write_text("import not_installed_anywhere")
    return tmp_path


def test_a_module_beside_the_job_is_found(user_folder):
    """Its factory may import its neighbours, early and late; the search path is restored."""
    before = list(sys.path)
    network = build("usermodel_a:make", job_folder=user_folder, outputs=5)
    assert network.weight.shape == (5, 3)
    assert sys.path == before


def test_the_same_name_in_another_folder_is_another_module(user_folder, tmp_path_factory):
    """Two jobs in two folders each get their own module."""
    other = tmp_path_factory.mktemp("other")
    (other / "usermodel_a.py").write_text("from torch import nn\nmake = lambda: nn.Linear(1, 1)")
    assert build("usermodel_a:make", job_folder=user_folder).in_features == 3
    assert build("usermodel_a:make", job_folder=other).in_features == 1
    assert build("usermodel_a:make", job_folder=user_folder).in_features == 3


def test_the_python_path_comes_before_the_jobs_folder(user_folder, tmp_path_factory, monkeypatch):
    """As the contract says: PYTHONPATH first, then beside the job."""
    first = tmp_path_factory.mktemp("first")
    (first / "shadowed_a.py").write_text("from torch import nn\nmake = lambda: nn.Linear(9, 1)")
    (user_folder / "shadowed_a.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(first)
    assert build("shadowed_a:make", job_folder=user_folder).in_features == 9


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("usermodel_a:fail", "usermodel_a:fail.*RuntimeError: no luck today"),
        ("broken_a:make", 'model.arch: importing "broken_a" failed: ZeroDivisionError'),
        ("hungry_a:make", "importing \"hungry_a\" failed: .*'not_installed_anywhere'"),
    ],
)
def test_the_users_own_error_is_shown(user_folder, arch, said):
    """A module that fails is reported with its own words, and may be tried again."""
    for _ in range(2):
        with pytest.raises(UsageError, match=said):
            build(arch, job_folder=user_folder)
