"""The lit landscape itself: light, mesh and lines, drawn off screen by VTK.

The only module that draws with VTK, of which it imports no more than it needs: that is most of
the time a picture takes.  No window and no display is needed: on Linux VTK draws through EGL, by
the processor if there is no graphics card.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit
from lsengine.external import installation
from lsengine.render.landscapes.camera import DISTANCE, View
from lsengine.render.landscapes.mesh import LandscapeMesh
from lsengine.surface.cells import Floats, corners

LINE = 0.002  # radius of a contour line, in units of the base; half of it is in the ground
SMOOTHING = 8  # samples in a pixel
# Lamps by their place as the camera sees it (right, up, towards it), and their strength.  The
# third lights what is seen from below, which would be black.
LAMPS = (((-0.9, 1.2, 0.7), 0.8), ((1.2, 0.3, 0.8), 0.32), ((0.1, -1.2, 0.5), 0.3))
LANDSCAPE = {"Ambient": 0.32, "Diffuse": 0.78, "Specular": 0.22, "SpecularPower": 24.0}
MATT = {"Ambient": 0.7, "Diffuse": 0.3}
FLAT = {"Ambient": 1.0, "Diffuse": 0.0}
MODULES = {  # what is used of VTK
    "vtkCommonCore": "vtkLogger vtkPoints",
    "vtkCommonDataModel": "vtkCellArray vtkPolyData",
    "vtkFiltersCore": "vtkTubeFilter",
    "vtkRenderingCore": "vtkActor vtkLight vtkPolyDataMapper vtkRenderer vtkRenderWindow "
    "vtkWindowToImageFilter",
    "util.numpy_support": "numpy_to_vtk numpy_to_vtkIdTypeArray vtk_to_numpy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """What is in a scene, colours included."""

    mesh: LandscapeMesh
    colors: Floats  # RGB of its points before light, 0 to 1; (Y, X, 3)
    lines: Floats  # heights at which contour lines go along the surface; (L,)
    floor: float  # height of the ground plane, whose edge is drawn
    floor_lines: Floats  # heights of the lines drawn on the ground, too; (F,)
    floor_colors: Floats  # (F, 3)
    ink: tuple[float, float, float]  # of lines on the surface
    faint: tuple[float, float, float]  # of the edge of the ground


class Scene:
    """A landscape under lamps, of which pictures can be taken; use as a context manager.

    The ``size`` is width and height of the pictures in pixels.

    Raises:
        EnvironmentUnfit: If VTK is not there, or nothing to draw with.
    """

    def __init__(self, landscape: Landscape, size: tuple[int, int]) -> None:
        vtk = _vtk()
        self._renderer = vtk.vtkRenderer()
        self._renderer.SetBackground(1.0, 1.0, 1.0)
        self._renderer.SetBackgroundAlpha(0.0)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetAlphaBitPlanes(True)
        self._window.SetMultiSamples(SMOOTHING)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        for actor in (_mesh(landscape), *_lines(landscape)):
            self._renderer.AddActor(actor)
        for position, strength in LAMPS:
            lamp = vtk.vtkLight()
            lamp.SetLightTypeToCameraLight()
            lamp.SetPosition(*position)
            lamp.SetIntensity(strength)
            self._renderer.AddLight(lamp)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._window.Finalize()

    def picture(self, view: View) -> NDArray[np.uint8]:
        """Return the scene as RGBA, its ground transparent; (H, W, 4)."""
        camera = self._renderer.GetActiveCamera()
        camera.SetPosition(*view.position)
        camera.SetFocalPoint(*view.focal)
        camera.SetViewUp(0.0, 0.0, 1.0)
        camera.SetViewAngle(view.angle)
        camera.SetClippingRange(DISTANCE - 2.0, DISTANCE + 2.0)
        self._window.Render()
        shot = _vtk().vtkWindowToImageFilter()
        shot.SetInput(self._window)
        shot.SetInputBufferTypeToRGBA()
        shot.ReadFrontBufferOff()
        shot.ShouldRerenderOff()
        shot.Update()
        image = shot.GetOutput()
        width, height, _ = image.GetDimensions()
        pixels = _vtk().vtk_to_numpy(image.GetPointData().GetScalars())
        rgba = pixels.reshape(height, width, 4)[::-1].astype(np.float32) / 255.0
        # At its edges the scene is mixed with the white behind it: take that out.
        share = rgba[..., 3:]
        rgb = (rgba[..., :3] - (1.0 - share)) / np.maximum(share, 1e-3)
        unmixed = np.concatenate([np.where(share > 0, rgb, 1.0), share], axis=-1)
        return np.asarray(np.round(255 * np.clip(unmixed, 0, 1)), dtype=np.uint8)


def _mesh(landscape: Landscape) -> Any:
    """Return the coloured landscape, smooth by the normals of its heights."""
    vtk, mesh = _vtk(), landscape.mesh
    x, y = np.meshgrid(mesh.x, mesh.y)
    quads = corners(np.arange(x.size).reshape(x.shape))[mesh.is_drawn]
    data = _data(np.stack([x, y, mesh.z], axis=-1).reshape(-1, 3))
    data.SetPolys(_cells(np.full(len(quads), 4), quads))
    shade = (0.5 + 0.5 * mesh.sky)[..., None]  # soft light comes from the whole sky
    colors = np.round(255 * np.clip(landscape.colors * shade, 0, 1)).astype(np.uint8)
    data.GetPointData().SetScalars(vtk.numpy_to_vtk(colors.reshape(-1, 3), deep=True))
    by_y, by_x = np.gradient(mesh.z, mesh.y, mesh.x)
    normals = np.stack([-by_x, -by_y, np.ones_like(by_x)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    data.GetPointData().SetNormals(vtk.numpy_to_vtk(normals.reshape(-1, 3), deep=True))
    return _actor(data, LANDSCAPE)


def _lines(landscape: Landscape) -> list[Any]:
    """Return lines of equal height, on the landscape and on the ground, and the ground's edge."""
    ground = landscape.mesh.ground
    lines = contour_generator(ground.x, ground.y, np.ma.masked_invalid(ground.z))
    actors = []
    on_it = [(line, height) for height in landscape.lines for line in lines.lines(height)]
    if on_it:
        actors.append(_tubes(on_it, LINE, MATT, landscape.ink, 0.55))
    for height, color in zip(landscape.floor_lines, landscape.floor_colors, strict=True):
        below = [(line, landscape.floor) for line in lines.lines(height)]
        if below:
            actors.append(_tubes(below, LINE, MATT, tuple(color)))
    (left, right), (near, far) = landscape.mesh.x[[0, -1]], landscape.mesh.y[[0, -1]]
    edge = np.array([(left, near), (right, near), (right, far), (left, far), (left, near)])
    return [*actors, _tubes([(edge, landscape.floor)], 0.7 * LINE, FLAT, landscape.faint)]


