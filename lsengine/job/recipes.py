"""The section ``train`` of a job."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from lsengine.job.value_types import STRICT, Count, Epochs, Fraction, NonNegative, Positive, Seed


class TrainSpec(BaseModel):
    """One training recipe (Li et al. 2018, appendix A, unless said otherwise)."""

    model_config = STRICT

    output: str
    epochs: Epochs
    save_every: Count = 10
    save_epochs: list[Annotated[int, Field(ge=0)]] = []
    measure_every: Count = 1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    batch_size: Count = 128
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    lr: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4
    milestones: list[Count] | None = None
    gamma: Positive = 0.1
    schedule: Literal["milestones", "cosine"] = "milestones"
    warmup: NonNegative = 0.0
    clip_norm: Positive | None = None
    crop: Annotated[int, Field(ge=0, le=10_000)] = 0
    flip: bool = False
    noise: NonNegative = 0.0
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_adam(cls, value: Any) -> Any:
        defaults = {"adam": {"lr": 0.001}, "adamw": {"lr": 0.001, "weight_decay": 0.01}}
        if isinstance(value, dict) and value.get("optimizer") in [*defaults]:
            return defaults[value["optimizer"]] | value
        return value

    @model_validator(mode="after")
    def _schedule_fits(self) -> TrainSpec:
        if self.schedule == "cosine" and self.milestones is not None:
            raise ValueError("schedule: cosine has no milestones; leave one of them out")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup: got {self.warmup:g}, but there are {self.epochs} epochs")
        return self
