"""Types of values in a job file, with their checks and messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    WrapValidator,
)

from lsengine.wording import control_character

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)  # of all sections
MOST = 2**31 - 1  # of anything that is counted
Count = Annotated[int, Field(ge=1, le=MOST)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _auto_or(most: int) -> Any:
    """Return the type of "auto", or an integer from 1 to ``most``."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        if value == "auto":
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError('expected "auto" or an integer of at least 1')
        if value > most:
            raise ValueError(f'expected "auto" or an integer of at most {most:,}')
        return handler(value)

    count = {"type": "integer", "minimum": 1, "maximum": most}
    schema = WithJsonSchema({"anyOf": [{"const": "auto"}, count]})
    return Annotated[Literal["auto"] | int, WrapValidator(check), schema]


if TYPE_CHECKING:
    AutoOrCount = Literal["auto"] | int
    AutoOrThreads = Literal["auto"] | int
else:
    AutoOrCount, AutoOrThreads = _auto_or(MOST), _auto_or(4096)


_FARTHEST = 1e30  # coordinates that surfaces are read with


def _axis(value: Any, handler: Callable[[Any], Any]) -> Any:
    shape = "expected [start, stop, points] or [auto, points]"
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        raise ValueError(shape)
    points = value[-1]
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise ValueError(f"{shape}; points is an integer of at least 1")
    if len(value) == 2 and value[0] != "auto":
        raise ValueError(shape)
    if len(value) == 2:
        return ("auto", points)
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value[:2]):
        raise ValueError(f"{shape}; start and stop are numbers")
    start, stop = float(value[0]), float(value[1])
    if not math.isfinite(stop - start):
        raise ValueError(f"{shape}; start and stop are finite, and so is what is between them")
    if any(v and not 1 / _FARTHEST <= abs(v) <= _FARTHEST for v in (start, stop)):
        sizes = f"from {1 / _FARTHEST:g} to {_FARTHEST:g}"
        raise ValueError(f"{shape}; start and stop are 0 or of a size {sizes}, as in surface files")
    if start > stop:
        raise ValueError(f"{shape}; start must not be greater than stop")
    if points == 1 and start != stop:
        raise ValueError(f"{shape}; with one point start and stop must be equal")
    if points > 1 and (stop - start) / (points - 1) < 4 * math.ulp(max(abs(start), abs(stop))):
        raise ValueError(f"{shape}; so many points between start and stop are not different")
    return (start, stop, points)


_AXIS_SCHEMA = {
    "type": "array",
    "minItems": 2,
    "maxItems": 3,
    "items": {"anyOf": [{"type": "number"}, {"const": "auto"}]},
    "description": "[start, stop, points], or [auto, points] to fit a trajectory",
}
AxisSpec = Annotated[
    tuple[float, float, int] | tuple[Literal["auto"], int],
    WrapValidator(_axis),
    PlainSerializer(list),
    WithJsonSchema(_AXIS_SCHEMA),
]


def _size(value: Any, handler: Callable[[Any], Any]) -> Any:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or any(not isinstance(v, int) or isinstance(v, bool) or v < 1 for v in value):
        raise ValueError("expected [rows, columns], two integers of at least 1")
    return handler(list(value))


Size = Annotated[list[Count], WrapValidator(_size)]


def _expected(value: Any, handler: Callable[[Any], Any]) -> Any:
    pair = value if isinstance(value, list | tuple) else [value, 0.0]
    are_numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not (are_numbers and all(map(math.isfinite, pair)) and pair[1] >= 0):
        raise ValueError("expected a number, or [number, tolerance] with a tolerance of at least 0")
    return [float(v) for v in pair] if pair is value else float(value)


_EXPECTED_SCHEMA = {
    "anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}],
    "description": "what is expected at the centre: a number, or [number, tolerance]",
}
Expected = Annotated[
    float | list[float], WrapValidator(_expected), WithJsonSchema(_EXPECTED_SCHEMA)
]


def _distinct(values: Sequence[str]) -> Sequence[str]:
    if len(set(values)) != len(values):
        raise ValueError("expected each entry once")
    return values


Distinct = AfterValidator(_distinct)
TIME = r"^([0-9]{1,6}(:[0-9]{1,2}){0,2}|[0-9]{1,4}-[0-9]{1,2}(:[0-9]{1,2}){0,2})$"
NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


def _one_line(value: str) -> str:
    if not value or control_character(value):
        raise ValueError("expected one line of text without control characters")
    return value


def _quoted(value: Any) -> Any:
    if isinstance(value, bool | int | float):  # how it was written, such as 08 or yes, is lost
        raise ValueError('expected text; write it in quotes, such as "1"')  # noqa: TRY004
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Quoted = Annotated[Line, BeforeValidator(_quoted)]
Word = Annotated[str, Field(pattern=r"^[^\s\x00]+$"), AfterValidator(_one_line)]
SbatchOption = Annotated[str, Field(pattern=r"^--[a-z][^\r\n]*$"), AfterValidator(_one_line)]
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
"""Of all sections: unknown keys and silent conversions are refused."""
