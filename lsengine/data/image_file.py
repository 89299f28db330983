"""One image file as numbers: what Pillow reads, by the range of its type, or a refusal.

Pillow gives some files with fewer bits than they have, or with their numbers the wrong way round,
and says nothing.  Those are refused here.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.external.optional import library
from lsengine.files import is_regular

Pixels = NDArray[Any]
"""Of one image (H, W) or (H, W, 3), or of many: uint8, uint16, or float32 in [0, 1]."""
NOTES = {
    "transparent": "alpha is left out, and colours count as they are stored",
    "turned by EXIF": "they are taken as they are stored, not turned",
    "of several pictures": "the first picture is taken",
}
"""What is said of files that are not taken as they might be meant."""
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 274, 258, 262, 339
_SIGNED = 2
# Pillow knows others, too; for PostScript it starts another program, which runs what the file says.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_FREE_PIXELS, _PIXELS_PER_BYTE = 2**24, 200
_CURE = "convert it, or store floats (dataset: arrays)"


def decode(file: Path, resize: Sequence[int] | None) -> tuple[Pixels, list[str]]:
    """Return an image, of rows and columns ``resize`` if given, and the keys of its `NOTES`.

    Grey images are (H, W), all others RGB (H, W, 3).

    Raises:
        UsageError: If it cannot be read, is damaged, or would lose what it holds.
        EnvironmentUnfit: If pillow is not installed.
    """
    Image = library("PIL.Image", "vision", "data.dataset: image_folder")
    if not is_regular(file, "data.root"):
        raise UsageError(f"data.root: no such file: {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                _check_size(file, image)
                _check_nothing_is_lost(file, image)
                read = _deep_colours if _is_deep_colour(image) else _pixels
                image.load()
                return read(file, image, resize), list(_notes(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise UsageError(
            f"data.root: {file} has more than {most} pixels, which may be an attack by a small "
            "file that fills the memory; make it smaller"
        ) from None
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # whatever a parser stumbles over
        found = f"{type(error).__name__}: " * (not isinstance(error, OSError)) + str(error)
        raise UsageError(f"data.root: {file} is not a readable image: {found}") from None


def _check_size(file: Path, image: Any) -> None:
    """Refuse many pixels of few bytes."""
    pixels = image.width * image.height
    if pixels > max(_FREE_PIXELS, _PIXELS_PER_BYTE * file.stat().st_size):
        raise UsageError(
            f"data.root: {file} has {pixels:,} pixels in a small file, which may be an attack "
            "that fills the memory; make it smaller"
        )


def _check_nothing_is_lost(file: Path, image: Any) -> None:
    if problem := next(_lost(image), None):
        raise UsageError(f"data.root: {file} {problem}; {_CURE}")


def _lost(image: Any) -> Iterator[str]:
    """Yield what reading the file would lose, before its pixels are read."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's: the others are previews
        yield f"has {frames} pictures (an animation, or pages); expected one"
    deep = image.mode == "F" or image.mode.startswith("I")
    is_deep_png = image.format == "PNG" and not deep and _png_bits(image) > 8
    if is_deep_png and not _is_deep_colour(image):
        yield "has 16 bits per colour, which pillow reads with 8; leave out its alpha"
    if image.format == "PPM" and not deep and _largest_of_ppm(image) > 255:
        yield "has 16 bits per colour, which pillow reads with 8; make it a PNG"
    if image.format == "TIFF":
        yield from _lost_of_tiff(image.tag_v2, deep)


def _png_bits(image: Any) -> int:
    image.fp.seek(0)
    return int(image.fp.read(25)[24])  # in the header, which is the first chunk


def _is_deep_colour(image: Any) -> bool:
    """Whether pillow keeps the high byte alone of each colour of a PNG."""
    return image.format == "PNG" and image.tile and image.tile[0][3] in ("RGB;16B", "RGBA;16B")


