"""The process and the network of a caller, left as they were found."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import lsengine
from lsengine import devices, log
from lsengine.api import process
from lsengine.errors import UsageError
from tests.support.memory import network, samples


def _seen_of(model):
    """Return everything that can be seen of a network and of this process."""
    logger, cudnn = logging.getLogger("lsengine"), torch.backends.cudnn
    python = [random.getstate(), sys.path[:], dict(os.environ), Path.cwd(), warnings.filters[:]]
    python += [[signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]]
    python += [logger.handlers[:], logger.level, logger.propagate, threading.active_count()]
    flags = [cudnn.deterministic, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32]
    flags += [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()]
    flags += [torch.are_deterministic_algorithms_enabled(), torch.get_default_device()]
    numbers = [torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()]
    numbers += [(n, t.data_ptr(), t.numpy().tobytes()) for n, t in model.state_dict().items()]
    numbers += [
        (p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes(), p._version)
        for p in model.parameters()
    ]
    modes = [(m.training, dict(m._forward_hooks), dict(m._backward_hooks)) for m in model.modules()]
    return python, flags, numbers, modes


@pytest.fixture
def odd():
    """Set everything otherwise than a new process has it, and put it back."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    yield
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


def test_all_is_as_it_was_bit_for_bit(odd, capfd):
    """Weights, mode, hooks, gradients, random numbers, flags, signals, log lines; no output."""
    model, (x, y), calls = network().train(), samples(), []
    model[0].weight.requires_grad_(False)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    hook = model[2].register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    before = _seen_of(model)
    with torch.no_grad():
        keys = {"grid": {"alpha": [-1, 1, 2]}, "threads": 2}
        lsengine.evaluate(model, (x, y), **keys, progress=False)
    assert calls.count(1) > 2  # a hook may be part of what a network computes
    assert _seen_of(model) == before
    assert torch.equal(torch.rand(3), expected)
    assert capfd.readouterr() == ("", "")
    hook.remove()


def test_values_do_not_depend_on_the_process(odd):
    """Whatever its defaults, random numbers and modes are."""

    def losses():
        return lsengine.evaluate(
            network(), samples(), grid=3, threads=1, progress=False
        ).quantities["train_loss"]

    plain = losses()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(3)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(losses(), plain)


def test_threads_take_turns():
    """Signals are the main thread's; an evaluation in another one has its values all the same."""
    found = {}

    def evaluate(seed):
        surface = lsengine.evaluate(network(seed), samples(), grid=3, progress=False, threads=1)
        found[seed] = surface.quantities["train_loss"]

    threads = [threading.Thread(target=evaluate, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(found)
    evaluate(1)
    np.testing.assert_array_equal(found[1], together[1])
    assert (together[1] != together[2]).any()


def test_an_evaluation_within_another_is_refused():
    """It would wait for itself."""
    with process.as_found(speaks=False), pytest.raises(UsageError, match="cannot start another"):
        lsengine.evaluate(network(), samples(), grid=3, progress=False)


def test_warnings_are_shown_if_a_caller_wants_them(capfd, monkeypatch):
    """On standard error; a caller with logging of its own gets them there."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    x, y = samples()
    broken = network()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    lsengine.evaluate(broken, (x, y), grid={"alpha": [0, 0, 1]}, progress=True)
    assert "lsengine: model.checkpoint: 0.weight holds NaN" in capfd.readouterr().err


def test_what_an_evaluation_may_change_is_put_back(odd):
    """Deterministic kernels, threads, defaults, random numbers."""
    before = _seen_of(network())[:2]
    with process.as_found(speaks=False):
        devices.use_deterministic_kernels()
        os.environ["LSENGINE_TEST"] = "1"
        sys.path.append("nowhere")
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float16)
        warnings.simplefilter("ignore")
        log.configure(rank=0)
        torch.rand(1), np.random.rand(), random.random()
    assert _seen_of(network())[:2] == before
