"""Several cells in one pass, for networks so small that a step takes longer to start than to do.

A multilayer perceptron is evaluated at G weights at once: its layers become products of stacks
of matrices, with samples along the last axis, where a loss over few classes runs fastest, too.
Cells are grouped by a fixed partition of the order of visiting (`Grid.pass_groups`),
whatever is missing, so that a cell's companions, and its bits, depend on the job alone.

Shapes: G cells, M numbers that move, N samples, C inputs and F outputs of a layer.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lsengine.models.layers import BatchNorm
from lsengine.objective.builtin import cross_entropy
from lsengine.objective.losses import Loss, of_samples

_WIDEST = 1024  # outputs of a layer times cells: more do not stay in a core's cache
_FEWEST, _MOST = 16, 64
LOSSES = ("cross_entropy", "mse")  # without options
SAMPLES = 256  # of a batch at once, on a CPU; for the same reason
_ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,  # in evaluation mode
)


def cells_per_pass(model: nn.Module, sample_shape: Sequence[int]) -> int:
    """Return how many cells to evaluate at once, by arithmetic on the network's shapes.

    More than one only for stacks (`nn.Sequential`) of linear layers, their normalisations and
    activations, with no layer wider than 64: there it was measured to pay (``docs/SPEED.md``).

    Example:
        >>> cells_per_pass(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), [64])
        32
    """
    layers = _layers(model)
    while layers and isinstance(layers[0], nn.Flatten) and layers[0].start_dim == 1:
        layers, sample_shape = layers[1:], [math.prod(sample_shape)]
    if len(sample_shape) != 1 or not layers or not isinstance(layers[0], nn.Linear):
        return 1
    if not all(_is_known(*pair) for pair in itertools.pairwise(layers)):
        return 1
    fitting = _WIDEST // max(la.out_features for la in layers if isinstance(la, nn.Linear))
    return min(_MOST, 1 << fitting.bit_length() - 1) if fitting >= _FEWEST else 1


def _is_known(before: nn.Module, layer: nn.Module) -> bool:
    if isinstance(layer, nn.BatchNorm1d):
        return isinstance(before, nn.Linear) and layer.running_mean is not None
    return type(layer) is nn.Linear or type(layer) in _ACTIVATIONS


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a stack of stacks in order; anything else as it is."""
    if type(model) is not nn.Sequential:
        return [model]
    return [layer for inner in model for layer in _layers(inner)]


class StackedMLP:
    """A perceptron, for which `cells_per_pass` is more than 1, at G weights at once.

    The slices say where the numbers of each parameter or statistic that moves are among the M.
    """

    def __init__(self, model: nn.Module, slices: Mapping[str, slice], weights_GM: Tensor) -> None:
        self._slices, self._weights_GM = slices, weights_GM
        self._names = {module: name for name, module in model.named_modules()}
        self._steps: list[Callable[[Tensor], Tensor]] = []
        layers = _layers(model)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Linear):
                norm = following if isinstance(following, BatchNorm) else None
                product = _linear if self._steps else _first
                self._steps.append(functools.partial(product, *self._folded(layer, norm)))
            elif isinstance(layer, _ACTIVATIONS):
                self._steps.append(torch.relu_ if isinstance(layer, nn.ReLU) else layer)

    def __call__(self, x_NC: Tensor) -> Tensor:
        """Return the outputs (G, F, N) of a batch at every row of weights."""
        h = x_NC.flatten(1).T.contiguous()
        for step in self._steps:
            h = step(h)
        return h

    def _folded(self, layer: nn.Linear, norm: BatchNorm | None) -> tuple[Tensor, Tensor | None]:
        """Return weight (G, F, C) and bias (G, F, 1) of a layer, its normalisation folded in."""
        weight = self._numbers(layer, "weight")
        bias = None if layer.bias is None else self._numbers(layer, "bias")
        if norm is not None:
            mean, var = (self._numbers(norm, f"running_{n}") for n in ("mean", "var"))
            scale = torch.rsqrt(var + norm.eps)
            if norm.affine:
                scale = scale * self._numbers(norm, "weight")
            shift = -mean * scale if bias is None else (bias - mean) * scale
            bias = shift + self._numbers(norm, "bias") if norm.affine else shift
            weight = weight * scale[..., None]
        weight_GFC = weight.expand(len(self._weights_GM), -1, -1).contiguous()
        return weight_GFC, None if bias is None else bias[..., None]

    def _numbers(self, layer: nn.Module, name: str) -> Tensor:
        """Return a parameter or statistic with a leading axis of cells, or of 1 if it stays."""
        tensor: Tensor = getattr(layer, name)
        moving = self._slices.get(f"{self._names[layer]}.{name}".lstrip("."))
        if moving is None:
            return tensor.detach()[None]
        return self._weights_GM[:, moving].view(-1, *tensor.shape)


