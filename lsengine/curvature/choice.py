"""Which way of multiplying with a Hessian is right for a network, found out on a few samples.

At the weights as they stand, and a little off them, in float64 where the network allows it:

1. The gradient is compared with differences of plain losses.  Where it is another one, as behind
   a ``detach()``, no way of multiplying gives the Hessian of the loss.
2. Products are compared with differences of plain gradients, one way after the other.
3. The first way that is right is tried in the network's own precision, too.

The answer depends on network, samples and loss alone.

Shape suffix: P numbers of the chosen parameters.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lsengine import devices
from lsengine.curvature import batches as parts_of
from lsengine.curvature import culprit, states
from lsengine.curvature.batches import Batch
from lsengine.curvature.check import Place
from lsengine.curvature.plain import PlainLoss
from lsengine.curvature.products import Products, Way
from lsengine.data import nesting
from lsengine.errors import LsengineError, UsageError
from lsengine.log import NOTICE

log = logging.getLogger(__name__)
_NEAR = 0.1  # how far off the weights, as a share of their size
_MOST, _FEWEST = 24, 3  # samples
_WORK = 4e6  # numbers times positions
_OWN_PRECISION = 0.1  # how far a product in it may be off that in float64


class _GradientFails(Exception):
    """No gradient can be had, or another one than the loss's."""


def chosen_way(products: Products, batches: Sequence[Batch]) -> Way:
    """Return the way in which products are right, the fastest first.

    Raises:
        UsageError: If there is none, because the gradient is not the derivative of the loss.
    """
    count = _MOST
    while True:
        try:
            with torch.inference_mode(False):
                return _chosen(products, _few(products, batches, count))
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
        if count == 1:
            return Way()  # the first product will say what it lacks
        count = count // 4 or 1


def _chosen(products: Products, few: Batch) -> Way:
    reasons = []
    for exact in (True, False):
        for inner_graphs in (False, True):
            trial = _Trial(products, few, exact=exact, inner_graphs=inner_graphs)
            try:
                return trial.way()
            except _GradientFails as error:
                reasons.append(str(error))
            except Exception as error:
                _raise_if_ours(error)
                if not exact:
                    raise
                break  # the network does not run in float64
        else:
            break
    raise UsageError(reasons[0])


def _few(products: Products, batches: Sequence[Batch], most: int) -> Batch:
    """Return samples drawn from all batches, fewer of a large network; or a whole batch."""
    if products.keeps_batches:
        return batches[0]
    places = max(1.0, parts_of.positions(batches[0][0]) / 64)
    samples = int(min(most, max(_FEWEST, _WORK / (products.size * places))))
    return parts_of.drawn(batches, samples)


