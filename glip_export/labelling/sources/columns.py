"""The columns of a Parquet file: which one has the pictures, and which are carried along."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glip_export.errors import GlipExportError, quoted
from glip_export.labelling.shards import COLUMNS, NAMES

if TYPE_CHECKING:
    import pyarrow

# By falling preference, in any case: what data sets call a picture.
_NAMES = (
    *("image", "picture", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "image_data", "bytes", "content"),
    *("image_path", "path", "file_path", "filepath", "file_name", "filename", "file", "image_file", "uri", "url"),
)
_LONGEST_FIXED = 64  # bytes of a hash or an id, which are carried


@dataclass(frozen=True)
class Columns:
    """What is read of each file.

    picture: the column with them; kind: path, bytes or struct (of bytes and path). names: those carried, in the files;
    carried: the same as items have them, None for none. not_carried: of bytes, or of types that do not fit.
    """

    schema: pyarrow.Schema
    picture: str
    kind: str
    names: tuple[str, ...]
    carried: pyarrow.Schema | None
    not_carried: tuple[str, ...]

    @property
    def path_leaf(self) -> str:
        """What of the picture's column is read while the rows are counted, "" for nothing."""
        if self.kind == "path":
            return self.picture
        has_path = self.kind == "struct" and self.schema.field(self.picture).type.get_field_index("path") >= 0
        return f"{self.picture}.path" if has_path else ""


def find_columns(schema: pyarrow.Schema, column: str | None, file: str) -> Columns:
    """What a schema's columns are for; column: which one has the pictures. Raises GlipExportError."""
    import pyarrow as pa

    schema = schema.remove_metadata()
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise GlipExportError(f"{file!r} has two columns called {twice[0]!r}: rename one")
    picture = _picture(schema, column, file)
    names, fields, left = [], [], []
    for field in schema:
        if field.name == picture:
            continue
        carried = _carried_type(field.type)
        if carried is None:
            left.append(field.name)
            continue
        names.append(field.name)
        fields.append(pa.field(carried_name(field.name, (*COLUMNS, NAMES), schema.names), carried))
    kind = _kind(schema.field(picture).type)
    return Columns(schema, picture, kind, tuple(names), pa.schema(fields) if fields else None, tuple(left))


def carried_name(name: str, taken: Collection[str], names: Collection[str]) -> str:
    """What a column is called beside those that are `taken`: itself, else with input_ before it, as none of `names`."""
    free = name
    while free in taken or (free != name and free in names):
        free = f"input_{free}"
    return free


def differences(first: pyarrow.Schema, other: pyarrow.Schema) -> str:
    """What is different in another file's columns, in words; "" for nothing. Order and metadata do not count."""
    one, two = ({field.name: field.type for field in schema} for schema in (first, other))
    if one == two:
        return ""
    for name in [*one, *two]:
        if one.get(name) != two.get(name):
            said = [str(kind.get(name, "missing"))[:60] for kind in (two, one)]
            return f"has other columns than the first file ({name!r} is {said[0]}, not {said[1]}): all need the same"
    return ""


def paths_of(column: pyarrow.Array) -> list[str | None]:
    """A column of paths, or the paths of a struct; bytes that are no UTF-8 as os.fsdecode has them."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        column = column.flatten()[0]  # with the nulls of the struct, unlike field(0)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    raw = column.cast(pa.large_binary()).to_pylist()
    return [None if path is None else path.decode("utf-8", "surrogateescape") for path in raw]


def values_of(column: pyarrow.Array, carried: pyarrow.DataType) -> list[Any]:
    """A column's values for `Item.carried`; a value that Python cannot hold (the year 20000) is None."""
    if column.type != carried:
        column = column.cast(carried, safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: pyarrow.Scalar[Any]) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "replace")
    except (ValueError, OverflowError):
        return None


def _picture(schema: pyarrow.Schema, column: str | None, file: str) -> str:
    if column is not None:
        if column not in schema.names:
            raise GlipExportError(f"{file!r} has no column {quoted(column)}: it has {_listed(schema.names)}")
        if not _kind(schema.field(column).type):
            kind = str(schema.field(column).type)[:60]
            raise GlipExportError(f"the column {quoted(column)} of {file!r} is {kind}, not of paths or bytes")
        return column
    fitting = [field.name for field in schema if _kind(field.type)]
    lower = {name.lower(): name for name in reversed(fitting)}
    known = next((lower[name] for name in _NAMES if name in lower), None)
    if known is not None:
        return known
    holding = [name for name in fitting if _kind(schema.field(name).type) != "path"]
    if len(holding) == 1:
        return holding[0]
    raise GlipExportError(
        f"which column of {file!r} has the pictures' paths or bytes? Name it with --column: {_listed(schema.names)}"
    )


def _listed(names: list[str]) -> str:
    return quoted(", ".join(names)) if names else "none"


def _kind(data: pyarrow.DataType) -> str:
    """path, bytes, struct, or "" for what holds no picture."""
    from pyarrow import types

    if types.is_struct(data):
        place = data.get_field_index("bytes")
        return "struct" if place >= 0 and _kind(data.field(place).type) == "bytes" else ""
    if types.is_dictionary(data):
        return _kind(data.value_type)
    if types.is_string(data) or types.is_large_string(data) or types.is_string_view(data):
        return "path"
    return "bytes" if types.is_binary(data) or types.is_large_binary(data) or types.is_binary_view(data) else ""


def _carried_type(data: pyarrow.DataType) -> pyarrow.DataType | None:
    """What a column becomes: dictionaries decoded, nanoseconds as microseconds, which Python has; None for not carried.

    Bytes are not: masks and depth maps would fill the shards.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(data):
        return _carried_type(data.value_type)
    if types.is_timestamp(data):
        return pa.timestamp("us", data.tz) if data.unit == "ns" else data
    if types.is_time64(data):
        return pa.time64("us")
    if types.is_duration(data):
        return pa.duration("us") if data.unit == "ns" else data
    if types.is_string_view(data):
        return pa.string()
    if types.is_fixed_size_binary(data) and data.byte_width > _LONGEST_FIXED:
        return None
    return data if _is_plain(data) else None


def _is_plain(data: pyarrow.DataType) -> bool:
    """Whether values go to Python and back as they are."""
    from pyarrow import types

    if types.is_struct(data) or types.is_map(data):
        inner = [data.field(place).type for place in range(data.num_fields)] if types.is_struct(data) else []
        return all(map(_is_plain, inner)) if inner else types.is_map(data) and _is_plain_map(data)
    if types.is_list(data) or types.is_large_list(data) or types.is_fixed_size_list(data):
        return _is_plain(data.value_type)
    return (
        bool(
            types.is_boolean(data)
            or types.is_integer(data)
            or types.is_floating(data)
            or types.is_decimal(data)
            or types.is_string(data)
            or types.is_large_string(data)
            or types.is_date(data)
            or types.is_time32(data)
            or types.is_timestamp(data)
            or types.is_time64(data)
            or types.is_duration(data)
            or types.is_fixed_size_binary(data)
            or types.is_null(data)
        )
        and getattr(data, "unit", "") != "ns"
    )


def _is_plain_map(data: pyarrow.DataType) -> bool:
    return _is_plain(data.key_type) and _is_plain(data.item_type)
