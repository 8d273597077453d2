"""Seeded random weights under the official names, for the sizes whose real weights cannot be had in a test.

As a script it writes one: python tests/random_checkpoint.py glip_Swin_T_O365_GoldG OUTPUT.pth [KEY VALUE ...], such as
MODEL.SWINT.VERSION vl for a structure that nobody published.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from glip_export.config import GlipConfig, HeadConfig, SwinConfig, load_config
from glip_export.model.glip import Glip, official_name

PUBLISHED = {
    "glip_A_Swin_T_O365": GlipConfig(head=HeadConfig(early_fusion=False, fused_dot_product=False)),
    "glip_Swin_T_O365_GoldG": GlipConfig(),
    "glip_Swin_L": GlipConfig(
        swin=SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), window_size=12), head=HeadConfig(num_convs=8)
    ),
}


def config_of(name: str, overrides: Sequence[str] = ()) -> GlipConfig:
    """A published model's configuration, changed by KEY VALUE pairs."""
    if not overrides:
        return PUBLISHED[name]
    with torch.device("meta"):
        shapes = {official_name(key): tuple(value.shape) for key, value in Glip(PUBLISHED[name]).named_parameters()}
    return load_config(None, overrides, None, shapes, f"{name}.pth")


def random_model(config: GlipConfig, seed: int = 0) -> Glip:
    """A GLIP whose activations keep a sane size through every block, and that detects something."""
    torch.manual_seed(seed)
    model = Glip(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("relative_position_bias_table", "relative_position_bias", "absolute_pos_embed")):
                value.normal_(0, 0.5)
            elif name.endswith("offset.weight"):
                value.normal_(0, 0.02)  # offsets of a pixel or so
            elif name.endswith(("gamma_v", "gamma_l", ".gamma", "gamma_text")):
                value.uniform_(0.05, 0.3)
            elif name.endswith("tunable_linear.weight"):
                value.normal_(0, 0.1)  # beside a text of about 1
            elif name.endswith("bias_lang"):
                value.normal_(0, 0.5)
            elif name.endswith("bias0"):
                value.fill_(-1.5)
            elif name.endswith(("dot_product_projection_text.weight", "bbox_pred.weight")):
                value.normal_(0, 0.1)
    return model.eval().requires_grad_(False)


def save_checkpoint(model: Glip, path: Path) -> None:
    """As the original's trainer writes it: {"model": state}, every key with `module.`."""
    state = {f"module.{official_name(name)}": value.detach() for name, value in model.named_parameters()}
    torch.save({"model": state}, path)


if __name__ == "__main__":
    published, output, *pairs = sys.argv[1:]
    save_checkpoint(random_model(config_of(published, pairs)), Path(output))
