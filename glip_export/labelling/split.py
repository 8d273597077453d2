"""Which pictures train and which validate: decided by what a picture is called, and by nothing else."""

from __future__ import annotations

import hashlib

TRAIN, VAL = "train", "val"


def split_of(source: str, share: float) -> str:
    """TRAIN or VAL: the same whatever the order, the workers, and the pictures that come later.

    A larger share takes pictures from TRAIN and gives none back.
    """
    return VAL if place_of(source) < share * 2**64 else TRAIN


def place_of(source: str) -> int:
    """A source's place, 0 to 2**64, in an order that has nothing to do with its name."""
    return int.from_bytes(hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()[:8], "big")
