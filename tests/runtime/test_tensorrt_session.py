"""The TensorRT session end to end on a fake GPU whose engines ONNX Runtime runs: detections, memory, CUDA graphs."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compact_oracle import OracleCase
from runtime.cuda.fake_driver import FakeDriver
from runtime.cuda.fake_tensorrt import FakeTensorRt, engine_words

from glip_export import Detector
from glip_export.bundle import Bundle, File
from glip_export.bundle.files import sha256_file
from glip_export.errors import BackendError
from glip_export.graphs.contracts import fixed_axes, graphs_of, pyramid_axes
from glip_export.parity.cases import Case, built_in_cases
from glip_export.parity.ladder import climb
from glip_export.parity.run import Outputs, run
from glip_export.runtime.backends import open_session
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.tensorrt_session import TensorRtSession
from glip_export.trt.engine_set import Engine as EngineFile
from glip_export.trt.engine_set import EngineSet

SMALL = {"B": (1, 1, 2), "H": (32, 192, 256), "T": (3, 10, 24), "K": (1, 4, 8)}
LARGE = {"B": (1, 2, 3), "H": (32, 320, 640), "T": (3, 64, 64), "K": (1, 16, 80)}


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, verify=False)


@pytest.fixture(scope="module")
def built(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with tensorrt engines in fp32: its own graphs in two profiles."""
    return add_engines(plain, tmp_path_factory.mktemp("engines"), "fp32")


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def trt(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    from glip_export.trt import flavor, plugins

    fake = FakeTensorRt(driver)
    monkeypatch.setattr(flavor, "load_flavor", lambda name: flavor.Flavor(name, fake.__version__, fake))
    monkeypatch.setattr(plugins, "register_plugins", lambda trt: setattr(fake, "plugins", True))
    return fake


@pytest.fixture
def session(built: Bundle, driver: FakeDriver, trt: FakeTensorRt) -> TensorRtSession:
    return TensorRtSession(built, driver=driver)


@pytest.fixture(scope="module")
def reference(plain: Bundle) -> Any:
    return open_session(plain, "onnxruntime", threads=1)


@pytest.fixture(scope="module")
def cases(plain: Bundle) -> list[Case]:
    return built_in_cases(plain.config)


@pytest.fixture(scope="module")
def pictures(tiny_io: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [tiny_io["raw_image0"], tiny_io["raw_image1"]]


def add_engines(bundle: Bundle, folder: Path, precision: str, graphs: dict[str, Path] | None = None, **words) -> Bundle:
    """The bundle as if `glip-export trt` had built engines for the fake; `graphs` replaces ONNX files."""
    target = folder / f"tensorrt-{precision}"
    target.mkdir()
    axes = fixed_axes(bundle.config)
    engines = {}
    for name, spec in graphs_of(bundle.config).items():
        path = (graphs or {}).get(name, bundle.graph_path(name))
        profiles = [profile_of(spec, axes, ranges) for ranges in (SMALL, LARGE)]
        file = target / f"{name}.engine"
        file.write_bytes(engine_words(path.resolve(), profiles))
        engines[name] = EngineFile(
            file.name, sha256_file(file), file.stat().st_size, 1.0, "k", profiles, spec.input_names, ["x"], {}
        )
    known = {"deform_conv": "plugin", "nms": "plugin", "version": FakeTensorRt.__version__, **words}
    engine_set = EngineSet(
        folder=target, flavor="tensorrt", precision=precision, recipe={}, key="0" * 64, graphs=engines, **known
    )
    (target / "engines.json").write_text(json.dumps(engine_set.to_json()))
    files = {f"{target.name}/{path.name}": File(sha256_file(path), path.stat().st_size) for path in target.iterdir()}
    for file in bundle.path.iterdir():
        if file.is_file() and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file.resolve())
    return dataclasses.replace(bundle, path=folder, files={**bundle.files, **files})


def profile_of(spec, fixed: dict[str, int], ranges: dict[str, tuple[int, int, int]]) -> dict[str, Any]:
    profile: dict[str, Any] = {}
    for tensor in spec.inputs:
        shapes = []
        for place in range(3):
            side = ranges["H"][place]
            axes = {**fixed, **pyramid_axes(side, side), **{axis: bounds[place] for axis, bounds in ranges.items()}}
            axes["W"] = side
            shapes.append([axes[axis] if isinstance(axis, str) else axis for axis in tensor.axes])
        profile[tensor.name] = dict(zip(("min", "opt", "max"), shapes, strict=True))
    return profile


def arrays(outputs: Outputs) -> list[np.ndarray]:
    chunks = [[c.text_features, c.boxes, c.scores, c.labels, c.count] for c in outputs.chunks]
    return [np.asarray(array) for array in (*outputs.features, *(item for chunk in chunks for item in chunk))]


def test_detections_equal_onnxruntimes(
    session: TensorRtSession, reference: Any, built: Bundle, pictures: list[np.ndarray], driver: FakeDriver
) -> None:
    ours, theirs = (Detector(one, built.config, built.image_size) for one in (session, reference))
    four = "person. bicycle. traffic light. hair drier"
    runs = ((pictures, four), (pictures[:1], "cat"), (pictures, ["red car", "dog"]), (pictures[:1], "cat"))
    found = [result for run in runs for result in ours.detect(*run)]  # all of them before any is looked at
    expected = [result for run in runs for result in theirs.detect(*run)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.scores.dtype == np.float32 and one.labels.dtype == np.int64
    assert session.name == "tensorrt:fp32" and session.precision == "fp32"
    assert driver.pending() == 0  # who has the detections need not wait


def test_a_backbone_that_fuses_text(
    oracle_bundle: Callable[[OracleCase], Path], tmp_path: Path, driver: FakeDriver, trt: FakeTensorRt
) -> None:
    case = OracleCase("swint_vl_nofuse")
    plain = Bundle.open(oracle_bundle(case), verify=False)
    built = add_engines(plain, tmp_path, "fp32")
    sessions = TensorRtSession(built, driver=driver), open_session(plain, "onnxruntime", threads=1)
    ours, theirs = (Detector(one, built.config) for one in sessions)
    runs = ((case.pictures(), case.prompt["names"]), (case.pictures()[:1], "cat"), (case.pictures(), "dog"))
    for pictures, prompt in runs:
        for one, other in zip(ours.detect(pictures, prompt), theirs.detect(pictures, prompt), strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.scores, other.scores)
    assert driver.pending() == 0


def test_the_ladder_of_checks(session: TensorRtSession, reference: Any, built: Bundle, cases: list[Case]) -> None:
    """What `glip-export verify` does with the session's outputs, device arrays among them."""
    result = climb(reference, session, built.config, cases)
    assert result.failures() == []
    assert all(diff.max_abs == 0 for _, diff in result.worst().values())


def test_features_of_earlier_pictures_stay(
    session: TensorRtSession, reference: Any, built: Bundle, pictures: list[np.ndarray]
) -> None:
    ours, theirs = (Detector(one, built.config) for one in (session, reference))
    encoded = [ours.encode_images([picture]) for picture in pictures]
    expected = [theirs.encode_images([picture]) for picture in pictures]
    for prompt in ("cat", "dog. red car"):
        for one, other in zip(encoded, expected, strict=True):
            np.testing.assert_array_equal(
                ours.detect_encoded(one, prompt)[0].boxes, theirs.detect_encoded(other, prompt)[0].boxes
            )


def test_feature_maps_and_text_never_visit_the_host(
    session: TensorRtSession, built: Bundle, pictures: list[np.ndarray], driver: FakeDriver
) -> None:
    detector = Detector(session, built.config)
    detector.detect(pictures, "cat. dog")
    encoded = detector.encode_images(pictures)
    assert all(isinstance(level, DeviceArray) for level in encoded.features)
    driver.counts.clear()
    detector.detect_encoded(encoded, "cat. dog")
    # In: mask, class map, sizes, and within the device the text once a picture, then to where the engine reads it.
    # Out: boxes, scores, labels, count.
    assert driver.counts["copy"] == 3 + len(pictures) + 1 + 4
    assert driver.counts["allocate"] == driver.counts["allocate_host"] == 0
    assert driver.counts["synchronize"] == 1


def test_one_graph_a_shape_after_a_plain_run(
    session: TensorRtSession, built: Bundle, pictures: list[np.ndarray], driver: FakeDriver, trt: FakeTensorRt
) -> None:
    detector = Detector(session, built.config)
    results = []
    counts = []
    for _ in range(8):
        driver.counts.clear()
        results.append(detector.detect(pictures[:1], "cat")[0])
        counts.append((driver.counts["begin_capture"], driver.counts["launch"], driver.counts["allocate"]))
    # Two image buffers take turns, so the backbone has two graphs; addresses come back after the first runs.
    captures = [capture for capture, _, _ in counts]
    assert captures[0] == 0 and sum(captures) == 3 and captures[4:] == [0] * 4
    assert counts[-1] == (0, 2, 0)  # vision_backbone and fusion_head; the text is in the Detector's cache
    assert session.describe()["cuda_graphs"] == {"text_encoder": 0, "vision_backbone": 2, "fusion_head": 1}
    for result in results[1:]:
        np.testing.assert_array_equal(result.boxes, results[0].boxes)
        np.testing.assert_array_equal(result.scores, results[0].scores)
    graph_contexts = [context for context in trt.contexts if context.runs == 1 and context.memory[1]]
    assert len(graph_contexts) >= 3  # a context of its own for each graph

    other = detector.detect(pictures[1:], "red car. dog. cat")[0]  # other shapes between replays
    again = detector.detect(pictures[:1], "cat")[0]
    np.testing.assert_array_equal(again.boxes, results[0].boxes)
    assert len(other)


def test_replays_follow_the_data(session: TensorRtSession, reference: Any, built: Bundle) -> None:
    generator = np.random.default_rng(0)
    for _ in range(6):
        images = generator.standard_normal((1, 3, 64, 96), np.float32)
        for one, other in zip(session.vision_backbone(images), reference.vision_backbone(images), strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)
    assert session.describe()["cuda_graphs"]["vision_backbone"] == 2


@pytest.mark.parametrize("eager", [False, True])
def test_many_calls_before_anybody_waits(
    session: TensorRtSession, reference: Any, driver: FakeDriver, eager: bool
) -> None:
    driver.eager = set(driver.streams) - {session.stream} if eager else set()
    generator = np.random.default_rng(3)
    batches = [generator.standard_normal((1, 3, 64, 64), np.float32) for _ in range(5)]
    texts = [generator.integers(1000, 2000, (1, 8)) for _ in range(5)]
    features = [session.vision_backbone(batch) for batch in batches]
    encoded = [session.text_encoder(ids, np.ones_like(ids)) for ids in texts]
    assert driver.counts["synchronize"] == 0
    for found, batch in zip(features, batches, strict=True):
        for level, expected in zip(found, reference.vision_backbone(batch), strict=True):
            np.testing.assert_array_equal(np.asarray(level), expected)
    for found, ids in zip(encoded, texts, strict=True):
        np.testing.assert_array_equal(np.asarray(found), reference.text_encoder(ids, np.ones_like(ids)))


def test_without_graphs(built: Bundle, driver: FakeDriver, trt: FakeTensorRt, pictures: list[np.ndarray]) -> None:
    detector = Detector(TensorRtSession(built, driver=driver, cuda_graphs=0), built.config)
    for _ in range(4):
        detector.detect(pictures[:1], "cat")
    assert driver.counts["begin_capture"] == 0


def test_a_capture_that_fails_is_no_failure(
    session: TensorRtSession, built: Bundle, pictures: list[np.ndarray], driver: FakeDriver, trt: FakeTensorRt
) -> None:
    detector = Detector(session, built.config)
    trt.fail_capture = True
    results = [detector.detect(pictures[:1], "cat")[0] for _ in range(5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.boxes, results[0].boxes)
    trouble = session.describe()["cuda_graph_trouble"]
    assert "the kernel was refused" in trouble["fusion_head"]
    assert driver.counts["begin_capture"] == len(trouble) == 2  # tried once for each engine
    assert not driver.capturing


def test_the_next_batch_is_copied_ahead(
    session: TensorRtSession, reference: Any, built: Bundle, driver: FakeDriver
) -> None:
    generator = np.random.default_rng(1)
    batches = [generator.standard_normal((1, 3, 64, 64), np.float32) for _ in range(5)]
    session.prefetch(batches[0])
    for index, batch in enumerate(batches):
        driver.counts.clear()
        features = session.vision_backbone(batch)
        assert driver.counts["copy"] == 0  # it was copied ahead
        assert driver.pending() > 0  # and nobody waits for the result
        if index + 1 < len(batches):
            session.prefetch(batches[index + 1])
        for level, expected in zip(features, reference.vision_backbone(batch), strict=True):
            np.testing.assert_array_equal(np.asarray(level), expected)


def test_prefetching_too_much_is_only_work(session: TensorRtSession, reference: Any) -> None:
    batches = [np.full((1, 3, 64, 64), value, np.float32) for value in range(4)]
    for batch in batches:
        session.prefetch(batch)
    for batch in batches:
        np.testing.assert_array_equal(
            np.asarray(session.vision_backbone(batch)[4]), reference.vision_backbone(batch)[4]
        )


def test_candidates_are_finished_on_the_host(
    plain: Bundle, tmp_path: Path, driver: FakeDriver, trt: FakeTensorRt, reference: Any, cases: list[Case]
) -> None:
    import onnx_ir

    from glip_export.graphs.contracts import FUSION_HEAD
    from glip_export.trt.lowering import lower

    model = onnx_ir.load(plain.graph_path("fusion_head"))
    lowered = lower(model, FUSION_HEAD, plain.config, deform_conv="gridsample", nms="host")
    onnx_ir.save(lowered, tmp_path / "lowered.onnx", external_data="lowered.data")
    bundle = add_engines(
        plain, tmp_path, "fp32", {"fusion_head": tmp_path / "lowered.onnx"}, deform_conv="gridsample", nms="host"
    )
    session = TensorRtSession(bundle, driver=driver)
    assert not hasattr(trt, "plugins")
    for case in (cases[0], cases[2]):
        inputs = case.inputs(plain.config)
        found, expected = run(session, inputs).chunks[0], run(reference, inputs).chunks[0]
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.count, expected.count)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.02)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_the_callers_stream(
    built: Bundle, driver: FakeDriver, trt: FakeTensorRt, reference: Any, cases: list[Case]
) -> None:
    class Stream:  # as PyCUDA's
        handle = 0

    with driver.active():
        Stream.handle = driver.new_stream()
    session = TensorRtSession(built, driver=driver, stream=Stream())
    assert session.stream == Stream.handle
    inputs = cases[0].inputs(built.config)
    for one, other in zip(arrays(run(session, inputs)), arrays(run(reference, inputs)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_inputs_of_other_libraries_are_not_copied_to_the_host(
    session: TensorRtSession, reference: Any, driver: FakeDriver
) -> None:
    images = np.random.default_rng(2).standard_normal((1, 3, 64, 64), np.float32)
    for _ in range(2):  # a buffer that grows waits for everything: both have their size
        session.vision_backbone(np.zeros_like(images))
    with driver.active():
        pointer, producer = driver.allocate(images.nbytes), driver.new_stream()
        driver.copy(pointer, images, images.nbytes, producer)  # which nobody has waited for

    class GpuArray:  # as PyCUDA's or CuPy's
        shape = images.shape
        __cuda_array_interface__ = {  # noqa: RUF012
            "shape": images.shape, "typestr": "<f4", "data": (pointer, False), "version": 3, "stream": producer,
        }  # fmt: skip

        def __len__(self) -> int:
            return len(images)

    driver.counts.clear()
    features = session.vision_backbone(GpuArray())
    assert driver.counts["allocate_host"] == 0
    for one, other in zip(features, reference.vision_backbone(images), strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


def test_features_of_another_session_are_taken_by_dlpack(
    session: TensorRtSession, built: Bundle, driver: FakeDriver, reference: Any, cases: list[Case], monkeypatch: Any
) -> None:
    from glip_export.runtime.cuda import dlpack

    monkeypatch.setattr(dlpack, "CUDA", 1)  # the fake's memory says it is a CPU's, so that NumPy may read it
    inputs = cases[0].inputs(built.config)
    text = inputs.chunks[0]
    other = TensorRtSession(built, driver=driver)
    shared = (text.attention_mask[None], text.class_map[None], inputs.sizes)
    monkeypatch.setattr(dlpack, "CUDA", 2)
    features, text_features = other.vision_backbone(inputs.images), other.text_encoder(text.input_ids[None], shared[0])
    expected = reference.fusion_head(tuple(np.asarray(level) for level in features), np.asarray(text_features), *shared)
    # Only the device arrays may be taken as such: NumPy's own say that they are a CPU's too.
    monkeypatch.setattr("glip_export.runtime.cuda.inputs.is_on_device", lambda array: isinstance(array, DeviceArray))
    for one, two in zip(session.fusion_head(features, text_features, *shared), expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_the_engines_do_not_take_is_told(session: TensorRtSession, built: Bundle) -> None:
    command = re.escape(f"glip-export trt {built.path} --fp32 --flavor tensorrt")
    ids = np.ones((1, 300), np.int64)
    with pytest.raises(BackendError, match=rf"300 tokens of a prompt, it takes 3..24 or 3..64: .*{command}$"):
        session.text_encoder(ids, ids)
    with pytest.raises(BackendError, match=r"4 pictures in a batch, it takes 1..2 or 1..3; nor 800 pixels of height"):
        session.vision_backbone(np.zeros((4, 3, 800, 64), np.float32))
    with pytest.raises(BackendError, match="images is float64 and should be float32"):
        session.vision_backbone(np.zeros((1, 3, 64, 64)))
    with pytest.raises(BackendError, match="images is a list"):
        session.vision_backbone([[1.0]])  # type: ignore[arg-type]
    assert session.vision_backbone(np.zeros((1, 3, 64, 64), np.float32))[0].shape == (1, 64, 8, 8)  # and goes on


def test_a_run_that_fails_is_told(session: TensorRtSession, trt: FakeTensorRt) -> None:
    trt.fail_run = True
    with pytest.raises(
        BackendError, match=r"vision_backbone failed \(images \(1, 3, 64, 64\)\): enqueueV3: the kernel"
    ):
        session.vision_backbone(np.zeros((1, 3, 64, 64), np.float32))


def test_engines_that_are_not_there(plain: Bundle, built: Bundle, driver: FakeDriver, trt: FakeTensorRt) -> None:
    told = "has no tensorrt engines: build them with: glip-export trt .* --fp16 --flavor tensorrt$"
    with pytest.raises(BackendError, match=told):
        TensorRtSession(plain, driver=driver)
    told = (
        r"has no tensorrt engines in bf16 \(it has fp32\): build them with: glip-export trt .* --bf16 --flavor tensorrt"
    )
    with pytest.raises(BackendError, match=told):
        TensorRtSession(built, precision="bf16", driver=driver)


def test_engines_that_do_not_load(plain: Bundle, tmp_path: Path, driver: FakeDriver, trt: FakeTensorRt) -> None:
    bundle = add_engines(plain, tmp_path, "fp16")
    path = tmp_path / "tensorrt-fp16" / "text_encoder.engine"
    path.write_bytes(b"not an engine")
    with pytest.raises(BackendError, match=r"TensorRT 10.9.0 cannot load .*: deserializeCudaEngine: magicTag failed; "):
        TensorRtSession(bundle, driver=driver)
    trt.__version__ = "11.0.1"
    with pytest.raises(
        BackendError, match=r"it was built with version 10.9.0; build it again with: .*--fp16"
    ) as caught:
        TensorRtSession(bundle, driver=driver)
    assert "\n" not in str(caught.value)


def test_engines_of_other_types(plain: Bundle, tmp_path: Path, driver: FakeDriver, trt: FakeTensorRt) -> None:
    bundle = add_engines(plain, tmp_path, "fp16", {"vision_backbone": plain.graph_path("text_encoder")})
    with pytest.raises(BackendError, match=r"takes input_ids int64.* where the graph takes images float32: build it"):
        TensorRtSession(bundle, driver=driver)


def test_memory_is_given_back(built: Bundle, driver: FakeDriver, trt: FakeTensorRt, pictures: list[np.ndarray]) -> None:
    session = TensorRtSession(built, driver=driver)
    detector = Detector(session, built.config)
    for count in (1, 2, 2, 1) * 2:  # each through both image buffers
        detector.detect(pictures[:count], "cat")
    allocated = session.describe()["device_memory_mb"]
    for _ in range(4):
        detector.detect(pictures, "cat")
        detector.detect(pictures[:1], "cat")
    assert session.describe()["device_memory_mb"] == allocated  # used again, not grown
    session.close()
    del session, detector
    trt.contexts.clear()
    gc.collect()
    assert driver.device_blocks == {} and driver.host_blocks == {} and driver.graphs == {} and driver.events == {}


@pytest.mark.parametrize(
    ("deform_conv", "nms", "has_plugins"),
    [
        ("plugin", "plugin", True),
        ("plugin", "host", True),
        ("fused", "plugin", True),
        ("fused", "native", True),
        ("fused", "host", True),
        ("gridsample", "plugin", True),
        ("gridsample", "native", False),
        ("gridsample", "host", False),
    ],
)
def test_the_plugins_are_there_for_engines_that_have_some(
    plain: Bundle, tmp_path: Path, driver: FakeDriver, trt: FakeTensorRt, deform_conv: str, nms: str, has_plugins: bool
) -> None:
    TensorRtSession(add_engines(plain, tmp_path, "fp32", deform_conv=deform_conv, nms=nms), driver=driver)
    assert hasattr(trt, "plugins") == has_plugins
