"""The process of a caller, left as it was found."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from lsengine import log
from lsengine.errors import UsageError
from lsengine.external import user_code

_turn = threading.Lock()
_holder: list[int] = []  # the thread that has its turn


@contextmanager
def as_found(*, speaks: bool) -> Iterator[None]:
    """Have what an evaluation needs of a process, and give everything back as it was.

    Random numbers, threads, flags and defaults of torch, environment, search path, warnings and
    log lines.  One evaluation at a time: these are the process's.  ``speaks`` is whether warnings
    are shown to a caller without logging.

    Raises:
        UsageError: If it is called from within itself.
    """
    if _holder == [threading.get_ident()]:
        raise UsageError("an evaluation cannot start another one in its own loss or network")
    with _turn, ExitStack() as stack:
        _holder.append(threading.get_ident())
        stack.callback(_holder.clear)
        stack.enter_context(log.callers(speaks=speaks))
        stack.enter_context(user_code.borrowed())
        stack.enter_context(warnings.catch_warnings())
        stack.callback(_restore_environment, dict(os.environ))
        stack.enter_context(seeded())
        _prepare_torch(stack)
        yield


def _restore_environment(before: dict[str, str]) -> None:
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same numbers as ever, and put back what others would have drawn.

    Cards are not seeded: they would not forget it.
    """
    back = _random_numbers()
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    try:
        yield
    finally:
        for give_back in back:
            give_back()


def _random_numbers() -> list[Callable[[], Any]]:
    """Return what puts all random numbers back."""
    python, numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    back: list[Callable[[], Any]] = [
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),
        lambda: torch.set_rng_state(of_torch),
    ]
    if torch.cuda.is_initialized():
        cards = torch.cuda.get_rng_state_all()
        back.append(lambda: torch.cuda.set_rng_state_all(cards))
    return back


def _prepare_torch(stack: ExitStack) -> None:
    """Give torch the defaults of a new process, until the stack is left."""
    cudnn: Any = torch.backends.cudnn
    before = {name: getattr(cudnn, name) for name in ("deterministic", "benchmark")}
    for name, value in before.items():
        stack.callback(setattr, cudnn, name, value)
    cudnn.benchmark = False
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)
    if torch.get_default_device().type != "cpu":
        stack.enter_context(torch.device("cpu"))
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
