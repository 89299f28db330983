"""What lsengine makes of a random network, compared with plain float64 that shares no code with it.

Losses are taken at every cell.  The Hessian at the last cell is dense, by central differences of
gradients.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine import store
from lsengine.errors import EnvironmentUnfit, UsageError
from tests.support import own_networks
from tests.support.random_networks import Case

WEIGHTS = torch.tensor([1.0, 2.5, 0.5], dtype=torch.float64)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda o, t: F.cross_entropy(o, t.flatten()),
    "weighted": lambda o, t: F.cross_entropy(o, t, weight=WEIGHTS),
    "mse": lambda o, t: ((o - t) ** 2).mean(),
    "mse_labels": lambda o, t: ((o - torch.eye(3, dtype=torch.float64)[t]) ** 2).mean(),
    "mse_one": lambda o, t: ((o[:, 0] - t) ** 2).mean(),
    "absolute": lambda o, t: (1 + (o - t) ** 2).sqrt().sum(1).mean(),
    "bce": lambda o, t: F.softplus(torch.where(t == 1, -o[:, 0], o[:, 0])).mean(),
    "bce_many": lambda o, t: F.softplus(torch.where(t == 1, -o, o)).mean(),
}
RIGHT, REFUSED, WRONG, UNDULY = "right", "refused", "wrong", "refused though legitimate"
RELATIVE = {"float32": 1e-4, "float64": 1e-8}
STEP = 1e-5


@dataclass(frozen=True)
class Verdict:
    """What came of a case, and why."""

    seed: int
    outcome: str
    reason: str = ""
    parts: str = ""

    def __str__(self) -> str:
        return f"{self.seed}: {self.outcome}: {self.reason} [{self.parts}]"


def judge(case: Case, folder: Path) -> Verdict:
    """Run a case in an empty folder and say what came of it."""
    outcome, reason = RIGHT, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = _prepared(case, folder)
        job = own_networks.write(folder, case.code, case.x, case.y, **case.changes)
        try:
            found = own_networks.run(job)
        except (UsageError, EnvironmentUnfit) as error:
            reason = str(error)
            outcome = UNDULY if case.expected == RIGHT else REFUSED
        except Exception as error:
            outcome, reason = WRONG, f"{type(error).__name__}: {error}"
        else:
            if case.expected == REFUSED:
                outcome, reason = WRONG, "it was not refused"
            elif reason := _difference(case, module, job, found):
                outcome = WRONG
    return Verdict(case.seed, outcome, reason, ", ".join(filter(None, case.why)))


def kind_of(reason: str) -> str:
    """Return a reason without its numbers and names, to count it by."""
    return re.sub(r"-?\d[\d.e+-]*", "#", reason.splitlines()[0] if reason else "")[:110]


def _prepared(case: Case, folder: Path) -> ModuleType:
    """Write module and checkpoint, whose statistics are not those of a fresh network."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(own_networks.HEADER + case.code)
    module = own_networks.module(folder)
    torch.manual_seed(case.seed)
    model = module.make()
    _call_once(model, case)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    torch.save(state, folder / "ck.pt")
    return module


def _call_once(model: nn.Module, case: Case) -> None:
    """Let lazy layers take their shapes."""
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        model.eval()(_inputs(case)[:2].float())


def _inputs(case: Case) -> Tensor:
    x = torch.from_numpy(case.x.copy())
    if x.dtype == torch.uint8:
        return x.double() / 255
    return x.double() if x.is_floating_point() else x


def _network(case: Case, module: ModuleType, job: Path, alpha: float) -> nn.Module:
    """Return the network of a cell, in float64."""
    model = module.make()
    _call_once(model, case)
    model = own_networks.wide(model).eval()
    model.load_state_dict(torch.load(job.with_name("ck.pt")))
    inner = model.module if isinstance(model, nn.DataParallel) else model
    tensors = dict(inner.named_parameters()) | dict(inner.named_buffers())
    with torch.no_grad():
        for name, step in store.read_directions(job.with_name("job.h5"))["alpha"].items():
            tensors[name] += float(alpha) * torch.from_numpy(step).to(tensors[name].dtype)
    return model


def _outputs(case: Case, model: nn.Module) -> Tensor:
    output: Tensor = model(_inputs(case))
    return output.double()


