"""Forward passes: how a network's outputs are computed, and with which numbers.

In the place of outputs there may be what an objective makes of network and batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import devices
from lsengine.data.nesting import Nested, leaves, mapped
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.geometry.parameters import can_move, dtype_like, real_dtype
from lsengine.models import calling
from lsengine.models.copies import duplicate, original_number
from lsengine.objective.outputs import nested_output

Call = Callable[[nn.Module, Nested], Any]
"""From network and inputs to outputs; or from network and batch to what an objective returns."""


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Bring a network's real numbers to a dtype, and its complex ones to that precision.

    Unlike torch's ``to``, which drops imaginary parts.
    """
    model._apply(lambda t: t.to(dtype_like(t, dtype)) if can_move(t) else t)
    return model


@dataclass(frozen=True, slots=True)
class Manner:
    """How the code of a user's own network has to be called, found out by `manner_of`."""

    records: bool = False  # with gradients recorded, since it differentiates
    copies: bool = False  # with a copy of the inputs, since it writes into them

    def call(self, model: nn.Module, inputs: Nested, call: Call = calling.call) -> Any:
        """Return the outputs of a batch, without a history of gradients."""
        with torch.set_grad_enabled(self.records):
            output = call(model, _copy(inputs) if self.copies else inputs)
        return output.detach() if isinstance(output, Tensor) else output

    def __str__(self) -> str:
        extras = {"gradients recorded": self.records, "inputs copied": self.copies}
        return ", ".join(["eager", *(what for what, is_so in extras.items() if is_so)])


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a network that has numbers of its own.

    Raises:
        UsageError: If it keeps what cannot be copied.
    """
    try:
        return duplicate(model)
    except Exception as error:
        raise UsageError(
            f"model.arch: the network cannot be copied by copy.deepcopy ({error}); compute what "
            "it keeps of its parameters (views, products) in forward"
        ) from error


def manner_in_precision(
    model: nn.Module, sample: Nested, dtype: torch.dtype, call: Call = calling.call
) -> Manner:
    """Find out the manner of a network whose numbers have been brought to the job's precision.

    Raises:
        UsageError: If it does not run so.
    """
    with _failures_named(dtype):
        return manner_of(model, sample, call)


@contextmanager
def _failures_named(dtype: torch.dtype) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise
        raise UsageError(
            f"model.arch: the network does not run with all its numbers in {dtype}: "
            f"{type(error).__name__}: {error}; its code or its parts insist on other dtypes: take "
            "dtypes from the inputs or the weights in forward, or choose another precision"
        ) from error


def manner_of(model: nn.Module, sample: Nested, call: Call = calling.call) -> Manner:
    """Find out by a few inputs how a network in evaluation mode has to be called.

    Where it makes something else of them while gradients are recorded, that is what was trained.

    Raises:
        Exception: What the network raises over the sample in every manner.
    """
    outputs: dict[bool, Any] = {}
    copies, failure = not isinstance(sample, Tensor), None  # a dict may lose what is taken out
    for records in (False, True):
        inputs = _copy(sample)
        try:
            with torch.set_grad_enabled(records):
                outputs[records] = call(model, inputs)
        except RuntimeError as error:  # a derivative of what is not recorded, for instance
            failure = error
            continue
        copies = copies or not _are_equal(inputs, sample)
    if not outputs:
        assert failure is not None
        raise failure
    has_to_record = False not in outputs or (len(outputs) == 2 and _differ(*outputs.values()))
    return Manner(records=has_to_record, copies=copies or has_to_record)


def _copy(inputs: Nested) -> Nested:
    return mapped(Tensor.clone, inputs)


def _are_equal(a: Nested, b: Nested) -> bool:
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(x.shape == y.shape and _is_same(x.detach(), y) for (_, x), (_, y) in pairs)


def _is_same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num()) if can_move(a) else torch.equal(a, b)


def _differ(a: Any, b: Any) -> bool:
    """Whether two outputs of the same inputs differ by more than rounding."""
    first, second = _parts(a), _parts(b)
    if len(first) != len(second):
        return False
    return any(_are_apart(x, y) for x, y in zip(first, second, strict=True))


def _parts(output: Any) -> list[Tensor]:
    """Return the tensors of an output in order; none of one that is refused elsewhere."""
    try:
        return [tensor for _, tensor in leaves(nested_output(output))]
    except ValueError:
        return []


def _are_apart(a: Tensor, b: Tensor) -> bool:
    if not (can_move(a) and can_move(b)) or a.shape != b.shape:
        return False
    wide = dtype_like(a, torch.float64)
    a, b = a.detach().to(wide), b.detach().to(wide)
    largest = float(a.abs().nan_to_num(posinf=0).max()) if a.numel() else 0.0
    return not torch.allclose(a, b, rtol=1e-3, atol=1e-3 * largest, equal_nan=True)


COMPILED = "compiled"  # the kind of a pass that torch.compile has made


class ForwardPass:
    """A network's forward pass in a precision; by itself, that of the network as it stands.

    It may have copies of the network's numbers.  Then these are those of the last `sync`.

    Attributes:
        kind: ``fused`` if layers are fused, ``compiled`` if the network is compiled, ``eager`` if
            its own code runs, and how.
    """

    def __init__(
        self, model: nn.Module, manner: Manner | None = None, call: Call = calling.call
    ) -> None:
        self._model, self._manner, self._call = model, manner, call
        self.kind = str(manner or Manner())

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs of a batch."""
        if self._manner is not None:
            return self._manner.call(self._model, inputs, self._call)
        return self._call(self._model, inputs)

    def called(self, model: nn.Module, inputs: Nested) -> Any:
        """Return what another network makes of inputs, called alike."""
        return self._call(model, inputs)

    def sync(self) -> None:
        """Copy all numbers from the network, where there are copies."""

    @property
    def can_be_recorded(self) -> bool:
        """Whether its kernels are the same for all numbers and inputs, as far as is known."""
        return self._manner is None or not self._manner.records

    def tensors(self) -> list[Tensor]:
        """Return the tensors that the pass computes with."""
        return [*self._model.parameters(), *self._model.buffers()]

    def is_tame(self, sample: Any) -> bool:
        """Whether the pass treats its numbers as the network would, by a few inputs.

        Fused layers do not where a number is not finite, or an activation overflows.
        """
        return True

    def fold_scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return what folding multiplies each filter of some weights by, (F,) each, by name.

        None where nothing is folded, or where a weight has not one layer of its own.
        """
        return None

    def bind_views(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        """From now on compute with the views in the place of weights that `fold_scales` takes."""
        raise NotImplementedError


class _InDtype(ForwardPass):
    """The pass of a copy of the network in another precision."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        manner: Manner | None,
        call: Call = calling.call,
    ) -> None:
        super().__init__(cast(copied(model), dtype), manner, call)
        copies, originals = (
            dict(m.named_parameters()) | dict(m.named_buffers()) for m in (self._model, model)
        )
        self._pairs = [(copies[name], original) for name, original in originals.items()]

    def sync(self) -> None:
        for target, source in self._pairs:
            target.copy_(source)


