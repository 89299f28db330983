"""Where the camera of a lit landscape stands, and where things then are in the picture.

Plain geometry, so that words can be placed beside a scene before it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lsengine.looks import Look
from lsengine.surface.cells import Floats

DISTANCE = 3.6  # from the camera to the middle of the scene; its base is 1 wide
# Where a camera may stand of itself, degrees.  All have alpha in front and beta to the right.
AZIMUTHS, ELEVATIONS = (-56.0, -46.0, -66.0, -36.0, -76.0), tuple(range(32, 69, 3))
WORTH = 0.4  # degrees of elevation that a turn by one degree is as bad as


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where landscapes are seen from."""

    azimuth: float = AZIMUTHS[0]  # degrees about the vertical, from alpha towards beta
    elevation: float = ELEVATIONS[0]  # degrees above the ground
    zoom: float = 1.0  # 1 shows all of it


def chosen(look: Look, hidden: Callable[[Camera], int]) -> Camera:
    """Return the camera that was asked for; what is left open hides as little as it can.

    Of cameras that hide equally few points it is the one nearest to the usual place.

    Args:
        look: What was said.
        hidden: How many of the points that should be seen a camera does not see.
    """
    azimuths = AZIMUTHS if look.azimuth is None else (look.azimuth,)
    elevations = ELEVATIONS if look.elevation is None else (look.elevation,)
    zoom = 1.0 if look.zoom is None else look.zoom
    usual = Camera(azimuth=azimuths[0], elevation=elevations[0], zoom=zoom)
    cameras = [replace(usual, azimuth=a, elevation=e) for a in azimuths for e in elevations]

    def away(camera: Camera) -> float:
        turned = abs(camera.azimuth - usual.azimuth)
        return camera.elevation - usual.elevation + WORTH * turned

    best, fewest = usual, hidden(usual) if len(cameras) > 1 else 0
    for camera in sorted(cameras[1:], key=away):
        if not fewest:
            break
        count = hidden(camera)
        if count < fewest:
            best, fewest = camera, count
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A camera and the picture it takes, 1 wide."""

    focal: Floats  # the point in the middle of the picture; (3,)
    toward: Floats  # unit vector from there to the camera; (3,)
    half_width: float  # half the picture's width, seen at distance 1
    ratio: float  # height of the picture by its width
    # The point through which the vertical line goes that the camera turns about; (3,).
    middle: Floats

    @property
    def position(self) -> Floats:
        """Where the camera stands; (3,)."""
        return np.asarray(self.focal + DISTANCE * self.toward)

    @property
    def angle(self) -> float:
        """Vertical angle of view in degrees."""
        return float(np.degrees(2 * np.arctan(self.half_width * self.ratio)))

    def turned(self, angle: float) -> View:
        """Return the view after camera and aim went around the middle, in radians to beta."""
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        focal = self.middle + turn @ (self.focal - self.middle)
        return replace(self, focal=focal, toward=turn @ self.toward)

    def project(self, points: Floats) -> Floats:
        """Return where points (..., 3) are in the picture: (..., 2), 0 to 1 by 0 to ratio."""
        flat = _plane(points, self.focal, self.toward)
        return np.asarray(flat / (2 * self.half_width) + np.array([0.5, self.ratio / 2]))


def turning_view(points: Floats, camera: Camera) -> View:
    """Return a `fitted_view` in which all points stay while they turn about their middle."""
    middle = _middle(points)
    beside = points - middle
    angles = np.radians(np.arange(0, 360, 10))[:, None]
    x = np.cos(angles) * beside[:, 0] - np.sin(angles) * beside[:, 1]
    y = np.sin(angles) * beside[:, 0] + np.cos(angles) * beside[:, 1]
    z = np.broadcast_to(beside[:, 2], x.shape)
    everywhere = np.stack([x, y, z], axis=-1).reshape(-1, 3) + middle
    return _fitted(everywhere, middle, camera)


def fitted_view(points: Floats, camera: Camera) -> View:
    """Return the view that has all points (N, 3) in it, as large as they can be, at zoom 1."""
    return _fitted(points, _middle(points), camera)


def _middle(points: Floats) -> Floats:
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2)


def _fitted(points: Floats, middle: Floats, camera: Camera) -> View:
    toward = direction(camera)
    right, up = _sideways(toward)
    focal = middle
    for _ in range(8):  # perspective moves the middle of what is seen
        flat = _plane(points, focal, toward)
        low, high = flat.min(axis=0), flat.max(axis=0)
        shift = DISTANCE * (low + high) / 2
        focal = focal + shift[0] * right + shift[1] * up
    flat = _plane(points, focal, toward)
    width, height = np.ptp(flat, axis=0)
    return View(
        focal=focal,
        toward=toward,
        half_width=float(width) / 2 / camera.zoom,
        ratio=float(height / width),
        middle=middle,
    )


def direction(camera: Camera) -> Floats:
    """Return the unit vector from what is seen to the camera; (3,)."""
    azimuth, elevation = np.radians([camera.azimuth, camera.elevation])
    flat = np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])


def _sideways(toward: Floats) -> tuple[Floats, Floats]:
    right = np.cross([0.0, 0.0, 1.0], toward)
    right /= np.linalg.norm(right)
    return right, np.cross(toward, right)


def _plane(points: Floats, focal: Floats, toward: Floats) -> Floats:
    """Return points as seen: right and up, each by the distance from the camera; (..., 2)."""
    right, up = _sideways(toward)
    beside = points - focal
    depth = DISTANCE - beside @ toward
    return np.stack([beside @ right / depth, beside @ up / depth], axis=-1)
