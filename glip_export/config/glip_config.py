"""The configuration of a GLIP as frozen dataclasses: what inference needs, every field with its official key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from glip_export.config.bert import BertConfig
from glip_export.config.restore import ADDED, restore
from glip_export.config.task import TaskConfig
from glip_export.errors import ConfigError

MOST_SCALES = 64
MOST_PIXELS = 10_000  # of a side, at any scale
MOST_RANGE = 1_000_000  # pixels, of the root of an area


@dataclass(frozen=True)
class ImageConfig:
    """How a picture becomes the network's input."""

    min_size: int = 800  # INPUT.MIN_SIZE_TEST, pixels of the short side
    max_size: int = 1333  # INPUT.MAX_SIZE_TEST, pixels of the long side
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)  # INPUT.PIXEL_MEAN
    std: tuple[float, float, float] = (57.375, 57.12, 58.395)  # INPUT.PIXEL_STD
    bgr255: bool = True  # INPUT.TO_BGR255: BGR 0..255, else RGB 0..1
    size_divisor: int = 32  # DATALOADER.SIZE_DIVISIBILITY


@dataclass(frozen=True)
class TextConfig:
    """The language backbone and the caption's form."""

    bert: BertConfig = field(default_factory=BertConfig)
    max_query_len: int = 256  # MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN, tokens
    n_layers: int = 1  # MODEL.LANGUAGE_BACKBONE.N_LAYERS
    separator: str = ". "  # DATASETS.SEPARATION_TOKENS
    # MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL: after BERT, [CLS] and [SEP] are masked as padding is
    mask_special: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class SwinConfig:
    """MODEL.SWINT."""

    embed_dim: int = 96
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    version: str = field(default="v1", metadata=ADDED)  # VERSION: v1, vl, v2, v2_vl
    position_embedding: bool = field(default=False, metadata=ADDED)  # APE
    layer_scale: bool = field(default=False, metadata=ADDED)  # LAYER_SCALE, which v1 and vl do not read
    output_norms: bool = field(default=True, metadata=ADDED)  # OUT_NORM, which v1 and vl do not read

    @property
    def is_v2(self) -> bool:
        """Whether patches overlap and stages are joined by convolutions."""
        return self.version in ("v2", "v2_vl")

    @property
    def fuses_text(self) -> bool:
        """Whether the last stage attends to the text, which comes out changed."""
        return self.version in ("vl", "v2_vl")


@dataclass(frozen=True)
class HeadConfig:
    """MODEL.DYHEAD: the tower of VLFuse, BertEncoderLayer and DyConv, and its predictions."""

    channels: int = 256  # MODEL.DYHEAD.CHANNELS, equal to MODEL.BACKBONE.OUT_CHANNELS and FUSE_CONFIG.JOINT_EMB_SIZE
    num_convs: int = 6  # MODEL.DYHEAD.NUM_CONVS
    group_norm_groups: int = 16  # MODEL.GROUP_NORM.NUM_GROUPS
    early_fusion: bool = True  # FUSE_CONFIG.EARLY_FUSE_ON
    fused_dot_product: bool = True  # FUSE_CONFIG.USE_FUSED_FEATURES_DOT_PRODUCT
    clamp_fusion_min: bool = True  # FUSE_CONFIG.CLAMP_MIN_FOR_UNDERFLOW
    clamp_fusion_max: bool = True  # FUSE_CONFIG.CLAMP_MAX_FOR_OVERFLOW
    stable_softmax: bool = False  # FUSE_CONFIG.STABLE_SOFTMAX_2D
    clamp_text_min: bool = True  # FUSE_CONFIG.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW
    clamp_text_max: bool = True  # FUSE_CONFIG.CLAMP_BERTATTN_MAX_FOR_OVERFLOW
    clamp_dot_product: bool = True  # FUSE_CONFIG.CLAMP_DOT_PRODUCT
    # FUSE_CONFIG.TYPE: MHA-B, MHA-S, or a word under which features and text pass each other
    fusion: str = field(default="MHA-B", metadata=ADDED)
    layer_scale: bool = field(default=True, metadata=ADDED)  # FUSE_CONFIG.USE_LAYER_SCALE, which MHA-B does not read
    separates_levels: bool = field(default=False, metadata=ADDED)  # FUSE_CONFIG.SEPARATE_BIDIRECTIONAL
    # FUSE_CONFIG.DO_LANG_PROJ_OUTSIDE_CHECKPOINT: where the weights that shrink the separate levels' texts stand
    shrinks_text_outside: bool = field(default=False, metadata=ADDED)
    prompt_table: bool = field(default=False, metadata=ADDED)  # FUSE_CONFIG.ADD_LINEAR_LAYER, prompt tuning


