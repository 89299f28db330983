"""Animations: paths that grow, landscapes that turn, and the files they are kept in."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lsengine import render
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.looks import Look
from lsengine.render import animation
from lsengine.render.animation import MOST_FRAMES
from lsengine.render.landscapes import lit
from lsengine.render.landscapes.camera import Camera
from lsengine.render.landscapes.vtk_scene import Scene
from lsengine.render.request import validated
from lsengine.render.style import STYLES, Turntable
from lsengine.surface import Surface
from tests.support.landscapes import cliffs, make_plane
from tests.support.pictures import walked, words

PIXELS = dict(animation.PIXELS)


# Few and small pictures are quickly drawn.
SKETCH = replace(STYLES["lit"], dpi=60, turntable=Turntable(frames=12, seconds=1.0))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Draw with few pixels."""
    monkeypatch.setitem(STYLES, "lit", SKETCH)
    monkeypatch.setattr(animation, "PIXELS", {1: 420, 2: 600})


def style_file(tmp_path, **more) -> str:
    """Return a lit style of four pictures in two seconds."""
    lines = [f"{key} = {value}" for key, value in more.items()]
    text = "\n".join(['base = "lit"', *lines, "[turntable]", "frames = 4", "seconds = 2"])
    path = tmp_path / "s.toml"
    path.write_text(text)
    return str(path)


def frames(path, mode: str) -> list[Image.Image]:
    """Return the pictures of a GIF."""
    with Image.open(path) as image:
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            found.append(image.convert(mode))
    return found


def test_a_turntable_turns_once_around(tmp_path):
    """As many different pictures as the style asks for, in as many seconds, for ever."""
    style = tmp_path / "s.toml"
    style.write_text('base = "lit"\n[turntable]\nframes = 4\nseconds = 2\n')
    path = render.write([make_plane(cliffs)], tmp_path / "a.gif", kind="surface", style=style)
    with Image.open(path) as image:
        assert image.n_frames == 4
        assert image.info["duration"] == 500
        assert image.info["loop"] == 0
        frames = []
        for index in range(4):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    for a, b in zip(frames, frames[1:] + frames[:1], strict=True):
        assert np.abs(a - b).mean() > 0.5


def test_a_turning_landscape_is_the_one_a_still_shows():
    """After a quarter of the turn the mesh itself has turned, as far as its still has.

    Both are compared before a GIF's palette, and without the words: these turn by themselves.
    """
    request = validated([_ramp()], "surface", Look(style="lit"))
    figure, shots = lit.turning(request)
    image = figure.axes[0].images[0]
    seen = [np.asarray(image.get_array()).astype(int).copy() for _ in shots]
    azimuth = Camera().azimuth
    quarter = len(seen) // 4
    assert np.abs(seen[quarter] - seen[0]).mean() > 10
    for index, angle in ((0, azimuth), (quarter, azimuth + 90)):
        still = replace(request, look=replace(request.look, azimuth=angle))
        _, panels, views = lit._composed(still, turns=True)
        with Scene(panels[0].landscape, seen[0].shape[1::-1]) as scene:
            # `turning_view` aims at the middle of what turns, from each side within a hair.
            assert np.abs(seen[index] - scene.picture(views[0])).mean() < 1


def _ramp() -> Surface:
    """Return a surface that no quarter turn leaves as it is."""
    return make_plane(lambda a, b: 2.0 + a + 0.3 * b)


def test_only_lit_surfaces_turn(tmp_path):
    """Matplotlib's landscape stands still, and the message names the way out."""
    with pytest.raises(UsageError, match="add --style lit"):
        render.write([make_plane()], tmp_path / "a.gif", kind="surface")


def test_a_gif_shows_no_steps_that_are_not_there(tmp_path):
    """A little blurred, shades are what was drawn within 2 of 255; the ground is the same.

    The nearest of 256 colours alone leaves bands, of 2.5 on the average.
    """
    request = validated([make_plane()], "surface", Look(style="lit"))
    look = {
        "lines": "none",
        "dpi": round(420 / SKETCH.width),
        "turntable": Turntable(frames=4, seconds=1.0),
    }
    request = replace(request, style=replace(SKETCH, **look))
    path = tmp_path / "a.gif"
    animation.draw(request, path)
    figure, shots = lit.turning(request)
    for made, _ in zip(frames(path, "RGB"), shots, strict=True):
        figure.savefig(tmp_path / "true.png", dpi=animation._dpi(request))
        true = Image.open(tmp_path / "true.png").convert("RGB")
        soft = (np.asarray(i.filter(ImageFilter.GaussianBlur(2)), float) for i in (made, true))
        apart = np.abs(np.subtract(*soft)).max(axis=-1)
        surface = np.ptp(np.asarray(true).astype(int), axis=-1) > 8
        assert apart[surface].mean() < 2
        assert made.getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_turntable_leaves_nothing_behind(tmp_path):
    """Each picture of a GIF has its own ground left out, and all of its surface."""
    style = style_file(tmp_path, transparent="true")
    path = render.write([make_plane(cliffs)], tmp_path / "a.gif", kind="surface", style=style)
    clear = [np.asarray(frame)[..., 3] == 0 for frame in frames(path, "RGBA")]
    for mask, other in zip(clear, clear[1:] + clear[:1], strict=True):
        assert mask[0, 0]
        assert 0.3 < mask.mean() < 0.9
        assert (mask & ~other).sum() > 100, "the picture before shows through"


