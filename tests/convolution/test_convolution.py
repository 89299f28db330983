"""The door to all convolutions."""

from __future__ import annotations

import types

import pytest
import torch
from torch.nn import functional as F

from lsengine.convolution import (
    Geometry,
    convolution,
    convolutions,
    cudnn,
    is_row_major,
    onednn,
    steps,
    trials,
)

CUDA = torch.device("cuda", 0)
GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)


def _geometry(width, **changes):
    parts = {"size": (3, 3), "stride": (1, 1), "padding": (1, 1)} | changes
    return Geometry(channels=width, filters=width, **parts)


@pytest.fixture
def card(monkeypatch):
    """A card on which everything runs, and what was tried."""
    tried = []
    found = types.SimpleNamespace(tried=tried, triton=True, cudnn=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(trials, "has_triton", lambda device: tried.append("triton") or found.triton)
    monkeypatch.setattr(
        trials, "has_cudnn", lambda device, dtype: tried.append(("cudnn", dtype)) or found.cudnn
    )
    monkeypatch.setattr(convolution, "_by_triton", lambda choice, precision: (choice, precision))
    return found


def _kernels(*geometries, precision):
    return [found.kernel for found in convolutions(geometries, CUDA, precision)]


def test_a_cpu_has_onednn_or_single_steps(monkeypatch):
    """Whatever the shapes."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(onednn, "is_fit", lambda dtype: dtype == torch.float32)
    [found] = convolutions([_geometry(16)], cpu, "float32")
    assert found == ("onednn", onednn.convolve)
    for device, precision in ((cpu, "float16"), (torch.device("mps"), "float32")):
        assert (
            convolutions([_geometry(16)] * 2, device, precision) == [("steps", steps.convolve)] * 2
        )


def test_only_what_is_wanted_is_tried(card):
    """Compiling a kernel takes a second."""
    assert _kernels(_geometry(16), precision="bfloat16") == ["triton"]
    assert card.tried == ["triton"]
    card.tried.clear()
    assert _kernels(_geometry(128), precision="tf32") == ["cudnn"]
    assert card.tried == [("cudnn", torch.float32)]
    card.tried.clear()
    assert _kernels(_geometry(128), precision="float32") == ["steps"]
    assert is_row_major([_geometry(128)], CUDA, "float32")
    assert card.tried == []


def test_what_fails_its_trial_is_left_out(card):
    """Without Triton cuDNN is tried in its place, and single steps do the rest."""
    card.triton = False
    assert _kernels(_geometry(16), _geometry(128), precision="float16") == ["cudnn"] * 2
    assert card.tried == [("cudnn", torch.float16), "triton"]
    card.cudnn = False
    assert _kernels(_geometry(16), precision="float16") == ["steps"]
    assert _kernels(_geometry(16), precision="float32") == ["steps"]
    assert is_row_major([_geometry(16)], CUDA, "float32")
    card.triton = True
    assert not is_row_major([_geometry(16)], CUDA, "float32")


def test_float32_is_three_products_of_tf32_numbers(card):
    """Only where the job says so it is one, which is less exact."""
    for precision, word in (("float32", "float32"), ("tf32", "tf32")):
        [found] = convolutions([_geometry(16)], CUDA, precision)
        assert found.convolve[1] == word
    assert convolution._OF_FLOAT32 == {"float32": "tf32x3", "tf32": "tf32"}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("cudnn_convolution_relu", "self weight bias stride padding dilation groups"),
        ("cudnn_convolution_add_relu", "self weight z alpha bias stride padding dilation groups"),
    ],
)
def test_cudnn_takes_its_arguments_in_this_order(name, order):
    """The operators are there, with the signature that they are called with."""
    schema = getattr(torch.ops.aten, name).default._schema
    assert " ".join(argument.name for argument in schema.arguments) == order


def _numbers(stride=1):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 8, 5, 6), torch.randn(16, 8, 3, 3), torch.randn(16)
    return x, weight, bias, torch.randn(2, 16, (5 - 1) // stride + 1, (6 - 1) // stride + 1)


@pytest.fixture
def fake_cudnn(monkeypatch):
    """Operators with cuDNN's signatures that compute on a CPU, and the names of those called."""
    called = []

    def relu(x, weight, bias, stride, padding, dilation, groups):
        called.append("relu")
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()

    def add_relu(x, weight, z, alpha, bias, stride, padding, dilation, groups):
        called.append("add_relu")
        output = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        assert z.shape == output.shape
        return (output + alpha * z).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    return called


@pytest.mark.parametrize("stride", [1, 2])
def test_cudnn_adds_and_rectifies(fake_cudnn, stride):
    """It gives what single steps give, with a sum and without."""
    x, weight, bias, other = _numbers(stride)
    where = ((stride, stride), (1, 1), (1, 1), 1)
    for added in (None, other):
        found = cudnn.convolve(x, weight, bias, added, True, *where)
        expected = torch.relu(
            F.conv2d(x, weight, bias, stride, 1) + (0 if added is None else other)
        )
        torch.testing.assert_close(found, expected)
    assert fake_cudnn == ["relu", "add_relu"]


@pytest.mark.parametrize(
    "other", [torch.ones(2, 16, 1, 1), torch.ones(16, 1, 1), torch.ones(2, 16, 5, 6).double()]
)
def test_sums_of_other_shapes_are_done_in_steps(fake_cudnn, other):
    """A fused kernel would read beyond what is broadcast, or take other numbers for its own."""
    x, weight, bias, _ = _numbers()
    expected = torch.relu(F.conv2d(x, weight, bias, 1, 1) + other.float())
    found = cudnn.convolve(x, weight, bias, other, True, *GEOMETRY)
    torch.testing.assert_close(found, expected)
    assert fake_cudnn == []


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_shape_of_a_result_is_known_beforehand(stride, size, dilation):
    """By the same arithmetic as torch's."""
    x, weight = torch.zeros(2, 4, 9, 10), torch.zeros(6, 4, size, size)
    where = ((stride, stride), (size // 2, 1), (dilation, dilation), 1)
    output = F.conv2d(x, weight, None, *where)
    assert steps.adds_alike(x, weight, output, *where)
    assert not steps.adds_alike(x, weight, output[:, :, :1], *where) or output.shape[2] == 1
    assert not steps.adds_alike(x, weight, output.half(), *where)
