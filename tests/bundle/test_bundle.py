"""The bundle: what is written opens, and whatever was changed, cut short or made to point elsewhere does not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glip_export.bundle import Bundle, Graph, hashes, newest_bundle, write_manifest
from glip_export.bundle import bundle as bundle_module
from glip_export.bundle.files import atomic_directory
from glip_export.errors import BundleError

pytest.importorskip("onnx")

from small_bundle import CONFIG, WEIGHTS, fill, graph


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "glip_tiny", versions={"torch": "2.13.0"}, extra={"parity": {"boxes": 3e-5}})
    return tmp_path / "glip_tiny"


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refuse(folder: Path, message: str, verify: bool = True) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(folder, verify=verify)
    assert "\n" not in str(caught.value)


def test_round_trip(folder: Path) -> None:
    bundle = Bundle.open(folder)
    written = fill(folder, versions={"torch": "2.13.0"}, extra={"parity": {"boxes": 3e-5}}, created=bundle.created)
    assert written == bundle == Bundle.open(str(folder), verify=False)
    assert bundle.config == CONFIG and bundle.config.image.std == (1.0, 2.0, 3.0)
    assert bundle.weights == WEIGHTS
    assert (bundle.format, bundle.name, bundle.precision, bundle.image_size) == (1, "glip_tiny", "fp32", None)
    assert bundle.created.endswith("+00:00")
    assert bundle.versions["torch"] == "2.13.0"
    assert bundle.extra == {"parity": {"boxes": 3e-5}}
    assert bundle.graph_path("fusion_head") == folder / "fusion_head.onnx"


def test_a_static_bundle_keeps_its_size_and_precision(tmp_path: Path) -> None:
    fill(tmp_path / "static", image_size=(800, 1216), precision="fp16")
    bundle = Bundle.open(tmp_path / "static")
    assert bundle.image_size == (800, 1216) and bundle.precision == "fp16"


def test_every_file_is_listed_with_its_hash_and_size(folder: Path) -> None:
    bundle = Bundle.open(folder)
    expected = ["engines/fp16.engine", "fusion_head.onnx", "fusion_head.onnx.data", "text_encoder.onnx"]
    assert sorted(bundle.files) == expected
    for name, file in bundle.files.items():
        content = (folder / name).read_bytes()
        assert (file.sha256, file.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert bundle.graphs["text_encoder"].data == ()
    head = bundle.graphs["fusion_head"]
    assert head.data == ("fusion_head.onnx.data",)
    assert head.bytes == (folder / "fusion_head.onnx").stat().st_size + 4096
    assert (head.opset, head.nodes, head.parameters, head.seconds) == (20, 1, 1024, 1.25)


def test_an_unknown_graph_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="has no graph vision_backbone, only text_encoder, fusion_head"):
        Bundle.open(folder).graph_path("vision_backbone")


@pytest.mark.parametrize("name", ["engines/fp16.engine", "fusion_head.onnx.data"])
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refuse(folder, f"{name} is damaged or was changed: its SHA-256")
    assert Bundle.open(folder, verify=False).name == "glip_tiny"


@pytest.mark.parametrize("verify", [True, False])
def test_a_shorter_and_a_missing_file_are_found(folder: Path, verify: bool) -> None:
    data = folder / "fusion_head.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    refuse(folder, "fusion_head.onnx.data is damaged: 4095 bytes where the manifest says 4096", verify)
    data.unlink()
    refuse(folder, "lacks its file fusion_head.onnx.data", verify)


def test_folders_that_are_no_bundle(folder: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "none", "no bundle at .*none; make one with: glip-export onnx")
    refuse(folder / "text_encoder.onnx", "is a file and a bundle is a folder")
    refuse(tmp_path, r"is not a bundle, it has no manifest\.json; make one with: glip-export onnx")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"format": 1' + b"1" * 5000 + b"}"])
def test_a_manifest_that_is_not_json(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    refuse(folder, r"manifest\.json is not valid JSON")


def test_a_manifest_that_is_not_an_object_or_too_large(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")
    refuse(folder, "holds no JSON object")
    (folder / "manifest.json").write_bytes(b" " * (4 << 20) + b"{}")
    refuse(folder, r"manifest\.json is over 4 MB")


def test_a_newer_format_is_refused_before_anything_else(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(format=3, graphs="in another form"))
    refuse(folder, "made by a newer glip-export: format 3, this one reads 1")
    edit(folder, lambda manifest: manifest.update(format=0))
    refuse(folder, "there is no format 0")


def test_a_bundle_from_before_averaged_weights(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["weights"].pop("ema"))
    assert not Bundle.open(folder).weights.ema


REQUIRED = ["format", "name", "created", "config", "weights", "graphs", "files", "precision", "versions", "extra"]


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_keys_and_wrong_types_are_named(folder: Path, key: str) -> None:
    edit(folder, lambda manifest: manifest.update({key: True}))
    refuse(folder, f"manifest.json: {key} should be (a whole number|a text|an object), not 'True'")
    edit(folder, lambda manifest: manifest.pop(key))
    refuse(folder, f"manifest.json: {key} is missing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["graphs"].update(fusion_head=3), "graphs: fusion_head should be an object, not 3"),
        (lambda m: m["graphs"]["fusion_head"].update(opset="20"), "fusion_head: opset should be a whole number"),
        (lambda m: m["graphs"]["fusion_head"].update(seconds=None), "fusion_head: seconds should be a number"),
        (lambda m: m["graphs"]["fusion_head"].update(data=[1]), "fusion_head: data should be file names"),
        (lambda m: m["graphs"]["fusion_head"].update(file="other.onnx"), "names other.onnx, which is no file of"),
        (lambda m: m["graphs"]["fusion_head"].update(data=["../x"]), "names ../x, which is no file of"),
        (lambda m: m["files"].update({"a": []}), r"files: a should be an object, not \[\]"),
        (lambda m: m["files"]["text_encoder.onnx"].pop("sha256"), "file text_encoder.onnx: sha256 is missing"),
        (lambda m: m["files"].pop("fusion_head.onnx.data"), "names fusion_head.onnx.data, which is no file of"),
        (lambda m: m["weights"].pop("path"), "weights: path is missing"),
        (lambda m: m["weights"].update(ema="yes"), "weights: ema should be true or false, not 'yes'"),
        (lambda m: m.update(image_size=[800]), r"image_size should be null or \[height, width\]"),
        (lambda m: m.update(image_size=[0, 800]), r"image_size should be null or \[height, width\]"),
        (lambda m: m["config"].update(speed=1), "speed"),
        (lambda m: m["config"]["swin"].update(embed_dim="96"), "swin.embed_dim"),
    ],
)
def test_a_wrong_manifest_is_told(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit(folder, change)
    refuse(folder, message)


OUTSIDE = [
    "../secret",
    "a/../../secret",
    "/etc/hostname",
    "./a",
    "a//b",
    "",
    "..\\secret",
    "C:secret",
    "a\0",
    "\x1b[2J",
]


@pytest.mark.parametrize("name", [*OUTSIDE, "\ud800", "manifest.json"])
def test_file_names_that_lead_elsewhere_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))
    refuse(folder, "which is not the plain name of a file in the bundle")


def test_a_name_too_long_for_the_disk_is_one_line(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["files"].update({"a" * 5000: {"sha256": "", "bytes": 0}}))
    refuse(folder, "cannot read the bundle|lacks its file")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("listed", [True, False])
def test_links_out_of_the_folder_are_refused(folder: Path, listed: bool) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    (folder / "engines" / "link").symlink_to("../../secret")
    if listed:
        entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
        edit(folder, lambda manifest: manifest["files"].update({"engines/link": entry}))
    refuse(folder, "link is a link out of the bundle")
    (folder / "engines" / "link").unlink()
    (folder / "engines" / "up").symlink_to(folder.parent, target_is_directory=True)
    refuse(folder, "up is a link out of the bundle")
    with pytest.raises(BundleError, match="up is a link out of the bundle"):
        fill(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_inside_and_to_itself(folder: Path) -> None:
    (folder / "same.engine").symlink_to("engines/fp16.engine")
    assert fill(folder).files["same.engine"] == Bundle.open(folder).files["engines/fp16.engine"]
    (folder / "loop").symlink_to("loop")
    edit(folder, lambda manifest: manifest["files"].update({"loop": {"sha256": "", "bytes": 0}}))
    refuse(folder, "cannot read the bundle|lacks its file loop")


LEADING_OUT = ["../secret", "engines/../../secret", "ABSOLUTE", "linkdir/secret", "link"]


@pytest.mark.parametrize("location", [*LEADING_OUT, "unlisted.data", "*/_ORT_MEM_ADDR_/*"])
def test_graphs_that_read_other_files_are_refused(folder: Path, location: str) -> None:
    (folder.parent / "secret").write_bytes(bytes(4096))
    content = graph("fusion_head", str(folder.parent / "secret") if location == "ABSOLUTE" else location)
    (folder / "fusion_head.onnx").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda manifest: manifest["files"].update({"fusion_head.onnx": entry}))
    refuse(folder, r"fusion_head\.onnx reads '.*', which is no file of the bundle", verify=False)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="which is no file of the bundle"):
        write_manifest(folder, name="x", config=CONFIG, weights=WEIGHTS, graphs=[])
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("location", LEADING_OUT)
def test_onnxruntime_too_refuses_data_outside_the_folder(folder: Path, location: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    (folder.parent / "secret").write_bytes(bytes(4096))
    (folder / "linkdir").symlink_to("..", target_is_directory=True)
    (folder / "link").symlink_to("../secret")
    path = folder / "fusion_head.onnx"
    path.write_bytes(graph("fusion_head", str(folder.parent / "secret") if location == "ABSOLUTE" else location))
    with pytest.raises(Exception, match="External data path validation failed"):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    path.write_bytes(graph("fusion_head", "fusion_head.onnx.data"))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1024]


def test_a_damaged_graph_is_refused(folder: Path) -> None:
    content = (folder / "text_encoder.onnx").read_bytes()[:-9]
    (folder / "text_encoder.onnx").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda manifest: manifest["files"].update({"text_encoder.onnx": entry}))
    refuse(folder, "text_encoder.onnx is not an ONNX file, or is damaged")


def test_write_manifest_wants_the_graphs_files_and_a_small_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Graph("vision_backbone", "vision_backbone.onnx", opset=20, nodes=1, parameters=1, seconds=1.0)
    with pytest.raises(BundleError, match=r"graph vision_backbone has no file vision_backbone\.onnx"):
        fill(folder, graphs=[missing])
    with pytest.raises(BundleError, match="would be over 4 MB: note less in extra"):
        fill(folder, extra={"text": "x" * (4 << 20)})
    monkeypatch.setattr(bundle_module, "MAX_MANIFEST_BYTES", 100)
    refuse(folder, "is over 0 MB")


def test_write_manifest_leaves_out_its_own_file_leftovers_and_caches(folder: Path) -> None:
    (folder / ".fusion_head.partial-4194305-0123abcd.onnx").write_bytes(b"half a graph")
    (folder / "cache" / "openvino").mkdir(parents=True)
    (folder / "cache" / "openvino" / "compiled.blob").write_bytes(b"made anew at will")
    assert len(fill(folder).files) == 4


def test_frozen(folder: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Bundle.open(folder).name = "x"  # type: ignore[misc]


def test_newest_bundle(tmp_path: Path) -> None:
    root = tmp_path / "engines"
    for _ in range(2):  # without the folder, then with only a recipe in it
        with pytest.raises(BundleError, match=r"no bundle in .*engines; make one with: glip-export onnx"):
            newest_bundle(root)
        root.mkdir(exist_ok=True)
        (root / "recipe.yaml").touch()
    for second, name in enumerate(["b", "a", ".c.partial-4194305-0123abcd"]):
        fill(root / name)
        os.utime(root / name / "manifest.json", (1000 + second, 1000 + second))
    assert newest_bundle(root) == root / "a"
    os.utime(root / "b" / "manifest.json", (2000, 2000))
    assert newest_bundle(str(root)) == root / "b"


def made(folder: Path, **files: bytes) -> Path:
    """A finished folder in the bundle's cache."""
    source = folder / "cache" / "made"
    source.mkdir(parents=True)
    for name, content in files.items():
        (source / name).write_bytes(content)
    return source


