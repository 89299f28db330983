"""The learner: one network and its optimiser on resident data, epoch by epoch.

Knows no file.  An epoch takes its randomness from the recipe's seed and its own number, so
that network, optimiser and number are all of its state.

Shapes: N samples, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lsengine import data, models
from lsengine.devices import device_of, is_channels_last_safe, tune_malloc
from lsengine.errors import UsageError
from lsengine.job.loss import LossSpec
from lsengine.job.schema import Document
from lsengine.objective import losses
from lsengine.objective.classes import refuse_too_few
from lsengine.objective.device_state import in_precision
from lsengine.objective.forward import manner_of
from lsengine.objective.losses import Loss, loss_function
from lsengine.training import recipe

_EVALUATION_BATCH = 512


class Learner:
    """Trains the network of a job from fresh parameters.

    Args:
        document: A job with a ``train`` section.
        dataset: Its data.
        job_folder: Where the user's modules are looked for.
        tick: Called before every mini-batch; may raise to stop.
        slot: See `lsengine.devices.device_of`.

    Attributes:
        model: The network, on its device.
        optimizer: Its optimiser.
        parameters: The trainable parameters by name.
        columns: Names of what `measure` returns.

    Raises:
        UsageError: If network, data, loss and recipe do not go together.
    """

    def __init__(
        self,
        document: Document,
        dataset: data.Dataset,
        *,
        job_folder: Path,
        tick: Callable[[], None] = lambda: None,
        slot: int = 0,
    ) -> None:
        assert document.train is not None
        self._recipe, self._dataset, self._tick = document.train, dataset, tick
        self._check_data()
        self.device = device_of(document.device, slot)
        if self.device.type == "cpu":
            tune_malloc()
        # MPS has no float64: what needs it is computed on the host.
        self._host = torch.device("cpu") if self.device.type == "mps" else self.device
        self._loss = self._loss_of(document, job_folder)
        torch.manual_seed(recipe.seed_of(self._recipe.seed, "initial parameters"))
        self.model = models.build(
            document.model,
            channels=dataset.channels,
            classes=dataset.outputs,
            size=dataset.size,
            job_folder=job_folder,
        ).to(self.device)
        self._dtype = _dtype_of(self.model)
        # Convolutions are faster with channels last, but a user's own network may depend on
        # the other order (``view`` does), and a narrow one may not survive it.
        last = dataset.size is not None and not document.model.is_own
        last = last and is_channels_last_safe(self.model, self.device)
        self._format = torch.channels_last if last else torch.contiguous_format
        for parameter in self.model.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self._format)
        self._splits = {
            name: (data.lone(split.x).to(self.device), self._labels(name).to(self.device))
            for name, split in dataset.splits.items()
        }
        self._check_network(document.loss_spec)
        named = self.model.named_parameters()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        if not self.parameters:
            raise UsageError("model.arch: the network has no trainable parameters")
        self.optimizer = recipe.optimizer_of(self._recipe, self.model)
        kinds = ("loss", "error") if dataset.classes is not None else ("loss",)
        measured = (f"{split}_{kind}" for split in self._splits for kind in kinds)
        self.columns = (*measured, "learning_rate", "weight_norm")

    def _loss_of(self, document: Document, job_folder: Path) -> Loss:
        spec, lacks_labels = document.loss_spec, self._dataset.lacks_labels
        return loss_function(
            spec.name, spec.options, job_folder=job_folder, lacks_labels=lacks_labels
        )

    def _check_data(self) -> None:
        settings, split = self._recipe, self._dataset.splits["train"]
        x, y = data.lone(split.x), data.lone(split.y)
        if self._dataset.size is None and (settings.crop or settings.flip):
            key = "crop" if settings.crop else "flip"
            shape = [*x.shape[1:]]
            raise UsageError(f"train.{key}: needs images; samples have shape {shape}")
        is_moved, at_pixels = settings.crop or settings.flip, y.shape[1:][-2:]
        if is_moved and len(at_pixels) == 2 and at_pixels == self._dataset.size:
            key = "crop" if settings.crop else "flip"
            raise UsageError(f"train.{key}: moves images, but not their targets at every pixel")
        if settings.noise and x.dtype == torch.int64:
            raise UsageError("train.noise: the inputs are integers, which cannot have noise")
        if settings.label_noise and (y.ndim > 1 or (self._dataset.classes or 0) < 2):
            raise UsageError(
                "train.label_noise: needs labels of two or more classes, (N,), got shape "
                f"{[*y.shape]}"
            )
        if len(y) < 2:
            raise UsageError("data.dataset: training needs two or more samples")

    def _labels(self, split: str) -> Tensor:
        y, settings = data.lone(self._dataset.splits[split].y), self._recipe
        if split != "train" or not settings.label_noise:
            return y
        classes = self._dataset.classes
        assert classes is not None
        return recipe.with_label_noise(y, classes, settings.label_noise, settings.seed)

    def _check_network(self, loss: LossSpec) -> None:
        """Run two samples through network and loss, before anything is written."""
        x, y = (tensor[:2] for tensor in self._splits["train"])
        classes = self._dataset.classes
        output = models.check_model_accepts(self.model, self._inputs(x), call=_called)
        self.model.eval()
        self._manner = manner_of(self.model, self._inputs(x))
        try:
            # A loss of one's own may want one logit for two classes.
            if classes is not None and loss.has_class_outputs:
                refuse_too_few(output, y, classes, loss.class_axis)
            with torch.no_grad():
                losses.of_samples(self._loss, output, y)
                if classes is not None:
                    losses.hits_of(self._loss, output, y)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"loss: {loss.name} refuses the network's output: {type(error).__name__}: {error}"
            ) from error

    def _inputs(self, x: Tensor) -> Tensor:
        inputs = data.standardized(x, self._dataset, self._dtype)
        return inputs.contiguous(memory_format=self._format) if inputs.ndim == 4 else inputs

    def train_epoch(self, epoch: int) -> None:
        """Go once through the training split; the first ``epoch`` is 1."""
        settings = self._recipe
        generator = recipe.generator_of(settings.seed, f"epoch {epoch}")
        torch.manual_seed(recipe.seed_of(settings.seed, f"noise and dropout of epoch {epoch}"))
        x, y = self._splits["train"]
        batches = recipe.batches(len(y), settings.batch_size, generator)
        if settings.crop or settings.flip:
            x = recipe.augmented(x, crop=settings.crop, flip=settings.flip, generator=generator)
        self.model.train()
        for step, chosen in enumerate(batches):
            self._tick()
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate(settings, epoch, step, len(batches))
            indices = chosen.to(self.device)
            inputs = self._inputs(x[indices])
            if settings.noise:
                inputs.add_(torch.randn_like(inputs), alpha=settings.noise)
            self.optimizer.zero_grad()
            losses.mean(self._loss, self.model(inputs), y[indices]).backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_([*self.parameters.values()], settings.clip_norm)
            self.optimizer.step()

    def measure(self, epoch: int) -> tuple[dict[str, float], list[float]]:
        """Return `columns` by name, and the norm of each trainable parameter.

        ``epoch`` is the one that has just ended; 0 before training.
        """
        row = {k: v for name in self._splits for k, v in self._evaluate(name).items()}
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"] if epoch else math.nan
        tensors = [p.detach().to(self._host).double() for p in self.parameters.values()]
        norms_P = torch.stack([t.norm() for t in tensors])
        row["weight_norm"] = float(norms_P.norm())
        return row, norms_P.tolist()

    def _evaluate(self, split: str) -> dict[str, float]:
        """Return loss and error of a whole split, as it is, in evaluation mode."""
        x, y = self._splits[split]
        loss = torch.zeros((), dtype=torch.float64, device=self._host)
        wrong, counted, labels = torch.zeros_like(loss), 0.0, 0.0
        self.model.eval()
        with torch.no_grad():
            size = _EVALUATION_BATCH
            for x_N, y_N in zip(x.split(size), y.split(size), strict=True):
                self._tick()
                output = self._manner.call(self.model, self._inputs(x_N)).to(self._host)
                output = in_precision(output, torch.float64)
                target = y_N.to(self._host)
                target = in_precision(target, torch.float64)
                of_batch = losses.of_samples(self._loss, output, target)
                counted += of_batch.total_weight()
                loss += of_batch.mean() * of_batch.total_weight()
                if self._dataset.classes is not None:
                    share = losses.labelled(target) / target[0].numel()
                    labels += float(share.sum())
                    wrong += ((1 - losses.hits_of(self._loss, output, target)) * share).sum()
        measured = {f"{split}_loss": float(loss) / counted}
        if self._dataset.classes is not None:
            measured[f"{split}_error"] = float(wrong) / labels
        return measured


def _called(model: nn.Module, inputs: Tensor) -> Tensor:
    output: Tensor = manner_of(model, inputs).call(model, inputs)
    return output


def _dtype_of(model: nn.Module) -> torch.dtype:
    """Return the precision of inputs that a network wants, by that of its parameters."""
    dtypes = {p.dtype.to_real() for p in model.parameters()}
    if not dtypes.isdisjoint({torch.float16, torch.bfloat16}):
        raise UsageError(
            "model.arch: the network has parameters of 16 bits; trainings are in float32 or "
            "float64: let the factory make those"
        )
    return torch.float64 if torch.float64 in dtypes else torch.float32
