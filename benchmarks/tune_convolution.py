"""Which kernel convolves fastest on this card, and how is it launched?

Prints a table like the one that `lsengine/convolution/choice.py` reads: microseconds of 3x3, bias,
sum and ReLU.  All variants take turns; figures are medians.
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
from lsengine.convolution import cudnn, steps

SIZES = ((16, 32), (32, 16), (64, 8), (128, 8))
LAUNCHES = tuple(itertools.product((64, 128, 256), (4, 8), (2, 4)))
GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)
DTYPES = {"tf32": torch.float32}


def numbers(
    channels: int, size: int, images: int, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return input, weight, bias and summand, channels-last."""
    dtype = DTYPES.get(precision) or getattr(torch, precision)
    draw = partial(torch.randn, device="cuda")
    x, other = (draw(images, channels, size, size) for _ in range(2))
    weight = draw(channels, channels, 3, 3) / (3 * channels**0.5)
    last = {"memory_format": torch.channels_last}
    x, weight, other = (t.to(dtype).contiguous(**last) for t in (x, weight, other))
    return x, weight, draw(channels).to(dtype), other


def variants(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor], precision: str
) -> dict[str, Callable[[], Tensor]]:
    """Return what to compare, by name."""
    import convolution_variants

    from lsengine.convolution import kernels

    x, weight, bias, other = tensors
    row_major = devices.row_major
    tensors_row_major = (row_major(x), row_major(weight), bias, row_major(other))
    found: dict[str, Callable[[], Tensor]] = {
        "steps": partial(steps.convolve, *tensors, True, *GEOMETRY),
        "steps, row-major": partial(steps.convolve, *tensors_row_major, True, *GEOMETRY),
        "cudnn": partial(cudnn.convolve, *tensors, True, *GEOMETRY),
    }
    if len(bias) > kernels.WIDEST:
        return found
    word = {"float32": "tf32x3"}.get(precision, "tf32")
    for block, warps, stages in LAUNCHES:
        how: dict[str, Any] = {"precision": word, "block": block, "warps": warps, "stages": stages}
        name = f"{block}/{warps}/{stages}"
        found[f"triton {name}"] = partial(kernels.convolve, *tensors, True, stride=1, **how)
        found[f"three taps {name}"] = partial(convolution_variants.three_taps, *tensors, **how)
    return found


def times_us(work: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
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


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tune_convolution: torch sees no CUDA device here")
    card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    card += f", cuDNN {torch.backends.cudnn.version()}"
    print(f"# {card}, {arguments.images} images, microseconds")
    results = []
    for precision, (channels, size) in itertools.product(
        ("bfloat16", "float16", "tf32", "float32"), SIZES
    ):
        with torch.inference_mode(), devices.tf32(precision == "tf32"):
            tensors = numbers(channels, size, arguments.images, precision)
            x, weight, bias, other = (t.double() for t in tensors)
            exact = steps.convolve(x[:16], weight, bias, other[:16], True, *GEOMETRY)
            work = variants(tensors, precision)
            found = times_us(work, arguments.repeats)
            best = dict(sorted(found.items(), key=lambda item: item[1]))
            for kind in ("triton", "three taps", "cudnn", "steps"):
                name = next((n for n in best if n.startswith(kind)), None)
                if name is None:
                    continue
                error = float((work[name]()[:16].double() - exact).norm() / exact.norm())
                print(f"{precision:8} {channels:3} {name:22} {best[name]:8.0f}  error {error:.1e}")
        results.append({"precision": precision, "channels": channels, "us": found})
    print(json.dumps({"card": card, "images": arguments.images, "results": results}))


if __name__ == "__main__":
    main()
