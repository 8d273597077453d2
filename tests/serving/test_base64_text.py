"""Base64 as programs write it: lines, data: URLs, and what is said of what is none."""

from __future__ import annotations

import base64

import pytest

from glip_export.serving.base64_text import decode

DATA = bytes(range(256)) * 3  # every letter of the alphabet
TEXT = base64.b64encode(DATA).decode()
LINES = base64.encodebytes(DATA).decode()  # as MIME has it


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        LINES,
        LINES.replace("\n", "\r\n"),
        f" \t\n{TEXT}\f\v ",
        " ".join(TEXT),
        f"data:image/png;base64,{TEXT}",
        f"\n DATA:image/jpeg;name=a.jpg;BASE64,{LINES}",
        f"data:;base64,{TEXT}",
        f"data:image/png;charset=utf-8; base64 ,{TEXT}",
        f"data:image/png;base64,{TEXT}".replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        f"data:image/png;base64,{LINES}".replace("\n", "%0D%0a"),
    ],
)
def test_base64_with_line_breaks_and_data_urls(text: str) -> None:
    assert decode(text) == DATA


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("YWJj\nYW?j", "character '?' at 8 is no Base64"),
        ("YWJj\nYWéj", "character 'é' at 8 is no Base64"),
        ("\ud800", r"character '\ud800' at 1 is no Base64"),
        ("YWJ\x00", r"character '\x00' at 4 is no Base64"),
        ("YW-j", "character '-' at 3 is of the URL-safe alphabet: send the standard one, with + and /"),
        ("YWJ_", "character '_' at 4 is of the URL-safe alphabet: send the standard one, with + and /"),
        ("http://host/a.png", "character ':' at 5 is no Base64: the server takes a picture's bytes, no address of one"),
        ("YWJjY", "it has 5 characters, which is no multiple of 4: it is cut off, or its padding (=) is missing"),
        ("YQ==YQ==", "it goes on after its end (=): two texts in one?"),
        ("====", "its padding (=) is longer than it can be"),
        ("data:image/png,abc", "a data: URL must be base64: data:image/png;base64,..."),
        ("data:image/png;base64;x,YWJj", "a data: URL must be base64: data:image/png;base64,..."),
        ("data:image/png;base64", "a data: URL has a comma before its data: data:image/png;base64,..."),
        ("data:;base64,%41", "character '%' at 14 is no Base64"),
        ("data:;base64,data:;base64,YWJj", "character ':' at 18 is no Base64: the server takes a picture's bytes, no"),
    ],
)
def test_what_is_wrong_is_told(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode(text)
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n", "data:;base64,"])
def test_nothing_is_nothing(text: str) -> None:
    assert decode(text) == b""
