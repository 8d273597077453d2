"""Teaching the vision backbone to tell objects apart before it learns to detect, as GLIP's starts from ImageNet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import nn
from torch.nn import functional as F

from glip_export.cli.console import console
from glip_export.config import GlipConfig
from glip_export.errors import CheckpointError
from glip_export.model.glip import Glip
from glip_export.training.batches import draw_examples, read_examples
from glip_export.training.initial import new_model
from glip_export.training.saving import save_torch
from glip_export.training.scenes import SceneObject
from glip_export.training.settings import TrainingSettings
from glip_export.training.trainer import learning_rate
from glip_export.training.vocabulary import COLOURS, KINDS

LEVELS = 3  # P3..P5; P6 and P7 are made of P5
FEWEST, MOST = 2, 12  # cells of a level that the longer side of an object spans which it is taught on
GRID = 3  # samples a side of an object, averaged
EVERY = 50  # steps


def pretrain(
    config: GlipConfig,
    settings: TrainingSettings,
    mosaics: Path,
    steps: int,
    target: Path,
    start: Path | None = None,
    bf16: bool = False,
) -> None:
    """Trains Swin and FPN on the mosaics' kinds and colours and writes them: `Trainer` starts from the file.

    Each object is read from the levels of its size at its box, and a linear layer a level, not kept, names it. start:
    what an earlier call wrote, to go on from. bf16: see `Trainer`.
    """
    settings = replace(settings, steps=steps, warmup_steps=min(settings.warmup_steps, steps // 10 + 1))
    model = new_model(config, settings.prior, settings.seed)
    if start is not None:
        load_backbone(model, start)
    backbone = model.vision_backbone
    namers = nn.ModuleList(nn.Linear(config.head.channels, len(KINDS) + len(COLOURS) + 1) for _ in range(LEVELS))
    optimizer = torch.optim.AdamW(
        [*backbone.parameters(), *namers.parameters()], settings.learning_rate, weight_decay=settings.weight_decay
    )
    examples = read_examples(mosaics)
    started = time.monotonic()
    right = np.zeros(3)  # objects, kinds that were named right, colours
    with Progress(console=console) as progress:
        task = progress.add_task("pretraining", total=steps)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            rng = np.random.default_rng((settings.seed, 2 << 32, step))
            chosen = [examples[index] for index in rng.integers(len(examples), size=settings.batch_size)]
            images, objects = draw_examples(chosen, config, settings, rng)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                features = backbone(images)
            levels = [level.float() for level in features]
            loss, counts = _naming_loss(levels, namers, objects, images.shape[2:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(backbone.parameters(), settings.gradient_norm)
            optimizer.step()
            right += counts
            progress.advance(task)
            if (step + 1) % EVERY == 0:
                rate = (step + 1) / (time.monotonic() - started)
                progress.console.print(
                    f"step {step + 1}: loss {loss.item():.3f}, kinds {right[1] / right[0]:.3f}, "
                    f"colours {right[2] / right[0]:.3f}; {rate:.2f} steps/s"
                )
                right[:] = 0
    save_torch(backbone.state_dict(), target)


def load_backbone(model: Glip, path: Path) -> None:
    """Puts what `pretrain` wrote into a model. Raises CheckpointError if it is not that."""
    try:
        model.vision_backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a backbone of this configuration, or damaged ({reason})") from error


def _naming_loss(
    features: Sequence[torch.Tensor],
    namers: nn.ModuleList,
    objects: Sequence[Sequence[SceneObject]],
    size: Sequence[int],
) -> tuple[torch.Tensor, np.ndarray]:
    """Mean cross-entropy of kinds and colours over the objects and levels; how many objects, right kinds and colours.

    features: P3..P7 of pictures padded to `size` (H, W); objects of each picture in its pixels.
    """
    image = torch.tensor([index for index, items in enumerate(objects) for _ in items])
    boxes = torch.tensor([item.box for items in objects for item in items], dtype=torch.float32)  # (n, 4) xywh
    kinds, colours = list(KINDS), ["", *COLOURS]
    kind = torch.tensor([kinds.index(item.kind) for items in objects for item in items])
    colour = torch.tensor([colours.index(item.colour) for items in objects for item in items])
    side = boxes[:, 2:].amax(1)
    losses, counts = [], np.zeros(3)
    for level, namer in zip(features, namers, strict=False):
        stride = size[0] / level.shape[2]
        chosen = ((side >= FEWEST * stride) & (side < MOST * stride)).nonzero().squeeze(1)
        if not len(chosen):
            continue
        said = namer(_at_boxes(level, image[chosen], boxes[chosen], size))
        said_kind, said_colour = said.split((len(kinds), len(colours)), 1)
        losses.append(F.cross_entropy(said_kind, kind[chosen]) + 0.5 * F.cross_entropy(said_colour, colour[chosen]))
        hits = (said_kind.argmax(1) == kind[chosen]).sum(), (said_colour.argmax(1) == colour[chosen]).sum()
        counts += (len(chosen), *(int(hit) for hit in hits))
    return torch.stack(losses).mean(), counts


def _at_boxes(level: torch.Tensor, image: torch.Tensor, boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A level (B, C, h, w) at GRID x GRID points of each box (n, 4) xywh of picture image (n,), averaged: (n, C)."""
    steps = (torch.arange(GRID) + 0.5) / GRID
    scale = torch.tensor([size[1], size[0]])
    x, y = ((boxes[:, axis, None] + boxes[:, 2 + axis, None] * steps) / scale[axis] * 2 - 1 for axis in (0, 1))
    points = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)  # (n, GRID, GRID, 2)
    found = torch.zeros(len(boxes), level.shape[1])
    for index in range(len(level)):
        of = image == index
        if of.any():
            at = points[of].view(1, -1, GRID * GRID, 2)
            values = F.grid_sample(level[index : index + 1], at, align_corners=False, padding_mode="border")
            found = found.index_put((of.nonzero().squeeze(1),), values[0].mean(-1).T)
    return found
