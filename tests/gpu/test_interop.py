"""Arrays, streams and contexts of torch, CuPy and PyCUDA on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

SHAPE = (1, 3, 96, 128)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32)


@pytest.mark.usefixtures("needs_gpu")
def test_torch_tensors(open_session: Any, images: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    stream = torch.cuda.Stream()
    session = open_session(stream=stream)
    expected = [np.asarray(level) for level in session.vision_backbone(images)]
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):  # whose work the session must wait for
        slow = torch.randn(4000, 4000, device="cuda") @ torch.randn(4000, 4000, device="cuda")
        tensor = torch.from_numpy(images).cuda() + 0 * slow[0, 0]
        features = session.vision_backbone(tensor)
        taken = [torch.from_dlpack(level) for level in features]
        for level, want in zip(taken, expected, strict=True):
            assert level.is_cuda and level.data_ptr() % 256 == 0
            np.testing.assert_array_equal(level.cpu().numpy(), want)


@pytest.mark.usefixtures("needs_gpu")
def test_cupy_arrays(open_session: Any, images: np.ndarray) -> None:
    cupy = pytest.importorskip("cupy")
    session = open_session()
    expected = np.asarray(session.vision_backbone(images)[0])
    features = session.vision_backbone(cupy.asarray(images))
    np.testing.assert_array_equal(cupy.asnumpy(cupy.from_dlpack(features[0])), expected)
    np.testing.assert_array_equal(cupy.asnumpy(cupy.asarray(features[0])), expected)


@pytest.mark.usefixtures("needs_gpu")
def test_a_pycuda_program_keeps_its_context(open_session: Any, engines: Any, images: np.ndarray) -> None:
    cuda = pytest.importorskip("pycuda.driver")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    cuda.init()
    context = cuda.Device(0).make_context()  # not the primary one
    try:
        stream = cuda.Stream()
        session = open_session(stream=stream)
        expected = np.asarray(session.vision_backbone(images)[0])
        array = gpuarray.to_gpu_async(images, stream=stream)
        levels = session.vision_backbone(array)
        assert cuda.Context.get_current().handle == context.handle
        taken = gpuarray.GPUArray(levels[0].shape, np.float32, gpudata=levels[0].pointer)
        session.synchronize()
        np.testing.assert_array_equal(taken.get(), expected)
        session.close()
    finally:
        context.pop()
        context.detach()


@pytest.mark.usefixtures("needs_gpu")
def test_the_current_context_stays(open_session: Any, images: np.ndarray) -> None:
    from cuda.bindings import driver as cuda

    before = int(cuda.cuCtxGetCurrent()[1])
    session = open_session()
    session.vision_backbone(images)
    session.synchronize()
    assert int(cuda.cuCtxGetCurrent()[1]) == before


@pytest.mark.usefixtures("needs_gpu")  # the fake driver's memory is not known as another GPU's
def test_features_of_another_session(open_session: Any, cases: list[Any], open_bundle: Any) -> None:
    from glip_export.parity.run import run

    inputs = cases[0].inputs(open_bundle().config)
    one, other = open_session(), open_session()
    text = inputs.chunks[0]
    mask, class_map = text.attention_mask[None], text.class_map[None]
    expected = run(one, inputs).chunks[0]
    features, text_features = other.vision_backbone(inputs.images), other.text_encoder(text.input_ids[None], mask)
    boxes, scores, _, _ = one.fusion_head(features, text_features, mask, class_map, inputs.sizes)
    np.testing.assert_array_equal(boxes, expected.boxes)
    np.testing.assert_array_equal(scores, expected.scores)
