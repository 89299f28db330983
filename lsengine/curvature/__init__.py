"""Curvature: the Hessian of the mean loss, its extreme eigenvalues, trace and density.

Mathematics only: no file, no rank, no choice of device.

Example:
    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False).double().eval()
    >>> inputs = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> batches = [(inputs, torch.zeros(2, 1, dtype=torch.float64))]
    >>> hessian = Hessian(model, batches, lambda output, target: (output - target).square())
    >>> ends = extreme_eigenvalues(hessian, LanczosOptions())
    >>> ends.values.round(9).tolist(), ends.products
    ([1.0, 4.0], 2)
"""

from __future__ import annotations

from lsengine.curvature.eigenvalues import Eigenpairs as Eigenpairs
from lsengine.curvature.eigenvalues import extreme_eigenvalues as extreme_eigenvalues
from lsengine.curvature.eigenvalues import leading_eigenvectors as leading_eigenvectors
from lsengine.curvature.estimates import spectral_density as spectral_density
from lsengine.curvature.estimates import trace as trace
from lsengine.curvature.hessian import Hessian as Hessian
from lsengine.curvature.lanczos import LanczosOptions as LanczosOptions
from lsengine.curvature.lanczos import LanczosRun as LanczosRun
from lsengine.curvature.lanczos import krylov_bytes as krylov_bytes
from lsengine.curvature.products import Way as Way
