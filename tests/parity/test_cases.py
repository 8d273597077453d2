from dataclasses import replace

import numpy as np
import pytest

from glip_export.config import GlipConfig, ImageConfig, TextConfig
from glip_export.parity.cases import COCO, COCO_TOKENS, Case, built_in_cases
from glip_export.parity.run import Inputs
from glip_export.prompt import Prompt


@pytest.fixture(scope="module")
def inputs() -> list[Inputs]:
    config = GlipConfig()
    return [case.inputs(config) for case in built_in_cases(config)]


def test_coco_is_as_long_as_the_original_says() -> None:
    (chunk,) = Prompt.of(COCO).chunks()
    assert (len(chunk.input_ids), len(chunk.class_tokens)) == (COCO_TOKENS, 80)


def test_sizes_batches_and_prompts_vary(inputs: list[Inputs]) -> None:
    assert [item.images.shape for item in inputs] == [
        (1, 3, 480, 736),
        (1, 3, 1088, 800),
        (2, 3, 608, 672),
        (3, 3, 640, 800),
    ]
    assert [item.chunks[0].class_map.shape[1] for item in inputs] == [1, 2, 20, 80]
    assert all(len(item.chunks) == 1 for item in inputs)
    assert all(len(np.unique(item.sizes, axis=0)) == len(item.sizes) for item in inputs)


def test_padded_tokens_are_masked(inputs: list[Inputs]) -> None:
    (text,) = inputs[1].chunks
    assert text.attention_mask.tolist() == [1] * 6 + [0] * 5
    assert not text.input_ids[6:].any()
    assert not text.class_map[6:].any()
    assert text.class_map.sum(axis=0).tolist() == [1, 1]


def test_a_short_text_encoder_gets_shorter_prompts_in_one_piece() -> None:
    config = GlipConfig(image=ImageConfig(min_size=240, max_size=310), text=TextConfig(max_query_len=64))
    for case in built_in_cases(config):
        found = case.inputs(config)
        assert len(found.chunks) == 1
        assert max(found.images.shape[2:]) <= 320


def test_a_static_bundle_gets_its_own_size() -> None:
    config = GlipConfig()
    for case in built_in_cases(config, image_size=(480, 736)):
        assert case.inputs(config).images.shape[2:] == (480, 736)


def test_quick_is_one_small_picture() -> None:
    (case,) = built_in_cases(GlipConfig(), quick=True)
    assert case.inputs(GlipConfig()).images.shape == (1, 3, 320, 448)


def test_a_prompt_longer_than_the_model_comes_in_chunks() -> None:
    config = GlipConfig(text=TextConfig(max_query_len=16))
    picture = np.zeros((40, 40, 3), np.uint8)
    case = Case("long", (picture,), COCO, ImageConfig(min_size=64, max_size=64), padding_tokens=9)
    chunks = case.inputs(config).chunks
    assert sum(chunk.class_map.shape[1] for chunk in chunks) == 80
    assert all(len(chunk.input_ids) == len(chunk.attention_mask) <= 16 for chunk in chunks)
    one = replace(config, detection=replace(config.detection, chunk=1))
    assert [chunk.class_map.shape[1] for chunk in case.inputs(one).chunks] == [1] * 80
