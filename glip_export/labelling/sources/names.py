"""What a source calls its pictures: readable, on one line, no two alike."""

from __future__ import annotations

import hashlib

from glip_export.errors import visible

_BITS = 2**28  # 32 MB, however many names there are
_MASK = _BITS - 1


def escaped(text: str) -> str:
    """Valid UTF-8 on one line, different for different texts.

    Control characters and bytes that are no UTF-8 become escapes (\\n, \\xff), and where there is one a backslash, too.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escape, text))


class UniqueNames:
    """Tells names that were given before, in fixed memory: a Bloom filter.

    The filter never misses a name, but may take a new one for an old one: about none of a million, one in 3 000 of ten
    million, each of a thousand million. Such a name says its place without need, always the same in the same source.
    """

    def __init__(self) -> None:
        self._seen = bytearray(_BITS // 8)

    def of(self, name: str, place: str) -> str:
        """The name itself where it is new, else with # and its place, which is of digits and points and its own.

        A name with a # says its place, too: it could be another's name and place.
        """
        if "#" not in name and self._is_new(name):
            return name
        return f"{name}#{place}"

    def _is_new(self, name: str) -> bool:
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
        new, seen = False, self._seen
        for shift in (0, 32, 64, 96):
            byte, bit = divmod((digest >> shift) & _MASK, 8)
            if not seen[byte] >> bit & 1:
                new = True
                seen[byte] |= 1 << bit
        return new


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if "\x80" <= character <= "\xff" and visible(character) != character:  # not to be taken for such a byte
        return f"\\u{ord(character):04x}"
    return ascii(character)[1:-1] if "\ud800" <= character <= "\udfff" else visible(character)
