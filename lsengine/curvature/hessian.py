"""Products of the Hessian of a mean loss with vectors.

Shape suffixes: N samples of a batch, P numbers of the chosen parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from lsengine import devices

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
Tensors = dict[str, Tensor]
_MeanLoss = Callable[[Tensors], Tensor]
_Product = Callable[[_MeanLoss, Tensors, Tensors], Tensors]


class Hessian:
    """The Hessian of the mean loss over all samples, as a product with a vector.

    The parameters are read anew for every product and never written, so one operator serves
    all cells of a surface: displace the model's weights, then multiply.  A vector holds the
    parameters in the order of ``names``, each flattened in row-major order whatever its
    strides.

    A product differentiates backwards through the directional derivative of the loss
    (reverse over forward; Griewank and Walther 2008, section 3.4, for its cost): about three
    gradients, and on a CPU less than forward over reverse or two backward passes, see
    ``benchmarks/bench_curvature.py``.  If something in the model or the loss has no
    forward mode, two backward passes are used.  Beside the activations of one mini-batch and
    their tangents, a product holds two vectors, the result and one mini-batch's share of it.

    Args:
        model: In evaluation mode; ``requires_grad`` does not matter.
        batches: Resident inputs (N, ...) and targets (N, ...), of any sizes; the mean is
            over samples, not over batches.
        loss: Takes float64 outputs and targets to losses of any shape, whose mean counts.
        names: The parameters to differentiate by; default all.
        tick: Called before every mini-batch; may raise to abandon the product.

    Attributes:
        names: The parameters, in the order of the model.
        size: P, the length of a vector.
        dtype, device: Of parameters and vectors.
        forward_mode: Whether model and loss have a forward mode.

    Raises:
        ValueError: If a name is unknown, none is given, there is no sample, the parameters
            differ in dtype or device, or the model is in training mode (the loss of a batch
            would then depend on its other samples).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        loss: Loss,
        *,
        names: Sequence[str] | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        parameters = dict(model.named_parameters())
        chosen = set(parameters if names is None else names)
        if unknown := sorted(chosen - parameters.keys()):
            raise ValueError(f"the model has no parameter {', '.join(unknown)}")
        self.names = [name for name in parameters if name in chosen]
        self._samples = sum(len(inputs) for inputs, _ in batches)
        kinds = {(parameters[n].dtype, parameters[n].device) for n in self.names}
        if len(kinds) != 1 or not self._samples:
            raise ValueError(
                "expected samples, and parameters of one dtype on one device; got "
                f"{self._samples} samples and {sorted(map(str, kinds))}"
            )
        if any(m.training for m in model.modules()):
            raise ValueError("the model is in training mode; call eval() first")
        self.dtype, self.device = kinds.pop()
        self.size = sum(parameters[n].numel() for n in self.names)
        self._model, self._batches, self._loss, self._tick = model, batches, loss, tick
        self._as_it_is = devices.is_channels_last_safe(model, self.device)
        self.forward_mode = self._has_forward_mode()

    def __call__(self, vector_P: Tensor) -> Tensor:
        """Return the Hessian at the model's present weights times ``vector_P``, (P,)."""
        how = _reverse_over_forward if self.forward_mode else _reverse_over_reverse
        return self._product(self._batches, vector_P, how)

    def unflatten(self, vector_P: Tensor) -> Tensors:
        """View a vector (P,) as tensors named and shaped like the parameters.

        Raises:
            ValueError: If the vector is not of shape (P,).
        """
        if vector_P.shape != (self.size,):
            raise ValueError(f"expected shape [{self.size}], got {[*vector_P.shape]}")
        shapes = [self._model.get_parameter(name).shape for name in self.names]
        pieces = vector_P.split([shape.numel() for shape in shapes])
        pairs = zip(self.names, pieces, shapes, strict=True)
        return {name: piece.view(shape) for name, piece, shape in pairs}

    def _product(self, batches: Sequence[Batch], vector_P: Tensor, how: _Product) -> Tensor:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),  # the only kernel of attention with second derivatives
            devices.tf32(False),  # its 10 bits would be rounded twice
        ):
            # a clone made outside of inference mode is a tensor that autograd accepts
            vector_P = vector_P.clone() if vector_P.is_inference() else vector_P.detach()
            result_P = torch.zeros_like(vector_P)
            fixed = {name: self._laid_out(p) for name, p in self._model.named_parameters()}
            weights = {name: fixed.pop(name) for name in self.names}
            tangents, totals = self.unflatten(vector_P), self.unflatten(result_P)
            for inputs, targets in batches:
                self._tick()
                batch = (self._laid_out(inputs), targets)
                share = how(partial(self._mean_loss, batch, fixed), weights, tangents)
                for name, total in totals.items():
                    total.add_(share[name], alpha=len(inputs) / self._samples)
        return result_P

    def _laid_out(self, tensor: Tensor) -> Tensor:
        """Return a constant of a product in an order of memory that it survives."""
        return tensor.detach() if self._as_it_is else devices.row_major(tensor)

    def _has_forward_mode(self) -> bool:
        """Try a product with two samples, so that what is used depends on the model alone."""
        inputs, targets = self._batches[0]
        nothing_P = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        try:
            self._product([(inputs[:2], targets[:2])], nothing_P, _reverse_over_forward)
        except RuntimeError:  # NotImplementedError is one; two backward passes may do better
            return False
        return True

    def _mean_loss(self, batch: Batch, fixed: Tensors, weights: Tensors) -> Tensor:
        inputs, targets = batch
        output = functional_call(self._model, {**fixed, **weights}, (inputs,))
        # float64: at a minimum the softmax of float32 logits has lost the small losses
        return self._loss(output.to(targets.device, torch.float64), targets).mean()


def _reverse_over_forward(mean_loss: _MeanLoss, weights: Tensors, tangents: Tensors) -> Tensors:
    """Differentiate the directional derivative of the loss.

    Backwards by plain autograd: ``torch.func.grad`` loads the compiler, which takes every
    worker two seconds.
    """
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    slope = jvp(mean_loss, (leaves,), (tangents,))[1]
    return _gradients([slope], leaves, [None])


def _reverse_over_reverse(mean_loss: _MeanLoss, weights: Tensors, tangents: Tensors) -> Tensors:
    """Differentiate the gradient's product with the vector, by plain autograd.

    Without ``jvp``, so that autograd functions written for plain autograd work.
    """
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    inputs = list(leaves.values())
    gradient = torch.autograd.grad(
        mean_loss(leaves), inputs, create_graph=True, materialize_grads=True
    )
    return _gradients(gradient, leaves, list(tangents.values()))


def _gradients(
    outputs: Sequence[Tensor], leaves: Tensors, factors: Sequence[Tensor | None]
) -> Tensors:
    """Return the gradients, by name, of the sum of outputs times factors.

    Outputs that depend on no leaf count as constants, as does the slope of a loss linear in
    the parameters.
    """
    pairs = [(o, f) for o, f in zip(outputs, factors, strict=False) if o.requires_grad]
    if not pairs:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    terms, weights = zip(*pairs, strict=True)
    rows = torch.autograd.grad(terms, list(leaves.values()), weights, materialize_grads=True)
    return dict(zip(leaves, rows, strict=True))
