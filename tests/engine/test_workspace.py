"""What a rank has before the surface is laid out."""

from __future__ import annotations

import pytest
import torch

from lsengine import devices, store
from lsengine import job as jobs
from lsengine.cores import Threads
from lsengine.engine import Options, evaluate, prepare, workspace
from lsengine.engine.messages import Assignment
from lsengine.engine.workspace import Workspace
from lsengine.errors import EnvironmentUnfit
from lsengine.models.plain import MLP
from lsengine.objective import fused
from tests.support.jobs import write_job


@pytest.fixture(autouse=True)
def _as_before():
    """Give torch its threads and its choice of kernels back."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])


def _workspace(path, threads=2, settled=0, **given):
    assignment = Assignment(
        job=jobs.load(path, command="eval"),
        slot=0,
        share=Threads(threads, "two cores"),
        settled=settled,
    )
    return Workspace(assignment, lambda: None, **given)


@pytest.mark.parametrize(
    ("asked", "settled", "threads", "why"),
    [
        ("auto", 0, 1, "a network this small gains little by more"),
        ("auto", 1, 1, "as the surface has it"),
        ("auto", 2, 2, "two cores"),
        (1, 2, 1, "as the job says"),
        (2, 0, 2, "as the job says"),
    ],
)
def test_threads_are_the_jobs_or_the_surfaces_or_suit_the_work(
    make_job, asked, settled, threads, why
):
    """A number in the job is stronger than what rank 0 has assigned."""
    info = _workspace(make_job(threads=asked), settled=settled).info("a host")
    assert info.threads == torch.get_num_threads() == threads
    assert info.threads_why == why


def test_it_says_where_its_values_come_from(make_job):
    """The instructions of the processor are part of it: last bits differ between them."""
    info = _workspace(make_job(precision="float64")).info("a host")
    assert (info.host, info.device_id, info.sample_shape) == ("a host", "", (6,))
    assert info.device_kind == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    assert info.torch_version == torch.__version__
    assert (info.precision, info.forward) == ("float64", "eager")


def test_what_has_been_loaded_is_taken_over(make_job, monkeypatch):
    """Rank 0 has read model and data already."""
    path = make_job()
    loaded = prepare.load(jobs.load(path, command="eval"))
    monkeypatch.setattr(prepare, "load", pytest.fail)
    assert _workspace(path, loaded=loaded).info("a host").sample_shape == (6,)


def test_large_weights_are_said_before_the_start(make_job, monkeypatch, capsys):
    """One line: 6 x 16 + 16 x 3 numbers move of 211; little is not worth a line."""
    job = make_job(threads=1)
    assert _workspace(job).info("a host").weights == ""
    monkeypatch.setattr(workspace, "_WORTH_SAYING", 1000)
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    assert text.count("144 numbers move along 2 directions; on cpu network ") == 1
    assert text.index("144 numbers move") < text.index("workers=1")
    assert not list(job.parent.glob("*.part"))


def test_weights_that_fit_nowhere_are_refused_before_the_start(make_job, monkeypatch):
    """With the arithmetic, and before a file is made."""
    job = make_job(threads=1)
    monkeypatch.setattr(devices, "free_host_bytes", lambda: 1000)
    with pytest.raises(EnvironmentUnfit, match=r"144 numbers move .* centre .* too large"):
        evaluate([job], Options(progress="none"), world=None)
    assert not job.with_suffix(".h5").exists()


@pytest.mark.parametrize(
    ("changes", "deterministic"),
    [
        ({}, False),
        ({"quantities": ["loss", "curvature"]}, True),
        ({"directions": {"alpha": {"kind": "hessian"}, "beta": {"kind": "random"}}}, True),
    ],
)
def test_hessians_get_kernels_that_repeat_their_bits(make_job, monkeypatch, changes, deterministic):
    """Other jobs may have the faster ones."""
    asked = []
    monkeypatch.setattr("lsengine.devices.use_deterministic_kernels", asked.append)
    _workspace(make_job(**changes))
    assert asked == [deterministic]


@pytest.mark.parametrize(
    ("changes", "can_fuse", "forward"),
    [
        ({}, True, "fused"),
        ({}, False, "eager"),
        ({"precision": "float64"}, True, "eager"),
        ({"model": {"arch": "testnets:mlp", "checkpoint": "centre.pt"}}, True, "eager"),
    ],
)
def test_the_file_says_whether_layers_were_fused(
    tmp_path, monkeypatch, capsys, changes, can_fuse, forward
):
    """Those of lsengine's networks are, if it can be; a user's never are, nor in float64."""
    torch.save(
        {"state_dict": MLP(features=6, classes=3, hidden=[4]).state_dict()}, tmp_path / "m.pt"
    )
    if not can_fuse:

        def fail(*_):
            raise fused.CannotFuse("made to fail")

        monkeypatch.setattr(fused, "FusedForward", fail)
    model = {"arch": "mlp", "args": {"hidden": [4]}, "checkpoint": "m.pt"}
    grid = {"grid": {"alpha": [0, 1, 2]}, "directions": {"alpha": {"kind": "random"}}}
    job = write_job(tmp_path, **({"model": model} | grid | changes))
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert store.read(job.with_suffix(".h5")).attributes["forward"] == forward
    text = capsys.readouterr().err
    assert text.count("without fused layers") == (0 if can_fuse else 1)
