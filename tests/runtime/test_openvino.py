"""OpenVINO: equal to PyTorch in fp32, near enough in bf16, its cache, several shapes and threads."""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from glip_export.bundle import Bundle, File
from glip_export.bundle.files import sha256_file
from glip_export.errors import BackendError
from glip_export.parity.cases import Case, built_in_cases
from glip_export.parity.ladder import climb
from glip_export.parity.precision_check import compare_detections
from glip_export.parity.recall import RecallDiff, together
from glip_export.parity.run import Inputs, Outputs, run
from glip_export.runtime.backends import available_backends, open_session
from glip_export.runtime.native.instruction_sets import ONEDNN_VARIABLE, VARIABLE
from glip_export.runtime.session import Session

if TYPE_CHECKING:
    from glip_export.model.glip import Glip
    from glip_export.runtime.openvino_session import OpenVinoSession
    from glip_export.runtime.torch_session import TorchSession

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> OpenVinoSession:
    return open_session(bundle, "openvino", threads=2)


@pytest.fixture(scope="module")
def reference(tiny_model: Glip) -> TorchSession:
    from glip_export.runtime.torch_session import TorchSession

    return TorchSession(tiny_model)


@pytest.fixture(scope="module")
def cases(bundle: Bundle) -> list[Case]:
    """One picture, one with padded tokens, two of different sizes, three: all of different shapes."""
    return built_in_cases(bundle.config)


def test_fp32_equals_torch(
    session: OpenVinoSession, reference: TorchSession, bundle: Bundle, cases: list[Case]
) -> None:
    result = climb(reference, session, bundle.config, cases)
    assert result.failures() == []
    assert result.backend == "openvino"
    assert sum(picture.paired for picture in result.pictures()) > 500
    assert all(diff.relative < 5e-5 for _, diff in result.worst().values())


def test_bf16_finds_the_detections_again(
    session: OpenVinoSession, reference: TorchSession, bundle: Bundle, cases: list[Case]
) -> None:
    from glip_export.runtime.openvino_session import supports_bf16

    if not supports_bf16():
        pytest.skip("openvino:bf16 needs our kernels with AVX2 or AVX-512")
    fast = open_session(bundle, "openvino:bf16", threads=2)
    assert fast.name == "openvino:bf16"
    inputs = [case.inputs(bundle.config) for case in cases]
    expected = [run(reference, item) for item in inputs]
    diff = _recall(fast, inputs, expected)
    assert diff.counted > 400
    assert diff.within(), f"{diff.found} of {diff.counted}"
    assert diff.score > 2e-4  # so it is not fp32
    assert _recall(session, inputs, expected).score < 1e-4  # and fp32 never is less, on a CPU that could


def test_shapes_in_turn_leave_earlier_outputs_alone(
    session: OpenVinoSession, bundle: Bundle, cases: list[Case]
) -> None:
    one, other = (cases[index].inputs(bundle.config) for index in (0, 2))
    first = run(session, one)
    kept = [array.copy() for array in _arrays(first)]
    run(session, other)
    again = run(session, one)
    for before, now, repeated in zip(kept, _arrays(first), _arrays(again), strict=True):
        np.testing.assert_array_equal(before, now)
        np.testing.assert_array_equal(before, repeated)


def test_views_and_read_only_inputs(session: OpenVinoSession, bundle: Bundle, cases: list[Case]) -> None:
    inputs = cases[0].inputs(bundle.config)
    expected = session.vision_backbone(inputs.images)
    flipped = np.ascontiguousarray(inputs.images[..., ::-1])[..., ::-1]
    locked = inputs.images.copy()
    locked.setflags(write=False)
    for images in (flipped, locked):
        for level, other in zip(expected, session.vision_backbone(images), strict=True):
            np.testing.assert_array_equal(level, other)
    np.testing.assert_array_equal(locked, inputs.images)


