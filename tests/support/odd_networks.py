"""Small networks that differentiate in unusual ways, and their curvature by differences."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils import checkpoint


class Once(torch.autograd.Function):
    """A tanh with one derivative only, as many compiled operators come."""

    @staticmethod
    def forward(ctx, x):
        """Return the tanh."""
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient."""
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class OnceReLU(torch.autograd.Function):
    """A ReLU with one derivative only."""

    @staticmethod
    def forward(ctx, x):
        """Return the positive part."""
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Return the gradient."""
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


class OnContext(torch.autograd.Function):
    """A tanh that keeps a detached input on its context."""

    @staticmethod
    def forward(ctx, x):
        """Return the tanh."""
        ctx.x = x.detach().clone()
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradient; its own derivative by x is lost."""
        return grad * (1 - torch.tanh(ctx.x) ** 2)


class WrongJvp(torch.autograd.Function):
    """A tanh whose forward mode is wrong by a factor."""

    @staticmethod
    def forward(x):
        """Return the tanh."""
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the input."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        """Return the gradient."""
        (x,) = ctx.saved_tensors
        return grad * (1 - torch.tanh(x) ** 2)

    @staticmethod
    def jvp(ctx, tangent):
        """Return twice the right tangent."""
        (x,) = ctx.saved_tensors
        return 2 * tangent * (1 - torch.tanh(x) ** 2)


class InPlace(torch.autograd.Function):
    """A tanh in place."""

    @staticmethod
    def forward(ctx, x):
        """Write the tanh over the input."""
        x.tanh_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        """Return the gradient."""
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class StraightThrough(torch.autograd.Function):
    """Rounds, and says that it did not."""

    @staticmethod
    def forward(ctx, x):
        """Return quarters."""
        return torch.round(4 * x) / 4

    @staticmethod
    def backward(ctx, grad):
        """Pass the gradient on."""
        return grad


class OwnCheckpoint(torch.autograd.Function):
    """Reentrant checkpointing as people write it: parameters get their gradients on the side."""

    @staticmethod
    def forward(ctx, function, x):
        """Call without a graph."""
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, grad):
        """Call again and go back through that."""
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        torch.autograd.backward(y, grad)
        return None, x.grad


class Middle(nn.Module):
    """Three layers with a function of one's own in between."""

    def __init__(self, middle, width=8):
        super().__init__()
        self.middle = middle
        self.a, self.m, self.b = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        """Return three outputs."""
        return self.b(self.middle(self, self.a(x)))


def tanh_layer(net, h):
    """Return the middle layer with a tanh."""
    return torch.tanh(net.m(h))


def checkpointed(*, use_reentrant):
    """Return a network whose middle is checkpointed."""
    return Middle(
        lambda net, h: checkpoint.checkpoint(
            lambda z: tanh_layer(net, z), h, use_reentrant=use_reentrant
        )
    )


class WholeCheckpointed(nn.Module):
    """A network that is checkpointed from its input on, which needs no gradient."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        """Return three outputs."""
        return checkpoint.checkpoint(self.net, x, use_reentrant=True)


class Recurrent(nn.Module):
    """A recurrent network over three steps."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.b = layer(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        """Return three outputs."""
        return self.b(self.layer(x.view(-1, 3, 2))[0][:, -1])


class Attention(nn.Module):
    """Scaled dot-product attention over three tokens."""

    def __init__(self):
        super().__init__()
        self.q, self.b = nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, x):
        """Return three outputs."""
        h = self.q(x.view(-1, 3, 2))[:, None]
        return self.b(F.scaled_dot_product_attention(h, h, h, is_causal=True)[:, 0].mean(1))


class Residual(nn.Module):
    """The residual u' + u of a small network u, as physics-informed networks have it."""

    def __init__(self, how):
        super().__init__()
        self.how, self.a, self.b = how, nn.Linear(6, 8), nn.Linear(8, 1)

    def u(self, x):
        """Return the solution."""
        return self.b(torch.tanh(self.a(x)))

    def forward(self, x):
        """Return the sum of solution and derivatives, three outputs."""
        if self.how == "vjp":
            slope = torch.autograd.functional.vjp(lambda z: self.u(z).sum(), x)[1]
        elif self.how == "func":
            slope = torch.func.vmap(torch.func.grad(lambda z: self.u(z[None])[0, 0]))(x)
        else:
            with torch.enable_grad():
                x.requires_grad_()
                graph = {} if self.how == "graph not kept" else {"create_graph": True}
                slope = torch.autograd.grad(self.u(x).sum(), x, **graph)[0]
        return slope[:, :3] + self.u(x)


