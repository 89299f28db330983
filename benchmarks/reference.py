"""The loop that a user would write first, for comparison: nothing here is lsengine's.

Every cell makes a state dict, loads it, and runs the whole data set through a `DataLoader` that
decodes every image from PIL: batches of 128, eager, float32, channels first.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
State = dict[str, Tensor]


class Images(Dataset[tuple[Tensor, int]]):
    """Images as data sets hand them out: bytes, through PIL, to a normalised tensor.

    Args:
        x: uint8 (N, 3, H, W).
        y: int64 (N,).
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x.permute(0, 2, 3, 1).contiguous().numpy(), y.tolist()
        self._mean, self._std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self._x[index])
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return image.float().div_(255).sub_(self._mean).div_(self._std), self._y[index]


class Loop:
    """A surface's loop, cell by cell.

    Args:
        network: Taken over.
        images: The data.
        directions: Of alpha and beta, by parameter name.
    """

    def __init__(self, network: nn.Module, images: Images, directions: list[State]) -> None:
        self._network, self._directions = network.eval(), directions
        self._centre = {k: v.clone() for k, v in network.state_dict().items()}
        self._loader = DataLoader(images, batch_size=128, shuffle=False)

    @torch.no_grad()
    def evaluate(self, alpha: float, beta: float) -> tuple[float, float]:
        """Return mean loss and accuracy of a cell."""
        first, second = self._directions
        state = {
            name: tensor + alpha * first[name] + beta * second[name] if name in first else tensor
            for name, tensor in self._centre.items()
        }
        self._network.load_state_dict(state)
        loss, hits, count = 0.0, 0, 0
        for inputs, targets in self._loader:
            output = self._network(inputs)
            loss += F.cross_entropy(output, targets).item() * len(targets)
            hits += int((output.argmax(1) == targets).sum().item())
            count += len(targets)
        return loss / count, hits / count
