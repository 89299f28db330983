"""Curvature: the Hessian of the mean loss, its extreme eigenvalues, trace and density.

Mathematics only: no file, no rank, no choice of device.

Example:
    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False).double().eval()
    >>> inputs = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> batches = [(inputs, torch.zeros(2, 1, dtype=torch.float64))]
    >>> hessian = Hessian(model, batches, lambda output, target: (output - target).square())
    >>> ends = extreme_eigenvalues(hessian, Lanczos())
    >>> round(ends.eigenvalue_min, 9), round(ends.eigenvalue_max, 9), ends.products
    (1.0, 4.0, 2)
"""

from lsengine.curvature.eigenvalues import (
    Eigenpairs,
    Extremes,
    extreme_eigenvalues,
    leading_eigenvectors,
)
from lsengine.curvature.estimates import Density, Trace, spectral_density, trace
from lsengine.curvature.hessian import Hessian
from lsengine.curvature.lanczos import Krylov, Lanczos, Operator, krylov_bytes

__all__ = [
    "Density",
    "Eigenpairs",
    "Extremes",
    "Hessian",
    "Krylov",
    "Lanczos",
    "Operator",
    "Trace",
    "extreme_eigenvalues",
    "krylov_bytes",
    "leading_eigenvectors",
    "spectral_density",
    "trace",
]
