"""What networks return: a tensor, or several, as those of Hugging Face do.

Shape suffix: N samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lsengine.data.nesting import Nested


def logits_of(output: Any) -> Tensor:
    """Return the tensor (N, ...) that built-in losses and accuracies are of.

    That is the output itself, or its entry or attribute ``logits``.

    Raises:
        ValueError: If it is neither, with what to do.
    """
    if isinstance(output, Tensor):
        return output
    is_mapping = isinstance(output, Mapping)
    logits = output.get("logits") if is_mapping else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    kind = type(output).__name__
    found = f"{kind} with {', '.join(map(str, output)) or 'nothing'}" if is_mapping else kind
    raise ValueError(
        f"the network returns {found}, and no tensor logits; let it return one tensor, or a dict "
        "with logits, or use a loss of your own, which gets all of it"
    )


def nested_output(output: Any) -> Nested:
    """Return an output as a loss of one's own gets it: tensors, or dicts and tuples of them.

    An object of named outputs, such as a ``ModelOutput`` or a dataclass, becomes a dict.  What is
    no tensor, such as None or a cache, is left out of dicts.

    Raises:
        ValueError: If nothing in it is a tensor.
    """
    nested = _nested(output)
    if nested is None:
        raise ValueError(
            f"the network returns {type(output).__name__}; expected a tensor, or dicts and tuples "
            "of tensors"
        )
    return nested


def _nested(output: Any) -> Nested | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = dict(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        named = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    elif hasattr(output, "_asdict"):
        named = output._asdict()
    elif isinstance(output, tuple | list):
        parts = [_nested(value) for value in output]
        kept = tuple(part for part in parts if part is not None)
        return kept if kept and len(kept) == len(parts) else None
    elif isinstance(logits := getattr(output, "logits", None), Tensor):
        named = {"logits": logits, "loss": getattr(output, "loss", None)}
    else:
        return None
    inner = {str(key): _nested(value) for key, value in named.items()}
    return {key: value for key, value in inner.items() if value is not None} or None