def _largest_of_ppm(image: Any) -> int:
    decoder_args = image.tile[0][3]
    return int(decoder_args[1]) if isinstance(decoder_args, tuple) else 255


def _lost_of_tiff(tags: Any, deep: bool) -> Iterator[str]:
    bits = max(tags.get(_BITS, (1,)))
    if (bits > 8 and not deep) or (deep and bits not in (16, 32)):
        yield f"is a TIFF of {bits} bits per colour; allowed: 8, or grey of 16 or 32, or PNG"
    if _SIGNED in tags.get(_SAMPLE_FORMAT, (1,)):
        yield "holds integers with a sign, which have no range to be scaled by"
    if deep and tags.get(_PHOTOMETRIC) == 0:
        yield "has white as its smallest number, which pillow does not turn round"


def _notes(image: Any) -> Iterator[str]:
    transparent, turned, several = NOTES
    if "A" in image.mode.upper() and image.mode not in ("LAB",):
        alpha = image.getchannel(image.mode[-1])
        if alpha.getextrema()[0] < 255:
            yield transparent
    elif "transparency" in image.info:
        yield transparent
    orientation = 1
    with contextlib.suppress(Exception):  # damaged metadata say nothing
        orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in range(2, 9):
        yield turned
    if getattr(image, "n_frames", 1) > 1:
        yield several


def _pixels(file: Path, image: Any, resize: Sequence[int] | None) -> Pixels:

    if image.mode == "F" or image.mode.startswith("I"):
        deep = _of_floats(file, image) if image.mode == "F" else _of_16_bits(file, image)
        return deep if resize is None else _resized_deep(deep, resize)
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.array(image if resize is None else _resized(image, resize))


def _deep_colours(file: Path, image: Any, resize: Sequence[int] | None) -> Pixels:
    """Return colours of 16 bits.

    Pillow keeps the first byte of each number.  It gives the second one, too, when it is told that
    this is the high byte.
    """
    from PIL import Image

    with Image.open(file, formats=("PNG",)) as again:
        tiles: Any = again.tile
        codec, extents, offset, mode = tiles[0]
        tiles[:] = [(codec, extents, offset, mode.replace("16B", "16L"))]
        low = np.asarray(again)[..., :3]
    deep: Pixels = np.asarray(image)[..., :3] * np.uint16(256) + low
    if resize is None:
        return deep
    return np.stack([_resized_deep(channel, resize) for channel in np.moveaxis(deep, 2, 0)], 2)


def _resized_deep(pixels: Pixels, resize: Sequence[int]) -> Pixels:
    """Return floats, or numbers of 16 bits, of rows and columns ``resize``."""
    from PIL import Image

    resized = np.asarray(_resized(Image.fromarray(pixels.astype(np.float32)), resize))
    return resized if pixels.dtype == np.float32 else np.rint(resized).astype(np.uint16)


def _resized(image: Any, resize: Sequence[int]) -> Any:
    from PIL import Image

    height, width = resize
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _of_16_bits(file: Path, image: Any) -> Pixels:
    """Return a grey image of 16 bits; for some files pillow has them in 32."""
    pixels = np.asarray(image)
    is_deeper = image.mode == "I" and image.format not in ("PNG", "PPM")
    if is_deeper or pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max:
        found = "holds integers of 32 bits, which are not of a range to be scaled by"
        raise UsageError(f"data.root: {file} {found}; {_CURE}")
    return pixels.astype(np.uint16)


def _of_floats(file: Path, image: Any) -> Pixels:
    pixels = np.array(image, np.float32)
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        ends = f"floats from {float(pixels.min()):.6g} to {float(pixels.max()):.6g}"
        found = f"holds {'NaN' if np.isnan(pixels).any() else ends}; expected 0 to 1"
        remedy = "rescale them, or store them as they are with dataset: arrays"
        raise UsageError(f"data.root: {file} {found}; {remedy}")
    return pixels
