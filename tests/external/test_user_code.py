"""The user's own modules."""

from __future__ import annotations

import sys

import pytest

from lsengine.errors import UsageError
from lsengine.external import user_code
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
    """Its factory may import its neighbours, early and late; what it has imported is known."""
    network = build("usermodel_a:make", job_folder=user_folder, outputs=5)
    assert network.weight.shape == (5, 3)
    assert user_code.imported(user_folder) == ["helper_a", "late_a", "usermodel_a"]


def test_neighbours_may_be_imported_in_forward(tmp_path, tmp_path_factory):
    """From the job's folder and from where its module says, until another job is used."""
    beside, elsewhere, other = tmp_path, tmp_path / "src", tmp_path_factory.mktemp("other")
    elsewhere.mkdir()
    (beside / "net_b.py").write_text(
        "import sys\nfrom torch import nn\n"
        f"sys.path.insert(0, {str(elsewhere)!r})\n"
        "class make(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(1, 1)\n"
        "    def forward(self, x):\n"
        "        import near_b, far_b\n"
        "        return x * near_b.FACTOR * far_b.FACTOR\n"
    )
    (beside / "near_b.py").write_text("FACTOR = 3")
    (elsewhere / "far_b.py").write_text("FACTOR = 5")
    (other / "net_c.py").write_text("from torch import nn\nmake = lambda: nn.Linear(1, 1)")
    before = list(sys.path)
    assert build("net_b:make", job_folder=beside)(2) == 30
    assert set(user_code.imported(beside)) == {"net_b", "near_b", "far_b"}
    build("net_c:make", job_folder=other)
    assert not {"net_b", "near_b", "far_b"} & set(sys.modules)
    assert [p for p in sys.path if p not in before] == [str(other)]


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


def test_what_lsengine_says_in_a_factory_is_said_as_it_is(tmp_path):
    """A refusal of data in memory, for example, has all the words that it needs."""
    from lsengine import data

    with (
        user_code.provided({"data": lambda: data.from_memory([])}),
        pytest.raises(UsageError, match=r"^data: list has no batches; is it used up\?$"),
    ):
        user_code.call("memory:data", {}, key="data.dataset", job_folder=tmp_path)


def test_objects_of_this_process_have_names_for_a_while(tmp_path):
    """They come before modules."""
    with user_code.provided({"model": lambda width: width * 2}):
        assert user_code.is_provided("memory:model")
        assert user_code.call("memory:model", {"width": 3}, key="a", job_folder=tmp_path) == 6
    assert not user_code.is_provided("memory:model")
    with pytest.raises(UsageError, match='no module "memory"'):
        user_code.lookup("memory:model", key="model.arch", job_folder=tmp_path)


def test_a_borrowed_search_path_is_given_back(tmp_path):
    """What a job has imported is forgotten; the path is as it was."""
    (tmp_path / "lent_d.py").write_text("import near_d\ndef make():\n    return 7\n")
    (tmp_path / "near_d.py").write_text("")
    before = list(sys.path)
    with user_code.borrowed():
        assert user_code.call("lent_d:make", {}, key="a", job_folder=tmp_path) == 7
        assert user_code.imported(tmp_path) == ["lent_d", "near_d"]
    assert sys.path == before
    assert not {"lent_d", "near_d"} & sys.modules.keys()


def test_a_job_in_use_before_a_borrowed_path_is_in_use_after_it(tmp_path):
    """Its folder is on the path given back, and leaves it when a job of another folder comes."""
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        (folder / "same_e.py").write_text(f"def make():\n    return {folder.name!r}\n")

    def made(folder):
        return user_code.call("same_e:make", {}, key="a", job_folder=folder)

    assert made(folders[0]) == "a"
    with user_code.borrowed():
        assert made(folders[1]) == "b"
    assert str(folders[0]) in sys.path
    assert [made(folder) for folder in (folders[2], folders[0])] == ["c", "a"]
