"""LVIS: average precision where each picture is annotated for some of many categories only."""

from glip_export.evaluation.lvis.dataset import LvisDataset
from glip_export.evaluation.lvis.evaluate import LvisResult, evaluate_lvis, score_found
from glip_export.evaluation.lvis.scores import LvisScores, score_lvis

__all__ = ["LvisDataset", "LvisResult", "LvisScores", "evaluate_lvis", "score_found", "score_lvis"]
