"""The real driver's class through the real cuda-python, on a libcuda of host memory that is compiled here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np
from glip_export.errors import BackendError
from glip_export.runtime.cuda.arrays import DeviceArray
from glip_export.runtime.cuda.driver import CudaDriver
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.staging import InputSlot, OutputStaging
from glip_export.trt.flavor import find_gpu

driver = CudaDriver()
assert (driver.name, driver.compute_capability, driver.dlpack_device) == ("stub GPU", (8, 6), (2, 0))
assert find_gpu().name == driver.name
try:
    driver.allocate(64)
    raise AssertionError("a call without a context went through")
except BackendError as error:
    assert "CUDA_ERROR_INVALID_CONTEXT" in str(error)
values = np.arange(6, dtype=np.float32).reshape(2, 3)
with driver.active():
    stream, pool = driver.new_stream(), Pool(driver)
    array, slot = DeviceArray(pool, values.shape, values.dtype, stream), InputSlot(pool)
    slot.load_host(values, stream)
    slot.await_copy(stream)
    driver.copy(array.pointer, slot.pointer, values.nbytes, stream)
    slot.mark_consumed(stream)
    np.testing.assert_array_equal(array, values)
    np.testing.assert_array_equal(OutputStaging(driver).fetch({"x": array}, stream)["x"], values)
    driver.begin_capture(stream)
    graph = driver.end_capture(stream)
    driver.launch(graph, stream)
    driver.free_graph(graph)
    array.__dlpack__(stream=None)
    driver.synchronize_all()
    try:
        pool.take(1 << 34)
        raise AssertionError("17 GB were given")
    except BackendError as error:
        assert "the GPU's memory is full" in str(error)
    driver.free_stream(stream)
try:
    CudaDriver(3)
    raise AssertionError("there is a device 3")
except BackendError as error:
    assert "there is no such GPU" in str(error)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the stub is built for Linux")
def test_every_call_takes_what_it_is_given(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.driver")
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).with_name("stub_libcuda.c")
    command = [compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "done", done.stderr
