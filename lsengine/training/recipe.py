"""The arithmetic of a training recipe: no file, no loop, nothing remembered.

What is random in an epoch comes from generators seeded by the recipe's seed and the number of
the epoch, so that an interrupted training continues as if nothing had happened.

Shapes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lsengine.job.schema import TrainSpec
from lsengine.models import parameter_roles


def seed_of(seed: int, purpose: str) -> int:
    """Return a seed for one purpose out of the recipe's seed."""
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator_of(seed: int, purpose: str) -> torch.Generator:
    """Return a generator on the CPU, where it draws the same numbers on every machine."""
    return torch.Generator().manual_seed(seed_of(seed, purpose))


def milestones(recipe: TrainSpec) -> list[int]:
    """Return the epochs after which the learning rate drops.

    By default these are 1/2, 3/4 and 11/12 of all epochs, rounded up: 150, 225 and 275
    of 300.
    """
    if recipe.milestones is not None:
        return sorted(recipe.milestones)
    return [math.ceil(recipe.epochs * twelfths / 12) for twelfths in (6, 9, 11)]


def learning_rate(recipe: TrainSpec, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Return the learning rate of a step of an epoch, the first of both being 0 and 1.

    With milestones it is the same in a whole epoch.  The cosine falls from step to step, from
    ``lr`` at the first one after the warm-up towards 0 (Loshchilov and Hutter 2017, without
    restarts).  During the warm-up the rate rises in equal parts, to all of it at the last step.

    Example:
        >>> recipe = TrainSpec(output="x", epochs=300, lr=0.1)
        >>> learning_rate(recipe, 150), learning_rate(recipe, 151)
        (0.1, 0.010000000000000002)
    """
    done, warm = (epoch - 1) * steps + step, recipe.warmup * steps
    if recipe.schedule == "cosine":
        passed = max(0.0, done - warm) / (recipe.epochs * steps - warm)
        rate = recipe.lr * 0.5 * (1.0 + math.cos(math.pi * passed))
    else:
        rate = recipe.lr * recipe.gamma ** sum(epoch > m for m in milestones(recipe))
    return rate * (done + 1) / warm if done + 1 < warm else rate


def checkpoint_name(epoch: int) -> str:
    """Return the name of the checkpoint after an epoch."""
    return f"epoch_{epoch:03d}.pt"


def saved_epochs(recipe: TrainSpec) -> frozenset[int]:
    """Return the epochs after which a checkpoint is kept; 0 is before training."""
    regular = range(0, recipe.epochs + 1, recipe.save_every)
    return frozenset({0, recipe.epochs, *regular, *recipe.save_epochs})


def measured_epochs(recipe: TrainSpec) -> list[int]:
    """Return the epochs after which losses and errors are measured; 0 is before training."""
    return sorted({*range(0, recipe.epochs, recipe.measure_every), recipe.epochs})


def optimizer_of(
    recipe: TrainSpec, model: nn.Module, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of what can be trained; its rate is set at each step.

    With ``adamw`` only weights decay: not biases, gains of normalisations and embeddings.
    ``fused`` steps take a third of the time, and round other last bits.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    how: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    # Fused steps write over what lies between the numbers of a parameter that has gaps.
    has_gaps = any(torch.empty_like(p).stride() != p.stride() for p in parameters.values())
    how["fused"] = (fused and not has_gaps) or None
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters.values(), **how)
    if recipe.optimizer == "adamw":
        fixed = _that_do_not_decay(model)
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in parameters.items() if n not in fixed]},
            {"params": [p for n, p in parameters.items() if n in fixed], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, **how)
    return torch.optim.SGD(
        parameters.values(),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        **how,
    )


def take_up(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's state, laid out in memory as its parameters are.

    Fused steps go through both in the order of memory, and are silently wrong where it differs:
    in that of a machine with another layout of filters.
    """
    optimizer.load_state_dict(dict(state))
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _that_do_not_decay(model: nn.Module) -> frozenset[str]:
    roles = parameter_roles(model)
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for parameter in module.parameters(recurse=False)
    }
    names = {name for name, p in model.named_parameters() if id(p) in embeddings}
    return roles["bias"] | roles["norm"] | names


def batches(samples: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the indices of an epoch's batches: every sample once, in random order.

    The last batch is what is left.  A single sample left over joins the batch before it:
    batch normalisation has no statistics of one sample.
    """
    pieces = list(torch.randperm(samples, generator=generator).split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def augmented(x_NCHW: Tensor, *, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return all images, each shifted at random and perhaps mirrored.

    Args:
        x_NCHW: Raw images on any device; not modified.
        crop: Width of a frame of zeros, out of which a window of the old size is cut at random.
        flip: Whether half of the images are mirrored left to right.
        generator: On the CPU.
    """
    samples, _, height, width = x_NCHW.shape
    padded = nn.functional.pad(x_NCHW, (crop,) * 4)
    shifts_2N = torch.randint(2 * crop + 1, (2, samples), generator=generator)
    mirrored_N = torch.rand(samples, generator=generator) < (0.5 if flip else 0.0)
    device = x_NCHW.device
    # Whole rows are copied: an index for each pixel takes three times as long.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, shift, shift, H, W)
    down_N, right_N = shifts_2N.to(device)
    moved_NCHW = windows[torch.arange(samples, device=device), :, down_N, right_N]
    chosen = mirrored_N.nonzero()[:, 0].to(device)
    moved_NCHW[chosen] = moved_NCHW[chosen].flip(3)
    return moved_NCHW


def with_label_noise(y_N: Tensor, classes: int, fraction: float, seed: int) -> Tensor:
    """Return labels of which a fraction, chosen once for a seed, is replaced by wrong ones.

    A wrong label is any of the other classes with equal probability.
    """
    generator = generator_of(seed, "label noise")
    chosen = torch.randperm(len(y_N), generator=generator)[: round(fraction * len(y_N))]
    offsets = torch.randint(1, max(2, classes), (len(chosen),), generator=generator)
    noisy_N = y_N.clone()
    noisy_N[chosen] = (noisy_N[chosen] + offsets) % classes
    return noisy_N
