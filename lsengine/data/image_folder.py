"""Folders of image files.

Pillow is imported only if there are files to decode.

Shapes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsengine.data import pixel_cache
from lsengine.data.dataset import RawData
from lsengine.errors import EnvironmentUnfit, UsageError

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")


def folder(root: Path) -> RawData:
    """Load ``root/train/<class>/*`` and ``root/test/<class>/*`` (or ``val``).

    A root that holds the class folders itself is a training split.  Classes are numbered in
    the order of their names.  All images have one size; grey ones have one channel if all
    images of the root are grey, else everything is converted to RGB.

    Raises:
        UsageError: If there are no images, they differ in size, or one cannot be read.
        EnvironmentUnfit: If pillow is not installed.
    """
    if not root.is_dir():
        raise UsageError(f"data.root: no such folder: {root}; expected train/<class>/*.png in it")
    test = root / "test" if (root / "test").is_dir() else root / "val"
    roots = {"train": root / "train", "test": test}
    roots = {name: path for name, path in roots.items() if path.is_dir()} or {"train": root}
    folders = {
        split: {p.name: p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")}
        for split, path in roots.items()
    }
    classes = sorted({name for inner in folders.values() for name in inner})
    for split, inner in folders.items():
        if missing := [name for name in classes if name not in inner]:
            raise UsageError(
                f"data.root: {roots[split]} has no folder {missing[0]}; every split needs "
                f"a folder for each of the {len(classes)} classes"
            )
    files = {
        split: [(file, label) for label, name in enumerate(classes) for file in _files(inner[name])]
        for split, inner in folders.items()
    }
    if not classes or not all(files.values()):
        empty = next((roots[s] for s in files if not files[s]), root)
        allowed = f"<class>/*.png or another of {', '.join(_ENDINGS)}"
        raise UsageError(f"data.root: no images in {empty}; expected {allowed}")
    paths = {split: [file for file, _ in rows] for split, rows in files.items()}
    images = pixel_cache.pixels(root, paths, lambda: _decoded(paths))
    splits = {
        split: (
            torch.from_numpy(images[split]).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([label for _, label in rows]),
        )
        for split, rows in files.items()
    }
    return RawData(splits=splits, classes=len(classes))


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)


def _decoded(paths: Mapping[str, Sequence[Path]]) -> pixel_cache.Pixels:
    """Decode the image files of all splits, (N, H, W, C), of one size and number of channels."""
    decoded = {split: [_decode(file) for file in files] for split, files in paths.items()}
    pairs = [pair for s, files in paths.items() for pair in zip(files, decoded[s], strict=True)]
    first, shape = pairs[0][0], pairs[0][1].shape[:2]
    for file, pixels in pairs:
        if pixels.shape[:2] != shape:
            size, other = (f"{height}x{width}" for height, width in (pixels.shape[:2], shape))
            found = f"{file} is {size}, but {first} is {other}"
            raise UsageError(f"data.root: {found}; all images must have one size")
    full = (*shape, 3 if any(pixels.ndim == 3 for _, pixels in pairs) else 1)
    return {
        split: np.stack([np.broadcast_to(p.reshape(*shape, -1), full) for p in images])
        for split, images in decoded.items()
    }


def _decode(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise EnvironmentUnfit(
            f"data.dataset: image_folder needs pillow, which cannot be imported: {error}"
        ) from None
    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L")
            return np.asarray(image.convert("L" if grey else "RGB"))
    except OSError as error:
        raise UsageError(f"data.root: {file} is not a readable image: {error}") from None
