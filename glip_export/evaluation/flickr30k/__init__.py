"""Flickr30k: how many phrases of a sentence are found, among the best 1, 5 or 10 boxes."""

from glip_export.evaluation.flickr30k.dataset import FlickrDataset
from glip_export.evaluation.flickr30k.entities import Entities
from glip_export.evaluation.flickr30k.evaluate import FlickrResult, evaluate_flickr, score_grounded
from glip_export.evaluation.flickr30k.recall import Recall, RecallCounter

__all__ = [
    "Entities",
    "FlickrDataset",
    "FlickrResult",
    "Recall",
    "RecallCounter",
    "evaluate_flickr",
    "score_grounded",
]
