"""The networks that jobs/cifar10 trains: what they and their surfaces are called."""

from __future__ import annotations

import re

from measures import Kept

DECAYS = ("wd0", "wd5e-4")
BATCHES = ("bs128", "bs1024")
WIDTHS = ("w8", "w16", "w32")
SLOW = "resnet56_noshort-slow"  # from a tenth of the others' rate, as in the paper
NETWORKS = ("resnet20", "resnet20_noshort", "resnet56", "resnet56_noshort")


def minima(kept: Kept) -> list[str]:
    """Return the minima of VGG-9: SGD's, and Adam's if all were trained."""
    names = {o: [f"{o}-{d}-{b}" for d in DECAYS for b in BATCHES] for o in ("sgd", "adam")}
    has_adam = {f"history-{name}" for name in names["adam"]} <= kept.names
    return names["sgd"] + (names["adam"] if has_adam else [])


def planes(kept: Kept) -> dict[str, tuple[str, str]]:
    """Return the planes of all trained networks: for each its training, and its family.

    What is compared within a family differs in one thing or two; one is alone in its own.
    """
    of_minima = {f"plane-{name}": (name, "VGG-9") for name in minima(kept)}
    wide = [f"resnet20{kind}-{width}" for kind in ("", "_noshort") for width in WIDTHS]
    of_widths = {f"width-{name}": (name, "width") for name in wide}
    of_depths = {name: (name, "depth") for name in NETWORKS}
    return of_minima | of_depths | {SLOW: (SLOW, "rate")} | of_widths


def around(kept: Kept) -> dict[str, str]:
    """Return the kept surfaces around the end of a training, and that training."""
    found = {plane: training for plane, (training, _) in planes(kept).items()}
    found |= {f"{kind}-{name}": name for name in minima(kept) for kind in ("filter", "raw")}
    found |= {f"curvature-{name}": name for name in ("resnet20", "resnet20_noshort")}
    return {name: training for name, training in found.items() if name in kept.names}


def training(name: str) -> str:
    """Return the training that a kept surface is of.

    Example:
        >>> training("plane-sgd-wd0-bs128"), training("resnet56")
        ('sgd-wd0-bs128', 'resnet56')
    """
    return re.sub("^[a-z]+-(?=sgd|adam|resnet)", "", name)


def title(name: str) -> str:
    """Return what the network of a kept surface is called in pictures.

    Example:
        >>> title("plane-sgd-wd0-bs128")
        'SGD, batches of 128, no weight decay'
    """
    trained = training(name)
    if minimum := re.fullmatch(r"(sgd|adam)-wd([\de-]+)-bs(\d+)", trained):
        optimizer, decay, batch = minimum.groups()
        decayed = "no weight decay" if decay == "0" else f"weight decay {decay}"
        return f"{optimizer.upper().replace('ADAM', 'Adam')}, batches of {batch}, {decayed}"
    if network := re.fullmatch(r"resnet(\d+)(_noshort)?(?:-w(\d+))?(-slow)?", trained):
        layers, plain, width, slow = network.groups()
        words = [f"ResNet-{layers}", f"{width} channels" if width else ""]
        words += ["no skip connections" if plain else "", "rate 0.01" if slow else ""]
        return ", ".join(filter(None, words))
    return name
