"""NVIDIA's fat binaries in a library: machine code of several architectures, of which one GPU needs one.

Each binary has a header of 16 bytes (magic u32, version u16, header size u16, size of the entries u64), then entries:
kind u16 (1 PTX, 2 machine code), version u16, header size u32, data size u64, ..., architecture u32 at byte 28.
All little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

MAGIC = struct.pack("<I", 0xBA55ED50)
MACHINE_CODE = 2  # an entry's kind
_HEADER, _ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQ")
_ARCHITECTURE, _LEAST_ENTRY = 28, 32  # bytes


@dataclass(frozen=True)
class Entry:
    """One program of a fat binary; start and size: its data's bytes in the file."""

    kind: int
    architecture: int  # 90 is compute capability 9.0
    start: int
    size: int


@dataclass
class Stripped:
    """What `strip` did: bytes by architecture, and the binaries left as they are for want of the one to keep."""

    zeroed: dict[int, int] = field(default_factory=dict)
    kept: int = 0
    left: int = 0


def strip(data: bytearray, keep: int) -> Stripped:
    """Overwrites with zeros, in place, the machine code of architectures other than `keep`; every other byte stays.

    The entries' headers stay too, so that the driver finds its own by them. A binary without code for `keep` runs by
    another's, or from its PTX, and is left alone.
    """
    found = Stripped()
    for entries in fat_binaries(data):
        codes = [entry for entry in entries if entry.kind == MACHINE_CODE]
        if not any(entry.architecture == keep for entry in codes):
            found.left += bool(codes)
            continue
        for entry in codes:
            if entry.architecture == keep:
                found.kept += entry.size
            else:
                data[entry.start : entry.start + entry.size] = bytes(entry.size)
                found.zeroed[entry.architecture] = found.zeroed.get(entry.architecture, 0) + entry.size
    return found


def fat_binaries(data: bytes | bytearray) -> Iterator[list[Entry]]:
    """Those of a file, in its order; the magic number alone, in other data, is none."""
    position = data.find(MAGIC)
    while position >= 0:
        entries = _entries(data, position)
        if entries is None:
            position = data.find(MAGIC, position + 1)
            continue
        yield entries
        last = entries[-1] if entries else None
        position = data.find(MAGIC, last.start + last.size if last else position + _HEADER.size)


def _entries(data: bytes | bytearray, position: int) -> list[Entry] | None:
    """None if these bytes are no fat binary."""
    if position + _HEADER.size > len(data):
        return None
    _, version, header, size = _HEADER.unpack_from(data, position)
    at, end = position + header, position + header + size
    if version != 1 or header < _HEADER.size or end > len(data):
        return None
    entries = []
    while at + _LEAST_ENTRY <= end:
        kind, _, header, size = _ENTRY.unpack_from(data, at)
        (architecture,) = struct.unpack_from("<I", data, at + _ARCHITECTURE)
        start = at + header
        if header < _LEAST_ENTRY or start + size > end:
            return None
        entries.append(Entry(kind, architecture, start, size))
        at = start + size
    return entries
