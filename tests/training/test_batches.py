"""Batches: each example once an epoch, boxes where the objects went, tokens that name them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glip_export.config import GlipConfig
from glip_export.errors import GlipExportError
from glip_export.prompt import tokenizer
from glip_export.training.batches import Example, make_batch, read_examples, training_batch
from glip_export.training.captions import Caption
from glip_export.training.scenes import SceneObject
from glip_export.training.settings import TrainingSettings

CAPTION = Caption(("blue dog", "pineapple", "car"), (1, -1, 0))
OBJECTS = (
    SceneObject("pineapple", "", (10, 20, 40, 30)),
    SceneObject("cup", "", (0, 0, 5, 5)),
    SceneObject("dog", "blue", (60, 0, 30, 50)),
)


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """90 x 50 pixels of grey, a white rectangle where the pineapple is."""
    pixels = np.full((50, 90, 3), 60, np.uint8)
    pixels[20:50, 10:50] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return Example(tmp_path / "one.png", OBJECTS, 90 / 50)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("short_side", [50, 75])
def test_boxes_follow_the_picture(example: Example, small_config: GlipConfig, flip: float, short_side: int) -> None:
    settings = TrainingSettings(flip=flip, short_sides=(short_side,))
    batch = make_batch([example], small_config, settings, np.random.default_rng(0), lambda *_: CAPTION)
    scale = short_side / 50
    assert batch.images.shape == (1, 3, *(-(-int(side * scale) // 32) * 32 for side in (50, 90)))
    assert not batch.images[0, :, short_side:].any() and not batch.images[0, :, :, int(90 * scale) :].any()
    left = 40 if flip else 10
    expected = torch.tensor([left, 20, left + 40, 50]) * scale - torch.tensor([0, 0, 1, 1])  # GLIP: x2 = x + w - 1
    torch.testing.assert_close(batch.objects[0].boxes[0], expected)
    white = (batch.images[0, 0] > 2).nonzero()
    seen = torch.tensor([white[:, 1].min(), white[:, 0].min(), white[:, 1].max(), white[:, 0].max()])
    torch.testing.assert_close(seen.float(), expected, atol=1.01, rtol=0)


def test_the_positive_map_holds_the_tokens_of_each_objects_name(example: Example, small_config: GlipConfig) -> None:
    settings = TrainingSettings(short_sides=(50,))
    said = iter((CAPTION, Caption(("pineapple",), (0, -1, -1))))
    batch = make_batch([example, example], small_config, settings, np.random.default_rng(0), lambda *_: next(said))
    words = tokenizer().encode("blue dog. pineapple. car").tokens
    assert words == ["[CLS]", "blue", "dog", ".", "pine", "##apple", ".", "car", "[SEP]"]
    assert batch.input_ids.shape == (2, 9)
    assert batch.attention_mask.sum(1).tolist() == [9, 4]
    first, second = batch.objects
    assert first.tokens.tolist() == [[0, 0, 0, 0, 0.5, 0.5, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]]
    assert second.tokens.tolist() == [[0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]]
    assert len(first.boxes) == 2 and len(second.boxes) == 1


def test_a_batch_is_a_function_of_the_step_and_an_epoch_shows_all(
    scenes_folder: Path, small_config: GlipConfig, small_settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glip_export.training import batches

    examples = read_examples(scenes_folder / "train")
    assert len(examples) == 7 and all(example.objects for example in examples)
    once, again = (training_batch(examples, 5, small_config, small_settings) for _ in range(2))
    assert torch.equal(once.images, again.images) and torch.equal(once.input_ids, again.input_ids)
    other = training_batch(examples, 5, small_config, replace(small_settings, seed=1))
    assert once.images.shape != other.images.shape or not torch.equal(once.images, other.images)

    shown: list[str] = []
    monkeypatch.setattr(batches, "make_batch", lambda chosen, *_: shown.extend(item.path.name for item in chosen))
    for step in range(14):  # four epochs of seven, two a step
        training_batch(examples, step, small_config, small_settings)
    epochs = [tuple(shown[start : start + 7]) for start in range(0, 28, 7)]
    assert all(set(Counter(epoch).values()) == {1} for epoch in epochs)
    assert len(set(epochs)) == 4


def test_pictures_of_one_batch_have_close_aspect_ratios(
    small_config: GlipConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glip_export.training import batches

    examples = [Example(Path(str(index)), (), 0.8 if index % 2 else 1.25) for index in range(64)]
    monkeypatch.setattr(batches, "make_batch", lambda chosen, *_: [item.aspect for item in chosen])
    made = [training_batch(examples, step, small_config, TrainingSettings(batch_size=4)) for step in range(16)]
    assert sum(len(set(aspects)) == 1 for aspects in made) >= 12


def test_a_folder_without_scenes_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlipExportError, match="no scenes to train on"):
        read_examples(tmp_path)
