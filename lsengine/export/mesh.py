"""Coloured triangles: glTF (``.glb``) for slides, browsers and Blender, PLY for MeshLab.

Shape suffixes: B betas, A alphas, V vertices, F faces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.export.output import height, no_height, output
from lsengine.external.optional import library
from lsengine.render.page import scales
from lsengine.surface import Surface, cells
from lsengine.surface.cells import Floats
from lsengine.surface.quantities import describe

HEIGHT = 0.6  # of the longer side of the plane


@dataclass(frozen=True, slots=True)
class Mesh:
    """A landscape: z is up, and x and y are alpha and beta."""

    vertices: Floats  # (V, 3)
    faces: NDArray[np.intp]  # indices of vertices, counter-clockwise seen from above; (F, 3)
    colors: NDArray[np.uint8]  # red, green, blue and opacity of the vertices, sRGB; (V, 4)


def write_glb(
    surface: Surface, path: Path, *, quantity: str | None = None, scale: str = "auto"
) -> list[Path]:
    """Write glTF: y is up there, and colours are linear; viewers and Blender turn both back.

    Raises:
        UsageError: If `mesh` cannot be made.
        EnvironmentUnfit: If trimesh is missing.
    """
    triangles = mesh(surface, quantity, scale)
    trimesh = library("trimesh", "mesh", "export --to glb")
    to_glb = library("trimesh.exchange.gltf", "mesh", "export --to glb").export_glb
    x, y, z = triangles.vertices.T
    turned, srgb = np.stack([x, z, -y], axis=1), triangles.colors / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear[:, 3] = srgb[:, 3]  # IEC 61966-2-1; the opacity is linear already
    colors = np.round(255 * linear).astype(np.uint8)
    scene = trimesh.Trimesh(turned, triangles.faces, vertex_colors=colors, process=False).scene()
    with output(path, surface) as part:
        part.write_bytes(to_glb(scene, include_normals=True, tree_postprocessor=_matt))
    return [path]


def write_ply(
    surface: Surface, path: Path, *, quantity: str | None = None, scale: str = "auto"
) -> list[Path]:
    """Write binary PLY; raises like `write_glb`."""
    triangles = mesh(surface, quantity, scale)
    trimesh = library("trimesh", "mesh", "export --to ply")
    upright = trimesh.Trimesh(
        triangles.vertices, triangles.faces, vertex_colors=triangles.colors, process=False
    )
    with output(path, surface) as part:
        part.write_bytes(upright.export(file_type="ply", vertex_normal=True))
    return [path]


def mesh(surface: Surface, quantity: str | None = None, scale: str = "auto") -> Mesh:
    """Return a plane as triangles, with the heights, the scale and the colours of `render`.

    Holes stay open where a cell has no finite result.  A partial plane is drawn from its
    complete coarser cells, as pictures are.

    By default ``quantity``, the height, is the training loss; ``scale``, which height and colours
    follow, is ``auto``, ``linear`` or ``log``.

    Raises:
        UsageError: If the surface is no plane, has no such quantity, or too few cells.
    """
    if not surface.is_plane:
        raise UsageError(f"{surface.source}: has one direction; a mesh needs a plane of two")
    described = describe(height(surface, quantity))
    values = cells.drawable(surface.quantities[described.name])
    surface = replace(surface, quantities={described.name: values})
    plane = cells.joined(cells.plane(surface, described))
    if not plane.finite.size:
        raise no_height(surface, described.name, plane.tally)
    chosen = scales.choose(plane.finite, described, scale, None, None)
    low, high = chosen.span
    share_BA = (np.clip(chosen.forward(plane.values), low, high) - low) / (high - low)
    faces = _faces(share_BA)
    if not faces.size:
        raise UsageError(
            f"{surface.source}: {described.name} has no three neighbouring finite cells to join "
            f"({plane.tally.reasons()}); --to csv or vts takes each cell"
        )
    a, b = np.meshgrid(plane.alpha, plane.beta)
    extent = max(np.ptp(plane.alpha), np.ptp(plane.beta))
    vertices = np.stack([a, b, share_BA * HEIGHT * extent], axis=-1).reshape(-1, 3)
    used, renumbered = np.unique(faces, return_inverse=True)
    from lsengine.render.style import rgba  # and matplotlib with it

    colors = rgba(share_BA.ravel()[used])
    return Mesh(vertices[used], renumbered.reshape(faces.shape), colors)


def _faces(z_BA: Floats) -> NDArray[np.intp]:
    """Split quads along the diagonal that bends less; leave out triangles without a corner."""
    index = np.arange(z_BA.size).reshape(z_BA.shape)
    near, right = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    left, far = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    z = z_BA.ravel()
    bends = [np.abs(z[near] - z[far]), np.abs(z[right] - z[left])]
    straight, other = (np.nan_to_num(bend, nan=np.inf) for bend in bends)
    first = (straight <= other)[:, None]
    corners = [
        np.where(first, np.stack([near, right, far], 1), np.stack([near, right, left], 1)),
        np.where(first, np.stack([near, far, left], 1), np.stack([right, far, left], 1)),
    ]
    faces = np.stack(corners, axis=1).reshape(-1, 3)
    return np.asarray(faces[np.isfinite(z[faces]).all(axis=1)])


def _matt(tree: dict[str, Any]) -> None:
    """Give meshes a material: glTF's default is bare metal, black in most viewers."""
    surface = {"metallicFactor": 0.0, "roughnessFactor": 0.65}
    tree["materials"] = [{"pbrMetallicRoughness": surface, "doubleSided": True}]
    for mesh_ in tree["meshes"]:
        for primitive in mesh_["primitives"]:
            primitive["material"] = 0
