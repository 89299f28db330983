"""What a rank has of a job before the surface is laid out: model, data and a device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lsengine import data, devices
from lsengine.curvature import Way
from lsengine.data.nesting import mapped
from lsengine.engine import prepare
from lsengine.engine.evaluator import Evaluator
from lsengine.engine.messages import Assignment, Plan, WorkerInfo
from lsengine.engine.prepare import hessian_directions, precision, threads
from lsengine.engine.prepare.loading import use_of
from lsengine.engine.prepare.selection import movable_tensors
from lsengine.engine.prepare.settings import evaluation_settings, sample_shape
from lsengine.engine.prepare.twin import twin_at_centre
from lsengine.errors import UsageError
from lsengine.job.direction_types import HessianDirection
from lsengine.objective.device_state import placed, weights_of
from lsengine.objective.forward import COMPILED, Manner, cast, copied, manner_in_precision
from lsengine.objective.fused import kind_of_pass

_WORTH_SAYING = 2**30  # bytes


class Workspace:
    """A rank's model, data and device for one job; chooses threads and kernels.

    ``tick`` is called before every mini-batch, also of cells; it may raise to stop.  Model and data
    that have been ``loaded`` already are taken over.

    Raises:
        UsageError: If model or data cannot be loaded.
        EnvironmentUnfit: If there is no such device, or it lacks the precision, or memory for the
            weights.
    """

    def __init__(
        self,
        assignment: Assignment,
        tick: Callable[[], None],
        rank: int = 0,
        loaded: prepare.Loaded | None = None,
    ) -> None:
        self._job, self._tick, self._rank = assignment.job, tick, rank
        self._peers = assignment.peers
        document = self._job.document
        torch.set_num_threads(1)  # till it is known how many suit the work
        if document.device in ("auto", "cuda"):
            devices.choose_instance(assignment.slot)
        self._device = devices.device_of(document.device, assignment.slot)
        if self._device.type == "cpu":
            devices.tune_malloc()
        # Sums that differ in their last bits would be multiplied by Hessians again and again.
        along = any(isinstance(spec, HessianDirection) for spec in self._job.directions.values())
        devices.use_deterministic_kernels(along or "curvature" in document.quantities)
        self._loaded = loaded or prepare.load(self._job)
        share, settled = assignment.share, assignment.settled
        chosen = threads.choose(self._job, self._loaded, self._device, share, settled)
        self._threads_why = chosen.why
        # Of a surface that exists ``auto`` has been settled.
        self._precision: str = document.precision
        if document.precision == "auto" and not self._job.output.exists():
            self._precision = precision.settle(self._job, self._loaded, self._device, tick)
        precision.check(self._precision, self._device)
        precision.refuse_unfit(self._precision, self._loaded)
        self._weights = self._place_weights()
        self._way: Way | None = None
        if "curvature" in document.quantities:
            self._way = self._way_of_products()

    def _way_of_products(self) -> Way:
        try:
            return hessian_directions.way_of_products(self._job, self._loaded, self._device)
        except UsageError:  # perhaps for a reason that is none of curvature
            twin_at_centre(self._job, self._loaded, self._tick)
            raise

    def info(self, host: str) -> WorkerInfo:
        """Return where the values come from."""
        kind, identity = self._device.type, ""
        if kind == "cpu":  # last bits differ between instruction sets
            kind = f"cpu {torch.backends.cpu.get_cpu_capability()}"
        elif kind == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            kind, identity = f"cuda {properties.name}", str(getattr(properties, "uuid", ""))
        return WorkerInfo(
            host=host,
            device_kind=kind,
            device_id=identity,
            memory=devices.memory_of(self._device),
            threads=torch.get_num_threads(),
            threads_why=self._threads_why,
            torch_version=str(torch.__version__),
            sample_shape=sample_shape(self._loaded.dataset),
            precision=self._precision,
            forward=self._forward_kind(),
            products_by=str(self._way or ""),
            weights=self._weights,
        )

    def evaluator(self, plan: Plan) -> Evaluator:
        """Return what evaluates the cells of a surface that is laid out; see `Evaluator`."""
        return Evaluator(
            self._job,
            self._loaded,
            plan,
            device=self._device,
            tick=self._tick,
            rank=self._rank,
            products_by=self._way,
            peers=self._peers,
        )

    def _place_weights(self) -> str:
        """Return what the weights and vectors take and where, if that is worth a line in the log.

        Directions along a curve are counted as two; the objective knows better.
        """
        job, model = self._job, self._loaded.model
        exact = "float32" if self._precision == "auto" else self._precision
        settings = evaluation_settings(job, self._device, precision=exact, batch_size=1)
        moving = {
            name for spec in job.directions.values() for name in movable_tensors(job, model, spec)
        }
        weights = weights_of(model, moving, len(job.directions) * job.document.repeats, settings)
        hosted, said = placed(weights, self._device)
        is_large = sum(weights.on_device("none").values()) > _WORTH_SAYING
        return said if is_large or hosted != "none" else ""

    def _forward_kind(self) -> str:
        """Return how losses will be computed, by a trial with a copy of the network."""
        exact = "float32" if self._precision == "auto" else self._precision
        settings = evaluation_settings(self._job, self._device, precision=exact, batch_size=1)
        settings = settings.of_data(self._loaded.dataset)
        if settings.compiles:
            return COMPILED
        if settings.dtype == torch.float64 and settings.fuses:
            return str(Manner())
        batches, call = use_of(self._job, self._loaded.dataset)
        wanted = self._job.document.batch_size
        samples = 2 if wanted == "auto" or not settings.keeps_batches else wanted
        read = batches.first(next(iter(self._loaded.dataset.splits)), samples, settings.dtype)
        sample = mapped(lambda tensor: tensor.to(self._device), read)
        model = cast(copied(self._loaded.model).to(self._device), settings.dtype).eval()
        if not settings.fuses:
            try:
                return str(manner_in_precision(model, sample, settings.dtype, call))
            except Exception:  # the coordinator, which has the same network, says so
                return str(Manner())
        with torch.inference_mode():
            tf32 = settings.precision == "tf32"
            return kind_of_pass(model, settings.compute_dtype, data.lone(sample), tf32=tf32)
