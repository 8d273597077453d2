"""What tells one evaluation from all others: only the journal of an equal one is gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glip_export import __version__
from glip_export.bundle import Bundle
from glip_export.bundle.files import MANIFEST, sha256_file
from glip_export.evaluation.dataset import CocoDataset, pictures_digest
from glip_export.evaluation.entries import CocoImage
from glip_export.names import Name


def identity(
    dataset: CocoDataset,
    bundle: Bundle,
    names: Sequence[Name] | None,
    batch: int,
    chunk: int | None = None,
    aspect_groups: bool = False,
    limit: int | None = None,
) -> dict[str, Any]:
    """The identity of an evaluation with those arguments, its backend apart, as `Journal.open` takes it."""
    return {
        **files_identity(bundle, dataset.sha256, dataset.images),
        "names": list(dataset.names if names is None else names),
        "batch": batch,
        "chunk": chunk,
        "aspect_groups": aspect_groups,
        "limit": limit,
    }


def files_identity(bundle: Bundle, annotations_sha256: str, images: Sequence[CocoImage]) -> dict[str, Any]:
    """The part that any data set has: the program, the bundle, the annotation file and the pictures' files."""
    return {
        "glip-export": __version__,
        "manifest_sha256": sha256_file(bundle.path / MANIFEST),
        "annotations_sha256": annotations_sha256,
        "pictures_sha256": pictures_digest(images),
        "pictures_as": "stored",  # not upright by EXIF, as before: what was found so is not mixed with this
    }
