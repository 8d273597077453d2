"""Encoded pictures that were used last, by the hash of their bytes, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

from glip_export.runtime.encoded import EncodedImages


class ImageCache:
    """Keeps the features of pictures up to a number of bytes; what was not used for longest goes first.

    Safe among threads. They are where the session computes, in a GPU's memory or the host's. A picture of GLIP-T at
    800x1216 takes 21 MB; where the backbone fuses text there are no features to keep, but the resized picture, 12 MB.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._bytes = 0
        self._pictures: OrderedDict[str, EncodedImages] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What the features held now take."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._pictures)

    def get(self, key: str) -> EncodedImages | None:
        """The picture's features, or None."""
        with self._lock:
            found = self._pictures.get(key)
            if found is not None:
                self._pictures.move_to_end(key)
            return found

    def put(self, key: str, encoded: EncodedImages) -> None:
        """Keeps one picture's features, unless they alone are more than max_bytes."""
        size = _nbytes(encoded)
        if size > self.max_bytes:
            return
        with self._lock:
            if key in self._pictures:
                self._bytes -= _nbytes(self._pictures.pop(key))
            self._pictures[key] = encoded
            self._bytes += size
            while self._bytes > self.max_bytes:
                self._bytes -= _nbytes(self._pictures.popitem(last=False)[1])

    def clear(self) -> None:
        """Lets go of all of them."""
        with self._lock:
            self._pictures.clear()
            self._bytes = 0


def _nbytes(encoded: EncodedImages) -> int:
    return sum(level.nbytes for level in encoded.features) + (0 if encoded.images is None else encoded.images.nbytes)
