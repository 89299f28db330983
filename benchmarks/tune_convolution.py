"""Which kernel convolves fastest on this card, and how is it launched?

Prints a table like the one that `lsengine/convolution/choice.py` reads: microseconds of 3x3, bias,
sum and ReLU, and then those of a whole stage of ResNet-110.  Kernels that are not in use are
compared with the fastest one that is.  All variants take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lsengine import devices
from lsengine.convolution import choice, cudnn, steps

Numbers = tuple[Tensor, Tensor, Tensor, Tensor]
Layers = list[tuple[Tensor, Tensor]]
Work = dict[str, Callable[[], Tensor]]  # names are like "kind: launch"
PRECISIONS = ("bfloat16", "float16", "tf32", "float32")
SIZES = {16: 32, 32: 16, 64: 8, 128: 8}  # by channels
LAUNCHES = tuple(itertools.product((64, 128, 256), (4, 8), (2, 4)))
STAGE_LAUNCHES = ((128, 4), (128, 8), (256, 8))
LAYERS = 36
PROGRAMS = 4  # for each multiprocessor
WIDEST = 64  # channels times packed pixels
NEW = {"three taps": 1, "packed 2": 2, "packed 4": 4}  # pixels
GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)
DTYPES = {"tf32": torch.float32}
PRODUCTS = {"float32": "tf32x3"}


def numbers(channels: int, size: int, images: int, precision: str) -> Numbers:
    """Return input, weight, bias and summand, channels-last."""
    dtype = DTYPES.get(precision) or getattr(torch, precision)
    draw = partial(torch.randn, device="cuda")
    x, other = (draw(images, channels, size, size) for _ in range(2))
    weight = draw(channels, channels, 3, 3) / (3 * channels**0.5)
    last = {"memory_format": torch.channels_last}
    x, weight, other = (t.to(dtype).contiguous(**last) for t in (x, weight, other))
    return x, weight, draw(channels).to(dtype), other


def by_steps(*tensors: Any) -> Tensor:
    """Convolve, add and rectify in single steps."""
    return steps.convolve(*tensors, True, *GEOMETRY)


def by_cudnn(*tensors: Any) -> Tensor:
    """Convolve, add and rectify by cuDNN."""
    return cudnn.convolve(*tensors, True, *GEOMETRY)


def by_triton(*tensors: Any, **how: Any) -> Tensor:
    """Convolve, add and rectify by the kernel in use."""
    from lsengine.convolution import kernels

    x, weight, bias, other = tensors
    return kernels.convolve(x, weight, bias, other, True, stride=1, **how)


def convolutions(tensors: Numbers, precision: str) -> Work:
    """Return what makes one convolution: kernels in use, and new ones."""
    x, weight, bias, other = tensors
    row_major = devices.row_major
    found: Work = {
        "steps": partial(by_steps, *tensors),
        "steps, row-major": partial(
            by_steps, row_major(x), row_major(weight), bias, row_major(other)
        ),
        "cudnn": partial(by_cudnn, *tensors),
    }
    if len(bias) > WIDEST:
        return found
    import convolution_variants

    packs = packed(weight)
    for block, warps, stages in LAUNCHES:
        how: dict[str, Any] = {"precision": PRODUCTS.get(precision, "tf32")}
        how |= {"block": block, "warps": warps, "stages": stages}
        launch = f"{block}/{warps}/{stages}"
        found[f"triton: {launch}"] = partial(by_triton, *tensors, **how)
        for kind, pack in packs.items():
            run = partial(convolution_variants.convolve, x, pack, bias, other, **how)
            found[f"{kind}: {launch}"] = run
    return found


def packed(weight: Tensor) -> dict[str, Tensor]:
    """Return the weights of the new kernels, by kind."""
    import convolution_variants

    fit = {kind: pixels for kind, pixels in NEW.items() if pixels * weight.shape[-3] <= WIDEST}
    return {kind: convolution_variants.pack(weight, pixels) for kind, pixels in fit.items()}


def whole_stages(x: Tensor, layers: Layers, precision: str) -> Work:
    """Return what makes a stage: layer by layer with kernels in use, or at once."""
    row_major = devices.row_major
    rows = [(row_major(weight), bias) for weight, bias in layers]
    found: Work = {
        "layers, steps": partial(layer_by_layer, by_steps, x, layers),
        "layers, steps, row-major": partial(layer_by_layer, by_steps, row_major(x), rows),
        "layers, cudnn": partial(layer_by_layer, by_cudnn, x, layers),
    }
    channels = x.shape[1]
    if channels > WIDEST:
        return found
    import convolution_variants

    products: dict[str, Any] = {"precision": PRODUCTS.get(precision, "tf32")}
    found["layers, triton"] = partial(
        layer_by_layer, partial(by_triton, **products, **in_use(channels, precision)), x, layers
    )
    packs = packed(torch.stack([weight for weight, _ in layers]))
    biases = torch.stack([bias for _, bias in layers])
    programs = PROGRAMS * torch.cuda.get_device_properties(x.device).multi_processor_count
    for (block, warps), (kind, pack) in itertools.product(STAGE_LAUNCHES, packs.items()):
        how: dict[str, Any] = {"block": block, "warps": warps, "programs": programs}
        run = partial(convolution_variants.stage, x, pack, biases, **products, **how)
        found[f"stage, {kind}: {block}/{warps}"] = run
    return found


def layer_by_layer(convolve: Callable[..., Tensor], x: Tensor, layers: Layers) -> Tensor:
    """Return what residual blocks of two layers each make."""
    for first, second in zip(layers[::2], layers[1::2], strict=True):
        x = convolve(convolve(x, *first, None), *second, x)
    return x


def in_use(channels: int, precision: str) -> dict[str, int]:
    """Return how the kernel in use is launched."""
    layer = choice.Geometry(
        channels=channels, filters=channels, size=(3, 3), stride=(1, 1), padding=(1, 1)
    )
    found = choice.choose([layer], precision, capability=choice.NEEDED, fit=["triton"])[0]
    return {"block": found.block, "warps": found.warps, "stages": found.stages}


def times_us(work: Work, repeats: int) -> dict[str, float]:
    """Return the median of each; those that fail are left out, and said."""
    seconds: dict[str, list[float]] = {}
    for name, run in work.items():
        try:
            run()
            seconds[name] = []
        except Exception as error:
            print(f"# {name}: {' '.join(str(error).split())[:120]}", file=sys.stderr)
    for _ in range(repeats):
        for name, of_name in seconds.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work[name]()
            end.record()
            end.synchronize()
            of_name.append(start.elapsed_time(end) * 1000)
    return {name: statistics.median(of_name) for name, of_name in seconds.items()}


def report(head: str, work: Work, found: dict[str, float], exact: Tensor) -> None:
    """Print the best launch of each kind, its error, and whether new kinds are faster."""
    best: dict[str, str] = {}
    for name in sorted(found, key=lambda name: found[name]):
        best.setdefault(name.partition(":")[0], name)
    known = [found[name] for kind, name in best.items() if not is_new(kind)]
    for kind, name in best.items():
        error = float((work[name]()[: len(exact)].double() - exact).norm() / exact.norm())
        line = f"{head} {name:34} {found[name]:8.0f}  error {error:.1e}"
        if is_new(kind) and known:
            ratio = min(known) / found[name]
            line += f"  {ratio:.2f} times as fast: {'faster' if ratio > 1 else 'not faster'}"
        print(line, flush=True)


def is_new(kind: str) -> bool:
    """Whether a kind is not in use."""
    return kind.removeprefix("stage, ") in NEW


def measure(channels: int, precision: str, images: int, repeats: int) -> dict[str, float]:
    """Time everything for one width in one precision, and print the table's lines."""
    head = f"{precision:8} {channels:3}"
    size = SIZES[channels]
    tensors = numbers(channels, size, images, precision)
    x, weight, bias, other = (t.double() for t in (tensors[0][:16], *tensors[1:3], tensors[3][:16]))
    one = convolutions(tensors, precision)
    layers = [numbers(channels, size, 1, precision)[1:3] for _ in range(LAYERS)]
    many = whole_stages(tensors[0], layers, precision)
    found = times_us(one | many, repeats)
    exact = by_steps(x, weight, bias, other)
    report(head, one, {name: found[name] for name in one if name in found}, exact)
    exact = layer_by_layer(by_steps, x, [(w.double(), b.double()) for w, b in layers])
    report(head, many, {name: found[name] for name in many if name in found}, exact)
    return found


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--channels", nargs="+", type=int, choices=SIZES, default=tuple(SIZES))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tune_convolution: torch sees no CUDA device here")
    card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    card += f", cuDNN {torch.backends.cudnn.version()}"
    print(f"# {card}, {arguments.images} images, microseconds")
    results = []
    for precision, channels in itertools.product(arguments.precisions, arguments.channels):
        with torch.inference_mode(), devices.tf32(precision == "tf32"):
            found = measure(channels, precision, arguments.images, arguments.repeats)
        results.append({"precision": precision, "channels": channels, "us": found})
    print(json.dumps({"card": card, "images": arguments.images, "results": results}))


if __name__ == "__main__":
    main()
