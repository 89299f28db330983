"""Which kernel convolves: arithmetic on shapes, precision and device."""

from __future__ import annotations

import dataclasses

import pytest

from lsengine.convolution import Geometry, choose

H100 = (9, 0)


def _geometry(channels, filters=None, **changes):
    return dataclasses.replace(
        Geometry(
            channels=channels,
            filters=filters or channels,
            size=(3, 3),
            stride=(1, 1),
            padding=(1, 1),
        ),
        **changes,
    )


def _kernel(geometry, precision, **options):
    [choice] = choose([geometry], precision, **{"capability": H100} | options)
    return choice.kernel + (" row-major" if choice.row_major else "")


TABLE = {  # precision: kernels at 3, 16, 32, 64 and 128 channels, 64 filters at most
    "bfloat16": "triton triton triton cudnn cudnn",
    "float16": "triton triton triton triton cudnn",
    "tf32": "triton triton triton cudnn cudnn",
    "float32": "triton triton triton triton steps",
}


@pytest.mark.parametrize("precision", TABLE)
def test_the_faster_kernel_was_measured(precision):
    """At each width that was measured, and beyond, the choice is the table's."""
    widths = ((3, 16), (16, 16), (32, 32), (64, 64), (128, 128))
    kernels = [_kernel(_geometry(*pair), precision).removesuffix(" row-major") for pair in widths]
    assert " ".join(kernels) == TABLE[precision]


@pytest.mark.parametrize(
    ("precision", "width", "block", "warps", "stages"),
    [
        ("bfloat16", 16, 256, 4, 4),
        ("float16", 24, 128, 4, 2),  # as the next width that was measured
        ("tf32", 32, 128, 4, 2),
        ("float32", 16, 64, 4, 2),
        ("float32", 64, 128, 8, 2),
    ],
)
def test_a_kernel_is_launched_as_it_was_fastest(precision, width, block, warps, stages):
    """Block, warps and stages are those of the measurement."""
    [choice] = choose([_geometry(width)], precision, capability=H100)
    assert (choice.block, choice.warps, choice.stages) == (block, warps, stages)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_without_triton_it_is_cudnn_or_single_steps(precision):
    """Triton is no dependency: everything works without it."""
    assert _kernel(_geometry(16), precision, fit=["cudnn"]) == "cudnn"
    assert _kernel(_geometry(16, relu=False), precision, fit=["cudnn"]) == "steps"
    assert _kernel(_geometry(16), precision, fit=[]) == "steps"
    assert _kernel(_geometry(64), precision, fit=["triton"]) == "triton"


def test_float32_is_row_major_unless_triton_does_everything():
    """A network has one layout, and cuDNN has no fast channels-last kernel in float32."""
    narrow, wide = _geometry(16), _geometry(64, 128)
    together = choose([narrow, wide], "float32", capability=H100)
    assert [(c.kernel, c.row_major) for c in together] == [("steps", True)] * 2
    assert not any(c.row_major for c in choose([narrow, narrow], "float32", capability=H100))
    for fit in ([], ["cudnn"]):
        assert _kernel(narrow, "float32", fit=fit) == "steps row-major"
    for precision in ("bfloat16", "float16", "tf32"):
        assert not any(c.row_major for c in choose([wide], precision, capability=H100))


@pytest.mark.parametrize("precision", TABLE)
def test_cards_without_tf32_take_single_steps(precision):
    """Before capability 8.0 there are no tf32 and bfloat16 products."""
    for capability in ((7, 0), (7, 5)):
        kernel = _kernel(_geometry(16), precision, capability=capability)
        assert kernel.startswith("steps")
    assert _kernel(_geometry(16), precision, capability=(8, 0)) == "triton"


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 2},
        {"dilation": (2, 2)},
        {"padding": (0, 0)},
        {"padding": (2, 2)},
        {"stride": (3, 3)},
        {"stride": (1, 2)},
        {"size": (5, 5), "padding": (2, 2)},
        {"size": (3, 1), "padding": (1, 0)},
        {"size": (1, 1)},  # with a padding of 1
    ],
)
def test_unusual_convolutions_are_left_to_others(changes):
    """Triton's kernel does 3x3 and 1x1 with strides of 1 or 2, and nothing else."""
    geometry = _geometry(16, relu=False, **changes)
    assert _kernel(geometry, "bfloat16") == "steps"
    assert _kernel(geometry, "float32") == "steps row-major"


def test_shortcuts_and_transitions_are_done_by_triton():
    """1x1 with a stride, and 3x3 with one, in narrow layers; without a ReLU wherever it can."""
    shortcut = {"size": (1, 1), "padding": (0, 0), "stride": (2, 2), "relu": False}
    for precision in TABLE:
        assert _kernel(_geometry(16, 32, **shortcut), precision) == "triton"
        assert _kernel(_geometry(32, 64, **shortcut), precision) == "triton"
        assert _kernel(_geometry(16, 32, stride=(2, 2)), precision) == "triton"


def test_cudnn_fuses_what_its_tensor_cores_take():
    """A ReLU at the end, and channels and filters in eights."""
    assert _kernel(_geometry(128), "bfloat16") == "cudnn"
    assert _kernel(_geometry(128, relu=False), "bfloat16") == "steps"
    assert _kernel(_geometry(3, 128), "bfloat16") == "steps"
    assert _kernel(_geometry(128, 100), "bfloat16") == "steps"
    assert _kernel(_geometry(128, groups=8), "bfloat16") == "steps"


def test_a_network_without_convolutions_has_no_choices():
    """A perceptron is no special case."""
    assert choose([], "float32", capability=H100) == []
