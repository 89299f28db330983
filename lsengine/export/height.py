"""What a user may choose of a format that draws one quantity as height."""

from __future__ import annotations

from dataclasses import dataclass

from lsengine.errors import UsageError
from lsengine.surface import Surface
from lsengine.surface.quantities import preferred
from lsengine.wording import did_you_mean


@dataclass(frozen=True, slots=True)
class HeightOptions:
    """One quantity and its scale.

    Attributes:
        quantity: The dataset that is the height; None for the training loss, or what there is.
        scale: ``auto``, ``linear`` or ``log``; of meshes only.
    """

    quantity: str | None = None
    scale: str = "auto"

    def height(self, surface: Surface) -> str:
        """Return the name of the quantity that is the height.

        Raises:
            UsageError: If the surface does not have it.
        """
        found = surface.quantities
        name = self.quantity or (preferred(found) if found else "train_loss")
        if name not in found:
            raise UsageError(
                f"{surface.source}: has no quantity {name!r}; it has: "
                f"{', '.join(sorted(found))}{did_you_mean(name, found)}"
            )
        return name