def test_threads_may_call_side_by_side(bundle: Bundle, cases: list[Case]) -> None:
    from glip_export.runtime.openvino_session import OpenVinoSession

    session = OpenVinoSession(bundle, threads=2, hint="throughput")
    batches = [case.inputs(bundle.config) for case in cases[:2]]
    alone = [run(session, inputs) for inputs in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: run(session, batches[index % 2]), range(8)))
    for index, outputs in enumerate(together):
        for array, expected in zip(_arrays(outputs), _arrays(alone[index % 2]), strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-3)  # pixels; nothing of another call's


def test_the_cache_is_written_once_and_read_again(
    bundle: Bundle, tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    from glip_export.runtime.openvino_session import OpenVinoSession

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    inputs = cases[0].inputs(bundle.config)
    plain = OpenVinoSession(bundle, threads=2, cache=False)
    assert not list(tmp_path.glob("glip-export/openvino/*"))
    expected = _arrays(run(plain, inputs))
    for again in (False, True):
        session = OpenVinoSession(bundle, threads=2)
        blobs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("glip-export/openvino/*/*")}
        assert len(blobs) == 3
        if not again:
            filled = blobs
        for array, other in zip(expected, _arrays(run(session, inputs)), strict=True):
            np.testing.assert_allclose(array, other, atol=1e-3)
    assert blobs == filled

    for path in blobs:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # as a full disk leaves it
    session = OpenVinoSession(bundle, threads=2)
    np.testing.assert_array_equal(_arrays(run(session, inputs))[0], expected[0])


def test_other_weights_in_the_same_place_are_not_taken_from_the_cache(
    bundle: Bundle, tmp_path: Path, cases: list[Case]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("cache"))
    images = cases[0].inputs(bundle.config).images
    opened = Bundle.open(folder)
    before = open_session(opened, "openvino").vision_backbone(images)[0]
    (data,) = opened.graphs["vision_backbone"].data
    (np.fromfile(folder / data, np.float32) * 1.01).tofile(folder / data)
    changed = File(sha256_file(folder / data), opened.files[data].bytes)
    again = dataclasses.replace(opened, files={**opened.files, data: changed})
    assert np.abs(open_session(again, "openvino").vision_backbone(images)[0] - before).max() > 0.01


def test_a_folder_that_cannot_be_written_has_no_cache(
    bundle: Bundle, tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "glip-export").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = open_session(bundle, "openvino")
    assert session.vision_backbone(cases[0].inputs(bundle.config).images)[0].shape[1] == bundle.config.head.channels
    assert (tmp_path / "glip-export").is_file()


def test_what_cannot_be_had_is_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from glip_export.runtime import openvino_session
    from glip_export.runtime.openvino_session import OpenVinoSession

    with pytest.raises(BackendError, match="no precision 'int8' here: choose one of fp32, bf16"):
        OpenVinoSession(bundle, precision="int8")
    with pytest.raises(BackendError, match="no hint 'fast': choose one of latency, throughput"):
        OpenVinoSession(bundle, hint="fast")
    monkeypatch.setattr(openvino_session, "load_kernels", lambda: SimpleNamespace(has_int16=False))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BackendError, match="takes products of 16-bit whole numbers, and this CPU has none"):
        OpenVinoSession(bundle, precision="bf16")

    def without_compiler() -> None:
        raise BackendError("no C++ compiler was found")

    monkeypatch.setattr(openvino_session, "load_kernels", without_compiler)
    with pytest.raises(BackendError, match="in bf16 takes our own kernels, and no C\\+\\+ compiler was found"):
        OpenVinoSession(bundle, precision="bf16")
    assert OpenVinoSession(bundle, threads=2).name == "openvino"  # fp32 does without
    assert "runs without our kernels, at its own speed: no C++ compiler was found" in caplog.text
    monkeypatch.setenv(VARIABLE, "axv2")
    with pytest.raises(BackendError, match="GLIP_EXPORT_CPU_ISA=axv2 is none of what"):
        OpenVinoSession(bundle)


