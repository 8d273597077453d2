"""Pictures as text: Base64 as programs write it, in lines too, and `data:` URLs as browsers make them."""

from __future__ import annotations

import base64
import binascii
import re

_SPACE = b" \t\n\r\f\v"
_STRANGE = re.compile(rb"[^A-Za-z0-9+/=]")
_SCHEME = "data:"
# What a URL may escape of Base64: one pass for each, however many there are.
_ESCAPES = [
    (form.encode(), character.encode())
    for character in "+/= \t\n\r"
    for form in {f"%{ord(character):02X}", f"%{ord(character):02x}"}
]


def decode(text: str) -> bytes:
    """The bytes that a text of Base64, or a data: URL of it, stands for; ASCII white space in it counts for nothing.

    Takes time in proportion to the text. Raises ValueError, with what is wrong on one line, for anything else.
    """
    start = len(text) - len(text.lstrip(_SPACE.decode()))
    is_url = text[start : start + len(_SCHEME)].lower() == _SCHEME
    if is_url:
        start = _url_data(text, start)
    try:
        data = text[start:].encode("ascii")
    except UnicodeEncodeError as error:
        place = start + error.start
        raise ValueError(f"character {text[place]!r} at {place + 1} is no Base64") from None
    for escape, character in _ESCAPES if is_url and b"%" in data else ():
        data = data.replace(escape, character)
    data = data.translate(None, _SPACE)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(_why_not(data, text, start)) from None


def _url_data(text: str, start: int) -> int:
    """Where the data of a data: URL begin."""
    comma = text.find(",", start)
    if comma < 0:
        raise ValueError("a data: URL has a comma before its data: data:image/png;base64,...")
    kind = text[start + len(_SCHEME) : comma]
    if kind.rpartition(";")[2].strip().lower() != "base64":
        raise ValueError("a data: URL must be base64: data:image/png;base64,...")
    return comma + 1


def _why_not(data: bytes, text: str, start: int) -> str:
    strange = _STRANGE.search(data)
    if strange is not None:
        character = strange[0].decode("latin-1")
        place = text.find(character, start)
        where = f" at {place + 1}" if place >= 0 else ""
        if character in "-_":
            return f"character {character!r}{where} is of the URL-safe alphabet: send the standard one, with + and /"
        if character == ":":
            return f"character {character!r}{where} is no Base64: the server takes a picture's bytes, no address of one"
        return f"character {character!r}{where} is no Base64"
    padding = data.find(b"=")
    if 0 <= padding < len(data.rstrip(b"=")):
        return "it goes on after its end (=): two texts in one?"
    if len(data) % 4:
        return f"it has {len(data)} characters, which is no multiple of 4: it is cut off, or its padding (=) is missing"
    return "its padding (=) is longer than it can be"
