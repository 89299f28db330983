"""What a job file may say: one model per section, with types, ranges and defaults.

Only shapes of values are judged here; `lsengine.job.loading` does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WrapValidator, model_validator

from lsengine.job.direction_types import DirectionsSpec, Ignore, Only
from lsengine.job.loss import OPTIONS, Loss, LossSpec
from lsengine.job.networks import NETWORKS
from lsengine.job.recipes import TrainSpec as TrainSpec
from lsengine.job.value_types import (
    MOST,
    NAME,
    STRICT,
    TIME,
    AutoOrCount,
    AutoOrThreads,
    AxisSpec,
    Count,
    Distinct,
    Epochs,
    Expected,
    Fraction,
    Line,
    NonNegative,
    Positive,
    Quoted,
    SbatchOption,
    Seed,
    Size,
    Word,
)

ARCHITECTURES = tuple(NETWORKS)
KNOWN = ("cifar10", "cifar100", "mnist", "fashion_mnist")
DATASETS = ("digits", *KNOWN, "image_folder", "arrays", "text")
ROOTLESS = ("digits", "fashion_mnist")  # what may be found without a root
LOSSES = tuple(OPTIONS)

Split = Literal["train", "test"]
Quantity = Literal["loss", "accuracy", "curvature"]
Precision = Literal["float32", "float64", "tf32", "bfloat16", "float16", "auto"]


class Section(BaseModel):
    """Base of all sections."""

    model_config = STRICT


class ModelSpec(Section):
    """The network and, for everything but training, its trained parameters."""

    arch: Annotated[str, Field(min_length=1)]
    args: dict[str, Any] = {}
    checkpoint: str | None = None
    checkpoint_key: Annotated[str, Field(min_length=1)] | None = None
    strip_prefix: Annotated[str, Field(min_length=1)] | None = None
    path: Annotated[str, Field(min_length=1)] | None = None
    adapter: Annotated[str, Field(min_length=1)] | None = None

    @property
    def centre(self) -> str | None:
        """Where the parameters of the centre are, as the file says it."""
        return self.checkpoint or self.adapter or self.path

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own code, of which nothing is known."""
        return ":" in self.arch and not self.arch.startswith("torchvision:")

    @property
    def fuses(self) -> bool:
        """Whether its layers may be fused: not in code of which nothing is known."""
        entry = NETWORKS.get(self.arch)
        return not self.is_own if entry is None else entry.fuses