def _difference(
    case: Case, module: ModuleType, job: Path, found: dict[str, NDArray[np.float64]]
) -> str:
    """Return how the values of a surface differ from the plain ones; nothing if they are right."""
    y = torch.from_numpy(case.y)
    y = y.double() if y.is_floating_point() else y
    loss = LOSSES[case.meaning]
    relative = RELATIVE[case.changes.get("precision", "float32")]
    alphas = store.read(job.with_name("job.h5")).axes["alpha"]
    for i, alpha in enumerate(alphas):
        model = _network(case, module, job, alpha)
        output = _outputs(case, model).detach()
        plain, value = float(loss(output, y)), float(found["train_loss"].ravel()[i])
        if not abs(value - plain) <= relative * max(abs(plain), 1e-3):
            return f"the loss at {alpha:g} is {value!r}, plainly {plain!r}"
        if "train_accuracy" in found:
            low, high = _accuracy(case, output, y, 10 * relative)
            value = float(found["train_accuracy"].ravel()[i])
            if not low - 1e-9 <= value <= high + 1e-9:
                return f"the accuracy at {alpha:g} is {value}, plainly {low} to {high}"
    if not case.has_curvature:
        return ""
    model = _network(case, module, job, alphas[-1])
    return difference_of_ends(model, lambda: loss(_outputs(case, model), y), found)


def _accuracy(case: Case, output: Tensor, y: Tensor, rounding: float) -> tuple[float, float]:
    """Return the accuracy, and what it may be where two answers are alike to rounding."""
    if case.meaning in ("bce", "bce_many"):
        margin = torch.where(y.reshape(output.shape) == 1, output, -output)
    else:
        own = output.gather(1, y.reshape(-1, 1))
        margin = (own - output.scatter(1, y.reshape(-1, 1), -torch.inf).amax(1, True))[:, 0]
    allowed = rounding * float(output.abs().max())
    shares = [float((margin > limit).double().mean()) for limit in (allowed, -allowed)]
    return shares[0], shares[1]


def difference_of_ends(
    model: nn.Module, mean_loss: Callable[[], Tensor], found: dict[str, NDArray[np.float64]]
) -> str:
    """Return how the last cell's eigenvalues differ from a dense Hessian's; nothing if right."""
    ends = np.linalg.eigvalsh(_hessian(model, mean_loss))[[0, -1]]
    larger = float(np.abs(ends).max())
    for name, plain in zip(("eigenvalue_min", "eigenvalue_max"), ends, strict=True):
        value, residual = (float(found[n].ravel()[-1]) for n in (name, f"{name}_residual"))
        allowed = max(1e-2 * larger, residual, 1e-5)
        if not abs(value - plain) <= allowed:
            return f"{name} is {value!r}, plainly {float(plain)!r}; the larger is {larger:.4g}"
    return ""


def _padding(model: nn.Module, weights: Sequence[Tensor], flat: Sequence[Tensor]) -> list[Tensor]:
    """Return which numbers belong to a token of padding, which no training changes."""
    masks = [torch.zeros_like(t, dtype=torch.bool) for t in flat]
    for module in model.modules():
        for weight, mask in zip(weights, masks, strict=True):
            if isinstance(module, nn.Embedding) and module.weight is weight:
                mask[[] if module.padding_idx is None else module.padding_idx] = True
    return masks


def _hessian(model: nn.Module, mean_loss: Callable[[], Tensor]) -> NDArray[np.float64]:
    """Return the dense Hessian by the trainable parameters, complex ones as pairs of reals."""
    weights = [p for p in model.parameters() if p.requires_grad]
    flat = [torch.view_as_real(p.data) if p.is_complex() else p.data for p in weights]
    start = torch.cat([t.reshape(-1) for t in flat])

    def put(vector: Tensor) -> None:
        for tensor, piece in zip(flat, vector.split([t.numel() for t in flat]), strict=True):
            tensor.copy_(piece.view(tensor.shape))

    def gradient(vector: Tensor) -> Tensor:
        put(vector)
        for parameter in model.parameters():
            parameter.grad = None
        mean_loss().backward()
        rows = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
        rows = [torch.view_as_real(r) if r.is_complex() else r for r in rows]
        return torch.cat([r.reshape(-1) for r in rows])

    steps = STEP * torch.eye(len(start), dtype=start.dtype)
    columns = [(gradient(start + s) - gradient(start - s)) / (2 * STEP) for s in steps]
    put(start)
    dense = torch.stack(columns).numpy()
    is_held = torch.cat([m.reshape(-1) for m in _padding(model, weights, flat)]).numpy()
    dense[is_held] = dense[:, is_held] = 0
    return np.asarray((dense + dense.T) / 2)
