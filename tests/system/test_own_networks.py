"""Networks and losses that people bring: the values of a plain loop, or one clear refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lsengine.engine import Options, connect
from lsengine.errors import UsageError
from tests.support import own_networks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40)
BINARY = RNG.integers(0, 2, 40)
VALUES = RNG.normal(size=(40, 3)).astype(np.float32)
LAYERS = """
class N(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


"""


def _squared(output, target):
    return (output.flatten(1) - target.flatten(1)).abs().square().mean()


def _compare(job, loss, rtol=2e-6):
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, loss), rtol=rtol)
    assert np.ptp(found) > 0


FNO = """
class FNO(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 1, 1)
        self.w = nn.Parameter(torch.randn(4, 4, 3, dtype=torch.cfloat) / 4)

    def forward(self, x):
        x_f = torch.fft.rfft(self.a(x))
        y_f = torch.zeros_like(x_f)
        y_f[..., :3] = torch.einsum("bim,iom->bom", x_f[..., :3], self.w.to(x_f.dtype))
        return self.b(torch.tanh(torch.fft.irfft(y_f, n=x.shape[-1])))


make = FNO
"""
ROTARY = """
class N(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        turns = torch.polar(torch.ones(4), torch.arange(4.0))
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, x):
        turned = torch.view_as_complex(self.q(x).reshape(-1, 4, 2)) * self.turns
        return self.o(torch.view_as_real(turned).flatten(1))


make = N
"""


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ["weights", "buffers"])
def test_complex_numbers_keep_their_imaginary_part(tmp_path, name, precision):
    """Weights of a Fourier layer, and a buffer that is not in the checkpoint."""
    x = RNG.normal(size=(20, 1, 16)).astype(np.float32) if name == "weights" else X
    y = RNG.normal(size=(20, 16)).astype(np.float32) if name == "weights" else VALUES
    code = FNO if name == "weights" else ROTARY
    job = own_networks.write(tmp_path, code, x, y, loss="mse", precision=precision)
    _compare(job, _squared, rtol=1e-12 if precision == "float64" else 2e-6)


def _pinn(body):
    return f"""
class N(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 16), nn.Linear(16, 1)

    def u(self, x):
        return self.b(torch.tanh(self.a(x)))

    def forward(self, x):
        {body}


make = N
"""


DERIVATIVES = {
    "functional": "return torch.autograd.functional.vjp(self.u, x, torch.ones_like(x))[1]",
    "func": "return torch.func.vmap(torch.func.jacrev(self.u))(x)[:, 0]",
    "grad": "x = x.requires_grad_(True); "
    "return torch.autograd.grad(self.u(x).sum(), x, create_graph=True)[0]",
    "grad that is switched on": """with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.u(x).sum(), x, create_graph=True)[0]""",
    "only where gradients are recorded": "return torch.autograd.functional.vjp(self.u, x, "
    "torch.ones_like(x))[1] if torch.is_grad_enabled() else self.u(x)",
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_networks_differentiate_in_forward(tmp_path, name):
    """By autograd, its functions, and torch.func; what was trained counts."""
    x, y = np.linspace(0, 1, 30, dtype=np.float32)[:, None], np.zeros((30, 1), np.float32)
    job = own_networks.write(tmp_path, _pinn(DERIVATIVES[name]), x, y, loss="mse")
    _compare(job, _squared)


BCE = """
def loss(output, target):
    return F.binary_cross_entropy_with_logits(
        output.view(target.shape), target.to(output.dtype), reduction="none"
    ).reshape(len(target), -1).mean(1)
