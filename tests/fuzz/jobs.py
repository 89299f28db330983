"""Jobs with values, keys, texts and bytes changed, and commands that read them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz import odd, oracles
from tests.fuzz.warm import Command
from tests.fuzz.world import SHAPES, World

_EXTRA: dict[str, Any] = {
    "curvature": {"samples": 20, "basis": 8},
    "curve": {"to": "run/epoch_001.pt", "output": "cc", "points": 5, "epochs": 1, "plane": [3, 3]},
    "launch": {"nodes": 1, "time": "00:10:00", "environment": {"A": "b"}, "sbatch": ["--x"]},
    "matrix": {"seed": [1, 2]},
    "quantities": ["loss", "accuracy"],
    "precision": "float32",
    "train": {"output": "run2", "epochs": 1, "batch_size": 16, "lr": 0.1, "save_every": 1},
    "extends": "base.yaml",
}
_SCALARS = (
    "!!bool maybe", "!!timestamp x", "!!int x", "!!float x", "!!binary '='", "!!set {a, b}",
    "!!omap [a]", "!!python/object:os.system x", "!!null x", "2001-13-45", "2001-12-14t21:59:43",
    "0x10", "0o17", "1_000", "1e3", ".inf", "-.inf", ".nan", "12:30:45", "~", "yes", "1e400",
    "9" * 400, "9" * 5000, "1e-400", "1.0e+308", "\"a\\0b\"", "\"a\\nb\"", "\"\\e[31m\"", "''",
    "'../../../../etc/passwd'", "/dev/zero", "/dev/stdin", "/", ".", "fifo", "folder",
    "'**/*.pt'", "'/**/*'", "'['", "'[a-'", "'{a,b}'", "~/x", "'$(touch x)'", "-", "? a", "&a *a",
    "*a", "<<", "[]", "{}", "[[[]]]", "{a: {a: {a: 1}}}", "[1, 2", "'", "\"\\ud800\"", "%TAG",
    "'" + "x" * 300 + "'", "'" + "x" * 5000 + "'",
)  # fmt: skip
_Edit = Callable[[Random, dict[str, Any]], None]


def prepare(world: World, folder: Path, number: int) -> list[Command]:
    """Write a changed job into the case's folder, and return commands that read it."""
    rng = Random(f"jobs {number}")
    shape = rng.choice(SHAPES)
    path = world.job(shape, folder)
    _neighbours(folder)
    document = yaml.safe_load(path.read_text())
    for name in rng.sample(list(_EXTRA), rng.choice((0, 0, 1, 2))):
        document.setdefault(name, _EXTRA[name])
    what = rng.random()
    if what < 0.6:
        for _ in range(rng.choice((1, 1, 2, 3))):
            rng.choice(_EDITS)(rng, document)
        path.write_text(_dumped(document))
    elif what < 0.8:
        text = _dumped(document)
        for _ in range(rng.choice((1, 2))):
            text = _spliced(rng, text)
        path.write_bytes(text.encode(errors="surrogateescape"))
    elif what < 0.9:
        path.write_bytes(odd.flawed(rng, _dumped(document).encode()))
    else:
        path.write_text(rng.choice(_WHOLE)(rng))
    return [_command(rng, path)]


def _neighbours(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "base.yaml").write_text("name: base\n")
    (folder / "circle.yaml").write_text("extends: circle.yaml\n")


def _command(rng: Random, path: Path) -> Command:
    quiet = ["--progress", "none"]
    kinds: list[list[object]] = [
        ["eval", path, *quiet],
        ["eval", path, *quiet],
        ["eval", path, *quiet, "--shard", rng.choice(("1/2", "2/2", "1/1000000000"))],
        ["eval", path, *quiet, "--set", _setting(rng)],
        ["train", path, *quiet],
        ["status", path],
        ["status", "--json", path],
        ["submit", path, "--dry-run", "--probe", "0"],
        ["init", "--list", path],
        ["trajectory", path, *quiet],
        ["spectrum", path, "--vectors", "1", "--trace", "1", "--density", "0", "-o", "out.h5"],
        ["connect", path, *quiet],
        ["eval", path, *quiet, "--only", rng.choice(("*", "[", "x" * 5000, "\x1b[31m", ""))],
    ]
    return Command(rng.choice(kinds), oracles.nothing)


