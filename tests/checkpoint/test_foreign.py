"""A weights file of another model is told as what it looks like; GLIP's own never is."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import pytest
import torch

from glip_export.checkpoint import read_checkpoint
from glip_export.checkpoint.foreign import foreign_model
from glip_export.checkpoint.mmdetection import from_official
from glip_export.errors import CheckpointError

# Some keys of each, as its own code names them.
MODELS = {
    "Grounding DINO": [
        "transformer.encoder.layers.0.self_attn.sampling_offsets.weight transformer.encoder.fusion_layers.0.gamma_v "
        "bert.embeddings.word_embeddings.weight backbone.0.layers.0.blocks.0.attn.qkv.weight feat_map.weight",
        "model.encoder.layers.0.fusion_layer.vision_param model.text_backbone.embeddings.word_embeddings.weight "
        "model.decoder.layers.0.encoder_attn.sampling_offsets.weight bbox_embed.0.layers.0.weight",
        "encoder.fusion_layers.0.gamma_v backbone.stages.0.blocks.0.attn.w_msa.qkv.weight neck.convs.0.conv.weight "
        "language_model.language_backbone.body.model.embeddings.word_embeddings.weight bbox_head.cls_branches.0.bias",
    ],
    "OWL-ViT": [
        "owlvit.logit_scale owlvit.text_model.embeddings.token_embedding.weight class_head.dense0.weight",
        "owlv2.logit_scale owlv2.visual_projection.weight box_head.dense0.weight objectness_head.dense0.weight",
    ],
    "Segment Anything (SAM)": [
        "image_encoder.pos_embed image_encoder.blocks.0.attn.qkv.weight mask_decoder.iou_token.weight",
        "image_encoder.trunk.pos_embed sam_mask_decoder.iou_token.weight memory_encoder.out_proj.weight",
        "shared_image_embedding.positional_embedding vision_encoder.pos_embed mask_decoder.upscale_conv1.bias",
    ],
    "CLIP": [
        "visual.conv1.weight visual.transformer.resblocks.0.attn.in_proj_weight token_embedding.weight text_projection",
        "logit_scale text_model.embeddings.token_embedding.weight vision_model.pre_layrnorm.weight "
        "visual_projection.weight",
    ],
    "YOLOS": ["vit.embeddings.cls_token vit.embeddings.detection_tokens class_labels_classifier.layers.0.weight"],
    "RT-DETR": [
        "backbone.stages.1.blocks.0.layers.0.conv.weight encoder.input_proj.0.conv.weight "
        "decoder.dec_bbox_head.0.layers.0.weight decoder.decoder.layers.0.norm1.weight",
        "model.encoder_input_proj.0.0.weight model.decoder.query_pos_head.layers.0.weight "
        "model.decoder.layers.0.encoder_attn.sampling_offsets.weight",
    ],
    "Deformable DETR or one of its kind": [
        "transformer.level_embed transformer.decoder.layers.0.cross_attn.sampling_offsets.weight class_embed.0.weight",
        "model.level_embed model.decoder.layers.0.encoder_attn.sampling_offsets.weight bbox_embed.0.layers.0.weight",
    ],
    "DETR": [
        "transformer.decoder.layers.0.multihead_attn.in_proj_weight class_embed.weight query_embed.weight",
        "model.query_position_embeddings.weight model.decoder.layers.0.encoder_attn.k_proj.weight "
        "class_labels_classifier.weight bbox_predictor.layers.0.weight",
    ],
    "a YOLO of Ultralytics": [
        "model.0.conv.weight model.0.bn.weight model.22.cv2.0.0.conv.weight",
        "model.model.0.conv.weight model.model.24.m.0.weight",
    ],
    "a detector of Detectron2": [
        "backbone.fpn_lateral2.weight backbone.bottom_up.stem.conv1.weight proposal_generator.rpn_head.conv.weight "
        "roi_heads.box_predictor.cls_score.weight",
        "backbone.stem.conv1.weight proposal_generator.rpn_head.conv.weight roi_heads.res5.0.conv1.weight",
    ],
    "a detector of torchvision": [
        "backbone.body.conv1.weight backbone.fpn.inner_blocks.0.0.weight rpn.head.conv.0.0.weight "
        "roi_heads.box_predictor.cls_score.weight",
        "backbone.body.conv1.weight head.classification_head.cls_logits.weight",
    ],
    "an R-CNN of maskrcnn-benchmark": [
        "backbone.body.stem.conv1.weight rpn.head.conv.weight roi_heads.box.predictor.cls_score.weight"
    ],
    "a detector of mmdetection": [
        "backbone.conv1.weight neck.lateral_convs.0.conv.weight rpn_head.rpn_conv.weight roi_head.bbox_head.fc.bias",
        "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight neck.0.lateral_convs.0.conv.weight bbox_head.atss_cls.weight",
    ],
    "Swin Transformer, a backbone alone": [
        "patch_embed.proj.weight layers.0.blocks.0.attn.qkv.weight head.weight",
        "swin.embeddings.patch_embeddings.projection.weight swin.encoder.layers.0.blocks.0.attention.self.query.weight",
    ],
    "BERT, a language model alone": [
        "bert.embeddings.word_embeddings.weight bert.encoder.layer.0.attention.self.query.weight cls.predictions.bias",
        "embeddings.word_embeddings.weight encoder.layer.0.attention.self.query.weight pooler.dense.weight",
    ],
}


@pytest.mark.parametrize(("name", "keys"), [(name, keys) for name, lists in MODELS.items() for keys in lists])
def test_other_models(tmp_path: Path, name: str, keys: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {f"module.{key}": torch.zeros(1) for key in keys.split()}}, path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: looks like the weights of {name}, not of GLIP; give a GLIP checkpoint (.pth or .safetensors)"
    )


def test_glip_is_no_other_model(oracle_tiny: Path) -> None:
    state = read_checkpoint(oracle_tiny / "weights.pth").state
    assert foreign_model(state) is None
    assert foreign_model(from_official(state)) is None
    for prefix in ("backbone.", "rpn.", "language_backbone."):  # a part of it is missing: for the matching to tell
        assert foreign_model(key for key in state if not key.startswith(prefix)) is None


@pytest.mark.parametrize("keys", [[], ["a.weight"], ["conv1.weight", "layer1.0.conv1.weight"]])
def test_nothing_is_guessed_of_other_keys(keys: list[str]) -> None:
    assert foreign_model(keys) is None


def test_a_pickled_model_of_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class DetectionModel:
        pass

    DetectionModel.__module__, DetectionModel.__qualname__ = "ultralytics.nn.tasks", "DetectionModel"
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["ultralytics.nn.tasks"], "DetectionModel", DetectionModel, raising=False)
    torch.save({"model": DetectionModel(), "epoch": -1}, tmp_path / "yolo.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"model": DetectionModel()}))
    for path in (tmp_path / "yolo.pt", tmp_path / "old.pt"):
        with pytest.raises(CheckpointError, match=r"pickled code \(names ultralytics.*like a YOLO of Ultralytics\)"):
            read_checkpoint(path)
