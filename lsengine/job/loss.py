"""What a job may say of its loss: a name, or a name with options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
)

from lsengine.job.value_types import STRICT, NonNegative, Positive
from lsengine.wording import listed

_OF_CLASSES = ("weight", "ignore_index", "class_axis")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "cross_entropy": ("label_smoothing", *_OF_CLASSES),
    "mse": (),
    "bce_with_logits": ("pos_weight", "ignore_index"),
    "nll": _OF_CLASSES,
    "l1": (),
    "huber": ("delta",),
    "output": (),
}
"""The options of each built-in loss."""
_OF_OWN = ("class_axis",)


class LossSpec(BaseModel):
    """A loss and its options; one that is None is not given.

    ``output`` is the loss that the network returns itself.
    """

    model_config = STRICT

    name: Annotated[str, Field(min_length=1)]
    label_smoothing: Annotated[float, Field(ge=0, le=1)] | None = None
    weight: Annotated[list[NonNegative], Field(min_length=1)] | None = None
    ignore_index: int | None = None
    delta: Positive | None = None
    pos_weight: NonNegative | Annotated[list[NonNegative], Field(min_length=1)] | None = None
    class_axis: Literal["last", "second"] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given, by name."""
        return {k: v for k, v in dict(self).items() if k != "name" and v is not None}

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own code, of which nothing is known."""
        return ":" in self.name

    @property
    def has_class_outputs(self) -> bool:
        """Whether a network needs an output for each class of the labels."""
        return not self.is_own and self.name not in ("bce_with_logits", "output")

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in handler(self).items() if v is not None}


def problems(spec: LossSpec) -> Iterator[str]:
    """Yield which options do not go with the loss or with each other."""
    allowed = _OF_OWN if spec.is_own else OPTIONS.get(spec.name, tuple(LossSpec.model_fields))
    for name in spec.options:
        if name not in allowed:
            takes = f"takes {listed(allowed)} only" if allowed else "takes no options"
            what = "a loss of your own" if spec.is_own else spec.name
            yield f"loss.{name}: {what} {takes}"
    if spec.weight is not None and not any(spec.weight):
        yield "loss.weight: all are 0, so no label would count"
    if spec.weight is not None and 0 in spec.weight and spec.label_smoothing:
        yield (
            "loss.weight: got 0 with label_smoothing, which would count a label of that class "
            "without a weight; give it a small one, or leave label_smoothing out"
        )


def _tag(value: Any) -> str:
    return "options" if isinstance(value, dict | LossSpec) else "name"


def _plain(value: str | LossSpec) -> str | LossSpec:
    return value.name if isinstance(value, LossSpec) and not value.options else value


Loss = Annotated[
    Annotated[str, Field(min_length=1), Tag("name")] | Annotated[LossSpec, Tag("options")],
    Discriminator(_tag),
    AfterValidator(_plain),
]
"""A name alone stays the text that it is."""