def _setting(rng: Random) -> str:
    keys = ("grid.alpha", "batch_size", "threads", "matrix.seed", "name", "a.b.c.d", "", "output",
            "directions.alpha.kind", "model", "grid.alpha.0", "x" * 3000)  # fmt: skip
    return f"{rng.choice(keys)}={rng.choice(_SCALARS)}".replace("\0", "")


def _places(value: Any) -> Any:
    for key in range(len(value)) if isinstance(value, list) else list(value):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change(rng: Random, document: dict[str, Any]) -> None:
    holder, key = rng.choice(list(_places(document)))
    holder[key] = rng.choice(
        (
            odd.number(rng), odd.text(rng), odd.json_value(rng), None, True, [], {}, 10**22,
            10**400, -(10**400), [1] * 5000, "x" * 100_000, "fifo", "folder", "/dev/zero", "a\0b",
            "\x1b[31m", "x" * 300, "x/" * 3000, "../" * 500, [[]], {"a": 1}, {1: 2}, {None: 1},
        )
    )  # fmt: skip


def _remove(rng: Random, document: dict[str, Any]) -> None:
    holder, key = rng.choice(list(_places(document)))
    del holder[key]


def _rename(rng: Random, document: dict[str, Any]) -> None:
    holder, key = rng.choice([p for p in _places(document) if isinstance(p[0], dict)])
    keys = (*odd.NAMES, key[:-1] if isinstance(key, str) else "k", key.upper() if isinstance(
        key, str) else "K", 5, None, True, 1.5)  # fmt: skip
    holder[rng.choice(keys)] = holder.pop(key)


def _copy(rng: Random, document: dict[str, Any]) -> None:
    holder, key = rng.choice(list(_places(document)))
    other, second = rng.choice(list(_places(document)))
    holder[key] = yaml.safe_load(yaml.safe_dump(other[second]))


def _huge(rng: Random, document: dict[str, Any]) -> None:
    # Nothing that a machine could do in hours: a job may ask for that.
    n = rng.choice((20, 10**9, 10**18, 2**31, 2**63, 10**30))
    edits: tuple[Callable[[], None], ...] = (
        lambda: document.update(grid={"alpha": [-1, 1, n], "beta": [-1, 1, n]}),
        lambda: document.update(repeats=n),
        lambda: document.update(batch_size=n),
        lambda: document.update(threads=n),
        lambda: document.update(seed=n),
        lambda: document["data"].update(subset=n),
        lambda: document["data"].update(resize=[n, n]),
        lambda: document["model"].update(args={"hidden": [n]}),
        lambda: document["model"].update(args={"hidden": [1] * min(n, 500)}),
        lambda: document.update(curve=_EXTRA["curve"] | {"plane": [n, n], "points": n}),
        lambda: document.update(curvature={"basis": n, "samples": n, "max_products": n}),
        lambda: document.update(matrix={f"k{i}": list(range(10)) for i in range(9)}),
        lambda: document.update(matrix={"seed": list(range(min(n, 10**5)))}),
        lambda: document.update({f"k{i}": 1 for i in range(min(n, 20_000))}),
        lambda: document.update(name="x" * min(n, 10**5)),
        lambda: document.update(launch={"nodes": n, "ranks": n, "cores_per_rank": n}),
        lambda: document.update(train=_EXTRA["train"] | {"batch_size": n, "save_every": n}),
        lambda: document.update(grid={"alpha": list(range(min(n, 500))), "beta": [-1, 1, 3]}),
    )
    rng.choice(edits)()


