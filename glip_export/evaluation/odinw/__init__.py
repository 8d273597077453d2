"""ODinW: many small data sets in COCO's format, each with a task's YAML that says what it is asked for."""

from glip_export.evaluation.odinw.dataset import OdinwDataset
from glip_export.evaluation.odinw.evaluate import OdinwResult, evaluate_odinw, read_dataset
from glip_export.evaluation.odinw.task import OdinwTask, read_tasks

__all__ = ["OdinwDataset", "OdinwResult", "OdinwTask", "evaluate_odinw", "read_dataset", "read_tasks"]
