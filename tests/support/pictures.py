"""What is on a picture, and surfaces that are hard to draw."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
from matplotlib.contour import QuadContourSet
from matplotlib.text import Text
from PIL import Image

from lsengine.surface import Surface, Trajectory
from tests.support.landscapes import make_plane


def words(figure) -> str:
    """Return all text of a figure."""
    texts = figure.findobj(Text)
    return "\n".join(text.get_text() for text in texts).replace("\n", " ")


def pixels(figure, dpi: int = 60) -> np.ndarray:
    """Return a figure's RGB pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def contours(figure, filled: bool = False) -> QuadContourSet:
    """Return the contours of the first panel."""
    found = [c for c in figure.axes[0].collections if isinstance(c, QuadContourSet)]
    return next(c for c in found if c.filled == filled)


def with_path(surface: Surface) -> Surface:
    """Return a surface with a trajectory into its centre, and another minimum."""
    along = np.linspace(0, 1, 8)
    columns = {
        "alpha": -0.8 * (1 - along),
        "beta": 0.7 * (1 - along) ** 2,
        "epoch": np.arange(8),
        "loss": 5 * (1 - along) + 0.01,
        "learning_rate": np.where(along < 0.5, 0.1, 0.01),
    }
    toward = {"kind": "toward", "normalize": "none", "ignore": []}
    attributes = {"identity": json.dumps({"directions": {"alpha": toward}})}
    return replace(surface, trajectory=Trajectory(columns), attributes=attributes)


def walked(surface, **attributes):
    """Return a surface with a spiral of nine checkpoints; the rate drops after the fifth."""
    angle = np.linspace(3, 0, 9)
    columns = {
        "epoch": np.arange(0, 90, 10),
        "alpha": 0.25 * angle * np.cos(angle),
        "beta": 0.25 * angle * np.sin(angle),
        "distance": np.linspace(0.2, 0, 9),
        "length": np.linspace(0.8, 0, 9),
        "learning_rate": np.array([np.nan, *[0.1] * 4, *[0.01] * 4]),
    }
    return replace(surface, trajectory=Trajectory(columns, attributes))


TOWARD = {"kind": "toward", "normalize": "none", "ignore": []}


def toward(surface: Surface, **directions: dict[str, object]) -> Surface:
    """Return a surface whose file says which directions lead to checkpoints."""
    return replace(surface, attributes={"identity": json.dumps({"directions": directions})})


STRANGE = {
    "constant": make_plane(lambda a, b: 0 * a + 2.303),
    "negative": make_plane(lambda a, b: a**2 - b**2 - 3),
    "both signs, decades": make_plane(lambda a, b: (a - b) * 10 ** (5 * a * a)),
    "zeros": make_plane(lambda a, b: np.maximum(a**2 + b**2 - 0.02, 0) ** 2),
    "one cell": make_plane(alphas=1, betas=1, reach=(0, 0)),
    "one row": make_plane(betas=1, reach=(1, 0)),
    "one column": make_plane(alphas=1, reach=(0, 1)),
    "two by two": make_plane(alphas=2, betas=2),
    "all NaN": make_plane(lambda a, b: a * np.nan),
    "inf outside": make_plane(lambda a, b: np.where(a * a + b * b > 0.3, np.inf, 1 + a * a)),
    "one number among NaN": make_plane(lambda a, b: np.where((a == 0) & (b == 0), 1.0, np.nan)),
    "chequered": make_plane(status=(np.indices((21, 21)).sum(0) % 2).astype(np.uint8)),
    "hardly begun": make_plane(status=np.eye(21, dtype=np.uint8)),
    "largest floats": make_plane(lambda a, b: 1e307 * (a * a - b * b)),
    "huge": make_plane(lambda a, b: 1e306 * (1 + a * a + b * b)),
    "denormal": make_plane(lambda a, b: 5e-324 * np.round(9 * (a * a + b * b))),
    "all decades": make_plane(lambda a, b: 10.0 ** np.rint(300 * a)),
    "odd name": make_plane(name="a $x_1$ {\u65e5\u672c}\n% " + 90 * "long"),
    "three of four": make_plane(
        lambda a, b: np.where(np.rint(10 * a) * np.rint(10 * b) % 2, np.nan, 1 + a * a + b * b)
    ),
    "tiny range": make_plane(lambda a, b: 1e6 + 1e-3 * (a * a + b * b)),
}


def lines_at(axes) -> list[float]:
    """Return where upright lines stand."""
    ends = [line.get_xdata() for line in axes.lines]
    return sorted({float(x[0]) for x in ends if len(x) == 2 and x[0] == x[1]})
