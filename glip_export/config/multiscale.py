"""TEST's settings of several scales, from the official values: within which bounds, and as a MultiscaleConfig."""

from __future__ import annotations

import math
from typing import Any

from glip_export.config.glip_config import MOST_PIXELS, MOST_RANGE, MOST_SCALES, MultiscaleConfig, SizeRange
from glip_export.config.yacs import Values


def read_multiscale(values: Values) -> MultiscaleConfig:
    """The settings; the defaults where TEST.USE_MULTISCALE is off, for nothing reads them then."""
    if not values["TEST.USE_MULTISCALE"]:
        return MultiscaleConfig()
    scales, ranges = values["TEST.SCALES"], values["TEST.RANGES"]
    return MultiscaleConfig(
        scales=tuple(scales),
        max_size=values["TEST.MAX_SIZE"],
        # The original takes no notice of ranges that are not as many as scales.
        ranges=tuple(SizeRange(low, high) for low, high in ranges) if len(ranges) == len(scales) else (),
        flip=values["TEST.FLIP"],
        special_nms=values["TEST.SPECIAL_NMS"],
        threshold=values["TEST.TH"],
        soft_vote_score=values["MODEL.RETINANET.INFERENCE_TH"],
        most=values["TEST.PRE_NMS_TOP_N"],
        num_classes=values["TEST.NUM_CLASSES"],
        select_classes=tuple(values["TEST.SELECT_CLASSES"]),
    )


def sizes_hold(values: Values) -> bool:
    """Whether TEST.SCALES and TEST.MAX_SIZE are as `SIZES` says."""
    sizes = (*values["TEST.SCALES"], values["TEST.MAX_SIZE"])
    return 1 < len(sizes) <= MOST_SCALES + 1 and all(_whole(size) and 1 <= size <= MOST_PIXELS for size in sizes)


def ranges_hold(values: Values) -> bool:
    """Whether TEST.RANGES is as `RANGES` says."""
    ranges = values["TEST.RANGES"]
    if len(ranges) != len(values["TEST.SCALES"]):
        return True
    pairs = all(isinstance(entry, (tuple, list)) and len(entry) == 2 for entry in ranges)
    return pairs and all(_finite(side) and 0 <= side <= MOST_RANGE for entry in ranges for side in entry)


def thresholds_hold(values: Values) -> bool:
    """Whether TEST.TH and MODEL.RETINANET.INFERENCE_TH are finite."""
    return _finite(values["TEST.TH"]) and _finite(values["MODEL.RETINANET.INFERENCE_TH"])


def classes_hold(values: Values) -> bool:
    """Whether TEST.SELECT_CLASSES holds numbers of names."""
    return all(_whole(number) and number >= 1 for number in values["TEST.SELECT_CLASSES"])


SIZES = f"1 to {MOST_SCALES} scales, whole numbers of pixels from 1 to {MOST_PIXELS}, as is the long side's limit"
RANGES = f"a range is two numbers from 0 to {MOST_RANGE}: the roots of the least and the greatest area"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    """Also of a whole number that no float holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
