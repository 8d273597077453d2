"""The reader of external data locations sees every tensor that an ONNX file can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glip_export.bundle.external_data import _MESSAGES, external_data_files
from glip_export.errors import BundleError

onnx = pytest.importorskip("onnx")


def external(location: str) -> Any:
    tensor = onnx.TensorProto(name=location, data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def inner_messages(message: Any) -> dict[int, Any]:
    return {field.number: field.message_type for field in message.fields if field.message_type is not None}


def test_its_table_has_every_way_from_a_model_to_a_tensor() -> None:
    messages: dict[str, Any] = {}  # by full name: TypeProto has a SparseTensor of its own

    def visit(message: Any) -> None:
        if message.full_name not in messages:
            messages[message.full_name] = message
            for inner in inner_messages(message).values():
                visit(inner)

    visit(onnx.ModelProto.DESCRIPTOR)
    reaching = {"onnx.TensorProto"}
    for _ in messages:
        reaching |= {
            name
            for name, message in messages.items()
            if any(inner.full_name in reaching for inner in inner_messages(message).values())
        }
    expected = {
        messages[name].name.removesuffix("Proto"): {
            number: inner.name.removesuffix("Proto")
            for number, inner in inner_messages(messages[name]).items()
            if inner.full_name in reaching
        }
        for name in reaching - {"onnx.TensorProto"}
    }
    assert {name: numbers for name, numbers in _MESSAGES.items() if name != "Tensor"} == expected
    entries = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"]
    assert _MESSAGES["Tensor"] == {entries.number: "Entry"}


def test_locations_at_every_depth(tmp_path: Path) -> None:
    helper = onnx.helper
    inner = helper.make_graph([], "inner", [], [], [external("subgraph")])
    sparse = onnx.SparseTensorProto(values=external("sparse values"), indices=external("sparse indices"))
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner),
        helper.make_node("Constant", [], ["c"], value=external("attribute")),
    ]
    body = helper.make_graph(nodes, "g", [], [], [external("initializer"), external("initializer")])
    body.sparse_initializer.append(sparse)
    function = helper.make_function("local", "F", [], ["z"], [], [helper.make_opsetid("", 20)])
    function.node.append(helper.make_node("Constant", [], ["z"], value=external("function")))
    model = helper.make_model(body, functions=[function])
    model.training_info.add().algorithm.initializer.append(external("training"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    names = ["attribute", "function", "initializer", "sparse indices", "sparse values", "subgraph", "training"]
    assert external_data_files(tmp_path / "m.onnx") == names


def test_as_in_protobuf_the_last_value_counts(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="t", data_type=onnx.TensorProto.FLOAT, dims=[1])
    entry = tensor.external_data.add(key="offset", value="harmless").SerializeToString()
    entry += onnx.StringStringEntryProto(key="location", value="../secret").SerializeToString()
    merged = onnx.StringStringEntryProto.FromString(entry)
    assert (merged.key, merged.value) == ("location", "../secret")
    tensor_bytes = b"\x6a" + bytes([len(entry)]) + entry  # field 13
    graph_bytes = b"\x2a" + bytes([len(tensor_bytes)]) + tensor_bytes  # field 5
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + bytes([len(graph_bytes)]) + graph_bytes)  # field 7
    assert external_data_files(tmp_path / "m.onnx") == ["../secret"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an ONNX file",
        b"\x3a\x7f",  # a graph longer than the file
        b"\x3b",  # a group, which ONNX has not
        b"\x08" + b"\xff" * 11,  # a number without an end
        b"\x3a\x03\x2a\x05x",  # a tensor longer than its graph
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"m\.onnx is not an ONNX file, or is damaged"):
        external_data_files(tmp_path / "m.onnx")


def test_messages_nested_without_end_are_refused(tmp_path: Path) -> None:
    content = b""
    for _ in range(300):  # graph { node { attribute { g { node ...
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # Attribute.g, Node.attribute, Graph.node
            content = tag + varint(len(content)) + content
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + varint(len(content)) + content)
    with pytest.raises(BundleError, match="is damaged"):
        external_data_files(tmp_path / "m.onnx")


def varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])
