"""The whole model, and loading it from an official checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from glip_export.checkpoint import Checkpoint, LoadReport, is_prompt_tuned, match, read_checkpoint, resolve_weights
from glip_export.config import GlipConfig, load_config, missing_words
from glip_export.model.caption import CaptionEncoder, HeadAfterCaption
from glip_export.model.fusion_head import FusionHead
from glip_export.model.text_encoder import TextEncoder
from glip_export.model.vision_backbone import VisionBackbone
from glip_export.model.vl_fuse import Features

# Where the official keys live in this model; below these prefixes the names are the same.
OFFICIAL_PREFIXES = {
    "text_encoder.bert.": "language_backbone.body.model.",
    "vision_backbone.swin.": "backbone.body.",
    "vision_backbone.fpn.": "backbone.fpn.",
    "fusion_head.tunable_linear.": "rpn.tunable_linear.",
    "fusion_head.": "rpn.head.",
}


class Glip(nn.Module):
    """GLIP as three modules, the same three that become graphs."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config)
        self.vision_backbone = VisionBackbone(config)
        self.fusion_head = FusionHead(config)
        self.weights_path: Path | None = None  # where the weights came from
        self.weights_sha256 = ""
        self.weights_ema = False  # whether they are the file's averaged ones
        self.load_report: LoadReport | None = None

    def forward(
        self,
        images: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        class_map: torch.Tensor,
        image_sizes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures and prompt to boxes, scores, labels, count; shapes as in the three modules."""
        text_features = self.text_encoder(input_ids, attention_mask)
        features, text_features = self.encode_images(images, text_features, attention_mask)
        return self.fusion_head(features, text_features, attention_mask, class_map, image_sizes)

    def encode_images(
        self, images: torch.Tensor, text_features: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Features, torch.Tensor]:
        """P3..P7 and what the head reads of the text: as it was given, or as the backbone fused it."""
        if not self.config.swin.fuses_text:
            return self.vision_backbone(images), text_features
        *features, text_features = self.vision_backbone(images, text_features, attention_mask)
        return tuple(features), text_features

    def graph_module(self, name: str) -> nn.Module:
        """What becomes the graph of that name: the part itself, or its other cut where a caption's text runs ahead."""
        if self.config.text_runs_ahead and name == "text_encoder":
            return CaptionEncoder(self.text_encoder, self.fusion_head).eval()
        if self.config.text_runs_ahead and name == "fusion_head":
            return HeadAfterCaption(self.fusion_head).eval()
        return self.get_submodule(name)


def official_name(name: str) -> str:
    """A parameter's name in official checkpoints (without their `module.`)."""
    for ours, official in OFFICIAL_PREFIXES.items():
        if name.startswith(ours):
            return official + name[len(ours) :]
    raise KeyError(name)


def load_model(
    weights: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    bert_config: str | Path | None = None,
    ema: bool = False,
) -> Glip:
    """A GLIP on the CPU, in fp32 and eval mode, from an official `.pth` or `.safetensors`.

    weights: a file or hf://OWNER/REPO/FILE. config: an official YAML; without it the published configuration that the
    checkpoint's shapes identify. overrides: KEY VALUE pairs, flat. bert_config: sizes of a BERT that is not bert-base.
    ema: the file's averaged weights, `model_ema`, in place of `model`.
    Raises CheckpointError or ConfigError, each saying what to do.
    """
    checkpoint = read_checkpoint(resolve_weights(weights), ema)
    settings = load_config(
        None if config is None else Path(config),
        overrides,
        None if bert_config is None else Path(bert_config),
        checkpoint.shapes,
        checkpoint.path.name,
    )
    return build_model(settings, checkpoint)


def build_model(config: GlipConfig, checkpoint: Checkpoint) -> Glip:
    """The model of a configuration with a checkpoint's weights; raises CheckpointError if they do not fit.

    A table of prompt tuning that is zero, or not there, adds nothing: it is left out.
    """
    if config.head.prompt_table and not is_prompt_tuned(checkpoint.state):
        config = replace(config, head=replace(config.head, prompt_table=False))
    model = Glip(config)
    names = {official_name(name): name for name, _ in model.named_parameters()}
    report = match(checkpoint.state, {key: tuple(model.get_parameter(name).shape) for key, name in names.items()})
    report.raise_if_incomplete(checkpoint.path, missing_words(config, checkpoint.shapes))
    model.load_state_dict({name: checkpoint.state[key] for key, name in names.items()}, assign=True)
    model.weights_path, model.weights_sha256 = checkpoint.path.resolve(), checkpoint.sha256
    model.weights_ema = checkpoint.ema
    model.load_report = report
    return model.eval().requires_grad_(False)
