"""The benchmark's pictures fill exactly the network input that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from glip_export.bench.pictures import check_size, default_size, make_pictures, resize_to
from glip_export.config import ImageConfig
from glip_export.errors import GlipExportError
from glip_export.image import preprocess


@pytest.mark.parametrize("size", [(800, 1216), (1216, 800), (320, 320), (64, 64), (320, 1344), (1344, 1344)])
def test_pictures_fill_the_size(size: tuple[int, int]) -> None:
    batch = preprocess(make_pictures(3, size), resize_to(ImageConfig(), size))
    assert batch.images.shape == (3, 3, *size)


def test_the_default_is_what_glip_makes_of_a_coco_picture() -> None:
    image = ImageConfig()
    assert default_size(image) == (800, 1216)
    assert resize_to(image, (800, 1216)) == image
    assert make_pictures(1, (800, 1216))[0].shape == (427, 640, 3)


def test_pictures_differ_within_a_batch_and_begin_again_after_four() -> None:
    pictures = make_pictures(6, (128, 192))
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[4])


def test_sizes_the_network_cannot_have_are_refused() -> None:
    image = ImageConfig()
    for size in ((100, 320), (32, 320), (0, 64)):
        with pytest.raises(GlipExportError, match="multiple of 32"):
            check_size(size, image, None)
    with pytest.raises(GlipExportError, match="800x1216 only"):
        check_size((320, 320), image, (800, 1216))
    assert check_size((800, 1216), image, (800, 1216)) == (800, 1216)