def in_dtype(
    model: nn.Module,
    dtype: torch.dtype,
    manner: Manner | None = None,
    call: Call = calling.call,
) -> ForwardPass:
    """Return the network's own forward pass in a precision, from a copy if it has another."""
    same = all(p.dtype == dtype_like(p, dtype) for p in model.parameters())
    return ForwardPass(model, manner, call) if same else _InDtype(model, dtype, manner, call)


class _RowMajor(_InDtype):
    """The pass of a copy of the network with filters and images in row-major order."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, call: Call) -> None:
        super().__init__(model, dtype, None, call)
        for tensor in self.tensors():
            tensor.data = devices.row_major(tensor)

    def __call__(self, inputs: Any) -> Any:
        return super().__call__(mapped(Tensor.contiguous, inputs))


def in_row_major(model: nn.Module, dtype: torch.dtype, call: Call = calling.call) -> ForwardPass:
    """Return the network's own forward pass in row-major order, from a copy."""
    return _RowMajor(model, dtype, call)


def require_runs(
    forward: ForwardPass, sample: Nested, model: nn.Module, dtype: torch.dtype
) -> None:
    """Try a pass of the code of a network, or of its copy, with inputs in its precision.

    Raises:
        UsageError: If it does not run so.
    """
    try:
        with _failures_named(dtype):
            forward(sample)
    except UsageError as error:
        own = real_dtype(model.parameters())
        inputs = mapped(lambda t: t.to(dtype_like(t, own)) if can_move(t) else t, sample)
        if name := original_number(model, copied(model), lambda made: forward.called(made, inputs)):
            raise UsageError(
                f"model.arch: a copy of the network in {dtype} computes with {name} of the "
                "network that it is a copy of, and does not run: was forward replaced by a "
                "function that keeps layers? define it in a class, or choose another precision"
            ) from error
        raise


class _Compiled(_InDtype):
    """The pass of a compiled copy of the network."""

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, manner: Manner | None, call: Call
    ) -> None:
        super().__init__(model, dtype, manner, call)
        self.kind = COMPILED
        # Of any number of samples, so that it does not matter which batch comes first.
        self._model: nn.Module = torch.compile(self._model, dynamic=True)  # type: ignore[assignment]


def compiled(
    model: nn.Module,
    dtype: torch.dtype,
    sample: Nested,
    manner: Manner | None = None,
    call: Call = calling.call,
) -> ForwardPass:
    """Return the pass of the network compiled by ``torch.compile``, which takes seconds to minutes.

    Raises:
        UsageError: If the network differentiates in its forward pass.
        EnvironmentUnfit: If it cannot be compiled here.
    """
    if manner is not None and manner.records:
        raise UsageError(
            "compile: the network differentiates in its forward pass, which a compiled one does "
            "not do; leave compile out"
        )
    try:
        forward = _Compiled(model, dtype, manner, call)
        forward(sample)
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EnvironmentUnfit(
            f"compile: torch.compile does not compile the network here ({reason}); leave it out"
        ) from error
    return forward