def test_a_transparent_mp4_is_refused(tmp_path, monkeypatch):
    """The message says that there is none, and what to do."""
    monkeypatch.setattr(animation.FFMpegWriter, "isAvailable", lambda: True)
    style = style_file(tmp_path, transparent="true")
    with pytest.raises(UsageError, match=r"no MP4 is transparent.*name a \.gif"):
        render.write([make_plane()], tmp_path / "a.mp4", kind="surface", style=style)


def test_marks_pale_while_the_turning_landscape_hides_them():
    """A wall on one side of the centre hides it from there only; the note is there all along."""
    wall = make_plane(lambda a, b: 1.0 + 9.0 * np.exp(-(((a - 0.4) / 0.12) ** 2)), 41, 41)
    look = Look(scale="linear", style="lit", azimuth=-56, elevation=32)
    request = validated([wall], "surface", look)
    figure, shots = lit.turning(request)
    assert "pale marks lie behind the surface" in words(figure)
    (mark, *_) = (line for line in figure.axes[0].lines if line.get_marker() == "+")
    pale, steps = [], SKETCH.turntable.frames
    for _ in shots:
        pale.append(mark.get_alpha() < 1)
    toward = np.radians(-56) + 2 * np.pi * np.arange(steps) / steps
    ahead = np.cos(toward)
    assert all(np.array(pale)[ahead > 0.6])
    assert not any(np.array(pale)[ahead < 0])


def test_an_animation_has_a_frame_for_each_checkpoint(plane, tmp_path, monkeypatch):
    """They are a sensible number of pixels wide, follow one another, and begin anew."""
    monkeypatch.setattr(animation, "PIXELS", PIXELS)
    path = render.animate([walked(plane())], tmp_path / "walk.gif")
    with Image.open(path) as film:
        assert film.n_frames == 9
        assert film.width == 720
        assert film.info["loop"] == 0
        frames = []
        for number in range(9):
            film.seek(number)
            frames.append(film.convert("RGB").tobytes())
            assert film.info["duration"] >= 40
    assert len(set(frames)) == 9
    assert path.stat().st_size < 500_000
    assert [p.name for p in tmp_path.iterdir()] == ["walk.gif"]


def test_an_animation_ends_with_the_whole_path(plane, tmp_path, monkeypatch):
    """Every checkpoint is revealed in its turn, and nothing is ahead of it."""
    seen = []

    def look(writer, **options):
        axes = writer.fig.axes[0]
        paths = [line for line in axes.lines if line.get_linestyle() == "-"]
        words = [t.get_text() for t in axes.texts if t.get_text().startswith("epoch")]
        seen.append(({len(line.get_xdata()) for line in paths}, words))
        grab(writer, **options)

    grab = animation._Gif.grab_frame
    monkeypatch.setattr(animation._Gif, "grab_frame", look)
    render.animate([walked(plane())], tmp_path / "walk.gif", style="paper")
    assert seen[:9] == [({k + 1}, [f"epoch {10 * k}"]) for k in range(9)]
    assert all(frame == seen[8] for frame in seen[9:])


def test_a_long_run_leaves_checkpoints_out(plane, tmp_path, monkeypatch):
    """There are never more frames than can be looked at, and the last one is the last."""
    monkeypatch.setattr("lsengine.render.animation.MOST_FRAMES", 4)
    with Image.open(render.animate([walked(plane())], tmp_path / "walk.gif")) as film:
        assert film.n_frames == 4
    assert MOST_FRAMES <= 200


def test_films_need_ffmpeg(plane, tmp_path, monkeypatch):
    """Where it is not installed, the message says so and names the way out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentUnfit, match=r"needs the program ffmpeg.* name a \.gif"):
        render.animate([walked(plane())], tmp_path / "walk.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_films_are_written_with_ffmpeg(plane, tmp_path):
    """The file is an MP4, whole, and alone in its folder."""
    path = render.animate([walked(plane())], tmp_path / "walk.mp4")
    assert path.read_bytes()[4:8] == b"ftyp"
    assert [p.name for p in tmp_path.iterdir()] == ["walk.mp4"]


def test_only_trajectories_move(plane, tmp_path):
    """Another kind of picture as a GIF is refused with what can be done."""
    with pytest.raises(UsageError, match="only a trajectory"):
        render.save(render.figure([plane()], kind="contour"), tmp_path / "a.gif")
    with pytest.raises(UsageError, match="allowed: png, pdf, svg, gif, mp4"):
        render.animate([walked(plane())], tmp_path / "a.avi")