class _Trial:
    """Tries ways on a few samples, in float64 if ``exact``, else in the network's own dtypes."""

    def __init__(self, products: Products, few: Batch, *, exact: bool, inner_graphs: bool) -> None:
        self._products, self._few, self._samples = products, few, nesting.count(few[0])
        self._exact, self._inner_graphs = exact, inner_graphs
        self._directions: dict[int, Tensor] = {}
        self._failures: list[str] = []

    def way(self) -> Way:
        """Return the first way that is right."""
        with self._precision():
            places = self._places(self._samples, (0, 1))
            self._check_gradient(places)
        unchecked = None
        for way in self._ways():
            is_right = self._is_right(way, places)
            if is_right is False or not self._works(way, places[1]):
                continue
            if is_right:
                return self._told(way, places[1])
            unchecked = unchecked or way
        if unchecked is None:
            raise _GradientFails(
                "curvature: no way of multiplying with the Hessian agrees with differences of "
                f"gradients ({'; '.join(self._failures)}); the loss may depend on how samples are "
                "cut into batches; return one loss per sample, or losses and weights"
            )
        log.warning(
            "curvature: products with the Hessian cannot be checked at the centre: the loss is "
            "not finite, not smooth, or rounded too much there"
        )
        return unchecked

    def _ways(self) -> Iterator[Way]:
        inner = self._inner_graphs
        for plain in (False, True):
            yield Way(kind="forward", plain_kernels=plain, inner_graphs=inner)
            yield Way(kind="reverse", plain_kernels=plain, inner_graphs=inner)
        for plain in (False, True):
            yield Way(
                kind="differences", plain_kernels=plain, inner_graphs=inner, exact=self._exact
            )

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        model = self._products.model
        kept = [p.data.clone() for p in self._parameters] if not self._exact else []
        try:
            with states.in_float64(model) if self._exact else contextlib.nullcontext():
                yield
        finally:
            for p, data in zip(self._parameters, kept, strict=False):
                p.data.copy_(data)

    @property
    def _parameters(self) -> list[Tensor]:
        parameters = dict(self._products.model.named_parameters())
        return [parameters[name] for name in self._products.names]

    def _places(self, samples: int, numbers: Sequence[int]) -> list[Place]:
        """Return the weights as they stand, and others near them, each with a direction."""
        inputs, targets = parts_of.first(self._few, samples)
        plain = PlainLoss(
            self._products.model,
            self._parameters,
            parts_of.wide(inputs) if self._exact else inputs,
            targets,
            self._products.loss,
            self._products.call,
            lambda: states.differentiating(plain_kernels=True, inner_graphs=self._inner_graphs),
        )
        self._centre_P = plain.centre_P
        plain.value(plain.centre_P)  # fails where the precision is not the network's
        places = []
        for number in numbers:
            at_P = plain.centre_P
            if number:
                at_P = at_P + _NEAR * self._direction(2 * number, plain)
            direction_P = self._direction(2 * number + 1, plain)
            places.append(Place(plain, at_P, direction_P, self._exact))
        return places

    def _direction(self, number: int, plain: PlainLoss) -> Tensor:
        """Return a random vector (P,) whose pieces are as large as the parameters."""
        if number not in self._directions:
            generator = np.random.Generator(np.random.PCG64([0, number]))
            noise_P = torch.from_numpy(generator.standard_normal(len(plain.centre_P)))
            noise_P = noise_P.to(plain.centre_P)
            overall = _size(plain.centre_P) or 1.0
            pieces = plain.centre_P.split(plain.lengths)
            for noise, piece in zip(noise_P.split(plain.lengths), pieces, strict=True):
                noise.mul_(max(_size(piece), 0.01 * overall))
            self._products.hold_(noise_P)
            self._directions[number] = noise_P
        return self._directions[number]

    def _check_gradient(self, places: Sequence[Place]) -> None:
        """Compare gradients with differences of losses.

        Raises:
            _GradientFails: If one cannot be had, or is another one.
        """
        for place in places:
            try:
                gradient_P = place.gradient
            except Exception as error:
                _raise_if_ours(error)
                raise _GradientFails(
                    "curvature: the training loss has no gradient: "
                    f"{_first_words(error)}{culprit.functions_of(place)}; leave out curvature and "
                    "directions of kind hessian, or make the network differentiable "
                    "(create_graph=True in derivatives that it takes itself)"
                ) from error
            if place.gradient_is_right(gradient_P) is False:
                raise _GradientFails(culprit.of_gradient(place, self._products.names))

    def _is_right(self, way: Way, places: Sequence[Place]) -> bool | None:
        """Return whether products are right, and None if that cannot be told."""
        verdicts: list[bool | None] = []
        try:
            with self._precision():
                for number, place in enumerate(places):
                    is_right = self._agrees(way, place, self._samples)
                    if is_right is None and not self._products.keeps_batches:
                        # perhaps a kink, which one sample rarely has
                        (alone,) = self._places(1, [number])
                        is_right = self._agrees(way, alone, 1)
                    verdicts.append(is_right)
                    if is_right is False:
                        self._failures.append(f"{way}: another value")
                        return False
        except Exception as error:
            _raise_if_ours(error)
            self._failures.append(f"{way}: {_first_words(error)}")
            return False
        return True if True in verdicts else None

    def _agrees(self, way: Way, place: Place, samples: int) -> bool | None:
        place.plain.put(place.at_P)
        return place.product_is_right(self._product(way, place.direction_P, samples))

    def _product(self, way: Way, vector_P: Tensor, samples: int) -> Tensor:
        """Multiply, with the samples in two batches of different sizes."""
        few = parts_of.first(self._few, samples)
        cut = [samples - samples // 3, samples // 3] if samples >= 3 else [1] * samples
        batches = [few] if self._products.keeps_batches else parts_of.parts(few, cut)
        products = self._products
        exactly = way if way.kind != "differences" else replace(way, exact=False)
        return products.product(batches, products.shares(batches, exactly), vector_P, exactly)

    def _works(self, way: Way, place: Place) -> bool:
        """Try a way in the network's own precision: other kernels may be in use there."""
        dtypes = {p.dtype.to_real() for p in self._parameters}
        if dtypes == {torch.float64} or way.kind == "differences" or not self._exact:
            return True
        vector_P = place.direction_P.to(self._products.dtype)
        try:
            own_P = self._product(way, vector_P, self._samples)
        except Exception as error:
            _raise_if_ours(error)
            self._failures.append(f"{way}: {_first_words(error)}")
            return False
        with self._precision():
            exact_P = self._product(way, place.direction_P, self._samples)
        is_close = not place.distance(own_P.double(), exact_P) > _OWN_PRECISION
        if not is_close:
            self._failures.append(f"{way}: another value than in float64")
        return is_close

    def _told(self, way: Way, place: Place) -> Way:
        """Say what is not as usual."""
        if way.kind == "differences":
            with self._precision():
                functions = culprit.functions_of(place)
            accuracy = "1e-6" if way.exact else "1e-2"
            log.log(
                NOTICE,
                "curvature: products are differences of gradients, good to about %s, because no "
                "second derivative is right%s (%s)",
                accuracy,
                functions,
                "; ".join(self._failures[:2]),
            )
        elif way.plain_kernels or way.inner_graphs:
            log.log(NOTICE, "curvature: products by %s", way)
        return way


def _first_words(error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first if len(first) <= 120 else first[:117] + '...'}"


def _size(vector_P: Tensor) -> float:
    """Return the root of the mean square."""
    return float(torch.linalg.vector_norm(vector_P)) / math.sqrt(max(1, len(vector_P)))


def _raise_if_ours(error: BaseException) -> None:
    if isinstance(error, LsengineError) or devices.is_out_of_memory(error):
        raise error