def _path(rng: Random, document: dict[str, Any]) -> None:
    places = [("output",), ("model", "checkpoint"), ("data", "root"), ("trajectory", "checkpoints"),
              ("extends",), ("train", "output"), ("model", "path")]  # fmt: skip
    *way, last = rng.choice(places)
    holder = document
    for key in way:
        holder = holder.setdefault(key, {})
        if not isinstance(holder, dict):
            return
    holder[last] = rng.choice(
        (
            "fifo", "folder", "folder/", "/dev/zero", "/dev/stdin", "/proc/self/mem", "nowhere",
            "x" * 300, "x" * 250, "x" * 5000, "a/" * 2000, "a\0b", "a\nb", "\x1b[31m.h5", "-x.h5",
            "run[1].h5", "x**y.h5", "**", "/**/*", "[", "~", "~nobody/x", "", " ", ".", "..", "/",
            "circle.yaml", ["circle.yaml", "base.yaml"], "base.yaml/x", "plane.yaml", "é.h5",
            "file:///etc/passwd", "http://localhost:1/x", "x.pt.h5", "/root/x.h5", "/sys/x.h5",
        )
    )  # fmt: skip


_EDITS: tuple[_Edit, ...] = (
    _change,
    _change,
    _change,
    _remove,
    _rename,
    _copy,
    _huge,
    _huge,
    _path,
)


class _Loose(yaml.SafeDumper):
    """Writes surrogates and other odd characters as escapes."""


def _dumped(document: Any) -> str:
    return yaml.dump(document, Dumper=_Loose, sort_keys=False, default_flow_style=None)


def _spliced(rng: Random, text: str) -> str:
    """Replace a value, line or character of the text by something odd."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    what = rng.randrange(6)
    if what < 3 and ":" in lines[at]:
        lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(_SCALARS)}"
    elif what == 3:
        lines.insert(at, f"{' ' * rng.randrange(6)}{rng.choice(_SCALARS)}")
    elif what == 4:
        lines[at] = (
            rng.choice(("\t", "---", "...", "  ", "%YAML 9.9", "\x00", "\ufeff")) + lines[at]
        )
    else:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return "\n".join(lines)


def _aliases(rng: Random) -> str:
    width, depth = rng.choice(((10, 9), (2, 40), (100, 4), (1, 5000)))
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    for level in range(1, depth):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines)


def _merges(rng: Random) -> str:
    width, depth = rng.choice(((10, 9), (2, 30), (1, 3000)))
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, depth):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * width)}]}}")
    return "\n".join(lines)


_WHOLE: tuple[Callable[[Random], str], ...] = (
    _aliases,
    _merges,
    lambda rng: "",
    lambda rng: rng.choice(_SCALARS),
    lambda rng: "[" * rng.choice((100, 5_000, 100_000)),
    lambda rng: "{a: " * rng.choice((100, 5_000)),
    lambda rng: "- " * rng.choice((100, 5_000)),
    lambda rng: "\n".join(f"{' ' * n}a:" for n in range(rng.choice((50, 1500)))),
    lambda rng: "\n".join(f"k{n}: 1" for n in range(20_000)),
    lambda rng: "a: &a [*a]\n",
    lambda rng: "a: &a\n  <<: *a\n",
    lambda rng: "extends: circle.yaml\n",
    lambda rng: "extends: fifo\n",
    lambda rng: "name: x\nname: y\n",
    lambda rng: "? [a, b]\n: c\n",
    lambda rng: "? {a: b}\n: c\n",
    lambda rng: "--- a\n--- b\n",
    lambda rng: "name: x\nmatrix:\n" + "".join(f"  k{n}: {list(range(10))}\n" for n in range(9)),
    lambda rng: "name: x\nmatrix: {seed: &s [1, 2], repeats: *s, threads: *s}\n",
    lambda rng: "x: |\n" + "  y\n" * 200_000,
    lambda rng: "\x1b[31m: \x07\n",
    lambda rng: '"' + "\\x1b" * 100 + '": 1\n',
)
