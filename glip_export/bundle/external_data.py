"""Which files an ONNX graph takes its weights from, read without the onnx package.

A graph may name any path, so a bundle from somebody else could read files outside its folder. ONNX Runtime refuses
that itself since 1.24; `Bundle.open` looks first all the same, for OpenVINO, TensorRT and Triton read the graphs too.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from glip_export.errors import BundleError

# Field number -> message type of the messages in onnx.proto3 that lead to a tensor.
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}  # fmt: skip
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_MAX_DEPTH = 200


def external_data_files(path: Path) -> list[str]:
    """The locations of external data that the ONNX file names, sorted, as it spells them.

    Raises BundleError if the file is not an ONNX file.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return sorted(set(_locations(data, 0, len(data), "Model", 0)))
    except (ValueError, IndexError) as error:  # an empty file cannot be mapped: ValueError too
        raise BundleError(f"{path} is not an ONNX file, or is damaged: make the bundle again") from error


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("messages nested too deep")
    inner = _MESSAGES[message]
    for number, first, last in message_fields(data, start, end):
        if number not in inner:
            continue
        if inner[number] == "Entry":
            # As in protobuf the last counts.
            entry = {field: data[a:b] for field, a, b in message_fields(data, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8")
        else:
            yield from _locations(data, first, last, inner[number], depth + 1)


def message_fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field of the message in data[start:end]."""
    while start < end:
        tag, start = _varint(data, start)
        wire_type = tag & 7
        if wire_type == _BYTES:
            length, start = _varint(data, start)
            if start + length > end:
                raise ValueError("a field runs past its message")
            yield (tag & 0xFFFFFFFF) >> 3, start, start + length
            start += length
        elif wire_type == _VARINT:
            _, start = _varint(data, start)
        elif wire_type in (_FIXED32, _FIXED64):
            start += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
    if start != end:
        raise ValueError("a field runs past its message")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:  # ten bytes of seven bits
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError("a number of more than ten bytes")
