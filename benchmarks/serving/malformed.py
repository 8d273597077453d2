"""Requests that no server should answer, each a 4xx: what people, scanners and attackers send."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image
from raw_http import BOUNDARY, form, request

Make = Callable[[random.Random], bytes | Sequence[bytes]]


@dataclass(frozen=True)
class Kind:
    """One kind of malformed request. parts are sent `pause` seconds apart."""

    name: str
    make: Make
    statuses: tuple[int, ...]
    pause: float = 0.0


def picture(size: tuple[int, int] = (64, 48)) -> bytes:
    """A well-formed one."""
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(stream, "PNG")
    return stream.getvalue()


GOOD = picture()
OPTIONS = ("--max-bytes", "4000000")


def kinds(slow_seconds: float) -> list[Kind]:
    """Every kind, for a server of OPTIONS; the slow ones take so long, and should take longer than it waits."""
    pause = slow_seconds / 4
    return [
        Kind("bytes that are no HTTP", lambda r: r.randbytes(r.randint(20, 4000)) + b"\r\n\r\n", (400,)),
        Kind("a TLS greeting", lambda r: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + r.randbytes(500), (400,)),
        Kind("no such method", lambda r: request(method="BREW"), (405,)),
        Kind("no such path", lambda r: request(f"/v1/{r.getrandbits(64):x}"), (404,)),
        Kind("a host that is another's", lambda r: request(host=r.choice(_HOSTS)), (403,)),
        Kind("a path upwards", lambda r: request("/../../../../etc/passwd", method="GET"), (404,)),
        Kind("huge headers", lambda r: request(headers={"X-Huge": "a" * r.randint(70_000, 900_000)}), (400, 431)),
        Kind("many headers", lambda r: request(headers={f"X-{i}": "a" * 50 for i in range(2000)}), (400, 431)),
        Kind(
            "a broken length",
            lambda r: b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: ten\r\n\r\n",
            (400,),
        ),
        Kind(
            "two lengths",
            lambda r: b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            (400,),
        ),
        Kind("broken chunks", lambda r: _chunked(b"zz\r\nwhat\r\n"), (400,)),
        Kind("more than it takes", lambda r: _declared(10**10), (413,)),
        Kind("more than it takes, in chunks", lambda r: _chunked(_chunk(bytes(1 << 20)) * 6), (413, 408)),
        Kind("another type", lambda r: request(body=GOOD, headers={"Content-Type": r.choice(_TYPES)}), (415,)),
        Kind("no type", lambda r: request(body=GOOD), (415,)),
        Kind("a file that is no picture", lambda r: _form([("image", r.randbytes(r.randint(1, 5000)))]), (400,)),
        Kind("a text file", lambda r: _form([("image", b"this is a text, not a picture\n" * 50)]), (400,)),
        Kind("an empty file", lambda r: _form([("image", b"")]), (400,)),
        Kind("a cut picture", lambda r: _form([("image", GOOD[: r.randint(8, len(GOOD) // 2)])]), (400,)),
        Kind("a damaged picture", lambda r: _form([("image", _damaged(r))]), (400,)),
        Kind("a bomb: 900 megapixels", lambda r: _form([("image", bomb(30_000, 30_000))]), (400,)),
        Kind("a bomb: 2 gigapixels", lambda r: _form([("image", bomb(65_535, 32_767))]), (400,)),
        Kind("a picture of one pixel", lambda r: _form([("image", picture((1, 1)))]), (400,)),
        Kind("a line of a picture", lambda r: _form([("image", picture((20_000, 2)))]), (400,)),
        Kind(
            "PostScript",
            lambda r: _form([("image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n")]),
            (400,),
        ),
        Kind("no picture", lambda r: _form([]), (400,)),
        Kind("too many pictures", lambda r: _form([("image", GOOD)] * 17), (413,)),
        Kind("no prompt", lambda r: request("/v1/detect", *form([("image", GOOD)])), (400,)),
        Kind("an empty prompt", lambda r: _form([("image", GOOD)], prompt=" . ..  "), (400,)),
        Kind(
            "10 000 names",
            lambda r: _form([("image", GOOD)], prompt=". ".join(f"name {i}" for i in range(10_000))),
            (400,),
        ),
        Kind("10 000 parts of names", lambda r: _names([b"cat"] * 10_000), (400, 413)),
        Kind("a name of 300 words", lambda r: _json(prompt=["remote control " * 150]), (400,)),
        Kind("a prompt that is no text", lambda r: _form([("image", GOOD)], prompt=b"\xff\xfe\x00cat"), (400,)),
        Kind("half a surrogate", lambda r: _raw_json(b'{"images":[{"data":""}],"prompt":["\\ud800"]}'), (400,)),
        Kind(
            "a threshold that is none",
            lambda r: _field("threshold", r.choice([b"high", b"nan", b"inf", b"-1", b"2"])),
            (400,),
        ),
        Kind(
            "a deadline that is none",
            lambda r: _field("deadline_ms", r.choice([b"soon", b"0", b"-5", b"1e3", b"9" * 5000])),
            (400,),
        ),
        Kind("an unknown field", lambda r: _field("$where", b"1"), (400,)),
        Kind(
            "no boundary", lambda r: request(body=b"--a\r\n", headers={"Content-Type": "multipart/form-data"}), (400,)
        ),
        Kind("another boundary", lambda r: _other_boundary(), (400,)),
        Kind("a cut form", _cut_form, (400,)),
        Kind(
            "a part without a name",
            lambda r: _body(b"--" + BOUNDARY + b"\r\n\r\ndata\r\n--" + BOUNDARY + b"--\r\n"),
            (400,),
        ),
        Kind("a form of noise", lambda r: _body(b"--" + BOUNDARY + b"\r\n" + r.randbytes(3000)), (400,)),
        Kind("JSON of noise", lambda r: _raw_json(r.randbytes(r.randint(1, 2000))), (400,)),
        Kind("JSON that is cut", lambda r: _raw_json(json.dumps(_document())[: r.randint(1, 40)].encode()), (400,)),
        Kind("JSON 100 000 deep", lambda r: _raw_json(b"[" * 100_000), (400,)),
        Kind("a number of 100 000 digits", lambda r: _raw_json(b'{"threshold":' + b"9" * 100_000 + b"}"), (400,)),
        Kind("JSON of another kind", lambda r: _raw_json(r.choice([b"null", b"[]", b'"cat"', b"1", b"{}"])), (400,)),
        Kind("wrong types in JSON", _wrong_types, (400,)),
        Kind("no base64", lambda r: _json(images=[{"data": "*" * r.randint(1, 99)}]), (400,)),
        Kind("lines of no base64", lambda r: _json(images=[{"data": "\r\n" * r.randint(1, 9999) + "*"}]), (400,)),
        Kind("a data: URL of another kind", lambda r: _json(images=[{"data": r.choice(_URLS)}]), (400,)),
        Kind(
            "base64 of no picture",
            lambda r: _json(images=[{"data": base64.b64encode(r.randbytes(99)).decode()}]),
            (400,),
        ),
        Kind("an id that it never saw", lambda r: _json(images=[{"id": r.randbytes(32).hex()}]), (404,)),
        Kind(
            "an id that is none",
            lambda r: _json(images=[{"id": r.choice(["", "../secret", "z" * 64, "A" * 64])}]),
            (400,),
        ),
        Kind("a slow body", lambda r: [_declared(1000), *[b"a"] * 5], (408,), pause),
        Kind("a body that never comes", lambda r: [_declared(1000), b"", b"", b"", b"", b""], (408,), pause),
        Kind("slow headers", lambda r: [b"POST /v1/detect HTTP/1.1\r\n", *[b"X: a\r\n"] * 5], (408,), pause),
        Kind("a connection that says nothing", lambda r: [b""] * 6, (408,), pause),
    ]


_TYPES = ("image/png", "text/plain", "application/xml", "application/x-www-form-urlencoded", "garbage")

_HOSTS = (
    "attacker.example",
    "localhost.attacker.example",
    "127.0.0.1.nip.io:80",
    "[::1]x",
    "localhost@a",
    "192.168.0.9",
)
_URLS = (
    "data:",
    "data:image/png,abc",
    "data:;base64,%%%%",
    "data:text/plain;base64,QQ==",
    "DATA:image/png;utf8,<svg/>",
)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is of width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _form(parts: list[tuple[str, bytes]], prompt: str | bytes = "cat") -> bytes:
    text = prompt if isinstance(prompt, bytes) else prompt.encode()
    return request("/v1/detect", *form([*parts, ("prompt", text)]))


def _names(names: list[bytes]) -> bytes:
    return request("/v1/detect", *form([("image", GOOD), *(("name", name) for name in names)]))


def _field(name: str, value: bytes) -> bytes:
    return _form([("image", GOOD), (name, value)])


def _body(body: bytes) -> bytes:
    return request(body=body, headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"})


def _other_boundary() -> bytes:
    body, _ = form([("image", GOOD), ("prompt", b"cat")])
    return request(body=body, headers={"Content-Type": "multipart/form-data; boundary=another"})


def _cut_form(r: random.Random) -> bytes:
    body, headers = form([("image", GOOD), ("prompt", b"cat")])
    return request("/v1/detect", body[: r.randint(1, len(body) - len(BOUNDARY) - 8)], headers)


def _document(**changed: object) -> dict[str, object]:
    return {"images": [{"data": base64.b64encode(GOOD).decode()}], "prompt": "cat", **changed}


def _json(**changed: object) -> bytes:
    return _raw_json(json.dumps(_document(**changed)).encode())


def _raw_json(body: bytes) -> bytes:
    return request(body=body, headers={"Content-Type": "application/json"})


def _wrong_types(r: random.Random) -> bytes:
    key = r.choice(["images", "prompt", "threshold", "deadline_ms"])
    values: list[object] = [True, {"a": 1}, [[]], [1, 2], "", -1.5, {"data": 5}, [{"data": None}], [None]]
    return _json(**{key: r.choice(values)})


def _damaged(r: random.Random) -> bytes:
    """A picture whose compressed pixels are noise."""
    noise = bytearray(picture((300, 200)))
    start = noise.index(b"IDAT") + 4
    noise[start:-16] = r.randbytes(len(noise) - 16 - start)
    return bytes(noise)


def _declared(length: int) -> bytes:
    return (
        b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % length
    )


def _chunked(chunks: bytes) -> bytes:
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
