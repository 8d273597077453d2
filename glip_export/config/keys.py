"""What becomes of every key of the official configuration: honoured, refused, or without influence on inference.

Nothing is accepted and ignored. HONOURED says which field of GlipConfig a key becomes; what is refused, and why, are
the rules of supported.py; WITHOUT_INFLUENCE is everything else, by sections and keys, each with its reason: read in
microsoft/GLIP's code, where nothing that these keys reach changes a detection of the networks rebuilt here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from glip_export.config.supported import RELATIONS, RULES
from glip_export.config.yacs import official_keys

HONOURED: dict[str, str] = {
    "INPUT.MIN_SIZE_TEST": "image.min_size",
    "INPUT.MAX_SIZE_TEST": "image.max_size",
    "INPUT.PIXEL_MEAN": "image.mean",
    "INPUT.PIXEL_STD": "image.std",
    "INPUT.TO_BGR255": "image.bgr255",
    "INPUT.FORMAT": "image.bgr255",
    "DATALOADER.SIZE_DIVISIBILITY": "image.size_divisor",
    "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN": "text.max_query_len",
    "MODEL.LANGUAGE_BACKBONE.N_LAYERS": "text.n_layers",
    "DATASETS.SEPARATION_TOKENS": "text.separator",
    "MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL": "text.mask_special",
    "MODEL.SWINT.EMBED_DIM": "swin.embed_dim",
    "MODEL.SWINT.DEPTHS": "swin.depths",
    "MODEL.SWINT.NUM_HEADS": "swin.num_heads",
    "MODEL.SWINT.WINDOW_SIZE": "swin.window_size",
    "MODEL.SWINT.MLP_RATIO": "swin.mlp_ratio",
    "MODEL.SWINT.VERSION": "swin.version",
    "MODEL.SWINT.APE": "swin.position_embedding",
    "MODEL.SWINT.LAYER_SCALE": "swin.layer_scale",
    "MODEL.SWINT.OUT_NORM": "swin.output_norms",
    "MODEL.DYHEAD.CHANNELS": "head.channels",
    "MODEL.DYHEAD.NUM_CONVS": "head.num_convs",
    "MODEL.GROUP_NORM.NUM_GROUPS": "head.group_norm_groups",
    "MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON": "head.early_fusion",
    "MODEL.DYHEAD.FUSE_CONFIG.USE_FUSED_FEATURES_DOT_PRODUCT": "head.fused_dot_product",
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_MIN_FOR_UNDERFLOW": "head.clamp_fusion_min",
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_MAX_FOR_OVERFLOW": "head.clamp_fusion_max",
    "MODEL.DYHEAD.FUSE_CONFIG.STABLE_SOFTMAX_2D": "head.stable_softmax",
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW": "head.clamp_text_min",
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_BERTATTN_MAX_FOR_OVERFLOW": "head.clamp_text_max",
    "MODEL.DYHEAD.FUSE_CONFIG.CLAMP_DOT_PRODUCT": "head.clamp_dot_product",
    "MODEL.DYHEAD.FUSE_CONFIG.TYPE": "head.fusion",
    "MODEL.DYHEAD.FUSE_CONFIG.USE_LAYER_SCALE": "head.layer_scale",
    "MODEL.DYHEAD.FUSE_CONFIG.SEPARATE_BIDIRECTIONAL": "head.separates_levels",
    "MODEL.DYHEAD.FUSE_CONFIG.DO_LANG_PROJ_OUTSIDE_CHECKPOINT": "head.shrinks_text_outside",
    "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER": "head.prompt_table",
    "SOLVER.TUNING_HIGHLEVEL_OVERRIDE": "head.prompt_table",
    "MODEL.DYHEAD.SCORE_AGG": "detection.score_agg",
    "MODEL.ATSS.INFERENCE_TH": "detection.score_threshold",
    "MODEL.ATSS.PRE_NMS_TOP_N": "detection.pre_nms_top_n",
    "MODEL.ATSS.NMS_TH": "detection.nms_threshold",
    "MODEL.ATSS.DETECTIONS_PER_IMG": "detection.detections_per_image",
    "MODEL.RPN.ANCHOR_SIZES": "detection.anchor_sizes",
    "MODEL.RPN.ANCHOR_STRIDE": "detection.anchor_strides",
    "TEST.CHUNKED_EVALUATION": "detection.chunk",
    "TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM": "detection.most_names",
    "TEST.USE_MULTISCALE": "detection.several_scales",
    "TEST.SCALES": "multiscale.scales",
    "TEST.MAX_SIZE": "multiscale.max_size",
    "TEST.RANGES": "multiscale.ranges",
    "TEST.FLIP": "multiscale.flip",
    "TEST.SPECIAL_NMS": "multiscale.special_nms",
    "TEST.TH": "multiscale.threshold",
    "MODEL.RETINANET.INFERENCE_TH": "multiscale.soft_vote_score",
    "TEST.PRE_NMS_TOP_N": "multiscale.most",
    "TEST.NUM_CLASSES": "multiscale.num_classes",
    "TEST.SELECT_CLASSES": "multiscale.select_classes",
    "DATASETS.USE_OVERRIDE_CATEGORY": "task.use_override_category",
    "DATASETS.OVERRIDE_CATEGORY": "task.override_category",
    "DATASETS.USE_CAPTION_PROMPT": "task.use_caption_prompt",
    "DATASETS.CAPTION_PROMPT": "task.caption_prompt",
    "DATASETS.USE_SUPRESS_QUERY": "task.use_suppress_query",
    "DATASETS.SUPRESS_QUERY": "task.suppress_query",
}


@dataclass(frozen=True)
class Unread:
    """Keys that change no detection, and why; `SECTION.*` is all keys below a section."""

    why: str
    keys: tuple[str, ...]

    def covers(self, key: str) -> bool:
        """Whether the key is one of these."""
        return any(key.startswith(own[:-1]) if own.endswith(".*") else key == own for own in self.keys)


def _below(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


WITHOUT_INFLUENCE = (
    Unread("training: how pictures are changed for it", ("AUGMENT.*", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN")),
    Unread(
        "training: the optimizer and its schedule",
        _below(
            "SOLVER",
            "AUTO_TERMINATE_PATIENCE BACKBONE_BODY_LR_FACTOR BASE_LR BIAS_LR_FACTOR CHECKPOINT_PERIOD "
            "CHECKPOINT_PER_EPOCH CLIP_GRADIENTS.* DATASET_LENGTH DISABLE_OUTPUT_DISTRIBUTED FIND_UNUSED_PARAMETERS "
            "GAMMA GRAD_CLIP IMS_PER_BATCH LANG_LR MAX_EPOCH MAX_ITER MAX_NEG_PER_BATCH MIN_LR MODEL_EMA MOMENTUM "
            "MULTI_MAX_EPOCH MULTI_MAX_ITER OPTIMIZER PROMPT_PROBING_LEVEL SEED STEPS STEP_PATIENCE "
            "TEST_WITH_INFERENCE USE_AMP USE_AUTOSTEP USE_COSINE USE_EMA_FOR_MONITOR WARMUP_FACTOR WARMUP_ITERS "
            "WARMUP_METHOD WEIGHT_DECAY WEIGHT_DECAY_BIAS WEIGHT_DECAY_NORM_FACTOR WEIGHT_DECAY_SCHEDULE "
            "WEIGHT_DECAY_SCHEDULE_RATIO",
        ),
    ),
    Unread("training: the search for architectures", ("SEARCH.*",)),
    Unread(
        "training: which data sets, how often, and how their captions and boxes are drawn",
        _below(
            "DATASETS",
            "ADD_DET_PROMPT ADD_DET_PROMPT_ADVANCED ALTERNATIVE_TRAINING BING_INDEX_LIST BOX_THRESHOLD CAPTION_CONF "
            "CAPTION_FORMAT_VERSION CAPTION_MIN_BOX CAPTION_NMS COCO_COPY CONTROL_PROB DISABLE_CLIP_TO_IMAGE "
            "DISABLE_SHUFFLE FEW_SHOT FLICKR_COPY FURTHER_SCREEN GENERAL_COPY INFERENCE_CAPTION IN_COPY LOCAL_DEBUG "
            "LVIS_COPY MAX_BOX MIXED_COPY MULTISTAGE_TRAINING NO_RANDOM_PACK_PROBABILITY OBJECT365_COPY OI_COPY "
            "PACK_RANDOM_CAPTION_NUMBER PROMPT_LIMIT_NEG PROMPT_VERSION RANDOM_PACK_PROB RANDOM_SAMPLE_NEG "
            "REPLACE_CLEAN_LABEL SAFEGUARD_POSITIVE_CAPTION SAMPLE_NEGATIVE_FOR_GROUNDING_DATA SAMPLE_RATIO "
            "SHUFFLE_SEED SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING TRAIN TRAIN_DATASETNAME_SUFFIX USE_CROWD USE_OD_AUG "
            "VG_COPY",
        ),
    ),
    Unread(
        "training: how its pictures are loaded",
        _below("DATALOADER", "DISTRIBUTE_CHUNK_AMONG_NODE MIN_KPS_PER_IMS USE_RANDOM_SEED"),
    ),
    Unread(
        "training: what is frozen, dropped at random or computed twice to save memory",
        (
            "MODEL.BACKBONE.FREEZE",
            "MODEL.BACKBONE.FREEZE_CONV_BODY_AT",
            "MODEL.BACKBONE.USE_CHECKPOINT",
            "MODEL.DYHEAD.FUSE_CONFIG.JOINT_EMB_DROPOUT",
            "MODEL.DYHEAD.USE_CHECKPOINT",
            "MODEL.FPN.DROP_BLOCK",
            "MODEL.FPN.DROP_PROB",
            "MODEL.FPN.DROP_SIZE",
            "MODEL.FPN.FREEZE",
            "MODEL.LANGUAGE_BACKBONE.FREEZE",
            "MODEL.LANGUAGE_BACKBONE.USE_CHECKPOINT",
            "MODEL.LINEAR_PROB",
            "MODEL.RPN.FREEZE",
            "MODEL.SWINT.DROP_PATH_RATE",
        ),
    ),
    Unread(
        "training: losses, and which positions they are taken at",
        (
            "MODEL.FOCAL.*",
            *_below("MODEL.ATSS", "INFERENCE_TH_TRAIN POST_NMS_TOP_N_TRAIN PRE_NMS_TOP_N_TRAIN REG_LOSS_WEIGHT TOPK"),
            "MODEL.DYHEAD.TOPK",
            *_below(
                "MODEL.DYHEAD.FUSE_CONFIG",
                "CONTRASTIVE_ALIGN_LOSS_WEIGHT CONTRASTIVE_HIDDEN_DIM DOT_PRODUCT_TOKEN_LOSS_WEIGHT "
                "SHALLOW_CONTRASTIVE_HIDDEN_DIM SHALLOW_CONTRASTIVE_LOSS_WEIGHT SHALLOW_MAX_POSITIVE_ANCHORS "
                "TOKEN_ALPHA TOKEN_GAMMA TOKEN_LOSS_WEIGHT USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS "
                "USE_CLASSIFICATION_LOSS USE_SHALLOW_CONTRASTIVE_LOSS USE_SHALLOW_ZERO_PADS",
            ),
            *_below("MODEL.RPN", "BATCH_SIZE_PER_IMAGE BG_IOU_THRESHOLD FG_IOU_THRESHOLD POSITIVE_FRACTION"),
            "MODEL.RPN.STRADDLE_THRESH",
        ),
    ),
    Unread(
        "training: words masked at random; the original's evaluation is run with it off",
        _below(
            "MODEL.DYHEAD.FUSE_CONFIG",
            "MLM_LOSS MLM_LOSS_COEF MLM_LOSS_FOR_ONLY_POSITIVES MLM_OBJ_FOR_ONLY_POSITIVE NO_MASK_FOR_GOLD "
            "NO_MASK_FOR_OD",
        ),
    ),
    Unread(
        "training: what weights begin with; the checkpoint has what became of them",
        ("MODEL.ATSS.PRIOR_PROB", *_below("MODEL.DYHEAD", "LOG_SCALE PRIOR_PROB SHALLOW_LOG_SCALE")),
    ),
    Unread("training: evaluation in between", ("TEST.DURING_TRAINING",)),
    Unread(
        "read by other heads (RetinaNet, FCOS, ATSS, the first stage of two)",
        (
            *_below("MODEL.RETINANET", "DETECTIONS_PER_IMG NMS_TH NUM_CLASSES NUM_CONVS PRE_NMS_TOP_N PRIOR_PROB"),
            "MODEL.FCOS.*",
            *_below("MODEL.ATSS", "CHANNELS NUM_CLASSES NUM_CONVS USE_BN USE_DFCONV USE_DYRELU USE_GN USE_SE"),
            *_below(
                "MODEL.RPN",
                "FPN_POST_NMS_TOP_N_TEST FPN_POST_NMS_TOP_N_TRAIN MIN_SIZE NMS_THRESH POST_NMS_TOP_N_TEST "
                "POST_NMS_TOP_N_TRAIN PRE_NMS_TOP_N_TEST PRE_NMS_TOP_N_TRAIN RPN_HEAD",
            ),
        ),
    ),
    Unread(
        "read by a second stage, which MODEL.RPN_ONLY False would add: refused",
        (
            "MODEL.BOX_ON",
            "MODEL.ROI_BOX_HEAD.*",
            "MODEL.ROI_HEADS.*",
            "MODEL.ROI_KEYPOINT_HEAD.*",
            "MODEL.ROI_MASK_HEAD.*",
            "MODEL.RPN.RETURN_FUSED_FEATURES",
        ),
    ),
    Unread(
        "read by other backbones than Swin with a plain pyramid; these have no batch normalisation either",
        (
            "MODEL.RESNETS.*",
            "MODEL.BIFPN.*",
            "MODEL.EVO_NORM.*",
            "MODEL.SPEC",
            *_below(
                "MODEL.BACKBONE",
                "EFFICIENT_DET_BIFPN_VERSION EFFICIENT_DET_COMPOUND EFFICIENT_DET_START_FROM GROUP LAYER_SEARCH "
                "LAYER_SETUP NORM_LEVEL RESET_BN USE_BN USE_DFCONV USE_DYRELU USE_EN USE_GN USE_NSYNCBN USE_SE "
                "USE_SYNCBN",
            ),
        ),
    ),
    Unread(
        "read by other text encoders (RNN, CLIP)",
        (
            "MODEL.CLIP.*",
            *_below(
                "MODEL.LANGUAGE_BACKBONE",
                "BIDIRECTIONAL CORPUS_PATH DROPOUT_P HIDDEN_SIZE INPUT_DROPOUT_P RNN_TYPE VARIABLE_LENGTH "
                "VOCAB_SIZE WORD_EMBEDDING_SIZE WORD_VEC_SIZE",
            ),
        ),
    ),
    Unread("padded tokens are never read by a real one", ("MODEL.LANGUAGE_BACKBONE.PAD_MAX",)),
    Unread("read by other fusions (SCAN, FILM)", _below("MODEL.DYHEAD.FUSE_CONFIG", "JOINT_MLP_LAYERS JOINT_OUT_SIZE")),
    Unread(
        "given on for a loss of training, and dropped where the original detects",
        ("MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION",),
    ),
    Unread(
        "read without MODEL.DYHEAD.USE_GN, which is refused: DyConv's GroupNorm has PyTorch's epsilon",
        ("MODEL.DYHEAD.USE_NSYNCBN", "MODEL.DYHEAD.USE_SYNCBN", "MODEL.GROUP_NORM.EPSILON"),
    ),
    Unread("one scale an octave leaves nothing to divide", ("MODEL.RPN.OCTAVE",)),
    Unread(
        "room for so many classes, beyond which the original fails; here there is always room",
        ("MODEL.DYHEAD.NUM_CLASSES",),
    ),
    Unread(
        "read with GLIPKNOW.PARALLEL_LANGUAGE_INPUT, which is refused",
        _below(
            "GLIPKNOW",
            "GPT3_NUM KNOWLEDGE_FILE KNOWLEDGE_TYPE LAN_FEATURE_AGG_TYPE MAX_NUM_CLASSES_PER_BATCH_TRAIN WIKI_AND_GPT3",
        ),
    ),
    Unread("read with DATASETS.ONE_HOT, which is refused", ("DATASETS.NO_MINUS_ONE_FOR_ONE_HOT",)),
    Unread(
        "read by the original's question answering, which is not here",
        _below("DATASETS", "DIVER_BOX_FOR_VQA FULL_QUESTION_PROB NEG_QUESTION_PROB POS_QUESTION_PROB"),
    ),
    Unread(
        "what the command's own options say: eval lvis --normal, eval flickr30k --merged",
        ("DATASETS.LVIS_USE_NORMAL_AP", "DATASETS.FLICKR_GT_TYPE"),
    ),
    Unread("numbers the classes of several data sets on end; one is evaluated at a time", ("DATASETS.CLASS_CONCAT",)),
    Unread(
        "read nowhere where the original detects",
        (
            "DATASETS.PREDEFINED_TEXT",
            "DATASETS.USE_COCO_FORMAT",
            "MODEL.LANGUAGE_BACKBONE.UNUSED_TOKEN",
            "MODEL.MULTITASK",
            "MODEL.ONNX",
        ),
    ),
    Unread(
        "what the commands' own options say (--weights, --images, --output), and eval odinw's task YAML",
        (
            "DATASETS.REGISTER",
            "DATASETS.TEST",
            "DATASETS.TEST_DATASETNAME_SUFFIX",
            "MODEL.LANGUAGE_BACKBONE.WEIGHT",
            "MODEL.PRETRAIN_NAME",
            "MODEL.WEIGHT",
            "OUTPUT_DIR",
            "PATHS_CATALOG",
            "TENSORBOARD_EXP",
        ),
    ),
    Unread(
        "what the commands' own options say: eval --batch, eval coco --aspect-groups; a task's YAML for eval odinw",
        ("DATALOADER.ASPECT_RATIO_GROUPING", "TEST.IMS_PER_BATCH"),
    ),
    Unread(
        "where and how it runs: --backend and --threads here",
        ("DATALOADER.NUM_WORKERS", "MODEL.DEBUG", "MODEL.DEVICE"),
    ),
    Unread(
        "what results are compared with once they are there",
        _below("TEST", "EXPECTED_RESULTS EXPECTED_RESULTS_SIGMA_TOL"),
    ),
)


@cache
def refused() -> dict[str, str]:
    """Keys that must be what is rebuilt, and why; other values are a ConfigError that names the key."""
    why = {rule.key: rule.why for rule in RULES}
    for relation in RELATIONS:
        for key in relation.keys:
            why.setdefault(key, relation.why)
    return {key: why[key] for key in official_keys() if key in why and key not in HONOURED}
