"""Curvature as a quantity of cells: both ends of the Hessian's spectrum at displaced weights.

A cell may start from the eigenvectors of its *fixed* coarse cell (`Grid.warm_start_cells`), which
itself starts from a seeded random vector. The vectors of a coarse cell are a function of the job
like everything else, and are computed again by any worker that needs them; so a cell's bytes do
not depend on ranks, order or resumes. A worker keeps the vectors of one coarse cell.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from torch import Tensor, nn

from lsengine import devices
from lsengine.curvature.eigenvalues import Eigenpairs, extreme_eigenvalues
from lsengine.curvature.hessian import Hessian
from lsengine.curvature.lanczos import LanczosOptions, krylov_bytes
from lsengine.errors import UsageError
from lsengine.models import parameter_roles
from lsengine.surface.grid import Cell
from lsengine.surface.parts import EVERYTHING, Selection

NAMES = (
    "eigenvalue_min",
    "eigenvalue_max",
    "eigenvalue_min_residual",
    "eigenvalue_max_residual",
    "products",
    "converged",
)


class CellCurvature:
    """Extreme eigenvalues of the Hessian of the mean training loss, cell by cell.

    `displace_to` gives the model the weights of a cell, which the Hessian reads in every product.
    """

    def __init__(
        self, hessian: Hessian, options: LanczosOptions, displace_to: Callable[[Cell], None]
    ) -> None:
        self._hessian, self._options, self._displace_to = hessian, options, displace_to
        self._coarse: Cell | None = None  # the last one, with its eigenvectors
        self._start: Sequence[Tensor] = ()

    @property
    def bytes(self) -> int:
        """What the vectors of a cell take on the device, beside a mini-batch's activations."""
        return krylov_bytes(self._hessian.size, self._hessian.dtype, self._options.basis)

    def measure(self, cell: Cell, coarse: Cell) -> dict[str, float]:
        """Return the quantities `NAMES` of a cell; the weights are left at the cell.

        It starts from the eigenvectors of its coarse cell; cold, if it is that cell itself.
        """
        if coarse == cell or coarse != self._coarse:
            ends = self._extremes(coarse)
            self._coarse, self._start = coarse, list(ends.vectors)
        if coarse != cell:
            ends = self._extremes(cell, self._start)
        values = (*ends.values, *ends.residuals, ends.products, ends.converged)
        return dict(zip(NAMES, map(float, values), strict=True))

    def _extremes(self, cell: Cell, start: Sequence[Tensor] = ()) -> Eigenpairs:
        self._displace_to(cell)
        with devices.tf32(False):
            return extreme_eigenvalues(self._hessian, self._options, start)


def trainable_names(model: nn.Module, selection: Selection = EVERYTHING) -> list[str]:
    """Return the parameters that a training would change, of those selected."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return names if selection == EVERYTHING else selection.of(names, parameter_roles(model))


def hessian_parameters(names: Sequence[str], among: Container[str] | None = None) -> list[str]:
    """Return the parameters that the Hessian is of: the trainable ones, or those also `among`.

    Raises:
        UsageError: If none is left.
    """
    left = [name for name in names if among is None or name in among]
    if not left:
        raise UsageError(
            "curvature: the Hessian is of trainable parameters, but "
            + ("none of those that move is one" if names else "the network has none")
            + "; leave some requires_grad in model.arch"
            + (", move others, or ask for curvature.parameters: all" if names else "")
        )
    return left