def test_bf16_without_whole_numbers_is_not_offered(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from glip_export.runtime import openvino_session

    monkeypatch.setattr(openvino_session, "load_kernels", lambda: SimpleNamespace(has_int16=True))
    assert "openvino:bf16" in available_backends(bundle)
    monkeypatch.setattr(openvino_session, "load_kernels", lambda: SimpleNamespace(has_int16=False))
    monkeypatch.setenv(VARIABLE, "generic")
    assert "openvino:bf16" not in available_backends(bundle) and "openvino" in available_backends(bundle)
    with pytest.raises(BackendError, match=r"GLIP_EXPORT_CPU_ISA=generic leaves none .*: use the backend openvino"):
        openvino_session.OpenVinoSession(bundle, precision="bf16")


@pytest.mark.parametrize(
    ("precision", "pays", "word", "hint"),
    [
        ("bf16", True, "", "bf16"),
        ("bf16", False, "", "f32"),
        ("bf16", True, "AVX2", "f32"),
        ("fp32", True, "", "f32"),
    ],
)
def test_openvinos_own_operators_take_bf16_where_it_pays(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, precision: str, pays: bool, word: str, hint: str
) -> None:
    from glip_export.runtime import openvino_session

    seen: list[str] = []

    class StoppedError(Exception):
        pass

    def stop(*arguments: Any) -> None:
        seen.append(arguments[-1]["INFERENCE_PRECISION_HINT"])
        raise StoppedError

    kernels = SimpleNamespace(has_int16=True, has_int8=False, bf16_pays=pays, fingerprint="none")
    monkeypatch.setattr(openvino_session, "load_kernels", lambda: kernels)
    monkeypatch.setattr(openvino_session.OpenVinoSession, "_compile", stop)
    monkeypatch.setenv(ONEDNN_VARIABLE, word)
    with pytest.raises(StoppedError):
        openvino_session.OpenVinoSession(bundle, precision=precision, cache=False)
    assert seen == [hint]


def test_wrong_inputs_are_one_line(session: OpenVinoSession) -> None:
    with pytest.raises(
        BackendError, match=r"OpenVINO failed in vision_backbone \(images \(1, 4, 64, 64\)\): "
    ) as caught:
        session.vision_backbone(np.zeros((1, 4, 64, 64), np.float32))
    assert "\n" not in str(caught.value)


def test_a_damaged_graph_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # in which nothing is compiled yet
    folder = tmp_path / "tiny"
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("cache"))
    opened = Bundle.open(folder)
    opened.graph_path("vision_backbone").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"OpenVINO .* cannot load .*vision_backbone.onnx: "):
        open_session(opened, "openvino")


def test_class_maximum(tmp_path: Path) -> None:
    """The MAX score aggregation: TopK with a k that the class map gives, and GatherND."""
    torch = pytest.importorskip("torch")
    from glip_export.graphs.translations import translation_table
    from glip_export.model.graph_ops import class_maximum

    class Module(torch.nn.Module):
        def forward(self, probabilities, class_map):
            return class_maximum(probabilities, class_map)

    any_size = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        Module().eval(),
        (torch.rand(2, 7, 9), torch.ones(2, 9, 5)),
        tmp_path / "max.onnx",
        dynamo=True,
        opset_version=20,
        custom_translation_table=translation_table(),
        dynamic_shapes=(any_size, any_size),
        verbose=False,
    )
    compiled = openvino.Core().compile_model(tmp_path / "max.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    generator = torch.Generator().manual_seed(0)
    for batch, positions, tokens, classes in ((2, 7, 9, 5), (1, 40, 12, 1), (2, 30, 30, 20)):
        probabilities = torch.rand(batch, positions, tokens, generator=generator)
        class_map = (torch.rand(batch, tokens, classes, generator=generator) > 0.6).float()
        class_map[0, :, 0] = 0  # a class without tokens
        (result,) = compiled([probabilities.numpy(), class_map.numpy()]).values()
        np.testing.assert_array_equal(result, class_maximum(probabilities, class_map).numpy())


def _recall(session: Session, inputs: list[Inputs], expected: list[Outputs]) -> RecallDiff:
    """Of all pictures together."""
    return together(compare_detections(want, run(session, item)) for item, want in zip(inputs, expected, strict=True))


def _arrays(outputs: Outputs) -> list[np.ndarray]:
    (chunk,) = outputs.chunks
    return [*outputs.features, chunk.text_features, chunk.boxes, chunk.scores, chunk.labels, chunk.count]