"""


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_one_logit_has_a_loss_and_an_accuracy(tmp_path, shape):
    """Labels 0 and 1 of either shape; positive is 1."""
    code = "def make(): return nn.Linear(6, 1)\n" + BCE
    job = own_networks.write(tmp_path, code, X, BINARY.reshape(shape), loss="net:loss")
    found = own_networks.run(job)

    def loss(output, target):
        return F.binary_cross_entropy_with_logits(output, target.reshape(-1, 1).double())

    np.testing.assert_allclose(found["train_loss"], own_networks.naive(job, loss), rtol=2e-6)
    right = own_networks.naive(
        job, lambda o, t: ((o > 0).long() == t.reshape(-1, 1)).double().mean()
    )
    np.testing.assert_allclose(found["train_accuracy"], right)


def test_numbers_of_64_bits_are_not_rounded(tmp_path):
    """A loss that float32 could not tell from another one, from a factory in float32."""
    layer = torch.nn.Linear(3, 1).double()
    layer.weight.data.mul_(1e5)
    layer.bias.data.fill_(3e5)
    torch.save(layer.state_dict(), tmp_path / "ck.pt")
    x = torch.rand(50, 3).double()
    y = (layer(x) + 0.05 * torch.randn(50, 1).double()).detach()
    code = "def make(): return nn.Linear(3, 1)\n"
    job = own_networks.write(tmp_path, code, x.numpy(), y.numpy(), loss="mse", precision="float64")
    _compare(job, _squared, rtol=1e-9)


FACTORIES = {
    "data-parallel": "def make(): return nn.DataParallel(N())",
    "distributed": "from torch import distributed as dist\n\n\ndef make():\n"
    "    if not dist.is_initialized():\n"
    "        dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
    "    return nn.parallel.DistributedDataParallel(N())",
    "averaged": "def make(): return torch.optim.swa_utils.AveragedModel(N())",
    "compiled": "def make(): return torch.compile(N(), backend='eager')",
    "scripted": "def make(): return torch.jit.script(N())",
    "lazy": "def make():\n    model = N()\n    model.a = nn.LazyLinear(8)\n    return model",
    "left in training mode": "def make(): return nn.Sequential(N(), nn.Dropout(0.5)).train()",
    "writing into inputs": "class I(N):\n    def forward(self, x):\n        x.mul_(2)\n"
    "        return super().forward(x)\n\n\nmake = I",
    "old weight norm": "def make():\n    model = N()\n    nn.utils.weight_norm(model.a)\n"
    "    return model",
    "spectral norm": "def make():\n    model = N()\n"
    "    nn.utils.parametrizations.spectral_norm(model.a)\n    return model",
    "a mask of -inf": "def make():\n    model = N()\n"
    "    model.register_buffer('mask', torch.full((4, 4), -torch.inf).triu(1))\n    return model",
}


WRAPPED = ("data-parallel", "distributed", "averaged", "compiled", "lazy")


@pytest.fixture
def no_process_group():
    """End what a factory for distributed training has begun."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("no_process_group")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", FACTORIES)
def test_wrapped_and_unusual_modules_have_their_values(tmp_path, name, capsys):
    """As the plain network, by the loop."""
    torch.manual_seed(0)
    if name in WRAPPED:
        plain = tmp_path / "plain"
        own_networks.write(plain, LAYERS + "make = N\n", X, Y)
        (plain / "ck.pt").rename(tmp_path / "ck.pt")
    job = own_networks.write(tmp_path, LAYERS + FACTORIES[name] + "\n", X, Y)
    found = own_networks.run(job)["train_loss"]
    assert "WARNING" not in capsys.readouterr().err
    if name in WRAPPED:
        (tmp_path / "net.py").write_text(own_networks.HEADER + LAYERS + "make = N\n")
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=2e-6)


def test_a_loss_that_is_a_mean_has_a_centre_check(tmp_path, capsys):
    """And no error bar."""
    code = LAYERS + "make = N\n\n\ndef loss(o, t): return F.cross_entropy(o, t)\n"
    job = own_networks.write(tmp_path, code, X, Y, loss="net:loss")
    _compare(job, F.cross_entropy)
    assert "centre check passed" in capsys.readouterr().err


def test_a_loss_may_write_into_its_arguments(tmp_path):
    """Neither the targets of the next cell nor the accuracy know of it."""
    code = (
        LAYERS
        + "make = N\n\n\ndef loss(o, t):\n    t *= 2\n    o -= t\n    return o.square().mean(1)\n"
    )
    job = own_networks.write(tmp_path, code, X, VALUES, loss="net:loss")
    _compare(job, lambda o, t: _squared(o, 2 * t))