def _tubes(
    lines: list[tuple[Any, float]],
    radius: float,
    material: dict[str, float],
    color: tuple[float, ...],
    opacity: float = 1.0,
) -> Any:
    """Return level lines, (N, 2) each with its height, as thin tubes."""
    points = [np.column_stack([line, np.full(len(line), height)]) for line, height in lines]
    data = _data(np.concatenate(points))
    sizes = np.array([len(part) for part in points])
    data.SetLines(_cells(sizes, np.arange(sizes.sum())))
    tube = _vtk().vtkTubeFilter()
    tube.SetInputData(data)
    tube.SetRadius(radius)
    tube.SetNumberOfSides(6)
    tube.Update()
    actor = _actor(tube.GetOutput(), material)
    actor.GetProperty().SetColor(*color)
    actor.GetProperty().SetOpacity(opacity)
    return actor


def _data(points: Floats) -> Any:
    vtk = _vtk()
    data, vertices = vtk.vtkPolyData(), vtk.vtkPoints()
    vertices.SetData(vtk.numpy_to_vtk(points, deep=True))
    data.SetPoints(vertices)
    return data


def _cells(sizes: NDArray[np.int64], indices: NDArray[np.int64]) -> Any:
    """Return cells of so many points each, from the indices of all their points."""
    vtk, cells = _vtk(), _vtk().vtkCellArray()
    parts = (np.concatenate([[0], np.cumsum(sizes)]), indices.ravel())
    cells.SetData(*(vtk.numpy_to_vtkIdTypeArray(p.astype(np.int64), deep=True) for p in parts))
    return cells


def _actor(data: Any, material: dict[str, float]) -> Any:
    mapper, actor = _vtk().vtkPolyDataMapper(), _vtk().vtkActor()
    mapper.SetInputData(data)
    actor.SetMapper(mapper)
    surface = actor.GetProperty()
    surface.SetInterpolationToPhong()
    for name, value in material.items():
        getattr(surface, f"Set{name}")(value)
    return actor


@cache
def _vtk() -> Any:
    """Import what is used of VTK, and see that it can draw; else it would end the process."""
    if sys.platform == "linux":  # before VTK looks for a display, and complains
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        # Drawing in software loads LLVM.  Triton, which torch imports to train, has another LLVM
        # in it, and crashes if it comes second.
        with suppress(ImportError):
            import_module("triton")
    try:
        import_module("vtkmodules.vtkRenderingOpenGL2")  # the windows there are to choose from
        classes = {
            name: getattr(import_module(f"vtkmodules.{module}"), name)
            for module, names in MODULES.items()
            for name in names.split()
        }
    except ImportError as error:
        raise EnvironmentUnfit(
            f"a lit surface is drawn by VTK, which is not there ({error}); "
            f"{installation.install('lit')}, or use --style default"
        ) from error
    vtk = SimpleNamespace(**classes)
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    if vtk.vtkRenderWindow().GetClassName() == "vtkOSOpenGLRenderWindow" and not _has_osmesa():
        raise EnvironmentUnfit(
            "a lit surface needs OpenGL, and there is none here, not even in software; install "
            "Mesa's EGL (Debian: apt-get install libegl1 libgl1-mesa-dri), or use --style default"
        )
    return vtk


def _has_osmesa() -> bool:
    for name in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
