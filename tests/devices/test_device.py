"""Which device a worker takes, with cards that torch is told of, and what suits it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from lsengine import data, job, models, store
from lsengine.devices import (
    automatic_batch_size,
    device_of,
    is_channels_last_safe,
    row_major,
    visible_count,
)
from lsengine.devices import device as device_module
from lsengine.errors import EnvironmentUnfit
from lsengine.job import schema
from lsengine.models import checkpoint
from lsengine.training import curve_learner, learner


@pytest.fixture
def cards(monkeypatch):
    """Return a function that has torch see so many cards."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return see


@pytest.mark.parametrize("kind", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0, 0, 0, 0, 0]), (2, [0, 1, 0, 1, 0]), (4, [0, 1, 2, 3, 0])]
)
def test_workers_take_the_cards_they_see_in_turn(cards, kind, count, expected):
    """The first worker takes the first card, and when all are taken it starts again."""
    cards(count)
    assert [device_of(kind, slot) for slot in range(5)] == [
        torch.device("cuda", index) for index in expected
    ]
    assert visible_count("cuda") == count


def test_a_cpu_that_is_asked_for_is_taken_beside_cards(cards):
    """A job that says cpu uses no card, whatever is there."""
    cards(2)
    assert device_of("cpu", 1) == torch.device("cpu")
    assert visible_count("cpu") == 1


def test_without_a_card_auto_is_the_cpu_and_cuda_is_refused(cards):
    """Only who asks for a card by name is told that there is none."""
    cards(0)
    assert device_of("auto", 3) == torch.device("cpu")
    with pytest.raises(EnvironmentUnfit, match=r"cuda is asked for, but torch .* sees none here"):
        device_of("cuda", 0)