def test_a_folder_is_added_and_replaced(folder: Path) -> None:
    before = Bundle.open(folder)
    first = before.take_folder(made(folder, a=b"1", b=b"2"), "tensorrt_rtx-fp16")
    assert Bundle.open(folder) == first
    assert set(first.files) == {*before.files, "tensorrt_rtx-fp16/a", "tensorrt_rtx-fp16/b"}
    second = before.take_folder(made(folder, b=b"three"), "tensorrt_rtx-fp16")  # `before` knows nothing of the first
    assert Bundle.open(folder) == second
    assert second.files["tensorrt_rtx-fp16/b"].sha256 == hashlib.sha256(b"three").hexdigest()
    assert set(second.files) == {*before.files, "tensorrt_rtx-fp16/b"}
    third = second.take_folder(made(folder, c=b"4"), "tensorrt-fp32")
    assert set(third.files) == {*second.files, "tensorrt-fp32/c"} and Bundle.open(folder) == third
    assert (third.name, third.graphs, third.created) == (before.name, before.graphs, before.created)
    assert not (folder / "cache" / "made").exists()


def test_adding_a_folder_hashes_only_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, hashed = Bundle.open(folder), []
    sha256_file = hashes.sha256_file

    def note(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(hashes, "sha256_file", note)
    bundle.take_folder(made(folder, a=b"1", b=b"2"), "added")
    assert sorted(hashed) == ["a", "b"]


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "cache", "manifest.json", "text_encoder.onnx", "a\n"])
def test_a_folder_needs_a_name_of_its_own(folder: Path, name: str) -> None:
    bundle, source = Bundle.open(folder), made(folder, a=b"1")
    with pytest.raises(BundleError, match="cannot have a folder"):
        bundle.take_folder(source, name)
    assert Bundle.open(folder) == bundle and source.is_dir()


