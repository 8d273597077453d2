"""The vocabulary fixed in the model: one graph from pictures to detections, the text's part of it computed once."""

from glip_export.graphs.bake.bake import PRECISIONS, Baked, bake

__all__ = ["PRECISIONS", "Baked", "bake"]
