"""What a job may say of a direction: its kind, which parameters move, how it is normalised."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag

from lsengine.job.value_types import STRICT, Count, Distinct, Seed


class _Section(BaseModel):
    model_config = STRICT


Ignore = Annotated[list[str], Distinct]
Only = Annotated[list[str], Field(min_length=1), Distinct] | None


class UnitsSpec(_Section):
    """Units of normalisation by role; what is left out is as in ``head``.

    ``heads`` is the number of heads where the network does not say it.
    """

    attention: Literal["head", "balanced", "filter", "layer"] | None = None
    embedding: Literal["filter", "layer"] | None = None
    lora: Literal["product", "filter", "layer"] | None = None
    other: Literal["filter", "layer"] | None = None
    heads: Count | None = None


def _form_of_normalize(value: Any) -> str:
    return "units" if isinstance(value, dict | UnitsSpec) else "word"


Normalize = Annotated[
    Annotated[Literal["filter", "layer", "weight", "none", "head"], Tag("word")]
    | Annotated[UnitsSpec, Tag("units")],
    Discriminator(_form_of_normalize),
]


class RandomDirection(_Section):
    """A Gaussian direction, drawn on the CPU from (seed, axis)."""

    kind: Literal["random"]
    normalize: Normalize = "filter"
    only: Only = None
    ignore: Ignore = ["bias", "norm"]
    seed: Seed = 1
    orthogonal: bool = False


class TowardDirection(_Section):
    """The difference between another checkpoint and the centre."""

    kind: Literal["toward"]
    checkpoint: str
    normalize: Normalize = "none"
    only: Only = None
    ignore: Ignore = []


class FileDirection(_Section):
    """A direction stored in a surface file or in a direction file of loss-landscape."""

    kind: Literal["file"]
    path: str
    which: Literal["alpha", "beta"] = "alpha"
    normalize: Normalize = "none"
    only: Only = None
    ignore: Ignore = []


class HessianDirection(_Section):
    """An eigenvector of the Hessian of the mean training loss at the centre, of unit length.

    The rank counts by falling modulus; the section `curvature` says how hard to look.
    """

    kind: Literal["hessian"]
    rank: Count = 1
    normalize: Normalize = "none"
    only: Only = None
    ignore: Ignore = []


class PrincipalDirection(_Section):
    """A principal component of a training run's checkpoints: the first for alpha."""

    kind: Literal["principal"]
    checkpoints: Annotated[str, Field(min_length=1)]
    normalize: Normalize = "none"
    only: Only = None
    ignore: Ignore = []


def _of_connect(value: Any) -> Any:
    if value is not None:
        raise ValueError("a curve moves what connect has trained; give curve.only before that")
    return value


class CurveDirection(_Section):
    """Along a trained curve: alpha alone is its parameter t; both axes are its plane.

    The plane goes through both ends and the given bend.
    """

    kind: Literal["curve"]
    path: str
    shape: Literal["bezier", "polygonal"] = "bezier"
    bend: Count = 1
    normalize: Literal["none"] = "none"
    only: Annotated[Only, AfterValidator(_of_connect)] = None
    ignore: Annotated[Ignore, Field(max_length=0)] = []


_Simple = RandomDirection | TowardDirection | FileDirection
_Computed = HessianDirection | PrincipalDirection | CurveDirection
Direction = Annotated[_Simple | _Computed, Field(discriminator="kind")]


class DirectionsSpec(_Section):
    """One entry makes a curve, two make a plane.

    Random ones that are not ``stored`` are drawn again by every worker of every run.
    """

    alpha: Direction
    beta: Direction | None = None
    stored: bool = True