KEEPING = """
class Keeping(N):
    def forward(self, x):
        if not hasattr(self, "kept"):
            self.kept = self.a.weight.detach().clone()
        return self.b(torch.relu(F.linear(x, self.kept)))


make = Keeping
"""
MERGED = """
class Merged(N):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(8, 2))
        self.is_merged = False

    def train(self, mode=True):
        if mode == self.is_merged:
            self.a.weight.data += (-1) ** mode * self.up @ self.down
            self.is_merged = not mode
        return super().train(mode)


make = Merged
"""
OF_ALL = "make = N\n\n\ndef loss(o, t):\n    return F.cross_entropy(o, t, reduction='none')"
REFUSED = {
    "the same network twice": ("ONE = N()\n\n\ndef make(): return ONE", "make a new one in every"),
    "a copy of weights": (KEEPING, "displaced before its first use"),
    "adapters that are merged into what moves": (MERGED, "displaced before its first use"),
    "a view of weights": (
        "def make():\n    model = N()\n    model.kept = model.a.weight.t()\n    return model",
        "cannot be copied",
    ),
    "parts in two precisions": (
        "class M(N):\n    def forward(self, x):\n        return self.b(self.a(x.double()).float())"
        "\n\n\ndef make():\n    model = M()\n    model.a.double()\n    return model",
        "insist on other dtypes",
    ),
    "a frozen script": (
        "def make(): return torch.jit.freeze(torch.jit.script(N().eval()))",
        "without parameters.*frozen script",
    ),
    "an exported program": (
        "def make(): return torch.export.export(N(), (torch.ones(2, 6),)).module()",
        "mode cannot be set.*before torch.export",
    ),
    "a dict of outputs": (
        "class D(N):\n    def forward(self, x): return {'o': super().forward(x)}\n\n\nmake = D",
        "returns dict with o, and no tensor logits; let it return one tensor",
    ),
    "one output for all": (
        "class D(N):\n    def forward(self, x): return super().forward(x).mean()\n\n\nmake = D",
        r"got shape \[\] for 2 samples",
    ),
    "an exit": (
        "class D(N):\n    def forward(self, x): raise SystemExit(1)\n\n\nmake = D",
        "SystemExit",
    ),
    "noise in the loss": (OF_ALL + " * torch.rand(len(o))", "loss: two calls of net:loss"),
    "negative weights": (OF_ALL + ", 1.0 - t", "weights that are negative"),
    "weights of zero": (OF_ALL + ", 0.0 * t", "weights of all 40 train samples are 0"),
    "a loss per position": (
        "make = N\n\n\ndef loss(o, t): return (o.view(-1) ** 2)",
        r"\.reshape\(len\(target\), -1\)\.mean\(1\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(tmp_path, name):
    """With the cause and the cure, before the first cell."""
    code, match = REFUSED[name]
    changes = {"loss": "net:loss"} if "def loss" in code else {}
    state = tmp_path / "state"
    plain = name in ("an exit", "a dict of outputs", "one output for all")
    job = own_networks.write(state, LAYERS + ("make = N\n" if plain else code), X, Y, **changes)
    (state / "net.py").write_text(own_networks.HEADER + LAYERS + code + "\n")
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)


@pytest.mark.parametrize(
    ("code", "x", "match"),
    [
        ("make = N", RNG.integers(0, 5, (40, 6)), "store them as floats"),
        ("def make(): return nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(18, 3))",
         np.ones((40, 6), np.float32), "store tokens as integers"),
        ("def make(): return nn.Sequential(nn.Conv2d(3, 3, 4), nn.Flatten())",
         np.ones((40, 1, 4, 4), np.float32), "data.args.channels: 3"),
    ],
    ids=["integers", "tokens", "grey"],
)  # fmt: skip
def test_inputs_of_another_kind_are_told_what_to_do(tmp_path, code, x, match):
    """Integers where floats are wanted, the other way round, and grey images."""
    job = own_networks.write(tmp_path, LAYERS + code + "\n", x, Y)
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)


def test_broadcast_targets_of_a_mean_are_named(tmp_path):
    """The twin sees that it is no mean over samples, and the shapes say why."""
    code = "def make(): return nn.Linear(6, 1)\n\n\ndef loss(o, t): return ((o - t) ** 2).mean()\n"
    job = own_networks.write(tmp_path, code, X, VALUES[:, 0], loss="net:loss")
    with pytest.raises(UsageError, match=r"not a mean.*broadcast.*output\.view_as\(target\)"):
        own_networks.run(job)


def test_statistics_of_a_mean_alone_are_recalibrated(tmp_path):
    """A module of one's own with a running mean and no variance."""
    code = """
class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(6))
        self.momentum = 0.1

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(x.mean(0), self.momentum)
        return x - self.running_mean


def make(): return nn.Sequential(Centred(), nn.Linear(6, 3))
"""
    policy = {"policy": "recalibrated", "samples": 40, "batch_size": 40}
    job = own_networks.write(tmp_path, code, X, Y, batch_norm=policy)
    found = own_networks.run(job)["train_loss"]
    centred = torch.from_numpy(X).double() - torch.from_numpy(X).double().mean(0)
    expected = [
        float(F.cross_entropy(model[1](centred).detach(), torch.from_numpy(Y)))
        for model in own_networks.networks_at_cells(job)
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_network_is_not_connected(tmp_path):
    """Its weights cannot be put on a curve; the message says what can."""
    code = LAYERS + FACTORIES["scripted"] + "\n"
    curve = {"to": "other.pt", "epochs": 1, "output": "curve"}
    grid = {"alpha": [0, 1, 3]}
    job = own_networks.write(tmp_path, code, X, Y, curve=curve, directions=None, grid=grid)
    torch.save(own_networks.module(tmp_path).make().state_dict(), tmp_path / "other.pt")
    with pytest.raises(UsageError, match="TorchScript network cannot be put on a curve"):
        connect.run(job, Options(progress="none"), world=None)
