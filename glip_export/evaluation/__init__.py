"""Average precision of a Detector on a data set in COCO's format."""

from glip_export.evaluation.coco import CocoResult, evaluate_coco
from glip_export.evaluation.dataset import CocoDataset
from glip_export.evaluation.journal import Journal
from glip_export.evaluation.problems import Problem

__all__ = ["CocoDataset", "CocoResult", "Journal", "Problem", "evaluate_coco"]
