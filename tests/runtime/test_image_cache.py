"""The cache of encoded pictures: bounded in bytes, least recently used first, safe among threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from glip_export.runtime.encoded import EncodedImages
from glip_export.runtime.image_cache import ImageCache


def encoded(values: int) -> EncodedImages:
    """A picture whose features take 20 bytes a value."""
    levels = tuple(np.zeros((1, values, 1, 1), np.float32) for _ in range(5))
    return EncodedImages(levels, np.array([[1, 1]]), np.array([[1, 1]]))


def test_the_least_recently_used_goes_first() -> None:
    cache = ImageCache(max_bytes=60)
    pictures = {key: encoded(1) for key in "abcd"}
    for key in "abc":
        cache.put(key, pictures[key])
    assert cache.get("a") is pictures["a"]
    cache.put("d", pictures["d"])
    assert cache.get("b") is None
    assert [cache.get(key) is pictures[key] for key in "acd"] == [True] * 3
    assert (len(cache), cache.nbytes) == (3, 60)
    cache.clear()
    assert (len(cache), cache.nbytes, cache.get("a")) == (0, 0, None)


def test_bytes_are_counted_when_replaced_and_when_too_large() -> None:
    cache = ImageCache(max_bytes=100)
    cache.put("a", encoded(2))
    cache.put("a", encoded(3))
    assert cache.nbytes == 60
    cache.put("b", encoded(6))  # alone more than all
    assert (len(cache), cache.nbytes) == (1, 60)
    cache.put("c", encoded(5))
    assert (len(cache), cache.nbytes) == (1, 100)


def test_threads() -> None:
    cache = ImageCache(max_bytes=100)

    def use(number: int) -> None:
        for step in range(200):
            cache.put(str((number + step) % 9), encoded(1))
            cache.get(str(step % 9))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert (len(cache), cache.nbytes) == (5, 100)
