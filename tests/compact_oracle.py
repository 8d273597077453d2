"""The original GLIP's own numbers in compact form: weights and pictures drawn by name, tensors sampled.

`tests/data/oracle/README.md` says how they are drawn and what is stored. Needs NumPy alone, and PyTorch to write a
checkpoint; benchmarks use it too.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "data" / "oracle" / "compact"
SAMPLES = 256
_TOKENS_SECOND = ("bert_hidden", "bert_embedded", "head_in_", "_lang", "_text")


def cases() -> list[str]:
    """The names of those that are here."""
    return sorted(path.parent.name for path in FOLDER.glob("*/io.npz"))


@dataclass(frozen=True)
class OracleCase:
    """One small model that the original ran on two pictures in one batch; glip_t: full size, one picture."""

    name: str

    @property
    def folder(self) -> Path:
        """config.yaml, bert_config.json, prompt.json, stats.json, inputs.json, io.npz."""
        return FOLDER / self.name

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def bert_config(self) -> Path:
        return self.folder / "bert_config.json"

    @property
    def sources(self) -> list[Path]:
        """What its weights are drawn from."""
        return [self.folder / "stats.json", Path(__file__)]

    def weights_key(self) -> str:
        """Another for other weights."""
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in self.sources))
        return digest.hexdigest()[:16]

    @cached_property
    def prompt(self) -> dict[str, Any]:
        """names, caption, positive_map (class, from 1 -> token positions), input_ids without padding."""
        return self._json("prompt.json")

    @cached_property
    def stored(self) -> dict[str, np.ndarray]:
        """io.npz as it is."""
        return dict(np.load(self.folder / "io.npz"))

    @property
    def sampled(self) -> list[str]:
        """The tensors of which samples are stored."""
        return [name.removesuffix("@val") for name in self.stored if name.endswith("@val")]

    @property
    def whole(self) -> dict[str, np.ndarray]:
        """The tensors that are stored as they are."""
        return {name: array for name, array in self.stored.items() if "@" not in name}

    @property
    def tokens(self) -> int:
        """T: the real ones of the caption, to which tensors are cut."""
        return len(self.prompt["input_ids"])

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter under its official key; raises ValueError if the drawing differs from the original's."""
        stats = self._json("stats.json")
        drawn = {key: draw_weight(key, *stats[key]) for key in sorted(stats)}
        found = 0
        for array in drawn.values():
            found = zlib.crc32(array.tobytes(), found)
        _check("weights", found, self._json("inputs.json")["weights_crc32"])
        return drawn

    def pictures(self) -> list[np.ndarray]:
        """uint8 (H, W, 3), RGB; raises ValueError if the drawing differs from the original's."""
        pictures = []
        for words in self._json("inputs.json")["pictures"]:
            picture = draw_picture(words["seed"], words["height"], words["width"])
            _check("picture", zlib.crc32(picture.tobytes()), words["crc32"])
            pictures.append(picture)
        return pictures

    def write_checkpoint(self, path: Path) -> Path:
        """The weights as the original's trainer writes them, with the buffers that nothing reads."""
        import torch

        state = {key: torch.from_numpy(array) for key, array in self.weights().items()}
        for key, table in tuple(state.items()):
            if key.endswith("relative_position_bias_table"):
                tokens = ((int(len(table) ** 0.5) + 1) // 2) ** 2
                state[key.replace("bias_table", "index")] = torch.zeros(tokens, tokens, dtype=torch.int64)
        state["module.language_backbone.body.model.embeddings.position_ids"] = torch.arange(512)[None]
        state |= {f"module.rpn.anchor_generator.cell_anchors.{level}": torch.zeros(1, 4) for level in range(5)}
        torch.save({"model": state}, path)
        return path

    def class_map(self, tokens: int) -> np.ndarray:
        """See `mean_class_map`."""
        return mean_class_map(self.prompt["positive_map"], tokens)

    def compare(self, name: str, tensor: np.ndarray) -> float:
        """max|difference| over the stored samples, divided by the tensor's rms; its token axis is cut first.

        Raises ValueError if its shape is another: of the token axis only the real tokens are asked for.
        """
        shape = [int(side) for side in self.stored[f"{name}@shape"]]
        axis = _token_axis(name, len(shape))
        if axis is not None:
            shape[axis] = self.tokens
            tensor = np.take(tensor, np.arange(self.tokens), axis)
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tensor.shape}, and the original's {tuple(shape)}")
        samples = tensor.reshape(-1)[positions(name, tensor.size)]
        return float(np.abs(samples - self.stored[f"{name}@val"]).max() / self.stored[f"{name}@rms"])

    def _json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def mean_class_map(positive_map: dict[str, list[int]], tokens: int) -> np.ndarray:
    """(1, tokens, K) f32, for MEAN: a class's n tokens at 1/n; positive_map: classes from 1."""
    class_map = np.zeros((1, tokens, len(positive_map)), np.float32)
    for label, places in positive_map.items():
        class_map[0, places, int(label) - 1] = 1 / len(places)
    return class_map


def draw_weight(key: str, shape: list[int], mean: float, std: float) -> np.ndarray:
    """f32 values that depend on the key alone."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    values = generator.standard_normal(int(np.prod(shape)), dtype=np.float32)
    return (values * np.float32(std) + np.float32(mean)).reshape(shape)


def draw_picture(seed: int, height: int, width: int) -> np.ndarray:
    """Waves, ellipses and noise; whole numbers only."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.full((height, width, 3), 24)
    for channel in range(3):
        for _ in range(3):
            a, b, phase = generator.integers(-12, 13), generator.integers(-12, 13), generator.integers(0, 1024)
            image[..., channel] += np.abs((a * x + b * y + phase) % 1024 - 512) // 8
    for _ in range(8):
        cy, cx = generator.integers(0, height), generator.integers(0, width)
        ry, rx = generator.integers(12, height // 3), generator.integers(12, width // 3)
        inside = ((y - cy) * rx) ** 2 + ((x - cx) * ry) ** 2 < (ry * rx) ** 2
        image[inside] = image[inside] // 4 + generator.integers(0, 192, 3)
    image += generator.integers(-9, 10, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def positions(name: str, size: int) -> np.ndarray:
    """The places of the stored samples in the flattened tensor."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, size, SAMPLES)


def _token_axis(name: str, rank: int) -> int | None:
    if name.startswith("dot_product_logits"):
        return rank - 1
    return 1 if any(word in name for word in _TOKENS_SECOND) else None


def _check(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"this NumPy ({np.__version__}) draws another {what} than the original had")
