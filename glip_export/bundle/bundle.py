"""The bundle: one folder that every stage reads and writes, with a manifest that says what is in it.

manifest.json        configuration, weights, graphs, versions, and the SHA-256 of every other file
text_encoder.onnx, vision_backbone.onnx, fusion_head.onnx and the files of their external data
later stages' engines, a folder each that `Bundle.take_folder` adds; cache/, which backends fill and the manifest
leaves out
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from glip_export.bundle.baked_file import is_baked
from glip_export.bundle.external_data import external_data_files
from glip_export.bundle.files import CACHE, MANIFEST, atomic_write_text, is_leftover
from glip_export.bundle.hashes import hash_files, remembered_hashes
from glip_export.bundle.manifest import File, Graph, Manifest, Weights, manifest_to_json, parse_manifest
from glip_export.config import GlipConfig
from glip_export.errors import BundleError

MAX_MANIFEST_BYTES = 4 << 20
_MAKE_ONE = "make one with: glip-export onnx --weights FILE"


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """An opened bundle. Make one with `write_manifest`, open one with `Bundle.open`."""

    path: Path

    @classmethod
    def open(cls, path: Path | str, verify: bool = True, without: str = "", anew: bool = False) -> Bundle:
        """Read and check the bundle in folder `path`; `verify=False` leaves out only the SHA-256 of each file.

        A large file that has not changed since it was last hashed is not hashed again, unless `anew` (bundle.hashes).
        `without` names a subfolder to leave out, damaged or not, because it is about to be made again.
        Raises BundleError, naming the file, if the folder is no bundle, is of a newer format, points outside itself,
        or does not hold what its manifest lists.
        """
        folder = Path(path)
        try:
            bundle = cls(path=folder, **vars(parse_manifest(_read_json(folder), folder)))
            if without:
                files = {name: file for name, file in bundle.files.items() if not name.startswith(f"{without}/")}
                bundle = dataclasses.replace(bundle, files=files)
            _check_files(bundle)
            _check_graphs(bundle)
            if verify:
                _check_hashes(bundle, anew)
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
            raise BundleError(f"cannot read the bundle {folder}: {error}") from error
        return bundle

    def graph_path(self, name: str) -> Path:
        """The ONNX file of graph `name`; raises BundleError if the bundle has no such graph."""
        if name not in self.graphs:
            raise BundleError(f"{self.path} has no graph {name}, only {', '.join(self.graphs) or 'none'}; {_MAKE_ONE}")
        return self.path / self.graphs[name].file

    def take_folder(self, source: Path, name: str) -> Bundle:
        """Moves the folder `source` into the bundle as `name`, in place of one of that name, and lists its files.

        Only those are hashed. `source` is on the bundle's disk, as in its cache. Stopped at any moment it leaves a
        bundle that opens, with the old folder, the new one or neither. Raises BundleError for a name that another
        file or the cache has.
        """
        current = Bundle.open(self.path, verify=False, without=name)  # another process may have added one since
        target = self.path / name
        plain = PurePosixPath(name).name == name and name.isprintable() and name not in ("", "..", CACHE, MANIFEST)
        if not plain or (target.exists() and not target.is_dir()):
            raise BundleError(f"{self.path} cannot have a folder {name!r}: another name")
        added = {f"{name}/{path}": file for path, file in _hash_folder(source).items()}
        try:
            if target.exists():
                _write(current)
                shutil.rmtree(target)
            os.rename(source, target)
        except OSError as error:
            raise BundleError(f"cannot write {target}: {error.strerror or error}") from error
        return _write(dataclasses.replace(current, files={**current.files, **added}))


def write_manifest(
    folder: Path | str,
    *,
    name: str,
    config: GlipConfig,
    weights: Weights,
    graphs: Iterable[Graph],
    precision: str = "fp32",
    image_size: tuple[int, int] | None = None,
    versions: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    created: str | None = None,
) -> Bundle:
    """Hash every file in `folder` and write its manifest, last and atomically; a manifest there is replaced.

    Raises BundleError, and writes nothing, if the folder would not open as a bundle.
    """
    folder = Path(folder)
    bundle = Bundle(
        path=folder,
        name=name,
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        config=config,
        weights=weights,
        graphs={},
        files=_hash_folder(folder),
        precision=precision,
        image_size=image_size,
        versions={**installed_versions("glip-export"), **(versions or {})},
        extra=dict(extra or {}),
    )
    bundle = dataclasses.replace(bundle, graphs={graph.name: _measured(bundle, graph) for graph in graphs})
    _check_graphs(bundle)
    return _write(bundle)


def newest_bundle(root: Path | str = "engines") -> Path:
    """The bundle in `root` whose manifest was written last; raises BundleError if there is none."""
    manifests = [path for path in Path(root).glob(f"*/{MANIFEST}") if not is_leftover(path.parent.name)]
    if not manifests:
        raise BundleError(f"no bundle in {root}; {_MAKE_ONE}")
    return max(manifests, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed, for the manifest."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _write(bundle: Bundle) -> Bundle:
    text = json.dumps(manifest_to_json(bundle), indent=2) + "\n"
    if len(text.encode()) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"the manifest of {bundle.path} would be over {MAX_MANIFEST_BYTES >> 20} MB: note less in extra"
        )
    atomic_write_text(bundle.path / MANIFEST, text)
    return bundle


def _read_json(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise BundleError(f"no bundle at {folder}; {_MAKE_ONE}")
    if is_baked(folder):
        raise BundleError(
            f"{folder} is a file and a bundle is a folder; of a baked model, this takes the bundle it came from"
        )
    if not folder.is_dir():
        raise BundleError(f"{folder} is a file and a bundle is a folder; {_MAKE_ONE}")
    if is_leftover(folder.resolve().name):
        raise BundleError(f"{folder} is what an interrupted export left, not a bundle; {_MAKE_ONE}")
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise BundleError(f"{folder} is not a bundle, it has no {MANIFEST}; {_MAKE_ONE}")
    try:
        with open(manifest, "rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
        if len(text) > MAX_MANIFEST_BYTES:
            raise BundleError(f"{manifest} is over {MAX_MANIFEST_BYTES >> 20} MB: not a bundle's manifest")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{manifest} is not valid JSON ({error}): make the bundle again") from error
    if not isinstance(value, dict):
        raise BundleError(f"{manifest} is not a bundle's manifest: it holds no JSON object")
    return value


def _hash_folder(folder: Path) -> dict[str, File]:
    _check_links(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in _walk(folder) if path.is_file())
    names = [name for name in names if name != MANIFEST and not is_leftover(PurePosixPath(name).name)]
    names = [name for name in names if not name.startswith(f"{CACHE}/")]
    hashes = hash_files(folder, names)
    return {name: File(hashes[name], (folder / name).stat().st_size) for name in names}


def _measured(bundle: Bundle, graph: Graph) -> Graph:
    if graph.file not in bundle.files:
        raise BundleError(f"{bundle.path}: graph {graph.name} has no file {graph.file}")
    data = tuple(_graph_data(bundle, graph.file))
    return dataclasses.replace(graph, data=data, bytes=sum(bundle.files[name].bytes for name in (graph.file, *data)))


def _check_files(bundle: Bundle) -> None:
    _check_links(bundle.path)
    for name, file in bundle.files.items():
        path = bundle.path / name
        if not path.is_file():
            raise BundleError(f"{bundle.path} lacks its file {name}: {_mend(bundle, name)}")
        if (size := path.stat().st_size) != file.bytes:
            raise BundleError(
                f"{path} is damaged: {size} bytes where the manifest says {file.bytes}; {_mend(bundle, name)}"
            )


def _mend(bundle: Bundle, name: str) -> str:
    """What to do about a file that is not as the manifest says."""
    if "/" not in name:
        return "make the bundle again"
    flavor, _, precision = name.partition("/")[0].rpartition("-")  # trt.engine_set.folder_name
    return f"build its engines again: glip-export trt {bundle.path} --{precision} --flavor {flavor}"


def _check_links(folder: Path) -> None:
    """Refuse a link out of the folder: whoever made the bundle would choose which file of this computer is read."""
    inside = folder.resolve()
    for path in _walk(folder):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise BundleError(f"{path} is a link out of the bundle, which is not followed: copy the file in its place")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _check_graphs(bundle: Bundle) -> None:
    """Every weight that an ONNX file reads must be a file of the bundle."""
    for graph in bundle.graphs.values():
        for name in (graph.file, *graph.data):
            if name not in bundle.files:
                raise BundleError(f"{bundle.path}: graph {graph.name} names {name}, which is no file of the bundle")
    for name in bundle.files:
        if name.lower().endswith(".onnx"):
            _graph_data(bundle, name)


def _graph_data(bundle: Bundle, graph_file: str) -> list[str]:
    names = []
    for location in external_data_files(bundle.path / graph_file):
        name = str(PurePosixPath(graph_file).parent / location)
        if ".." in PurePosixPath(name).parts or name not in bundle.files:
            raise BundleError(f"{bundle.path / graph_file} reads {location!r}, which is no file of the bundle")
        names.append(name)
    return names


def _check_hashes(bundle: Bundle, anew: bool) -> None:
    hashes = (hash_files if anew else remembered_hashes)(bundle.path, bundle.files)
    for name, file in bundle.files.items():
        if hashes[name] != file.sha256:
            raise BundleError(
                f"{bundle.path / name} is damaged or was changed: its SHA-256 is not the manifest's; "
                f"{_mend(bundle, name)}"
            )
