"""The choice of an optimization profile, and what is said when no profile fits."""

from __future__ import annotations

import pytest

from glip_export.errors import BackendError
from glip_export.graphs.contracts import FUSION_HEAD, TEXT_ENCODER, VISION_BACKBONE, pyramid_axes
from glip_export.runtime.cuda.profiles import Range, choose_profile

Shape = tuple[int, ...]


def text(low: Shape, opt: Shape, high: Shape) -> dict[str, Range]:
    return {name: Range(low, opt, high) for name in TEXT_ENCODER.input_names}


def of(shape: Shape) -> dict[str, Shape]:
    return dict.fromkeys(TEXT_ENCODER.input_names, shape)


ONE = text((1, 3), (1, 16), (1, 256))
MANY = text((1, 3), (4, 128), (8, 256))
SHORT = text((1, 3), (1, 8), (1, 32))


@pytest.mark.parametrize(
    ("shape", "profile"),
    [((1, 8), 2), ((1, 16), 0), ((1, 20), 0), ((1, 200), 1), ((2, 16), 1), ((8, 256), 1), ((1, 3), 2)],
)
def test_the_nearest_that_fits(shape: Shape, profile: int) -> None:
    assert choose_profile([ONE, MANY, SHORT], of(shape), TEXT_ENCODER) == profile


def test_of_equals_the_first() -> None:
    assert choose_profile([MANY, ONE, ONE], of((1, 16)), TEXT_ENCODER) == 1


def test_a_prompt_that_is_too_long() -> None:
    with pytest.raises(BackendError) as caught:
        choose_profile([ONE, SHORT], of((1, 300)), TEXT_ENCODER, "glip-export trt b --fp16")
    assert str(caught.value) == (
        "the engine of text_encoder does not take 300 tokens of a prompt, it takes 3..256 or 3..32: "
        "build another with: glip-export trt b --fp16"
    )


def test_pictures_of_another_size_than_a_static_engines() -> None:
    shape = (1, 3, 800, 1216)
    with pytest.raises(BackendError, match="640 pixels of height, it takes 800; nor 1333 pixels of width"):
        choose_profile([{"images": Range(shape, shape, shape)}], {"images": (1, 3, 640, 1333)}, VISION_BACKBONE)


def test_the_pyramid_is_not_named_where_the_cause_is() -> None:
    def shapes(batch: int, tokens: int, classes: int) -> dict[str, Shape]:
        axes = {"B": batch, "T": tokens, "K": classes, "C": 256, "F": 768, **pyramid_axes(800, 1216)}
        return {t.name: tuple(axes[a] if isinstance(a, str) else a for a in t.axes) for t in FUSION_HEAD.inputs}

    low, high = shapes(1, 3, 1), shapes(2, 64, 16)
    profile = {name: Range(low[name], high[name], high[name]) for name in low}
    assert choose_profile([profile], shapes(2, 10, 3), FUSION_HEAD) == 0
    with pytest.raises(BackendError) as caught:
        choose_profile([profile], shapes(3, 10, 80), FUSION_HEAD)
    assert "not take 3 pictures in a batch, it takes 1..2; nor 80 names of a prompt, it takes 1..16: " in str(
        caught.value
    )
    wrong = {**shapes(1, 10, 3), "p4": (1, 256, 51, 76)}
    with pytest.raises(BackendError, match=r"51 in shape \(1, 256, 51, 76\) of p4, it takes 50"):
        choose_profile([profile], wrong, FUSION_HEAD)


def test_sizes_that_fit_only_apart() -> None:
    profiles = [text((1, 3), (1, 16), (1, 256)), text((1, 3), (4, 8), (8, 16))]
    with pytest.raises(BackendError, match=r"no profile of the engine of text_encoder takes .*\(4, 200\) together"):
        choose_profile(profiles, of((4, 200)), TEXT_ENCODER)


def test_another_number_of_axes() -> None:
    with pytest.raises(BackendError, match=r"input_ids has shape \(8,\) and should have 2 axes"):
        choose_profile([ONE], of((8,)), TEXT_ENCODER)
