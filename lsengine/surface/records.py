"""What is known of trainings and their weights besides surfaces, as values.

``store`` reads and writes these, ``render`` draws them; ``source`` is the file, for messages.

Shapes: E epochs that were measured so far (the first is 0, before training), P parameters,
K checkpoints, N bins; of a spectrum K eigenpairs, Q quadrature nodes, G points of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.wording import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a training has done so far.

    Attributes:
        columns: ``epoch`` (int64), and float64 (E,) curves by name: ``train_loss``,
            ``train_error``, ``test_loss``, ``test_error``, ``learning_rate`` (NaN at epoch
            0), ``weight_norm``.  No errors if the data are no classification.
        parameters: Names of the trainable parameters.
        layer_norms: Their norms, (E, P).
        attributes: Texts and numbers, among them ``name`` and ``job`` (YAML), ``recipe``
            (JSON), ``epochs`` (planned).
    """

    columns: Mapping[str, NDArray[Any]]
    parameters: tuple[str, ...]
    layer_norms: NDArray[np.float64]
    attributes: Mapping[str, Any]
    source: str = ""

    @property
    def finished(self) -> bool:
        """Whether all planned epochs are there."""
        epochs = self.columns["epoch"]
        return len(epochs) > 0 and bool(epochs[-1] == self.attributes["epochs"])

    @property
    def name(self) -> str:
        """The job's name."""
        return one_line(str(self.attributes.get("name", self.source)))

    def renamed(self, name: str) -> History:
        """Return the same history under another name."""
        return replace(self, attributes={**self.attributes, "name": name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Histograms of some parameters of several checkpoints, on bins that all share.

    Attributes:
        edges: Increasing; (N + 1,).
        parameters: Names; (P,).
        counts: Numbers by bin; (K, P, N).  A checkpoint without the parameter has zeros.
        sizes: Elements of each parameter, 0 where a checkpoint has none; (K, P).
        norms: Euclidean norms, NaN where a checkpoint has none; (K, P).
        not_finite: Elements that are NaN or infinite, in no bin and no norm; (K, P).
    """

    edges: NDArray[np.float64]
    parameters: tuple[str, ...]
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    norms: NDArray[np.float64]
    not_finite: NDArray[np.int64]

    @property
    def total_norms(self) -> NDArray[np.float64]:
        """Euclidean norm of all parameters together; (K,)."""
        return np.asarray(np.sqrt(np.nansum(self.norms**2, axis=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightHistograms:
    """How the parameters of checkpoints are distributed.

    Attributes:
        checkpoints: Names, all different; (K,).
        groups: ``weights`` (two or more dimensions) and ``others``, as far as there are any.
        epochs: Of the checkpoints; -1 where the file does not say; (K,).
        sha256: Of the checkpoints' files (hex); (K,).
    """

    checkpoints: tuple[str, ...]
    groups: Mapping[str, Bins]
    epochs: tuple[int, ...]
    sha256: tuple[str, ...] = field(default=())
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The Hessian of the mean training loss at the centre: what is known of its eigenvalues.

    Attributes:
        eigenvalues: By falling modulus; (K,).
        residuals: Norms of ``H v - value v``; (K,).
        vectors: Unit eigenvectors by parameter name, float32; (K, ...).
        trace: Estimate and its standard error; None if not asked for.
        nodes, weights: Quadrature of the density of eigenvalues; (Q,), none if not asked for.
        grid, density: The same, smoothed: abscissae, and density per unit of eigenvalue; (G,).
        attributes: Texts and numbers, among them ``parameters`` (how many).
    """

    eigenvalues: NDArray[np.float64]
    residuals: NDArray[np.float64]
    vectors: Mapping[str, NDArray[np.float32]]
    trace: tuple[float, float] | None
    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    grid: NDArray[np.float64]
    density: NDArray[np.float64]
    attributes: Mapping[str, Any]
    source: str = ""