def _first(weight_GFC: Tensor, bias_GF1: Tensor | None, x_CN: Tensor) -> Tensor:
    """Apply the first layer: the samples are the same for all cells, so one product does."""
    output_GFN = torch.mm(weight_GFC.flatten(0, 1), x_CN).view(*weight_GFC.shape[:2], -1)
    return output_GFN if bias_GF1 is None else output_GFN.add_(bias_GF1)


def _linear(weight_GFC: Tensor, bias_GF1: Tensor | None, h_GCN: Tensor) -> Tensor:
    output_GFN = torch.bmm(weight_GFC, h_GCN)
    return output_GFN if bias_GF1 is None else output_GFN.add_(bias_GF1)


def losses_and_hits(loss: Loss, logits_GKN: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses (G, N) of a built-in loss, and whether the largest output is the target.

    The outputs are in float32 or float64.  Hits mean something if the N targets are classes.
    """
    if loss is not cross_entropy or targets.is_floating_point():
        return _one_by_one(loss, logits_GKN.double(), targets)
    # Cross entropy of logits z with target t is log(sum_k exp(z_k)) - z_t.  With d_k = z_k - max z
    # it is log1p(sum exp(d_k) over all but the largest) - d_t: far fewer and faster steps than
    # `loss` takes, and as exact as the logits, since the 1 of the largest is not in the sum and
    # small losses keep all their digits.  The sign of d_k is -1 below the largest and 0 at it, so
    # that a product with it leaves the largest out of the sum.
    cells, classes, samples = logits_GKN.shape
    below_GKN = logits_GKN - logits_GKN.amax(1, keepdim=True)
    of_target_GN = below_GKN.gather(1, targets.expand(cells, 1, -1)).squeeze(1)
    lower_GKN = below_GKN.sign()
    # That needs exactly one largest logit in every sample: K - 1 signs of -1.
    is_odd_G = lower_GKN.flatten(1).sum(1) != samples * (1 - classes)
    losses_GN = below_GKN.exp_().mul_(lower_GKN).sum(1).neg_().log1p_().sub_(of_target_GN)
    hits_GN = of_target_GN == 0
    if bool(is_odd_G.any()):  # two largest logits, or none (NaN): there the first one counts
        wide_GKN = logits_GKN[is_odd_G].double()
        odd_losses, odd_hits = _one_by_one(loss, wide_GKN, targets)
        losses_GN[is_odd_G], hits_GN[is_odd_G] = odd_losses.to(losses_GN.dtype), odd_hits
    return losses_GN, hits_GN


def _one_by_one(loss: Loss, logits_GKN: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `Objective.losses` does: every sample of every cell is a row of one long batch."""
    cells, _, samples = logits_GKN.shape
    indices_GN = logits_GKN.max(1).indices
    repeated = targets.repeat(cells, *[1] * (targets.ndim - 1))
    flat = of_samples(loss, logits_GKN.transpose(1, 2).flatten(0, 1), repeated)
    losses_GN = flat.values.view(cells, samples)
    return losses_GN, indices_GN == targets if targets.ndim == 1 else indices_GN > 0
