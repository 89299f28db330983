"""The record of `gpu_check.py` as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = Sequence[object]
Figures = Sequence[Mapping[str, Any]]


def facts(found: Mapping[str, Any]) -> str:
    """Return what the machine has and lacks, as lines."""
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    card = found.get("card")
    lines = [
        f"card: {card}, {found['memory_gib']} GiB, capability {found['capability']}, "
        f"{found['cards']} in all"
        if card
        else "card: none",
        f"driver {found.get('driver') or 'unknown'}, CUDA {found.get('cuda') or 'none'}, "
        f"cuDNN {found.get('cudnn') or 'none'}, {found.get('cores')} cores",
        f"Python {found['python']}, {packages}",
        f"h5py {'with' if found.get('h5py_mpi') else 'without'} MPI, "
        f"mpirun: {found.get('mpirun') or 'none'}, C compiler: {found.get('compiler') or 'none'}",
        f"lsengine {found.get('lsengine', found.get('lsengine_error'))}, "
        f"commit {found.get('commit') or 'unknown'}",
    ]
    lines += [f"missing: {name} ({why})" for name, why in found["missing"].items()]
    return "\n".join(lines)


def markdown(record: Mapping[str, Any]) -> str:
    """Return a page with everything that was found so far."""
    found = record.get("facts")
    title = f"# GPU check, {(found or {}).get('card', 'no card')}, {record['date']}"
    blocks = [title]
    if found:
        blocks.append("\n".join(f"- {line}" for line in facts(found).splitlines()))
    if "refusal" in record:
        blocks.append(f"Nothing was checked: {record['refusal']}")
    parts = record["parts"]
    blocks.append(
        _table(
            ("part", "outcome", "s"),
            [(name, part["outcome"], part.get("seconds", "")) for name, part in parts.items()],
        )
    )
    sections: dict[str, Callable[[Figures], list[str]]] = {
        "tests": _tests,
        "table": _resnet110,
        "runs": _runs,
        "networks": _networks,
    }
    for name, section in sections.items():
        if name in parts:
            blocks += [block for block in section(parts[name]["figures"]) if block]
            if tail := parts[name].get("tail"):
                blocks.append(f"The end of the log of {name}:\n\n```text\n{_lines(tail)}\n```")
    return "\n\n".join(blocks)


def _tests(figures: Figures) -> list[str]:
    counts = Counter(f["outcome"] for f in figures)
    bad = [f"- {f['outcome']}: `{f['name']}`" for f in figures if f["outcome"] in _BAD]
    said = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    return ["## Tests", said or "None ran.", "\n".join(bad)]


def _resnet110(figures: Figures) -> list[str]:
    cells = [
        (
            *(f["precision"], f["forward"], f["batch_size"], _shown(f["ours_ms"])),
            *(f.get("must_ms", ""), f.get("aim_ms", ""), f"{f['roofline']['median']:.2f}"),
            *(_shown(f["eager_ms"]), _shown(f["channels_last_ms"])),
            *(f"{f['ratio']['median']:.2f}", f"{f['off']:.1e}", f"{f['first_s']:.1f}"),
            *(f"{f['plane_min']:.1f}", f"{f['peak_mib']:.0f}"),
        )
        for f in _of(figures, "cell")
    ]
    header = (
        *("precision", "forward", "batch", "ms", "must", "aim", "of the roofline"),
        *("own loop, ms", "own loop, channels-last, ms", "times as fast", "loss off"),
        *("first cell, s", "51x51, min", "peak MiB"),
    )
    blocks = ["## One cell"]
    blocks += [
        f"{f['network']}, {f['images']} images; copies {f['gb_per_s']:.0f} GB/s, read and written "
        f"counted; bfloat16 matrix product {f['tflop_per_s']:.0f} TFLOP/s."
        for f in _of(figures, "machine")
    ]
    blocks += [_table(header, cells)] if cells else []
    if batches := _of(figures, "batch"):
        rows: list[Row] = [(f["precision"], f["batch_size"], _shown(f["ours_ms"])) for f in batches]
        blocks += ["### Batch sizes", _table(("precision", "batch", "ms"), rows)]
    if places := _of(figures, "residence"):
        rows = [(f["place"], _shown(f["ours_ms"])) for f in places]
        one = places[0]
        what = f"data of {one['images']} images of {one['size']}x{one['size']}, {one['network']}"
        blocks += ["### Place of the data", _table((f"{what}, bfloat16", "ms"), rows)]
    if hessians := _of(figures, "product"):
        rows = [
            (
                *(f["way"], f["images"], _shown(f["ms"]), f.get("must_ms", "")),
                *(f.get("aim_ms", ""), f["off"], f.get("same_bytes", "")),
            )
            for f in hessians
        ]
        of = ("images", "ms", "must", "aim", "off float64's", "same bytes again")
        blocks += ["### Curvature", _table(("a Hessian product of ResNet-20", *of), rows)]
    return [*blocks, *_notes(figures)]


def _runs(figures: Figures) -> list[str]:
    rows: list[Row] = [
        (f["name"], "yes" if f["right"] else "**NO**", f.get("seconds", ""), f.get("found", ""))
        for f in _of(figures, "run")
    ]
    blocks = ["## Whole runs", _table(("run", "right", "s", "found"), rows)]
    if shared := _of(figures, "workers"):
        rows = [(f["network"], f["workers"], _shown(f["cells_per_s"])) for f in shared]
        blocks.append("### Several workers on the card")
        blocks.append(_table(("network", "workers", "cells/s"), rows))
    blocks += [f"```text\n{f['text'].strip()}\n```" for f in _of(figures, "doctor")]
    return [*blocks, *_notes(figures)]


def _networks(figures: Figures) -> list[str]:
    rows = [
        (
            *(f["network"], f["images"], f["precision"], f["forward"], _shown(f["ours_ms"])),
            *(_shown(f["eager_ms"]), _shown(f["channels_last_ms"])),
            *(f"{f['ratio']['median']:.2f}", f"{f['off']:.1e}"),
        )
        for f in _of(figures, "cell")
    ]
    header = (
        *("network", "images", "precision", "forward", "ms", "own loop, ms"),
        *("channels-last, ms", "times as fast", "loss off"),
    )
    return ["## Networks", _table(header, rows), *_notes(figures)]


_BAD = ("failed", "error")


def _of(figures: Figures, kind: str) -> Figures:
    return [f for f in figures if f["figure"] == kind]


def _notes(figures: Figures) -> list[str]:
    return [f["text"] for f in _of(figures, "note")]


def _shown(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "-"
    return f"{summary['median']:.4g} [{summary['low']:.4g}, {summary['high']:.4g}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return _lines("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
