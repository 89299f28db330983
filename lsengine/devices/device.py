"""The device of a process, and what suits it."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lsengine.devices.memory import free_host_bytes
from lsengine.errors import EnvironmentUnfit

_NO_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # <malloc.h>


def device_of(kind: str, slot: int) -> torch.device:
    """Return the device of a worker, the ``slot``-th of its host that sees the same devices.

    The kind is ``auto``, ``cuda``, ``mps`` or ``cpu``.

    Raises:
        EnvironmentUnfit: If a kind is asked for that this machine does not have.
    """
    if kind in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", slot % torch.cuda.device_count())
    if kind in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    if kind in ("auto", "cpu"):
        return torch.device("cpu")
    raise EnvironmentUnfit(
        f"device: {kind} is asked for, but torch {torch.__version__} sees none here; use auto "
        "or cpu"
    )


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let CUDA round the factors of products to 10 bits, or keep it from that, for a while.

    Sums of products of 16 bits are kept in float32 in either case.  The switches are of the
    process.  Whoever computes sets them and puts them back, so that others in the process, of
    another precision, find what they are used to.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    sums = (
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
    )
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
        (
            matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction,
        ) = sums


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread for a while, so that last bits do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def use_deterministic_kernels(wanted: bool = True) -> None:
    """Let CUDA add up in the same order every time, also where that is slower, or let it be.

    Call it before anything is on the device: cuBLAS has such an order only with a workspace of
    fixed size, whose size it reads from the environment once, with the first product of a
    process.  So the variable stays set: to take it back would change nothing, or come too early.
    """
    torch.backends.cudnn.deterministic = wanted
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def fast_precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that are faster than float32 on a device, the fastest first."""
    if device.type == "cuda":
        return ("bfloat16", "float16", "tf32")
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16"):
        return ("bfloat16",)
    return ()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16: AMX, AVX-512, cards of 2020."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return "bfloat16" in fast_precisions(device)


def visible_count(kind: str) -> int:
    """Return how many devices of a kind this process sees; of CPUs and of MPS there is one."""
    return torch.cuda.device_count() if kind == "cuda" else 1


def memory_of(device: torch.device) -> int:
    """Return the bytes of a card's own memory, or of the part of it that is lent; else 0."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def automatic_batch_size(sample_shape: Sequence[int], device: str, memory: int = 0) -> int:
    """Return a batch size from the shape of a sample (C, ...), the device and its bytes.

    Arithmetic, not a stopwatch, so that it is the same in every run.  On a CPU 128 images of 32x32
    or 512 of 8x8 were as fast as any on one core with AVX-512, and faster than half of them on
    one with AVX2, where a call's fixed cost weighs more than the cache.  On an H200 4,096 images of
    32x32 were 5 to 15 % faster than 1,024, and took 1.5 GiB with ResNet-110 in 16 bits
    (``docs/SPEED.md``).  Wider networks take ten times that, so smaller cards get fewer.
    """
    is_image = len(sample_shape) >= 3
    positions = math.prod(sample_shape[1:] if is_image else sample_shape) or 1
    budget, largest = (2**17, 512) if device == "cpu" else (2**20, 4096)
    if is_image and memory >= 12 * 2**30:
        budget *= 4 if memory >= 36 * 2**30 else 2
    power = int(math.log2(max(1, budget / positions)))
    return max(16, min(largest, 1 << power))


def tune_malloc() -> None:
    """Let the C library reuse the memory of activations instead of returning it to the system.

    By default glibc maps and unmaps large blocks one by one, which on a CPU costs a page fault
    per 4 KiB of every layer's output: a quarter of the time of a small network's forward pass,
    see ``benchmarks/results``.  Does nothing where the C library is another.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def keep_freed_memory() -> None:
    """Let the C library give no memory back at all, if the host has room.

    `tune_malloc` can do nothing about blocks of 32 MiB and more, which glibc maps one by one.  A
    training with large batches is a third faster without that.  It takes half as much memory
    again, as blocks of different sizes leave gaps: so as much as it has had at most has to be free.
    """
    with contextlib.suppress(OSError, AttributeError, ImportError):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        mallopt = ctypes.CDLL(None).mallopt
        if peak < free_host_bytes():
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_MMAP_MAX, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory, of a device or of this host."""
    says_so = isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _NO_MEMORY)
    return says_so or isinstance(error, MemoryError | torch.OutOfMemoryError)


def is_channels_last_safe(model: nn.Module, device: torch.device) -> bool:
    """Whether a backward pass to the weights of a network survives channels-last.

    For a 1x1 convolution with a stride, oneDNN copies what the stride leaves of its input in
    blocks of 8 channels (AVX2) or 16 (AVX-512), into room for the channels that there are:
    where those are fewer than a block it writes past the end, and the interpreter dies or the
    gradient is wrong (https://github.com/uxlfoundation/oneDNN/issues/6035, in torch 2.13).
    The shortcuts of narrow residual networks are such convolutions.  Forward passes are fine.
    """
    if device.type != "cpu":
        return True
    block = 16 if torch.cpu.get_capabilities().get("avx512_f") else 8
    return not any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < block
        for module in model.modules()
    )


def row_major(tensor: Tensor) -> Tensor:
    """Return a copy whose strides are those of row-major order.

    ``Tensor.contiguous`` leaves those of a 1x1 filter, which is contiguous in either order, and
    torch goes by them.
    """
    return tensor.detach().clone(memory_format=torch.contiguous_format)
