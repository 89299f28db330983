"""What Triton's kernel makes of every class of shapes, in a process of its own.

Triton decides when it is first imported whether it interprets kernels, so that the tests start
``TRITON_INTERPRET=1 python -m tests.support.kernel_cases cpu``; or ``cuda``, on a card.  One line
of JSON says for each case by how much it is off, and by how much it may be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

SHAPES = {  # images, channels, filters, height, width, size of filters, stride
    "16 channels": (2, 16, 16, 8, 8, 3, 1),
    "32 channels": (1, 32, 32, 6, 6, 3, 1),
    "64 channels": (1, 64, 64, 4, 4, 3, 1),
    "colours": (3, 3, 16, 8, 8, 3, 1),
    "one channel": (2, 1, 24, 7, 7, 3, 1),
    "no powers of two": (2, 20, 10, 5, 7, 3, 1),
    "one pixel": (3, 16, 16, 1, 1, 3, 1),
    "one row": (2, 16, 16, 1, 9, 3, 1),
    "stride": (2, 16, 32, 8, 8, 3, 2),
    "stride over odd sizes": (2, 16, 32, 7, 9, 3, 2),
    "stride over one pixel": (1, 12, 20, 1, 1, 3, 2),
    "shortcut": (2, 16, 32, 8, 6, 1, 2),
    "shortcut over odd sizes": (2, 24, 40, 5, 7, 1, 2),
    "1x1": (2, 64, 16, 5, 5, 1, 1),
}
KINDS = {  # dtype, Triton's precision, allowed error of a number as large as all summands
    "float32": (torch.float32, "tf32x3", 2e-6),
    "ieee": (torch.float32, "ieee", 2e-6),
    "tf32": (torch.float32, "tf32", 2e-3),
    "float16": (torch.float16, "tf32", 2**-11),
    "bfloat16": (torch.bfloat16, "tf32", 2**-8),
}
NETWORKS = {"float32": 1e-5, "float16": 0.01, "bfloat16": 0.1}  # allowed error of outputs
OPTIONS = [(b, o, r) for b in (False, True) for o in (False, True) for r in (False, True)]
SOME = ("16 channels", "no powers of two", "stride over odd sizes")  # the interpreter's are alike
SHAPES_OF = {kind: SOME if kind in ("ieee", "tf32") else tuple(SHAPES) for kind in KINDS}
PRECISE = [f"{kind}, {shape}" for kind, shapes in SHAPES_OF.items() for shape in shapes]
PARTS = [f"bias {b}, other {o}, relu {r}" for b, o, r in OPTIONS]
SPECIAL = [
    "NaN and infinities",
    "into the summand",
    "row-major images",
    "long indices",
    "no summand for none",
    *(f"batches, {kind}" for kind in KINDS),
    *(f"network, {precision}" for precision in NETWORKS),
]
CASES = [*PRECISE, *PARTS, *SPECIAL]


def results(device: str) -> dict[str, tuple[float, float]]:
    """Return for each case the error and what is allowed, from a process that runs them all."""
    env = os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
    command = [sys.executable, "-m", "tests.support.kernel_cases", device]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def numbers(shape, dtype, device):
    """Return input, weight, bias and summand: rounded to the dtype, channels-last."""
    images, channels, filters, height, width, size, stride = shape
    generator = torch.Generator().manual_seed(sum(shape))
    draw = partial(torch.randn, generator=generator)
    x, weight = draw(images, channels, height, width), draw(filters, channels, size, size)
    places = (height - 1) // stride + 1, (width - 1) // stride + 1
    bias, other = draw(filters), draw(images, filters, *places)
    last = {"memory_format": torch.channels_last}
    x, weight, other = (t.to(device, dtype).contiguous(**last) for t in (x, weight, other))
    return x, weight / size, bias.to(device, dtype), other


def exact(x, weight, bias, other, relu, stride):
    """Return the result in float64, and the sum of the moduli of its summands."""
    x, weight = x.double(), weight.double()
    bias = None if bias is None else bias.double()
    pad = weight.shape[2] // 2
    result = F.conv2d(x, weight, bias, stride, pad)
    size = F.conv2d(x.abs(), weight.abs(), None if bias is None else bias.abs(), stride, pad)
    if other is not None:
        result, size = result + other.double(), size + other.double().abs()
    return torch.relu(result) if relu else result, size


def main(device):
    """Run all cases and print what they give."""
    from lsengine.convolution import kernels

    def convolve(x, weight, bias, other, relu, stride, precision, **more):
        launch = {"block": 64, "warps": 4, "stages": 2} | more
        numbers = (x, weight, bias, other, relu)
        return kernels.convolve(*numbers, stride=stride, precision=precision, **launch)

    def error(found, arguments, stride):
        expected, size = exact(*arguments, stride)
        assert found.shape == expected.shape
        assert found.is_contiguous(memory_format=torch.channels_last)
        return float(((found.double() - expected).abs() / size).max())

    found = {}
    for kind, (dtype, precision, allowed) in KINDS.items():
        if kind == "bfloat16" and device == "cpu":
            allowed *= 2  # the interpreter cuts off the bits
        for name in SHAPES_OF[kind]:
            shape = SHAPES[name]
            arguments = (*numbers(shape, dtype, device), True)
            output = convolve(*arguments, shape[-1], precision)
            found[f"{kind}, {name}"] = error(output, arguments, shape[-1]), allowed
        x, *rest, other = numbers((5, 16, 16, 4, 3, 3, 1), dtype, device)
        together = convolve(x, *rest, other, True, 1, precision)
        alone = [
            convolve(x[i : i + 1], *rest, other[i : i + 1], True, 1, precision) for i in (0, 4)
        ]
        same = all(torch.equal(a, together[i : i + 1]) for i, a in zip((0, 4), alone, strict=True))
        found[f"batches, {kind}"] = float(not same), 0.0
    x, weight, bias, other = numbers((2, 16, 20, 6, 5, 3, 1), torch.float32, device)
    for has_bias, has_other, relu in OPTIONS:
        arguments = x, weight, bias if has_bias else None, other if has_other else None, relu
        name = f"bias {has_bias}, other {has_other}, relu {relu}"
        found[name] = error(convolve(*arguments, 1, "tf32x3"), arguments, 1), 2e-6
    arguments = x, weight, bias, other, True
    output = convolve(*arguments, 1, "tf32x3")
    plain = x.clone(memory_format=torch.contiguous_format)
    same = torch.equal(convolve(plain, *arguments[1:], 1, "tf32x3"), output)
    found["row-major images"] = float(not same), 0.0
    kernels.needs_long, needs_long = lambda numbers: True, kernels.needs_long
    found["long indices"] = float(not torch.equal(convolve(*arguments, 1, "tf32x3"), output)), 0.0
    kernels.needs_long = needs_long
    unused = convolve(x, weight, bias, None, True, 1, "tf32x3", into_other=True)
    found["no summand for none"] = error(unused, (x, weight, bias, None, True), 1), 2e-6
    sum_ = other.clone(memory_format=torch.preserve_format)
    written = convolve(x, weight, bias, sum_, True, 1, "tf32x3", into_other=True)
    same = written.data_ptr() == sum_.data_ptr() and torch.equal(sum_, output)
    found["into the summand"] = float(not same), 0.0
    found["NaN and infinities"] = float(not keeps_odd_numbers(convolve, device)), 0.0
    for precision, allowed in NETWORKS.items():
        found[f"network, {precision}"] = error_of_network(precision, device), allowed
    print(json.dumps(found))


def error_of_network(precision, device):
    """Return how far a residual network with a first layer, shortcuts and strides is from float64.

    As a share of its largest output.
    """
    from lsengine.convolution import choose, convolution
    from lsengine.models import resnet
    from lsengine.objective import fused

    def on_cuda(geometries, device, precision):
        choices = choose(geometries, precision, capability=(9, 0), fit=["triton"])
        assert {choice.kernel for choice in choices} == {"triton"}
        return [convolution._on_cuda(choice, precision) for choice in choices]

    fused.convolutions = on_cuda
    torch.manual_seed(0)
    model = resnet.cifar(8, channels=3, classes=10, width=16).eval().requires_grad_(False)
    model = model.to(device, memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to(device)
    dtype = getattr(torch, precision)
    found = fused.fused(model, dtype)(x.to(dtype))
    expected = model.double()(x.double())
    return float((found - expected).abs().max() / expected.abs().max())


def keeps_odd_numbers(convolve, device):
    """Whether NaN and infinities go where the definition says, through a ReLU, too."""
    for dtype, precision in ((torch.float32, "tf32x3"), (torch.float16, "tf32")):
        x, weight, bias, other = numbers((1, 16, 16, 9, 9, 3, 1), dtype, device)
        weight = weight.abs()
        x[0, 0, 0, 0], x[0, 1, 4, 4], x[0, 2, 8, 8] = torch.nan, torch.inf, -torch.inf
        expected = torch.relu(F.conv2d(*(t.double().cpu() for t in (x, weight, bias)), 1, 1))
        result = convolve(x, weight, bias, None, True, 1, precision).double().cpu()
        if not all(torch.equal(f(result), f(expected)) for f in (torch.isnan, torch.isposinf)):
            return False
        other[0, :, 2, 2] = torch.nan
        if not bool(convolve(x, weight, bias, other, True, 1, precision)[0, :, 2, 2].isnan().all()):
            return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])
