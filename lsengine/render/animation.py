"""Trajectories that walk, and lit landscapes that turn, as GIF or MP4.

Pillow, which comes with matplotlib, encodes GIF, and the program ffmpeg MP4, where it is
installed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lsengine import files
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.render.planes import paths, planes
from lsengine.render.request import Request
from lsengine.render.style import Style

MOST_FRAMES = 150  # of longer runs checkpoints are left out, evenly
SECONDS = 6.0  # about what a run takes on the screen
SLOWEST, FASTEST = 4, 25  # frames per second
HOLD_S = 1.5  # the whole path stands still for so long before it begins anew
PIXELS = {1: 720, 2: 1080}  # width of one panel, and of several
SAMPLE = 12  # pictures whose colours make the palette of a GIF
NEAR = 11  # of 255: Pillow takes colours for one another that are nearer; they tint the ground
CLEAR = 255  # the colour of a palette that is none: nothing is drawn there


def draw(request: Request, path: Path) -> None:
    """Write surfaces that move at one pace, ``trajectory`` or lit ``surface``, as GIF or MP4.

    The file appears whole or not at all.

    Raises:
        EnvironmentUnfit: If MP4 is asked for and there is no ffmpeg, or the file cannot be
            written.
        UsageError: If a surface cannot be drawn, or not as the style has it.
    """
    is_mp4 = path.suffix.lower() == ".mp4"
    if is_mp4 and request.style.transparent:
        raise UsageError(
            f"{path}: no MP4 is transparent, and style {request.style.name} asks for it; leave "
            "transparent out of the style, or name a .gif"
        )
    if is_mp4 and not FFMpegWriter.isAvailable():
        raise EnvironmentUnfit(
            f"{path}: MP4 needs the program ffmpeg, which is not installed; install it, or "
            "name a .gif"
        )
    figure, shots, rate = (_turning if request.kind == "surface" else _walking)(request)
    # Players on phones and in browsers want even sizes and this colour format.
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    writer: AbstractMovieWriter = _Gif(rate, request.style)
    if is_mp4:
        writer = FFMpegWriter(fps=rate, codec="libx264", extra_args=even)
    with (
        files.whole(path, "choose another --output") as part,
        matplotlib.rc_context({"savefig.bbox": None}),
        writer.saving(figure, part, _dpi(request)),
    ):
        for _ in shots:
            writer.grab_frame()


def _walking(request: Request) -> tuple[Figure, Iterator[int], int]:
    """Return a figure, an iterator that moves it, and frames per second: one per checkpoint."""
    figure, drawn = planes.compose(request)
    frames = min(max(len(path.points) for path in drawn), MOST_FRAMES)
    rate = round(min(max(frames / SECONDS, SLOWEST), FASTEST))
    return figure, _revealed(drawn, frames, round(HOLD_S * rate)), rate


def _turning(request: Request) -> tuple[Figure, Iterator[int], int]:
    """Return the same of lit landscapes, which turn once around."""
    from lsengine.render.landscapes import lit

    table = request.style.turntable
    sized = replace(request, style=replace(request.style, dpi=round(_dpi(request))))
    figure, shots = lit.turning(sized)
    return figure, shots, max(1, round(table.frames / table.seconds))


def _dpi(request: Request) -> float:
    several = len(request.surfaces) > 1
    return PIXELS[2 if several else 1] / (request.style.wide if several else request.style.width)


class _Gif(AbstractMovieWriter):
    """Writes a GIF: one palette for all pictures, mixed by dithering, lest shades become steps."""

    def __init__(self, rate: int, style: Style) -> None:
        super().__init__(fps=rate)
        self._ground = tuple(round(255 * part) for part in to_rgb(style.ground))
        self._transparent = style.transparent

    def setup(self, fig: Figure, outfile: str | Path, dpi: float | None = None) -> None:
        """Begin a file, as matplotlib's ``saving`` does."""
        super().setup(fig, outfile, dpi=dpi)
        self._pictures: list[Image.Image] = []
        self._clear: list[Image.Image] = []

    def grab_frame(self, **options: Any) -> None:
        """Keep what the figure looks like now."""
        buffer = io.BytesIO()
        look = {**options, "format": "rgba", "dpi": self.dpi, "transparent": self._transparent}
        self.fig.savefig(buffer, **look)
        drawn = Image.frombytes("RGBA", self.frame_size, buffer.getvalue())
        ground = Image.new("RGBA", drawn.size, (*self._ground, 255))
        self._pictures.append(Image.alpha_composite(ground, drawn).convert("RGB"))
        if self._transparent:
            self._clear.append(drawn.getchannel("A").point(lambda alpha: 255 * (alpha < 128)))

    def finish(self) -> None:
        """Write the file."""
        palette, dither = self._palette(), Image.Dither.FLOYDSTEINBERG
        pictures = [p.quantize(palette=palette, dither=dither) for p in self._pictures]
        for picture, clear in zip(pictures, self._clear, strict=False):
            picture.paste(CLEAR, mask=clear)
        bare: dict[str, Any] = {"transparency": CLEAR, "disposal": 2} if self._transparent else {}
        look = {"duration": int(1000 / self.fps), "loop": 0, "optimize": False, **bare}
        pictures[0].save(self.outfile, save_all=True, append_images=pictures[1:], **look)

    def _palette(self) -> Image.Image:
        """Return the ground, and colours that suit some of the pictures best."""
        some = self._pictures[:: -(-len(self._pictures) // SAMPLE)]
        width, height = some[0].size
        sheet = Image.new("RGB", (width, height * len(some)))
        for index, picture in enumerate(some):
            sheet.paste(picture, (0, index * height))
        mixed = sheet.quantize(CLEAR - 1, Image.Quantize.MEDIANCUT).getpalette() or []
        colors = np.reshape(mixed, (-1, 3))[: CLEAR - 1]
        apart = np.linalg.norm(colors - self._ground, axis=1)
        palette = Image.new("P", (1, 1))
        palette.putpalette([*self._ground, *colors[apart > NEAR].ravel().tolist()])
        return palette


def _revealed(drawn: list[paths.DrawnPath], frames: int, hold: int) -> Iterator[int]:
    """Show paths as far as each frame goes, and yield its number; the last one again."""
    clocks = [path.clock() for path in drawn]
    for frame in [*range(frames), *[frames - 1] * hold]:
        for path, clock in zip(drawn, clocks, strict=True):
            last = len(path.points) - 1
            index = round(frame / (frames - 1) * last) if frames > 1 else last
            path.reveal(index + 1)
            clock.set_text(f"{path.trajectory.unit} {path.trajectory.columns['epoch'][index]}")
        yield frame
