"""One training run: model, averaged weights, optimizer and step, saved together and continued exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glip_export.bundle.files import atomic_write_bytes
from glip_export.config import GlipConfig, config_to_dict
from glip_export.errors import CheckpointError, GlipExportError
from glip_export.model.dyconv import DeformConvNorm
from glip_export.model.glip import Glip, official_name
from glip_export.model.selection import LevelPredictions
from glip_export.training.batches import Batch
from glip_export.training.initial import new_model
from glip_export.training.losses import Losses, detection_losses
from glip_export.training.saving import save_torch
from glip_export.training.settings import TrainingSettings

CHECKPOINT = "checkpoint.pt"


class Trainer:
    """Model, averaged weights, optimizer and step of a run.

    Nothing is drawn at random between steps: batches follow from the seed and the step (`training_batch`), so that
    these four are all there is to save.
    """

    def __init__(
        self, config: GlipConfig, settings: TrainingSettings, bf16: bool = False, soft_tokens: float = 0.0
    ) -> None:
        """soft_tokens: weight of `losses.soft_token_loss`, which is not among GLIP's.

        bf16: matrix products in bfloat16, half as long again as fast where the CPU has them (AVX512-BF16).
        """
        self.config, self.settings, self.bf16, self.soft_tokens = config, settings, bf16, soft_tokens
        self.model = new_model(config, settings.prior, settings.seed)
        self.model.fusion_head.fold()  # the same mathematics with less work, where captions are short
        for module in self.model.modules():
            if isinstance(module, DeformConvNorm):
                module.register_forward_pre_hook(_in_fp32)
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.optimizer = torch.optim.AdamW(_groups(self.model, settings), lr=settings.learning_rate, fused=True)
        self.step = 0
        self.history: list[dict[str, float]] = []

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step of gradient descent; its losses, gradient norm and rate. Raises GlipExportError if it diverges."""
        rate = learning_rate(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        losses = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_norm)
        record = {
            "step": self.step,
            "loss": losses.total.item(),
            **{name: value.item() for name, value in losses._asdict().items()},
            "gradient_norm": norm.item(),
            "learning_rate": rate,
        }
        if not math.isfinite(record["loss"]) or not math.isfinite(record["gradient_norm"]):
            raise GlipExportError(f"training diverged at step {self.step}: lower SOLVER.BASE_LR and start again")
        self.optimizer.step()
        self.step += 1
        self._average()
        self.history.append(record)
        return record

    def losses(self, batch: Batch) -> Losses:
        """The losses of a batch with the present weights."""
        model = self.model
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            text = model.text_encoder(batch.input_ids, batch.attention_mask)
            features, text = model.encode_images(batch.images, text, batch.attention_mask)
            levels = model.fusion_head.predict(features, text, batch.attention_mask)
        levels = [LevelPredictions(*(values.float() for values in level)) for level in levels]
        return detection_losses(
            levels, batch.objects, batch.attention_mask, self.config.detection, self.settings, self.soft_tokens
        )

    def averaged_model(self) -> Glip:
        """The model with the averaged weights, in eval mode and without gradients."""
        model = Glip(self.config)
        model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Writes folder/checkpoint.pt, whole or not at all."""
        run = {
            "model": dict(self.model.named_parameters()),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "config": config_to_dict(self.config),
            "settings": asdict(self.settings),
        }
        save_torch(run, folder / CHECKPOINT)

    def resume(self, folder: Path) -> None:
        """Continues what `save` wrote. Raises CheckpointError if it cannot be read or is of another model."""
        path = folder / CHECKPOINT
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.average = saved["average"]
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.history = saved["step"], saved["history"]
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no run to continue") from error
        except Exception as error:  # a damaged file can make the unpickler raise anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path}: not a run of this configuration, or damaged ({reason})") from error

    def _average(self) -> None:
        kept = min(self.settings.averaging, (1 + self.step) / (10 + self.step))  # the first weights soon forgotten
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.model.parameters()), 1 - kept)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """A linear warm-up, then half a cosine down to the lowest rate (Loshchilov and Hutter, 2017)."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps))
    return settings.lowest_rate + (settings.learning_rate - settings.lowest_rate) * (1 + math.cos(math.pi * done)) / 2


def export_weights(average: Mapping[str, torch.Tensor], target: Path) -> None:
    """Writes weights under the official names, in fp16, as .safetensors; `load_model` reads them as fp32.

    Raises GlipExportError if a weight does not fit fp16's range.
    """
    from safetensors.torch import save

    state = {official_name(name): value.detach().half().contiguous() for name, value in average.items()}
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise GlipExportError(f"{bad[0]} is beyond fp16's range: these weights cannot be exported")
    atomic_write_bytes(target, save(state))


def _in_fp32(module: nn.Module, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A deformable convolution's inputs: positions to sample at need more digits than bfloat16 has."""
    return tuple(values.float() for values in tensors)


def _groups(model: Glip, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only: not on biases, norms, scales, embeddings and bias tables.

    Swin's weights take their own share of the learning rate, "factor".
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay, "factor": factor}
        for factor in (1.0, settings.swin_factor)
        for decay in (settings.weight_decay, 0.0)
    ]
    for name, value in model.named_parameters():
        decayed = value.ndim > 1 and "embeddings" not in name and "relative_position" not in name
        groups[2 * name.startswith("vision_backbone.swin.") + (not decayed)]["params"].append(value)
    return groups
