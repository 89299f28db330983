"""Keep parsed formulas: Matplotlib forgets them with each renderer, at 10 ms each."""

from __future__ import annotations

import functools
from typing import Any

from matplotlib.mathtext import MathTextParser


def keep() -> None:
    """Have all parsers share what any has parsed, in this process and its forks."""
    parse: Any = MathTextParser._parse_cached.__wrapped__  # type: ignore[attr-defined]

    @functools.cache
    def of_kind(kind: str, *asked: Any) -> object:
        return parse(MathTextParser(kind), *asked)

    def shared(parser: MathTextParser, *asked: Any) -> object:
        kind = {"vector": "path", "raster": "agg"}[parser._output_type]  # type: ignore[attr-defined]
        return of_kind(kind, *asked)

    MathTextParser._parse_cached = shared  # type: ignore[method-assign]
