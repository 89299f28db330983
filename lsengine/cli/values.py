"""Texts of the command line as values; each function refuses what is none.

Raises `argparse.ArgumentTypeError`, which argparse turns into a message with the option's name.
"""

from __future__ import annotations

import argparse
import functools

_MOST_WORKERS = 4096  # processes of one machine


def count(text: str, least: int = 1, most: int | None = None) -> int:
    """Return an integer of at least ``least`` and, if that is given, at most ``most``."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least:,} to {most:,}"
        raise argparse.ArgumentTypeError(f"got {text!r}; expected an integer of {limits}")
    return value


bins = functools.partial(count, most=10_000)
number = functools.partial(count, least=0)


def shard(text: str) -> tuple[int, int]:
    """Return K and N of ``K/N``."""
    shard, _, shards = text.partition("/")
    if not (shard.isdecimal() and shards.isdecimal() and 1 <= int(shard) <= int(shards)):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected K/N, K from 1 to N, such as 2/8")
    return int(shard), int(shards)


def workers(text: str) -> int | str:
    """Return a number of workers, or ``auto``."""
    try:
        return text if text == "auto" else count(text, most=_MOST_WORKERS)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or auto") from None


def seconds(text: str) -> float:
    """Return seconds, a tenth to a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected seconds, 0.1 to 86400")
    return value
