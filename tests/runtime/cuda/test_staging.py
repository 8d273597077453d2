"""Memory that copies under way read and write stays until the stream has passed them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from fake_driver import FakeDriver

from glip_export.runtime.cuda.arrays import DeviceArray, ForeignArray
from glip_export.runtime.cuda.pool import Pool
from glip_export.runtime.cuda.staging import InputSlot, OutputStaging, PinnedMemory

VALUES = np.arange(300, dtype=np.float32)


def test_a_slot_that_ends_waits_for_its_copy() -> None:
    driver = FakeDriver()
    with driver.active():
        pool = Pool(driver)
        slot, stream = InputSlot(pool), driver.new_stream()
        slot.load_host(VALUES, stream)
        pointer = slot.pointer
        assert driver.pending() == 1
        del slot  # its pinned memory and its device memory go
        gc.collect()
        assert driver.pending() == 0 and not driver.host_blocks and not driver.events
        np.testing.assert_array_equal(driver.view(pointer, (300,), np.dtype(np.float32)), VALUES)


def test_a_slot_keeps_another_librarys_array_until_its_copy_is_over() -> None:
    class Owner:
        """Frees the memory as it goes, as torch does."""

        def __init__(self, driver: FakeDriver) -> None:
            self.driver, self.pointer = driver, driver.allocate(VALUES.nbytes)

        def __del__(self) -> None:
            self.driver.freed.append(self.driver.device_blocks.pop(self.pointer))

    driver = FakeDriver()
    with driver.active():
        slot, stream, owner = InputSlot(Pool(driver)), driver.new_stream(), Owner(driver)
        alive = weakref.ref(owner)
        slot.load_device(ForeignArray(owner.pointer, VALUES.shape, VALUES.dtype, owner), stream)
        del owner
        gc.collect()
        assert alive() is not None and driver.pending() == 1
        del slot  # waits: the copy would read freed memory
        gc.collect()
        assert alive() is None and driver.pending() == 0


def test_a_view_keeps_its_pinned_memory() -> None:
    driver = FakeDriver()
    with driver.active():
        memory = PinnedMemory(driver)
        view = memory.view((300,), np.float32)
        view[:] = VALUES
        memory.view((100_000,), np.float32)  # another block: the first is too small
        assert len(driver.host_blocks) == 2
        del memory
        gc.collect()
        np.testing.assert_array_equal(view, VALUES)
        assert len(driver.host_blocks) == 1
        del view
        gc.collect()
        assert not driver.host_blocks


def test_results_are_the_callers_own() -> None:
    driver = FakeDriver()
    with driver.active():
        pool, stream, staging = Pool(driver), driver.new_stream(), OutputStaging(driver)
        array = DeviceArray(pool, VALUES.shape, VALUES.dtype, stream)
        driver.copy(array.pointer, VALUES, VALUES.nbytes, stream)
        found = staging.fetch({"a": array}, stream)["a"]
        driver.copy(array.pointer, VALUES * 2, VALUES.nbytes, stream)  # the temporary may go at once
        gc.collect()
        again = staging.fetch({"a": array}, stream)["a"]
        del staging
        gc.collect()
        np.testing.assert_array_equal(found, VALUES)
        np.testing.assert_array_equal(again, VALUES * 2)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (VALUES[:299], "an array of 1196 bytes is one end of a copy of 1200"),
        (np.zeros(600, np.float32)[::2], "not C-contiguous"),
        (np.broadcast_to(np.float32(1), (300,)), "not C-contiguous"),
    ],
)
def test_arrays_that_do_not_fit_a_copy_are_refused(array: np.ndarray, words: str) -> None:
    driver = FakeDriver()
    with driver.active():
        pointer, stream = driver.allocate(VALUES.nbytes), driver.new_stream()
        for ends in ((pointer, array), (array, pointer)):
            with pytest.raises(ValueError, match=words):
                driver.copy(*ends, VALUES.nbytes, stream)
        frozen = VALUES.copy()
        frozen.flags.writeable = False
        driver.copy(pointer, frozen, VALUES.nbytes, stream)
        with pytest.raises(ValueError, match="read-only"):
            driver.copy(frozen, pointer, VALUES.nbytes, stream)
