"""Trace and spectral density from random probes.

Shape suffixes: P numbers of a vector, S probes, Q quadrature nodes of all probes together,
G points of a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsengine.curvature.lanczos import Array, LanczosOptions, LanczosRun, Operator

_WIDTH = 0.01  # of the smoothing, as a share of the spectrum's extent
_TAILS = 6  # widths that the grid reaches beyond the outermost nodes


@dataclass(frozen=True, slots=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        value: The mean over probes; NaN if a product was not finite.
        standard_error: Of the mean; NaN with one probe.
        products: Products with the operator spent.
    """

    value: float
    standard_error: float
    products: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Density:
    """The distribution of eigenvalues, as a quadrature and as a smooth curve.

    Attributes:
        nodes: Ritz values of all probes (Q,); NaN, as all that follows, if a product was not
            finite.
        weights: (Q,), their shares of the spectrum; they sum to 1, and ``weights @ nodes``
            estimates the mean eigenvalue.
        grid: (G,), ascending abscissae that cover the spectrum.
        density: (G,), per unit of eigenvalue; integrates to 1.
        width: Standard deviation of the Gaussian that smooths.
        products: Products with the operator spent.
    """

    nodes: Array
    weights: Array
    grid: Array
    density: Array
    width: float
    products: int


def trace(operator: Operator, *, probes: int = 32, seed: int = 0) -> Trace:
    """Estimate the trace with Rademacher probes (Hutchinson 1990).

    Each probe costs a product.  Its variance is twice the sum of the squared off-diagonal elements.

    Raises:
        ValueError: If there is no probe.
    """
    if probes < 1:
        raise ValueError(f"probes: expected at least 1, got {probes}")
    samples_S = np.empty(probes)
    for probe in range(probes):
        signs_P = _signs(operator, seed, probe)
        samples_S[probe] = float(torch.dot(signs_P, operator(signs_P)))
    spread = float(samples_S.std(ddof=1)) if probes > 1 else math.nan
    return Trace(float(samples_S.mean()), spread / math.sqrt(probes), probes)


def spectral_density(
    operator: Operator, *, probes: int = 8, steps: int = 64, points: int = 1024, seed: int = 0
) -> Density:
    """Estimate the density of eigenvalues by stochastic Lanczos quadrature.

    Each probe gives a Gauss quadrature: Ritz values as nodes, squared first components of the
    projected eigenvectors as weights, exact for polynomials of degree ``2 steps - 1``
    (Golub and Meurant 2010; Ghorbani et al. 2019, arXiv:1901.10159).  Mean over probes, then
    smoothed with a Gaussian of 1 % of the spectrum's extent.

    Probes are independent runs: moments scatter with one over their square root.  Each costs
    ``steps`` products, all of whose vectors are kept, see `krylov_bytes`.

    Raises:
        ValueError: If there is no probe or no grid, or there are fewer than 4 steps.
    """
    if probes < 1 or points < 2:
        raise ValueError(f"expected probes >= 1 and points >= 2, got {probes} and {points}")
    options = LanczosOptions(max_products=steps, basis=steps)
    nodes, weights, products = [], [], 0
    for probe in range(probes):
        run = LanczosRun(operator, _signs(operator, seed, probe), options)
        while run.extend():
            pass
        products += run.products
        if run.failed:
            return _smoothed(np.full(1, math.nan), np.full(1, math.nan), points, products)
        nodes_K, weights_K = run.quadrature()
        nodes.append(nodes_K)
        weights.append(weights_K / probes)
    return _smoothed(np.concatenate(nodes), np.concatenate(weights), points, products)


def _smoothed(nodes_Q: Array, weights_Q: Array, points: int, products: int) -> Density:
    # a single eigenvalue has no extent: then its modulus, or one, gives the width
    extent = float(np.ptp(nodes_Q)) or float(np.abs(nodes_Q).max()) or 1.0
    width = _WIDTH * extent
    reach = _TAILS * width
    grid_G = np.linspace(nodes_Q.min() - reach, nodes_Q.max() + reach, points)
    offset_GQ = (grid_G[:, None] - nodes_Q) / width
    bells_GQ = np.exp(-0.5 * offset_GQ**2) / (width * math.sqrt(2 * math.pi))
    return Density(
        nodes=nodes_Q,
        weights=weights_Q,
        grid=grid_G,
        density=bells_GQ @ weights_Q,
        width=width,
        products=products,
    )


def _signs(operator: Operator, seed: int, probe: int) -> Tensor:
    """Draw a vector (P,) of +1 and -1 on the CPU, the same for every device."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, probe])))
    bits_P = generator.integers(0, 2, size=operator.size, dtype=np.int8)
    return torch.from_numpy(bits_P).to(operator.device, operator.dtype).mul_(2).sub_(1)
