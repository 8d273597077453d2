"""The C++ plugins compiled with plain C++: TensorRT's API as declared in declarations/, CUDA as on the host shim."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from host_kernels import PLUGINS, compiler

DECLARATIONS = Path(__file__).with_name("declarations")
TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3}  # nvinfer1::DataType
LINEAR, CHW2, HWC8, HWC = 0, 1, 2, 8  # nvinfer1::TensorFormat
FIELD_TYPES = {1: np.float32, 5: np.int32}  # nvinfer1::PluginFieldType


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class _Fields(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int32), ("fields", ctypes.POINTER(_Field)))


def build(library: Path) -> None:
    """Compile plugins, launchers and shim to a shared library."""
    sources = [*sorted((PLUGINS / "tensorrt").glob("*.cpp")), PLUGINS / "launchers" / "dyconv.cu"]
    sources += [PLUGINS / "host_shim" / "fibers.cpp", DECLARATIONS / "call_plugins.cpp"]
    options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    options += ["-Wno-unknown-pragmas", "-I", str(DECLARATIONS), "-I", str(PLUGINS / "host_shim"), "-x", "c++"]
    subprocess.run([str(compiler()), *options, *map(str, sources), "-o", str(library)], check=True)


class CppPlugins:
    """The library; its plugins as numbers."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        for name in ("find_creator", "plugin_create", "plugin_clone"):
            getattr(self.library, name).restype = ctypes.c_void_p
        for name in ("creator_version", "creator_namespace", "plugin_name"):
            getattr(self.library, name).restype = ctypes.c_char_p
        for name in ("creator_fields", "plugin_serialized"):
            getattr(self.library, name).restype = ctypes.POINTER(_Fields)
        self.library.plugin_workspace_bytes.restype = ctypes.c_size_t

    def creator(self, name: str) -> ctypes.c_void_p:
        """The creator of this name."""
        return ctypes.c_void_p(self.library.find_creator(name.encode()))

    def field_names(self, name: str) -> dict[str, tuple[Any, int]]:
        """What the creator says: of each field NumPy's type and length."""
        given = self.library.creator_fields(self.creator(name)).contents
        return {field.name.decode(): (FIELD_TYPES[field.type], field.length) for field in given.fields[: given.count]}

    def create(self, name: str, fields: dict[str, np.ndarray]) -> Plugin | None:
        """A plugin, as from an engine or a node."""
        kinds = {np.dtype(dtype): kind for kind, dtype in FIELD_TYPES.items()}
        table = (_Field * len(fields))(
            *(_Field(key.encode(), array.ctypes.data, kinds[array.dtype], len(array)) for key, array in fields.items())
        )
        made = self.library.plugin_create(self.creator(name), ctypes.byref(_Fields(len(fields), table)))
        return Plugin(self.library, made) if made else None


class Plugin:
    """One plugin; tensors are pairs of a type's name and a shape, inputs before outputs."""

    def __init__(self, library: ctypes.CDLL, address: int) -> None:
        self._library, self._address = library, ctypes.c_void_p(address)

    def clone(self) -> Plugin:
        """Another one of the same fields; this one is gone."""
        other = Plugin(self._library, self._library.plugin_clone(self._address))
        self._library.plugin_destroy(self._address)
        return other

    @property
    def name(self) -> str:
        """GlipDyConv and so on."""
        return self._library.plugin_name(self._address).decode()

    @property
    def outputs(self) -> int:
        """How many."""
        return self._library.plugin_count_outputs(self._address)

    def serialized(self) -> dict[str, np.ndarray]:
        """What an engine would hold, in its order."""
        given = self._library.plugin_serialized(self._address).contents
        made = {}
        for field in given.fields[: given.count]:
            dtype = np.dtype(FIELD_TYPES[field.type])
            made[field.name.decode()] = np.frombuffer(
                ctypes.string_at(field.data, field.length * dtype.itemsize), dtype
            )
        return made

    def output_shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]] | None:
        """Of the inputs' shapes; None where they are refused."""
        made = (ctypes.c_int64 * (9 * self.outputs))()
        given = _dims(shapes), self.outputs, made
        if self._library.plugin_output_shapes(self._address, len(shapes), *given) != 0:
            return None
        return [tuple(made[9 * place + 1 : 9 * place + 1 + made[9 * place]]) for place in range(self.outputs)]

    def output_types(self, types: Sequence[str]) -> list[str]:
        """Of the inputs' types."""
        made = (ctypes.c_int * self.outputs)()
        kinds = (ctypes.c_int * len(types))(*(TYPES[kind] for kind in types))
        assert self._library.plugin_output_types(self._address, len(types), kinds, self.outputs, made) == 0
        return [next(name for name, number in TYPES.items() if number == kind) for kind in made]

    def supports(self, tensors: Sequence[tuple[str, tuple[int, ...]]], formats: Sequence[int]) -> list[bool]:
        """Whether each tensor may be of its type and format."""
        inputs, tables = len(tensors) - self.outputs, _tables(tensors, formats)
        return [
            bool(self._library.plugin_supports(self._address, place, inputs, self.outputs, *tables))
            for place in range(len(tensors))
        ]

    def configure(self, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> int:
        """0, or the plugin does not take these as a profile's largest sizes."""
        inputs, tables = len(tensors) - self.outputs, _tables(tensors, [LINEAR] * len(tensors))
        return self._library.plugin_configure(self._address, inputs, self.outputs, *tables)

    def workspace_bytes(self, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> int:
        """For a profile's largest sizes."""
        inputs, tables = len(tensors) - self.outputs, _tables(tensors, [LINEAR] * len(tensors))
        return self._library.plugin_workspace_bytes(self._address, inputs, self.outputs, *tables)

    def enqueue(
        self, shapes: Sequence[tuple[int, ...]], inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], space: Any
    ) -> int:
        """Runs at once; shapes: as TensorRT gives them, the arrays being laid out in the formats. 0, or an error."""
        kind = inputs[0].dtype.name
        assert all(prod(shape) == array.size for shape, array in zip(shapes, (*inputs, *outputs), strict=True))
        tables = _tables([(kind, shape) for shape in shapes], [LINEAR] * len(shapes))
        addresses = [
            (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)) for arrays in (inputs, outputs)
        ]
        given = (len(inputs), len(outputs), *tables, *addresses, ctypes.c_void_p(space.ctypes.data))
        return self._library.plugin_enqueue(self._address, *given)


def _dims(shapes: Sequence[tuple[int, ...]]) -> Any:
    numbers = [number for shape in shapes for number in (len(shape), *shape, *[0] * (8 - len(shape)))]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _tables(tensors: Sequence[tuple[str, tuple[int, ...]]], formats: Sequence[int]) -> tuple[Any, Any, Any]:
    kinds = (ctypes.c_int * len(tensors))(*(TYPES[kind] for kind, _ in tensors))
    return kinds, (ctypes.c_int * len(tensors))(*formats), _dims([shape for _, shape in tensors])
