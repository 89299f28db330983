"""Products of the Hessian of a mean loss with vectors.

Shape suffixes: N samples of a batch, P numbers of the chosen parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lsengine.curvature.batches import Batch
from lsengine.curvature.choice import chosen_way
from lsengine.curvature.products import Call, Loss, Products, Tensors, Way
from lsengine.data.nesting import count
from lsengine.models import calling


class Hessian:
    """The Hessian of the mean loss over all samples, as a product with a vector.

    The parameters are read anew for every product and never written, so one operator serves
    all cells of a surface: displace the model's weights, then multiply.  A vector holds the
    parameters in the order of ``names``, each flattened in row-major order whatever its
    strides.

    A product differentiates backwards through the directional derivative of the loss
    (reverse over forward; Griewank and Walther 2008, section 3.4, for its cost): about three
    gradients, and on a CPU less than forward over reverse or two backward passes, see
    ``benchmarks/bench_curvature.py``.  Where that is not right for a network, two backward
    passes are used, or differences of gradients (`lsengine.curvature.choice`).  Beside the
    activations of one mini-batch and their tangents, a product holds two vectors, the result and
    one mini-batch's share of it.

    Args:
        model: In evaluation mode; ``requires_grad`` does not matter.
        batches: Resident inputs (N, ...) and targets (N, ...), or nestings of them, of any sizes;
            the mean is over samples, not over batches.
        loss: Takes float64 outputs and targets to losses of any shape, whose mean counts, or to
            losses and weights, whose weighted mean counts over all batches.  Outputs that are no
            tensor it gets as they are.
        call: What is done with the network and a batch's inputs to get outputs.
        keeps_batches: Whether a loss may depend on the rest of its batch, which is then not cut.
        names: The parameters to differentiate by; default all that are real or complex.
        tick: Called before every mini-batch; may raise to abandon the product.
        way: How to multiply; by default what a check at the present weights finds right.
        tf32: Whether CUDA may round the factors of products to 10 bits.

    Attributes:
        names: The parameters, in the order of the model.
        size: P, the length of a vector; a complex number counts twice.
        dtype, device: Of vectors.
        way: How products are computed.

    Raises:
        ValueError: If a name is unknown, none is given, there is no sample, the parameters
            are on several devices, or the model is in training mode (the loss of a batch
            would then depend on its other samples).
        UsageError: If the gradient is not the derivative of the loss, so that no way is right.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        loss: Loss,
        *,
        call: Call = calling.call,
        keeps_batches: bool = False,
        names: Sequence[str] | None = None,
        tick: Callable[[], None] = lambda: None,
        way: Way | None = None,
        tf32: bool = False,
    ) -> None:
        parameters = dict(model.named_parameters())
        numbers = [n for n, p in parameters.items() if p.is_floating_point() or p.is_complex()]
        chosen = set(numbers if names is None else names)
        if unknown := sorted(chosen - set(numbers)):
            raise ValueError(f"the model has no parameter {', '.join(unknown)}")
        samples = sum(count(inputs) for inputs, _ in batches)
        if not chosen or not samples:
            raise ValueError(
                f"expected samples and parameters; got {samples} samples and {len(chosen)} "
                "parameters"
            )
        if any(m.training for m in model.modules()):
            raise ValueError("the model is in training mode; call eval() first")
        self._products = Products(
            model, loss, chosen, call=call, keeps_batches=keeps_batches, tf32=tf32
        )
        self.names, self.size = self._products.names, self._products.size
        self.dtype, self.device = self._products.dtype, self._products.device
        self._batches, self._tick = batches, tick
        self.way = chosen_way(self._products, batches) if way is None else way
        self._shares: Sequence[float] = ()

    def __call__(self, vector_P: Tensor) -> Tensor:
        """Return the Hessian at the model's present weights times ``vector_P``, (P,)."""
        if not self._shares:
            self._shares = self._products.shares(self._batches, self.way)
        return self._products.product(
            self._batches, self._shares, vector_P, self.way, tick=self._tick
        )

    def unflatten(self, vector_P: Tensor) -> Tensors:
        """View a vector (P,) as tensors named and shaped like the parameters.

        Of complex parameters they are copies.

        Raises:
            ValueError: If the vector is not of shape (P,).
        """
        return self._products.unflatten(vector_P)
