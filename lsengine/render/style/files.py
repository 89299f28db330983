"""Style files: a few lines of TOML that start from a named style and say what differs.

Every wrong line is reported at once, with its key, what was found, and what is allowed.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lsengine.errors import UsageError
from lsengine.render.style.styles import STYLES, Style, fonts, inks
from lsengine.wording import did_you_mean

SUFFIX = ".toml"
LINES = ("surface", "floor", "both", "none")
SCALES = ("auto", "linear", "log", "quantile")
Check = Callable[[Any], str]  # returns what is allowed if a value is not, else nothing


def find(named: str | Path) -> Style:
    """Return a style by its name in `STYLES`, or from a style file, ``.toml``.

    Raises:
        UsageError: If there is no such style or file, or the file is wrong; lists all problems.
    """
    if str(named) in STYLES:
        return STYLES[str(named)]
    path = Path(named)
    if path.suffix.lower() != SUFFIX:
        raise UsageError(
            f"render: unknown style {str(named)!r}; allowed: {', '.join(STYLES)}, or a style file "
            f"(*{SUFFIX}){did_you_mean(named, STYLES)}"
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: the style cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no TOML ({error})") from error
    if problems := list(_problems(raw, _KEYS, "")):
        raise UsageError("\n  ".join([f"{path}: {len(problems)} problem(s)", *problems]))
    return _style(raw, path.stem)


def _style(raw: Mapping[str, Any], name: str) -> Style:
    base = STYLES[raw.get("base", "default")]
    direct = {field.name for field in fields(Style)}
    changes: dict[str, Any] = {key: value for key, value in raw.items() if key in direct}
    if "limits" in changes:
        changes["limits"] = (float(raw["limits"][0]), float(raw["limits"][1]))
    rc = dict(base.rc)
    if {"font", "font_size"} & raw.keys():
        family = raw.get("font", rc["font.family"])
        mathtext = rc["mathtext.fontset"] if "font" not in raw else _mathtext(family)
        rc |= fonts(float(raw.get("font_size", rc["font.size"])), family, mathtext)
    ink, ground = raw.get("ink", base.ink), raw.get("background", base.ground)
    if {"ink", "background"} & raw.keys():
        rc |= inks(ink, ground, ink if "ink" in raw else rc["axes.edgecolor"])
    if "width" in raw and "wide" not in raw:
        changes["wide"] = base.wide / base.width * raw["width"]
    changes["camera"] = replace(base.camera, **raw.get("camera", {}))
    changes["turntable"] = replace(base.turntable, **raw.get("turntable", {}))
    return replace(base, **{**changes, "name": name, "rc": rc, "ink": ink, "ground": ground})


def _mathtext(family: str) -> str:
    """Return the set of mathematical letters that goes with a font."""
    plain = ("dejavusans", "dejavuserif", "stix", "cm")
    words = family.lower().replace(" ", "")
    if words in plain:
        return words
    serif = any(word in words for word in ("serif", "stix", "times", "roman", "cm"))
    return "stix" if serif and "sans" not in words else "stixsans"


def _problems(raw: Mapping[str, Any], keys: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in raw.items():
        check = keys.get(key)
        if check is None:
            allowed = f"; allowed: {', '.join(keys)}"
            yield f"{prefix}{key}: unknown key{did_you_mean(key, keys) or allowed}"
        elif isinstance(check, Mapping):
            if isinstance(value, Mapping):
                yield from _problems(value, check, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}: got {value!r}; expected a table with {', '.join(check)}"
        elif allowed := check(value):
            yield f"{prefix}{key}: got {value!r}; expected {allowed}"


def _number(low: float, high: float, *, whole: bool = False) -> Check:
    def check(value: Any) -> str:
        kinds = int if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if right and math.isfinite(value) and low <= value <= high:
            return ""
        return f"{'an integer' if whole else 'a number'} from {low:g} to {high:g}"

    return check


def _one_of(*allowed: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in allowed else ", ".join(allowed) + did_you_mean(value, allowed)

    return check


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _limits(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2:
        number = _number(-1e300, 1e300)
        if not any(map(number, value)) and value[0] < value[1]:
            return ""
    return "two numbers, the lower first: [0.01, 10]"


def _colormap(value: Any) -> str:
    from matplotlib import colormaps

    if isinstance(value, str) and value in colormaps:
        return ""
    return f"the name of a colour map of matplotlib's{did_you_mean(value, colormaps)}"


def _color(value: Any) -> str:
    from matplotlib.colors import is_color_like

    right = isinstance(value, str) and value != "none" and is_color_like(value)
    return "" if right else 'a colour, such as "#1a1a1a" or "white"'


def _font(value: Any) -> str:
    from matplotlib.font_manager import FontProperties, findfont, get_font_names

    try:
        findfont(FontProperties(family=value), fallback_to_default=False)
    except (ValueError, TypeError):
        return f"a font that is installed{did_you_mean(value, get_font_names())}"
    return ""


_KEYS: Mapping[str, Check | Mapping[str, Check]] = {
    "base": _one_of(*STYLES),
    "colormap": _colormap,
    "scale": _one_of(*SCALES),
    "levels": _number(2, 100, whole=True),
    "limits": _limits,
    "width": _number(1, 40),
    "wide": _number(1, 40),
    "height": _number(0.5, 40),
    "dpi": _number(20, 1200, whole=True),
    "font": _font,
    "font_size": _number(3, 60),
    "ink": _color,
    "background": _color,
    "transparent": _flag,
    "lit": _flag,
    "relief": _number(0.05, 3),
    "lines": _one_of(*LINES),
    "camera": {
        "azimuth": _number(-360, 360),
        "elevation": _number(1, 89),
        "zoom": _number(0.1, 10),
    },
    "turntable": {"frames": _number(2, 720, whole=True), "seconds": _number(0.2, 120)},
}
