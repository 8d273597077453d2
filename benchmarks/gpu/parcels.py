"""What must be brought to a machine without network, in pieces of a size that can be carried.

python benchmarks/gpu/parcels.py strip-fatbin libtensorrt_rtx.so.1 --keep 90 --output stripped/libtensorrt_rtx.so.1
xz -6 stripped/libtensorrt_rtx.so.1
python benchmarks/gpu/parcels.py cut stripped/libtensorrt_rtx.so.1.xz a.whl --size 40MiB --output pieces

and there, with all the pieces in one folder:

python benchmarks/gpu/parcels.py join pieces --output brought
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, BinaryIO

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fat_binary import strip

from glip_export.bundle.files import atomic_path, atomic_write_bytes, atomic_write_text, sha256_file
from glip_export.cli.console import run_app
from glip_export.errors import GlipExportError

MANIFEST = "pieces.json"
UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
READ_BYTES = 1 << 20

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Carry files in pieces.")


class DamagedError(Exception):
    """A piece that is not there, or is not what was cut; the text says which."""


@app.command()
def cut(
    files: Annotated[list[Path], typer.Argument(help="What to carry.")],
    output: Annotated[Path, typer.Option(help="The folder of the pieces.")],
    size: Annotated[str, typer.Option(help="Of a piece at most, such as 40MiB.")] = "40MiB",
) -> None:
    """Cut files into pieces, with a list of their SHA-256."""
    most = size_in_bytes(size)
    if not_files := [str(file) for file in files if not file.is_file()]:
        raise GlipExportError(f"{', '.join(not_files)}: no such file; a folder goes as an archive")
    names = [file.name for file in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GlipExportError(f"two files are named {', '.join(twice)}, and would become one: rename one")
    listed = []
    for file in files:
        pieces = list(_cut_one(file, most, output))
        listed.append({"name": file.name, "size": file.stat().st_size, "sha256": sha256_file(file), "pieces": pieces})
        typer.echo(f"{file.name}: {len(pieces)} pieces, {file.stat().st_size / 1e6:.1f} MB")
    atomic_write_text(output / MANIFEST, json.dumps({"format": 1, "files": listed}, indent=1) + "\n")


@app.command()
def join(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="With all the pieces and their list.")],
    output: Annotated[Path, typer.Option(help="Where the files go.")],
) -> None:
    """Put the files together again; each is there whole, with the hash that it was cut with, or not at all."""
    files = read_manifest(folder / MANIFEST)
    for file in files:
        try:
            _join_one(file, folder, output)
        except DamagedError as error:
            typer.echo(f"parcels: {error}", err=True)
            raise typer.Exit(1) from error
        typer.echo(f"{output / file['name']}: {file['size'] / 1e6:.1f} MB, as it was cut")


@app.command("strip-fatbin")
def strip_fatbin(
    library: Annotated[Path, typer.Argument(metavar="LIB", help="A library with fat binaries.")],
    keep: Annotated[int, typer.Option(min=10, help="The GPU's architecture: 90 for compute capability 9.0.")],
    output: Annotated[Path, typer.Option(help="The library's smaller copy: as long, but it compresses.")],
) -> None:
    """Overwrite the machine code for other GPUs with zeros, so that the library compresses to much less."""
    data = bytearray(library.read_bytes())
    found = strip(data, keep)
    if not found.kept:
        raise GlipExportError(f"{library} holds no machine code for architecture {keep}: nothing would be kept")
    atomic_write_bytes(output, data)
    for architecture, size in sorted(found.zeroed.items()):
        typer.echo(f"sm_{architecture}: {size / 1e6:.1f} MB are zeros now")
    typer.echo(f"sm_{keep}: {found.kept / 1e6:.1f} MB kept; {found.left} binaries without it are as they were")


def size_in_bytes(text: str) -> int:
    """40MiB -> 41943040. Raises GlipExportError."""
    match = re.fullmatch(r"(\d+) ?([A-Za-z]*)", text.strip())
    if match is None or match[2] not in UNITS or int(match[1]) == 0:
        raise GlipExportError(f"--size {text}: write a number and one of {', '.join(filter(None, UNITS))}")
    return int(match[1]) * UNITS[match[2]]


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The files that were cut. Raises GlipExportError for what is no list of pieces, or has a name with a folder."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = list(manifest["files"])
        names = [file["name"] for file in files] + [piece["name"] for file in files for piece in file["pieces"]]
        numbers = [part["size"] for file in files for part in (file, *file["pieces"])]
        hashes = [part["sha256"] for file in files for part in (file, *file["pieces"])]
    except FileNotFoundError as error:
        raise GlipExportError(f"{path} is not there: name the folder that `cut` wrote") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GlipExportError(f"{path} is no list of pieces: cut the files again") from error
    if not all(isinstance(number, int) for number in numbers) or not all(isinstance(text, str) for text in hashes):
        raise GlipExportError(f"{path} is no list of pieces: cut the files again")
    for name in names:
        if not _is_plain(name):
            raise GlipExportError(f"{path} names {name!r}, which is not a file's name alone")
    return files


def _cut_one(file: Path, most: int, output: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as source:
        left, number = file.stat().st_size, 0
        while left or not number:  # a file without bytes is one piece
            name, size, digest = f"{file.name}.{number:03}", min(left, most), hashlib.sha256()
            with atomic_path(output / name) as temporary, temporary.open("wb") as target:
                for part in _read(source, size):
                    digest.update(part)
                    target.write(part)
            yield {"name": name, "size": size, "sha256": digest.hexdigest()}
            left, number = left - size, number + 1


def _join_one(file: dict[str, Any], folder: Path, output: Path) -> None:
    whole = hashlib.sha256()
    with atomic_path(output / file["name"]) as temporary, temporary.open("wb") as target:
        for piece in file["pieces"]:
            path, digest, size = folder / piece["name"], hashlib.sha256(), 0
            if not path.is_file():
                raise DamagedError(f"{path} is not there: bring it too")
            with path.open("rb") as source:
                for part in _read(source, path.stat().st_size):
                    size += len(part)
                    for one in (digest, whole):
                        one.update(part)
                    target.write(part)
            if size != piece["size"] or digest.hexdigest() != piece["sha256"]:
                raise DamagedError(f"{path} is not what was cut ({size} of {piece['size']} bytes): bring it again")
        if whole.hexdigest() != file["sha256"]:
            raise DamagedError(f"{file['name']} is not what was cut, though its pieces are: cut it again")


def _read(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (part := source.read(min(size, READ_BYTES))):
        yield part
        size -= len(part)


def _is_plain(name: object) -> bool:
    """Whether it is a name in a folder, on every system."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
    )


if __name__ == "__main__":
    run_app(app, "parcels")