@dataclass(frozen=True)
class DetectionConfig:
    """MODEL.ATSS, MODEL.RPN and TEST: from logits to detections."""

    score_agg: str = "MEAN"  # MODEL.DYHEAD.SCORE_AGG: MEAN, MAX or POWER over a class's tokens
    score_threshold: float = 0.05  # MODEL.ATSS.INFERENCE_TH
    pre_nms_top_n: int = 1000  # MODEL.ATSS.PRE_NMS_TOP_N, per level
    nms_threshold: float = 0.6  # MODEL.ATSS.NMS_TH
    detections_per_image: int = 100  # MODEL.ATSS.DETECTIONS_PER_IMG
    anchor_sizes: tuple[float, ...] = (64, 128, 256, 512, 1024)  # MODEL.RPN.ANCHOR_SIZES, pixels
    anchor_strides: tuple[int, ...] = (8, 16, 32, 64, 128)  # MODEL.RPN.ANCHOR_STRIDE, pixels
    chunk: int = -1  # TEST.CHUNKED_EVALUATION: names a caption, -1 for as many as fit
    # TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM: names that a prompt may have, -1 for any number
    most_names: int = field(default=-1, metadata=ADDED)
    # TEST.USE_MULTISCALE: the head gives the candidates of all levels, without NMS; MultiscaleConfig says the rest
    several_scales: bool = field(default=False, metadata=ADDED)

    @property
    def candidates(self) -> int:
        """How many candidates of all levels there may be."""
        return len(self.anchor_strides) * self.pre_nms_top_n

    @property
    def most_detections(self) -> int:
        """How many detections of a picture the fusion head may give."""
        return self.candidates if self.several_scales else self.detections_per_image


@dataclass(frozen=True)
class SizeRange:
    """Boxes of an area between low^2 and high^2, neither reached: an entry of TEST.RANGES."""

    low: float
    high: float


@dataclass(frozen=True)
class MultiscaleConfig:
    """TEST, where `DetectionConfig.several_scales`: at which scales a picture is seen, and how what is found is merged.

    Without it everything here is at its default.
    """

    scales: tuple[int, ...] = (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800)  # SCALES, short side
    max_size: int = 2500  # MAX_SIZE, pixels of the long side
    ranges: tuple[SizeRange, ...] = ()  # RANGES, one a scale; none where they are not as many as SCALES
    flip: bool = True  # FLIP: each scale mirrored too
    special_nms: str = "none"  # SPECIAL_NMS: vote, soft-vote, soft-nms, or another word for plain NMS
    threshold: float = 0.6  # TH: IoU, or for soft-nms a score; 0 or less for no merging
    soft_vote_score: float = 0.05  # MODEL.RETINANET.INFERENCE_TH
    most: int = 1000  # PRE_NMS_TOP_N: boxes a picture, 0 or less for any number
    num_classes: int = 81  # NUM_CLASSES: one more than the names that are merged
    select_classes: tuple[int, ...] = ()  # SELECT_CLASSES: numbers of the names that are merged, from 1

    def __post_init__(self) -> None:
        """Raises ConfigError for what no configuration file may say: a manifest may come from anywhere."""
        sizes = (*self.scales, self.max_size)
        sides = [side for each in self.ranges for side in (each.low, each.high)]
        if (
            not 1 < len(sizes) <= MOST_SCALES + 1
            or not all(1 <= size <= MOST_PIXELS for size in sizes)
            or len(self.ranges) not in (0, len(self.scales))
            or not all(0 <= side <= MOST_RANGE for side in sides)
        ):
            raise ConfigError("TEST.SCALES, MAX_SIZE or RANGES are out of bounds")


@dataclass(frozen=True)
class GlipConfig:
    """All that inference needs to know of a GLIP; the bundle's manifest carries it."""

    name: str = "glip_Swin_T_O365_GoldG"
    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    swin: SwinConfig = field(default_factory=SwinConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    multiscale: MultiscaleConfig = field(default_factory=MultiscaleConfig, metadata=ADDED)
    task: TaskConfig = field(default_factory=TaskConfig, metadata=ADDED)

    @property
    def strictest_image(self) -> ImageConfig:
        """The resizing under which a narrow picture's short side vanishes first: at several scales the largest."""
        if not self.detection.several_scales:
            return self.image
        return replace(self.image, min_size=max(self.multiscale.scales), max_size=self.multiscale.max_size)

    @property
    def reads_embedded_apart(self) -> bool:
        """Whether the logits read BERT's `embedded` where something else reads its last layer, of which it is no part.

        With N_LAYERS 1 `embedded` is the last layer times the mask.
        """
        reads_hidden = self.head.early_fusion or self.swin.fuses_text
        return reads_hidden and not self.head.fused_dot_product and self.text.n_layers > 1

    @property
    def text_runs_ahead(self) -> bool:
        """Whether the text of every block depends on the caption alone, so that it is computed once a caption."""
        return self.head.early_fusion and self.head.fusion != "MHA-B" and not self.swin.fuses_text

    @property
    def encoded_width(self) -> int:
        """What the graph text_encoder gives of a token, in multiples of BERT's hidden size side by side.

        Its last layer or `embedded`, or both; or where text runs ahead the text at every block and at the logits.
        """
        parts = self.head.num_convs + 1 if self.text_runs_ahead else 1 + self.reads_embedded_apart
        return parts * self.text.bert.hidden_size

    @property
    def head_width(self) -> int:
        """The same of what the graph fusion_head takes: what a backbone that fuses text gives back."""
        if not self.swin.fuses_text:
            return self.encoded_width
        both = self.head.early_fusion and not self.head.fused_dot_product
        return (1 + both) * self.text.bert.hidden_size


def config_to_dict(config: GlipConfig) -> dict[str, Any]:
    """The configuration as plain values, for JSON; `config_from_dict` gives it back."""
    return asdict(config)


def config_from_dict(data: Mapping[str, Any]) -> GlipConfig:
    """What `config_to_dict` wrote, through JSON or not.

    Raises ConfigError if a field is unknown, of the wrong type, or missing though earlier versions had it.
    """
    return restore(GlipConfig, data, "manifest's configuration: ", "")