class Fourier(nn.Module):
    """A layer with complex weights behind an odd number of real ones."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))
        self.a, self.b = nn.Conv1d(1, 3, 1), nn.Conv1d(3, 1, 1)
        self.w = nn.Parameter(torch.randn(3, 3, 2, dtype=torch.cfloat) / 4)

    def forward(self, x):
        """Return three outputs."""
        modes = torch.fft.rfft(self.a(x[:, None] * self.scale[0] + self.scale[1]))
        kept = torch.zeros_like(modes)
        kept[..., :2] = torch.einsum("bim,iom->bom", modes[..., :2], self.w)
        return self.b(torch.tanh(torch.fft.irfft(kept, n=x.shape[-1])))[:, 0, :3]


class Counting(nn.Module):
    """A network that keeps a running mean, in place or as a new tensor, also in evaluation."""

    def __init__(self, is_in_place):
        super().__init__()
        self.is_in_place, self.a, self.b = is_in_place, nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.ones(8))

    def forward(self, x):
        """Return three outputs, which the mean decides, too."""
        h = torch.tanh(self.a(x))
        if self.is_in_place:
            self.mean.mul_(0.5).add_(0.1)
        else:
            self.mean = self.mean * 0.5 + 0.1
        return self.b(h * self.mean)


class Held(nn.Module):
    """A network that reaches its parameters by a list of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.held = [self.a.weight, self.a.bias]

    def forward(self, x):
        """Return three outputs."""
        return self.b(torch.tanh(F.linear(x, *self.held)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        """Return three outputs."""
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Mixed(nn.Module):
    """A layer in float32 and one in float64."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3).double()

    def forward(self, x):
        """Return three outputs."""
        return self.b(torch.tanh(self.a(x.to(self.a.weight.dtype))).to(self.b.weight.dtype))


class Writing(nn.Module):
    """A network that writes into its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        """Return three outputs."""
        x.mul_(0.5)
        return self.b(torch.tanh(self.a(x)))


class Hooked(nn.Module):
    """A network with hooks that change outputs, and gradients of a parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.a.register_forward_hook(lambda module, args, output: 2 * output)
        self.a.weight.register_hook(lambda grad: 3 * grad)

    def forward(self, x):
        """Return three outputs."""
        return self.b(torch.tanh(self.a(x)))


def smooth():
    """Return a plain network."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def curvature_by_losses(model, inputs, targets, loss, u, v, step=1e-4):
    """Return ``u' H v`` of the mean loss by four plain losses in float64, with a copy."""
    model = copy.deepcopy(model)
    for t in (*model.parameters(), *model.buffers()):
        wide = torch.complex128 if t.is_complex() else torch.float64
        t.data = (t.data.to(wide) if t.is_floating_point() or t.is_complex() else t.data).clone()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    flat = [
        torch.view_as_real(p.data).view(-1) if p.is_complex() else p.data.view(-1)
        for p in model.parameters()
    ]
    centre = torch.cat(flat).clone()

    def mean_loss(at):
        for f, piece in zip(flat, at.split([len(f) for f in flat]), strict=True):
            f.copy_(piece)
        for name, value in buffers.items():
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = value.clone()
        losses = loss(model(inputs.double().clone()).detach(), targets)
        if isinstance(losses, tuple):
            return float((losses[0] * losses[1]).sum() / losses[1].sum())
        return float(losses.mean())

    corners = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
    terms = [sign * mean_loss(centre + step * (a * u + b * v)) for a, b, sign in corners]
    return sum(terms) / (4 * step * step)
