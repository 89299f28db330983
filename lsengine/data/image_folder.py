"""Folders of image files.

Pillow is imported only if there are files to decode.

Shapes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsengine.data import decoding, pixel_cache
from lsengine.data.dataset import RawData
from lsengine.data.image_file import NOTES, Pixels
from lsengine.data.pixel_stack import PixelStack
from lsengine.errors import UsageError
from lsengine.files import is_folder
from lsengine.log import Progress
from lsengine.wording import listed, short

log = logging.getLogger(__name__)
ARGUMENTS = ("classes", "channels")
_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
_DEEPEST = 32  # folders in folders: more is a link to itself


def folder(
    root: Path,
    *,
    classes: Any = None,
    channels: Any = None,
    resize: Sequence[int] | None = None,
) -> RawData:
    """Load ``root/train/<class>/*`` and ``root/test/<class>/*`` (or ``val``).

    A root that holds the class folders itself is a training split.  Images in folders inside a
    class folder belong to the class.  Classes are numbered in the order of their names, or as
    the list ``classes`` says; as a number it says how many there are.  All images have one size,
    or are brought to ``resize``, rows and columns.  Grey ones have one channel if all images of
    the root are grey, else everything is RGB; ``channels: 3`` asks for RGB.

    Raises:
        UsageError: If there are no images, they differ in size, or one cannot be read.
        EnvironmentUnfit: If pillow is not installed.
    """
    if channels not in (None, 3) or isinstance(channels, float):
        raise UsageError(f"data.args.channels: got {short(channels)}; allowed: 3")
    roots = _split_folders(root)
    folders = {split: _class_folders(path) for split, path in roots.items()}
    names, count = _numbered(folders, roots, classes)
    others: list[Path] = []
    files = {
        split: [
            (file, label)
            for label, name in enumerate(names)
            if name in inner
            for file in _files(inner[name], others, nested=roots[split] != root)
        ]
        for split, inner in folders.items()
    }
    if others:
        log.warning(
            "data.root: files that are no images by their names are left out: %s",
            listed(others, most=2),
        )
    if not names or not all(files.values()):
        empty = next((roots[s] for s in files if not files[s]), root)
        allowed = f"<class>/*.png or another of {', '.join(_ENDINGS)}"
        raise UsageError(f"data.root: no images in {empty}; expected {allowed}")
    paths = {split: [file for file, _ in rows] for split, rows in files.items()}
    how = f"resize {resize and [*resize]}"
    images = pixel_cache.pixels(root, paths, how, lambda stack: _decode(paths, resize, stack))
    for note in images.notes:
        log.warning("data.root: %s", note)
    splits = {
        split: (
            _with_channels(images.splits[split], channels),
            torch.tensor([label for _, label in rows]),
        )
        for split, rows in files.items()
    }
    return RawData(splits=splits, classes=count)


def _split_folders(root: Path) -> dict[str, Path]:
    if not is_folder(root):
        raise UsageError(f"data.root: no such folder: {root}; expected train/<class>/*.png in it")
    test = root / "test" if (root / "test").is_dir() else root / "val"
    roots = {"train": root / "train", "test": test}
    return {name: path for name, path in roots.items() if path.is_dir()} or {"train": root}


def _class_folders(path: Path) -> dict[str, Path]:
    found = {p.name: p for p in path.iterdir() if not p.name.startswith(".")}
    loose = sorted(
        n for n in found if not found[n].is_dir() and found[n].suffix.lower() in _ENDINGS
    )
    if loose:
        log.warning(
            "data.root: images in no class folder of %s are left out: %s",
            *(path, listed(loose, most=2)),
        )
    return {name: p for name, p in found.items() if p.is_dir()}


def _numbered(
    folders: Mapping[str, Mapping[str, Path]], roots: Mapping[str, Path], classes: Any
) -> tuple[list[str], int]:
    """Return the names of the class folders by label, and the number of classes."""
    found = sorted({name for inner in folders.values() for name in inner})
    if isinstance(classes, list):
        ordered = [str(name) for name in classes]
        if not ordered or len(set(ordered)) < len(ordered):
            raise UsageError("data.args.classes: expected the name of each class, once")
        if odd := next((name for name in found if name not in ordered), None):
            where = next(roots[split] for split, inner in folders.items() if odd in inner)
            raise UsageError(f"data.args.classes: {odd} is not in it, but {where / odd} is there")
        return ordered, len(ordered)
    for split, inner in folders.items():
        if missing := [name for name in found if name not in inner]:
            raise UsageError(
                f"data.root: {roots[split]} has no folder {missing[0]}; every split needs "
                f"a folder for each of the {len(found)} classes, unless data.args.classes lists "
                "their names"
            )
    if classes is None:
        return found, len(found)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < len(found):
        raise UsageError(
            f"data.args.classes: got {short(classes)}; expected a list of names, or a number of "
            f"at least {len(found)}, for there are as many folders"
        )
    if classes > len(found):
        log.warning(
            "data.args.classes: %d folders are the classes 0 to %d of %d; if others are meant, "
            "list the names of all classes in order",
            *(len(found), len(found) - 1, classes),
        )
    return found, classes


def _files(folder: Path, others: list[Path], *, nested: bool) -> list[Path]:
    """Return the images of a class, those in folders inside it as well; others go to a list.

    Without ``nested`` they are refused there: what looks like a class may be a split.
    """
    images: list[Path] = []
    for file in _all_files(folder):
        (images if file.suffix.lower() in _ENDINGS else others).append(file)
    deep = next((file for file in images if file.parent != folder), None)
    if deep and not nested:
        raise UsageError(
            f"data.root: {deep} lies too deep; expected {folder}/*.png, or "
            f"train/<class>/*.png in {folder.parent}"
        )
    return sorted(images)


def _all_files(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder and of those inside it; of hidden ones images only."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"data.root: {error.filename} cannot be read: {error.strerror}") from None

    depth = len(folder.parts)
    for inner, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(inner)
        if len(here.parts) - depth > _DEEPEST:
            raise UsageError(
                f"data.root: {folder} has folders in folders, more than {_DEEPEST} deep; is a "
                "link to itself in it?"
            )
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (
            here / name
            for name in names
            if not name.startswith(".") or Path(name).suffix.lower() in _ENDINGS
        )


def _decode(
    paths: Mapping[str, Sequence[Path]], resize: Sequence[int] | None, stack: PixelStack
) -> list[str]:
    """Decode the image files of all splits onto a stack, and return what is to be said of them."""
    files = [file for of_split in paths.values() for file in of_split]
    is_shown = len(files) >= pixel_cache.FEWEST and log.isEnabledFor(logging.INFO)  # of rank 0
    style = "auto" if is_shown else "none"
    noted: dict[str, list[Path]] = defaultdict(list)
    shape: tuple[int, ...] = ()
    with (
        contextlib.closing(decoding.decoded(files, resize)) as images,
        contextlib.closing(Progress("images", total=len(files), done=0, style=style)) as progress,
    ):
        for file, (pixels, notes) in zip(files, images, strict=True):
            shape = shape or pixels.shape[:2]
            if pixels.shape[:2] != shape:
                raise _differs(file, pixels.shape, files[0], shape)
            stack.append(pixels)
            for note in notes:
                noted[note].append(file)
            progress.advance()
    return [
        f"images are {note}: {listed(files, most=2)}; {NOTES[note]}"
        for note, files in noted.items()
    ]


def _differs(file: Path, found: Sequence[int], first: Path, shape: Sequence[int]) -> UsageError:
    sizes = f"{file} is {found[0]}x{found[1]}, but {first} is {shape[0]}x{shape[1]}"
    remedy = f"data.resize: [{shape[0]}, {shape[1]}] brings them to it"
    return UsageError(f"data.root: {sizes}; all images must have one size; {remedy}")


def _with_channels(x_NCHW: Pixels, channels: int | None) -> Pixels:
    """Return images, grey ones with as many channels as are asked for."""
    if channels is None or x_NCHW.shape[1] == channels:
        return x_NCHW
    wide = np.broadcast_to(x_NCHW, (len(x_NCHW), channels, *x_NCHW.shape[2:]))
    return np.ascontiguousarray(wide)
