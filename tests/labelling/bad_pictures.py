"""Files that are no pictures, or pictures that nobody can use: 30 kinds; and odd ones that are good."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

NOISE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def encoded(kind: str, size: tuple[int, int] = (128, 96), mode: str = "RGB", **options: object) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.fromarray(NOISE).resize(size).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, data: bytes = b"", bits: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says what it likes, around the rows' bytes."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def _with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def _without_crc(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 20
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


CONTENTS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one_byte": lambda: b"\xff",
    "text": lambda: b"this is no picture\n" * 50,
    "page_not_found": lambda: b"<!DOCTYPE html><html><title>404</title></html>",
    "random": lambda: np.random.default_rng(1).bytes(5000),
    "zeros": lambda: bytes(5000),
    "jpeg_magic": lambda: b"\xff\xd8\xff\xe0",
    "jpeg_cut": lambda: encoded("JPEG")[:-800],
    "jpeg_header_only": lambda: encoded("JPEG")[:300],
    "jpeg_huge_header": lambda: _with_size(encoded("JPEG"), 65500, 65500),
    "jpeg_zero_size": lambda: _with_size(encoded("JPEG"), 0, 96),
    "png_cut": lambda: encoded("PNG")[:-9000],
    "png_huge_header": lambda: png(100_000, 100_000),
    "png_zero_size": lambda: png(0, 40),
    "png_bomb": lambda: png(20_000, 20_000, bytes(20_000 * 2_501), bits=1, colour=0),  # 400 Mpixel in 50 KB
    "png_crc": lambda: _without_crc(encoded("PNG")),
    "png_no_rows": lambda: png(64, 64),
    "png_one_wide": lambda: png(1, 5000, bytes(4 * 5000)),
    "gif_cut": lambda: encoded("GIF", mode="P")[:200],
    "webp_cut": lambda: encoded("WEBP")[:200],
    "tiff_cut": lambda: encoded("TIFF")[:100],
    "bmp_cut": lambda: encoded("BMP")[:1000],
    "gzipped": lambda: gzip.compress(encoded("JPEG"), mtime=0),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "video": lambda: b"\x00\x00\x00\x18ftypmp42" + bytes(500),
}


def make_bad(folder: Path, kind: str, name: str) -> str:
    """The line of a list that names the bad picture; most are files that are written into the folder."""
    path = folder / name
    if kind in CONTENTS:
        path.write_bytes(CONTENTS[kind]())
    elif kind == "folder":
        path.mkdir()
    elif kind == "broken_link":
        path.symlink_to(folder / "nowhere.jpg")
    elif kind == "link_to_itself":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.getcwd()
            os.chdir(folder)  # a socket's path is short
            try:
                bound.bind(name)
            finally:
                os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "forbidden":
        path.write_bytes(encoded("JPEG"))
        path.chmod(0)
    elif kind == "endless_name":
        return "x" * 300 + name
    elif kind == "nul":
        return f"a\0{name}"
    elif kind == "foreign_address":
        return f"ftp://nowhere.invalid/{name}"
    else:
        assert kind == "missing"
    return name


# A user that may read everything reads what is forbidden.
OTHERS = ["missing", "folder", "broken_link", "link_to_itself", "pipe", "socket", "device", "endless_name"]
OTHERS += ["foreign_address", *(["forbidden"] if os.geteuid() else []), "nul"]  # which near a list's front is no text
KINDS = (*CONTENTS, *OTHERS)


def odd_but_good() -> dict[str, bytes]:
    """Pictures that only look bad."""
    exif = encoded("JPEG", exif=b"Exif\x00\x00" + b"MM\x00\x2a\xff\xff\xff\xff" + bytes(40))
    return {
        "damaged_exif.jpg": exif,
        "cmyk.jpg": encoded("JPEG", mode="CMYK"),
        "grey.png": encoded("PNG", mode="L"),
        "transparent.png": encoded("PNG", mode="RGBA"),
        "palette.gif": encoded("GIF", mode="P"),
        "a_png.jpg": encoded("PNG"),
        "trailing.jpg": encoded("JPEG") + b"more",
        "name with spaces and ünicode.jpg": encoded("JPEG"),
    }
