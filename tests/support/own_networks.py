"""Networks that people bring themselves: jobs of them, and what their losses are by a plain loop.

The loop shares no code with lsengine.
"""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import store
from lsengine.engine import Options, evaluate

HEADER = """
import torch
from torch import nn
from torch.nn import functional as F

"""
GRID = {"alpha": [-0.5, 0.5, 3]}


def write(folder: Path, code: str, x: Any, y: Any, **changes: Any) -> Path:
    """Write a network's module, whose factory is ``make``, its checkpoint, data and job.

    The module also has the loss, if the job names one.  Sections are replaced by ``changes``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(HEADER + code)
    torch.manual_seed(0)
    if not (folder / "ck.pt").exists():
        torch.save(module(folder).make().state_dict(), folder / "ck.pt")
    np.savez(folder / "d.npz", x_train=x, y_train=y)
    document = {
        "model": {"arch": "net:make", "checkpoint": "ck.pt"},
        "data": {"dataset": "arrays", "root": "d.npz", "splits": ["train"]},
        "directions": {"alpha": {"kind": "random", "seed": 1}},
        "grid": GRID,
        "threads": 1,
        "device": "cpu",
        "output": "job.h5",
    } | changes
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def module(folder: Path) -> ModuleType:
    """Import the network's module anew, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"net_{uuid.uuid4().hex}", folder / "net.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def run(job: Path) -> dict[str, NDArray[np.float64]]:
    """Evaluate a job and return the quantities of its surface."""
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return dict(store.read(job.with_name("job.h5")).quantities)


def wide(model: nn.Module) -> nn.Module:
    """Bring a network to float64 and complex128."""
    for tensor in (*model.parameters(), *model.buffers()):
        kind = torch.complex128 if tensor.is_complex() else torch.float64
        if tensor.is_complex() or tensor.is_floating_point():
            tensor.data = tensor.data.to(kind)
    return model


def networks_at_cells(job: Path) -> list[nn.Module]:
    """Return the network of every cell along alpha, in float64, by the directions of the file."""
    output = job.with_name("job.h5")
    direction = store.read_directions(output)["alpha"]
    state = torch.load(job.with_name("ck.pt"))
    moved = []
    for alpha in store.read(output).axes["alpha"]:
        model = wide(module(job.parent).make()).eval()
        model.load_state_dict(state)
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, step in direction.items():
                tensors[name] += float(alpha) * torch.from_numpy(step).to(tensors[name].dtype)
        moved.append(model)
    return moved


def naive(
    job: Path, loss: Callable[[Tensor, Tensor], Tensor], samples: slice = slice(None)
) -> Sequence[float]:
    """Return ``loss`` of the outputs and targets of samples at every cell, in float64."""
    with np.load(job.with_name("d.npz")) as data:
        x, y = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"])
    x, y = (t[samples].double() if t.is_floating_point() else t[samples] for t in (x, y))
    return [float(loss(model(x.clone()).detach(), y)) for model in networks_at_cells(job)]