@pytest.mark.parametrize("step", ["rmtree", "rename", "atomic_write_text"])
def test_stopped_while_it_replaces_a_folder_a_bundle_opens(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    bundle = Bundle.open(folder).take_folder(made(folder, a=b"1"), "added")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    source = made(folder, a=b"22")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        where = {"rmtree": bundle_module.shutil, "rename": bundle_module.os}.get(step, bundle_module)
        patched.setattr(where, step, stop)
        bundle.take_folder(source, "added")
    opened = Bundle.open(folder)
    assert opened.files.get("added/a") == (bundle.files["added/a"] if step == "atomic_write_text" else None)
    assert set(opened.files) - {"added/a"} == set(bundle.files) - {"added/a"}
    if not source.exists():
        source = made(folder, a=b"22")
    assert opened.take_folder(source, "added").files["added/a"].bytes == 2
    assert (folder / "added" / "a").read_bytes() == b"22"


def test_a_damaged_folder_can_be_left_out_and_made_again(folder: Path) -> None:
    bundle = Bundle.open(folder).take_folder(made(folder, a=b"1"), "tensorrt-fp32")
    (folder / "tensorrt-fp32" / "a").write_bytes(b"damaged")
    refuse(folder, "is damaged: 7 bytes .* build its engines again: glip-export trt .* --fp32 --flavor tensorrt$")
    sound = Bundle.open(folder, without="tensorrt-fp32")
    assert set(sound.files) == set(bundle.files) - {"tensorrt-fp32/a"}
    assert sound.take_folder(made(folder, a=b"1"), "tensorrt-fp32") == bundle == Bundle.open(folder)


EXPORT_AND_DIE = """
import os, signal, sys
sys.path[:0] = [sys.argv[2]]
from glip_export.bundle.files import atomic_directory
from small_bundle import fill
with atomic_directory(sys.argv[1]) as folder:
    fill(folder)  # even the manifest is there already
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_export_leaves_nothing_that_opens(tmp_path: Path) -> None:
    target = tmp_path / "engines" / "glip_tiny"
    command = [sys.executable, "-c", EXPORT_AND_DIE, str(target), str(Path(__file__).parents[1])]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    refuse(target, "no bundle at")
    (leftover,) = target.parent.iterdir()
    assert (leftover / "manifest.json").is_file()
    refuse(leftover, "is what an interrupted export left, not a bundle")
    with pytest.raises(BundleError, match="no bundle in"):
        newest_bundle(target.parent)
    with atomic_directory(target) as folder:
        fill(folder)
    assert [path.name for path in target.parent.iterdir()] == ["glip_tiny"]
    assert Bundle.open(target).name == "glip_tiny"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_second_export_leaves_the_first(tmp_path: Path) -> None:
    target = tmp_path / "glip_tiny"
    with atomic_directory(target) as folder:
        fill(folder, name="the first")
    command = [sys.executable, "-c", EXPORT_AND_DIE, str(target), str(Path(__file__).parents[1])]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert Bundle.open(target).name == "the first"


def test_a_changed_byte_is_found_where_hashes_are_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(hashes, "LEAST_BYTES", 1)
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    for _ in range(2):
        Bundle.open(folder)
    data = folder / "fusion_head.onnx.data"
    before, content = data.stat(), bytearray(data.read_bytes())
    content[7] ^= 1
    time.sleep(0.05)  # longer than a kernel's clock stands still
    data.write_bytes(content)
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    for anew in (False, True):
        with pytest.raises(BundleError, match=r"fusion_head\.onnx\.data is damaged or was changed: its SHA-256"):
            Bundle.open(folder, anew=anew)


def test_anew_hashes_what_is_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: file.sha256 for name, file in Bundle.open(folder).files.items()}
    monkeypatch.setattr("glip_export.bundle.bundle.remembered_hashes", lambda *_: kept)
    data = folder / "fusion_head.onnx.data"
    data.write_bytes(bytes(byte ^ 1 for byte in data.read_bytes()))
    Bundle.open(folder)
    with pytest.raises(BundleError, match="is damaged or was changed"):
        Bundle.open(folder, anew=True)