def test_a_device_that_is_not_there_is_refused():
    """Asking for a GPU on a machine without one names the key and the device."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentUnfit, match="device: cuda"):
        device_of("cuda", 0)


@pytest.mark.parametrize(
    ("shape", "device", "gib", "expected"),
    [
        ((3, 32, 32), "cpu", 0, 128),
        ((1, 8, 8), "cpu", 0, 512),
        ((3, 224, 224), "cpu", 0, 16),
        ((64,), "cpu", 0, 512),
        ((3, 32, 32), "cuda", 0, 1024),
        ((3, 32, 32), "cuda", 16, 2048),
        ((3, 32, 32), "cuda", 80, 4096),
        ((3, 224, 224), "cuda", 24, 32),
        ((3, 224, 224), "cuda", 80, 64),
        ((1, 8, 8), "cuda", 80, 4096),
        ((1024,), "cuda", 80, 1024),
    ],
)
def test_automatic_batch_size_is_arithmetic_on_shape_and_memory(shape, device, gib, expected):
    """The same shape and the same kind of device give the same batch size, in every run."""
    assert automatic_batch_size(shape, device, gib * 2**30) == expected


@pytest.mark.parametrize(("function", "batch"), [("tune_malloc", 128), ("keep_freed_memory", 1024)])
def test_keeping_freed_memory_changes_no_value_and_spares_page_faults(function, batch):
    """The same bits with and without it, and a repeated pass faults in almost no new pages.

    Of several passes the one with the fewest faults counts: the kernel may add some of its own.
    """
    script = (
        "import resource, sys, torch\n"
        f"from lsengine.devices import {function}\n"
        f"if sys.argv[1] == 'keep': {function}()\n"
        "torch.set_num_threads(1); torch.manual_seed(0)\n"
        f"layer, x = torch.nn.Conv2d(8, 8, 3, padding=1), torch.randn({batch}, 8, 32, 32)\n"
        "with torch.inference_mode():\n"
        "    faults = []\n"
        "    for _ in range(8):\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "        out = layer(layer(x))\n"
        "        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "print(out.double().sum().item(), min(faults[3:]))"
    )
    results = {}
    for how in ("keep", "default"):
        ended = subprocess.run(
            [sys.executable, "-c", script, how],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        total, faults = ended.stdout.split()
        results[how] = total, int(faults)
    assert results["keep"][0] == results["default"][0]
    if platform.libc_ver()[0] == "glibc":
        assert results["keep"][1] < 0.5 * results["default"][1] + 10


def test_freed_memory_is_not_kept_where_there_is_no_room(monkeypatch):
    """The C library is told nothing if less is free than the process has had."""
    asked = []
    library = SimpleNamespace(mallopt=lambda *options: asked.append(options))
    monkeypatch.setattr(device_module.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(device_module, "free_host_bytes", lambda: 2**20)
    device_module.keep_freed_memory()
    assert not asked
    monkeypatch.setattr(device_module, "free_host_bytes", lambda: 2**50)
    device_module.keep_freed_memory()
    assert (-4, 0) in asked


CPU = torch.device("cpu")
LASTS = (torch.channels_last, torch.contiguous_format)


def _resnet(width):
    spec = schema.ModelSpec(arch="resnet20", args={"width": width})
    return models.build(spec, channels=1, classes=10, size=(8, 8), job_folder=Path())


def _write(folder, width, **changes):
    """Write a job of a narrow residual network on 200 digits."""
    content = {
        "model": {"arch": "resnet20", "args": {"width": width}, "checkpoint": "ck/epoch_001.pt"},
        "data": {"dataset": "digits", "subset": 200, "splits": ["train"]},
        "device": "cpu",
        "threads": 1,
        **changes,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return folder / "job.yaml"


def _lsengine(command, path):
    """Run a command in an interpreter of its own, which may die."""
    argv = [sys.executable, "-m", "lsengine", command, path.name]
    return subprocess.run(argv, cwd=path.parent, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("width", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_narrow_network_is_trained_to_the_end(tmp_path, width):
    """An epoch at any width ends with exit code 0, and with the checkpoint of the epoch."""
    path = _write(tmp_path, width, train={"output": "ck", "epochs": 1, "batch_size": 32, "lr": 0.1})
    ended = _lsengine("train", path)
    assert ended.returncode == 0, ended.stderr
    assert checkpoint.load(tmp_path / "ck/epoch_001.pt").epoch == 1


def test_curvature_of_a_narrow_network_is_that_of_the_other_order(tmp_path):
    """A cell ends with exit code 0, and its eigenvalue is that of a product in float64."""
    torch.manual_seed(0)
    (tmp_path / "ck").mkdir()
    checkpoint.save(tmp_path / "ck/epoch_001.pt", _resnet(4))
    job_of = {
        "quantities": ["loss", "curvature"],
        "curvature": {"tolerance": 1e-2},
        "data": {"dataset": "digits", "subset": 100, "splits": ["train"]},
        "directions": {"alpha": {"kind": "random"}},
        "grid": {"alpha": [0, 0, 1]},
        "batch_size": 50,
    }
    found = {}
    for precision in ("float32", "float64"):  # oneDNN knows no float64
        path = _write(tmp_path, 4, **job_of, precision=precision, output=f"{precision}.h5")
        ended = _lsengine("eval", path)
        assert ended.returncode == 0, ended.stderr
        surface = store.read(tmp_path / f"{precision}.h5")
        found[precision] = surface.quantities["eigenvalue_max"][0]
    assert found["float32"] == pytest.approx(found["float64"], rel=2e-2)


@pytest.mark.parametrize(
    ("arch", "args", "avx512", "safe"),
    [
        ("resnet20", {"width": 7}, False, False),
        ("resnet20", {"width": 8}, False, True),
        ("resnet20", {"width": 15}, True, False),
        ("resnet20", {}, True, True),
        ("resnet18", {}, True, True),
        ("densenet121", {}, True, True),  # 1x1 filters, none of them with a stride
        ("vgg9", {}, True, True),
    ],
)
def test_only_narrow_strided_shortcuts_need_the_other_order(monkeypatch, arch, args, avx512, safe):
    """The networks of the paper keep the faster order; a GPU keeps it always."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": avx512})
    with torch.device("meta"):
        spec = schema.ModelSpec(arch=arch, args=args)
        model = models.build(spec, channels=3, classes=10, size=(32, 32), job_folder=Path())
    assert is_channels_last_safe(model, CPU) is safe
    assert is_channels_last_safe(model, torch.device("cuda"))


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (4, 1, 3, 3), (4, 3, 3, 3), (4,)])
@pytest.mark.parametrize("before", LASTS)
def test_a_contiguous_copy_has_the_strides_of_a_fresh_tensor(shape, before):
    """Also a 1x1 filter, which torch calls contiguous whatever its strides."""
    tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
    given = tensor.contiguous(memory_format=before) if len(shape) == 4 else tensor
    if shape[2:] == (1, 1):  # so laid out where a whole network was
        given = given.as_strided(shape, (3, 1, 3, 3) if before is LASTS[0] else (3, 1, 1, 1))
    copy = row_major(given)
    assert copy.stride() == torch.empty(shape).stride()
    assert torch.equal(copy, tensor)


def test_the_ends_of_a_curve_do_not_bring_their_order(tmp_path):
    """Checkpoints of a network in channels-last give control points in the other order."""
    ends = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        last = _resnet(4).to(memory_format=torch.channels_last)
        ends.append({name: p.detach() for name, p in last.named_parameters()})
    trainer = curve_learner.CurveTrainer(
        _resnet(4), tuple(ends), nn.CrossEntropyLoss(), schema.CurveSpec(to="", output="")
    )
    fresh = dict(_resnet(4).named_parameters())
    for control in trainer.controls:
        assert {n: t.stride() for n, t in control.items()} == {
            n: p.stride() for n, p in fresh.items()
        }


def test_a_wide_network_is_trained_in_channels_last(tmp_path, monkeypatch):
    """Where it is safe, filters keep the order in which convolutions are faster."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    settings = {"output": "ck", "epochs": 1, "lr": 0.1}
    seen = {}
    for width in (4, 8):
        loaded = job.load(_write(tmp_path, width, train=settings), command="train")
        dataset = data.load(loaded.document.data, root=None, job_folder=tmp_path, seed=0)
        model = learner.Learner(loaded.document, dataset, job_folder=tmp_path).model
        filters = model.layer1[0].conv1.weight
        seen[width] = filters.is_contiguous(memory_format=torch.channels_last)
    assert seen == {4: False, 8: True}
