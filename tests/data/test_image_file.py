"""One image file as numbers, by the range of its type, or refused."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from lsengine.data.image_file import decode
from lsengine.errors import UsageError
from tests.support import images

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 5, 4)).astype(np.uint16)
FLOATS = RNG.random((6, 5), dtype=np.float32)
GREY = BYTES[..., 0]


def _saved(pixels, ending, mode=None, **options):
    content = io.BytesIO()
    Image.fromarray(pixels, mode).save(content, format=ending, **options)
    return content.getvalue()


def _animated(ending):
    more = [Image.fromarray(255 - BYTES[..., :3])]
    return _saved(BYTES[..., :3], ending, save_all=True, append_images=more)


def _pgm(pixels, largest):
    height, width = pixels.shape
    return b"P5\n# grey\n%d %d\n%d\n" % (width, height, largest) + pixels.astype(">u2").tobytes()


READ = {
    "png 8": (lambda: _saved(GREY, "PNG"), GREY),
    "png 16": (lambda: _saved(DEEP[..., 0], "PNG"), DEEP[..., 0]),
    "png 16, other writer": (lambda: images.png(DEEP[..., 0], images.GREY), DEEP[..., 0]),
    "png 16, colour": (lambda: images.png(DEEP[..., :3], images.COLOUR), DEEP[..., :3]),
    "png 16, colour, alpha": (lambda: images.png(DEEP, images.COLOUR_ALPHA), DEEP[..., :3]),
    "png 1": (lambda: _saved(GREY > 99, "PNG"), np.where(GREY > 99, 255, 0)),
    "tiff 1": (lambda: _saved(GREY > 99, "TIFF"), np.where(GREY > 99, 255, 0)),
    "tiff 16": (lambda: _saved(DEEP[..., 0], "TIFF"), DEEP[..., 0]),
    "tiff 16, big": (lambda: _saved(DEEP[..., 0].astype(">u2"), "TIFF"), DEEP[..., 0]),
    "tiff 8, white first": (lambda: images.tiff(GREY, bits=8, photometric=0), 255 - GREY),
    "tiff float": (lambda: _saved(FLOATS, "TIFF"), FLOATS),
    "pgm 16": (lambda: _pgm(DEEP[..., 0], 65535), DEEP[..., 0]),
    "pgm 10": (lambda: _pgm(np.array([[0, 1023]]), 1023), np.array([[0, 65535]])),
    "rgb": (lambda: _saved(BYTES[..., :3], "PNG"), BYTES[..., :3]),
    "rgba": (lambda: _saved(BYTES, "PNG"), BYTES[..., :3]),
    "grey, alpha": (lambda: _saved(BYTES[..., :2], "PNG", "LA"), GREY[..., None].repeat(3, 2)),
}


@pytest.mark.parametrize(("content", "expected"), READ.values(), ids=READ.keys())
def test_an_image_has_the_numbers_of_its_file(tmp_path, content, expected):
    """Nothing is clipped or rounded: 1, 8 and 16 bits and floats, with and without alpha."""
    (tmp_path / "a.png").write_bytes(content())
    pixels, _ = decode(tmp_path / "a.png", None)
    np.testing.assert_array_equal(pixels, expected)
    wide = {"u": np.uint8 if expected.max() < 256 else np.uint16, "f": np.float32, "i": None}
    assert pixels.dtype == (wide[expected.dtype.kind] or pixels.dtype)


def test_a_palette_and_four_inks_become_colours(tmp_path):
    """A palette gives its entries; cyan, magenta, yellow and black are mixed as 255 - ink."""
    palette = Image.fromarray(GREY % 4, "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 11, 12, 13])
    palette.save(tmp_path / "p.png")
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [11, 12, 13]])
    np.testing.assert_array_equal(decode(tmp_path / "p.png", None)[0], colours[GREY % 4])
    inks = BYTES.copy()
    inks[..., 3] = 0
    (tmp_path / "c.tif").write_bytes(_saved(inks, "TIFF", "CMYK"))
    found = decode(tmp_path / "c.tif", None)[0].astype(int)
    assert np.abs(found - (255 - inks[..., :3].astype(int))).max() <= 1


REFUSED = {
    "16 bits, grey alpha": (lambda: images.png(DEEP[..., :2], images.GREY_ALPHA), "its alpha"),
    "ppm 16": (lambda: b"P6 1 1 65535\n" + bytes(6), "16 bits per colour.*make it a PNG"),
    "ppm 10, as text": (lambda: b"P3 1 1 1023\n1 2 1000\n", "16 bits per colour"),
    "tiff 12": (lambda: images.tiff(GREY[:, :3], bits=12), "12 bits per colour"),
    "tiff signed 8": (lambda: images.tiff(GREY, bits=8, sample_format=2), "with a sign"),
    "tiff signed 16": (lambda: images.tiff(DEEP[..., 0], bits=16, sample_format=2), "a sign"),
    "tiff 32": (lambda: images.tiff(DEEP[..., 0].astype("u4"), bits=32), "integers of 32 bits"),
    "tiff white first": (lambda: images.tiff(DEEP[..., 0], bits=16, photometric=0), "white"),
    "floats": (lambda: _saved(FLOATS * 255, "TIFF"), r"floats from .* to 2\d\d.*expected 0 to 1"),
    "nan": (lambda: _saved(FLOATS * np.nan, "TIFF"), "holds NaN; expected 0 to 1"),
    "pages": (lambda: _animated("TIFF"), "has 2 pictures"),
    "gif": (lambda: _animated("GIF"), "has 2 pictures"),
    "webp": (lambda: _animated("WEBP"), "has 2 pictures"),
    "png": (lambda: _animated("PNG"), "has 2 pictures"),
    "bomb": (lambda: images.png(DEEP[:1], images.GREY, size=(9999, 9999)), "more than 89,478,485"),
    "big bomb": (lambda: images.png(DEEP[:1], images.GREY, size=(10**5, 10**5)), "89,478,485"),
    "text": (lambda: b"hello", "not a readable image"),
    "empty": (lambda: b"", "not a readable image"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_be_lost_is_refused(tmp_path, content, said):
    """One message names the file and what is wrong with it."""
    (tmp_path / "a.png").write_bytes(content())
    with pytest.raises(UsageError, match=said) as caught:
        decode(tmp_path / "a.png", None)
    assert str(caught.value).startswith(f"data.root: {tmp_path / 'a.png'} ")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF"])
def test_a_cut_file_is_refused(tmp_path, kind):
    """Half of a file, and a file without its last row, of every format."""
    content = _saved(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8), kind)
    for kept in (len(content) // 2, len(content) - 60):
        (tmp_path / "a.png").write_bytes(content[:kept])
        with pytest.raises(UsageError, match="not a readable image"):
            decode(tmp_path / "a.png", None)


def test_what_is_left_out_is_noted(tmp_path):
    """Alpha that hides something, a flag that turns, further pictures; opaque alpha is none."""
    exif = Image.Exif()
    exif[274] = 6
    opaque = BYTES.copy()
    opaque[..., 3] = 255
    contents = {
        _saved(BYTES, "PNG"): ["transparent"],
        _saved(BYTES[..., :3], "PNG", transparency=(1, 2, 3)): ["transparent"],
        _saved(opaque, "PNG"): [],
        _saved(BYTES[..., :3], "JPEG", exif=exif): ["turned by EXIF"],
        _animated("MPO"): ["of several pictures"],
    }
    for content, notes in contents.items():
        (tmp_path / "a.png").write_bytes(content)
        pixels, found = decode(tmp_path / "a.png", None)
        assert found == notes
        assert pixels.shape == (6, 5, 3)


def _triangles(x, size):
    """Resample the first axis with triangles as wide as the scale, as antialiasing does."""
    scale = len(x) / size
    width = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    far = np.abs(np.arange(len(x)) + 0.5 - centres[:, None]) / width
    weights = np.clip(1 - far, 0, None)
    weights /= weights.sum(1, keepdims=True)
    return np.tensordot(weights, x.astype(np.float64), 1)


@pytest.mark.parametrize("size", [(3, 2), (9, 4), (6, 5), (1, 11)])
@pytest.mark.parametrize(
    ("pixels", "step"),
    [
        (GREY, 1.01),
        (BYTES[..., :3], 1.01),
        (DEEP[..., 0], 0.6),
        (DEEP[..., :3], 0.6),
        (FLOATS, 1e-6),
    ],
)
def test_a_resized_image_is_a_mean_with_triangles(tmp_path, size, pixels, step):
    """Every type, smaller and larger, to the rounding of its type (bytes: twice)."""
    is_deep_colour = pixels.dtype == np.uint16 and pixels.ndim == 3
    content = images.png(pixels, images.COLOUR) if is_deep_colour else _saved(pixels, "TIFF")
    (tmp_path / "a.tif").write_bytes(content)
    found, _ = decode(tmp_path / "a.tif", size)
    across = _triangles(np.swapaxes(pixels, 0, 1), size[1])
    expected = _triangles(np.swapaxes(across, 0, 1), size[0])
    assert found.dtype == pixels.dtype
    assert found.shape[:2] == size
    assert np.abs(found - expected).max() <= step


def test_many_pixels_of_few_bytes_are_refused(tmp_path):
    """Before they are read; and what is no file is never opened."""
    path = tmp_path / "a.png"
    Image.new("1", (8000, 8000)).save(path)
    with pytest.raises(UsageError, match="64,000,000 pixels in a small file"):
        decode(path, None)
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(UsageError, match="is a FIFO; expected a file"):
        decode(tmp_path / "b.png", None)


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow has another program read it, if there is one, and that program runs it."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was_run\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(UsageError, match="not a readable image"):
        decode(tmp_path / "a.png", None)
    assert not (tmp_path / "was_run").exists()