class NormalizeSpec(Section):
    """Per-channel mean and standard deviation, on the scale of the data in [0, 1]."""

    mean: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]
    std: Annotated[list[Positive], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_length(self) -> NormalizeSpec:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values, std has {len(self.std)}")
        return self


class DataSpec(Section):
    """The fixed data on which every cell is evaluated."""

    dataset: Annotated[str, Field(min_length=1)]
    args: dict[str, Any] = {}
    root: str | None = None
    splits: Annotated[list[Split], Field(min_length=1), Distinct] = ["train", "test"]
    subset: Count | None = None
    normalize: NormalizeSpec | None = None
    resize: Size | None = None


class GridSpec(Section):
    """The coordinates, one axis per direction."""

    alpha: AxisSpec
    beta: AxisSpec | None = None


class TrajectorySpec(Section):
    """A run's checkpoints that are projected on the directions, and room around them."""

    checkpoints: Annotated[str, Field(min_length=1)] | None = None
    margin: NonNegative = 0.15


Policy = Literal["frozen", "interpolated", "recalibrated"]


class BatchNormSpec(Section):
    """What running statistics do away from the centre."""

    policy: Policy
    samples: Count = 5000
    batch_size: Count = 128


class CurvatureSpec(Section):
    """How hard to look for the extreme eigenvalues of a cell's Hessian."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    max_products: Annotated[int, Field(ge=2, le=MOST)] = 200
    parameters: Literal["all", "moved"] = "all"
    only: Only = None
    ignore: Ignore = []
    basis: Annotated[int, Field(ge=8, le=10_000)] = 32
    precision: Literal["float32", "tf32"] = "float32"


def _batch_norm(value: Any, handler: Callable[[Any], Any]) -> Any:
    return handler({"policy": value} if isinstance(value, str) else value)


class CurveSpec(Section):
    """A curve of low loss from the checkpoint to another (Garipov et al. 2018)."""

    to: str
    output: str
    only: Only = None
    ignore: Ignore = []
    kind: Literal["bezier", "polygonal"] = "bezier"
    bends: Annotated[int, Field(ge=1, le=1000)] = 1
    epochs: Epochs = 50
    batch_size: Count = 128
    lr: Positive = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    seed: Seed = 0
    points: Annotated[int, Field(ge=2, le=MOST)] = 61
    plane: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None


Launcher = Literal["openmpi", "openmpi-ulfm", "mpich", "intel", "srun-pmix", "srun-pmi2", "none"]


class ContainerSpec(Section):
    """An image in which ranks run."""

    image: Line
    runtime: Literal["apptainer", "singularity", "pyxis"] = "apptainer"
    binds: list[Line] = []


class LaunchSpec(Section):
    """What a cluster is asked for, and how ranks behave; never affects values.

    All but `coordinator` and `hang_s` may come from a site file, too.
    """

    nodes: Count = 1
    ranks: Count | None = None
    gpus_per_node: Annotated[int, Field(ge=0, le=MOST)] = 0
    gpu_type: Word | None = None
    gpu_binding: Literal["node", "task"] = "node"
    cores_per_rank: Count | None = None
    memory: Word | None = None
    time: Annotated[str, Field(pattern=TIME)] | None = None
    signal_s: Annotated[int, Field(ge=10, le=65535)] = 120
    max_fruitless: Count = 3
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Line | None = None
    sbatch: list[SbatchOption] = []
    modules: list[Word] = []
    environment: dict[Annotated[str, Field(pattern=NAME)], Quoted] = {}
    activate: list[Line] = []
    container: ContainerSpec | None = None
    launcher: Launcher = "openmpi"
    launcher_options: list[Line] = []
    coordinator: Literal["auto", "evaluates", "waits"] = "auto"
    hang_s: Positive = 600.0


class Document(Section):
    """A whole job file."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern="^[^/]+$")]
    model: ModelSpec
    data: DataSpec
    loss: Loss = "cross_entropy"
    objective: Annotated[str, Field(min_length=1)] | None = None
    directions: DirectionsSpec | None = None
    grid: GridSpec | None = None
    trajectory: TrajectorySpec | None = None
    repeats: Count = 1
    seed: Seed = 0
    quantities: Annotated[list[Quantity], Field(min_length=1), Distinct] = ["loss", "accuracy"]
    curvature: CurvatureSpec = CurvatureSpec()
    batch_norm: Annotated[
        BatchNormSpec, WrapValidator(_batch_norm, json_schema_input_type=BatchNormSpec | Policy)
    ] = BatchNormSpec(policy="frozen")
    expect: dict[str, Expected] = {}
    precision: Precision = "float32"
    precision_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    batch_size: AutoOrCount = "auto"
    cells_per_pass: Literal[1, "auto"] = 1
    compile: bool = False
    threads: AutoOrThreads = "auto"
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    writing: Literal["auto", "parallel", "gather"] = "auto"
    output: str | None = None
    train: TrainSpec | None = None
    curve: CurveSpec | None = None
    launch: LaunchSpec = LaunchSpec()

    @property
    def loss_spec(self) -> LossSpec:
        """The loss with its options, whether it is written as a name or as a mapping."""
        return self.loss if isinstance(self.loss, LossSpec) else LossSpec(name=self.loss)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of job files, for editors.

    It requires nothing: a file may extend another, be extended by one, or leave a key to its
    matrix.
    """
    from lsengine.job.descriptions import DESCRIPTIONS  # nothing else needs them

    # A direction without its kind may be one of several.
    text = json.dumps(Document.model_json_schema()).replace('"oneOf"', '"anyOf"')
    schema: dict[str, Any] = json.loads(text)
    schema["properties"] |= {"extends": {"type": "string"}, "matrix": {"type": "object"}}
    for name, section in (("Document", schema), *schema["$defs"].items()):
        section.pop("required", None)
        for key, content in section["properties"].items():
            content["description"] = DESCRIPTIONS[name][key]
    return schema
