"""The memory pool: sizes, blocks used again, a full device, other libraries' streams."""

from __future__ import annotations

import gc

import pytest
from runtime.cuda.fake_driver import FakeDriver

from glip_export.runtime.cuda.errors import CudaError
from glip_export.runtime.cuda.pool import Pool, rounded_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "block"),
    [(0, 512), (1, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, 2 * MIB), (2 * MIB + 1, 4 * MIB)],
)
def test_sizes_are_rounded_up(size: int, block: int) -> None:
    assert rounded_size(size) == block


def test_a_block_that_came_back_is_given_again() -> None:
    driver = FakeDriver()
    with driver.active():
        pool = Pool(driver)
        first = pool.take(10 * MIB)
        pointer = first.pointer
        second = pool.take(10 * MIB)
        assert second.pointer != pointer  # the first is still in use
        del first
        assert pool.take(9 * MIB).pointer == pointer
        assert driver.counts["allocate"] == 2 and pool.allocated == 20 * MIB


def test_the_smallest_that_fits_but_not_twice_the_size() -> None:
    driver = FakeDriver()
    with driver.active():
        pool = Pool(driver)
        blocks = {size: pool.take(size * MIB) for size in (8, 16, 64)}
        pointers = {size: block.pointer for size, block in blocks.items()}
        del blocks
        gc.collect()
        assert pool.take(10 * MIB).pointer == pointers[16]
        taken = pool.take(20 * MIB)
        assert taken.pointer not in pointers.values()  # 64 MiB would be a waste


def test_a_full_device_first_gives_back_what_waits() -> None:
    driver = FakeDriver(memory=40 * MIB)
    with driver.active():
        pool = Pool(driver)
        for _ in range(3):
            del_me = pool.take(8 * MIB)
            del del_me
        kept = pool.take(8 * MIB)
        waiting = pool.take(20 * MIB)
        del waiting
        assert pool.take(30 * MIB).size == 30 * MIB  # the 20 MiB had to go
        with pytest.raises(CudaError, match=r"the GPU's memory is full: take smaller batches.*OUT_OF_MEMORY"):
            pool.take(100 * MIB)
        assert kept.pointer in driver.device_blocks
        assert pool.allocated == sum(block.nbytes for block in driver.device_blocks.values()) == 8 * MIB


def test_what_another_library_saw_is_waited_for_before_it_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    waits = []
    monkeypatch.setattr(driver, "synchronize_all", lambda: waits.append(1))
    with driver.active():
        pool = Pool(driver)
        pool.take(100)
        assert pool.take(100) and not waits
        block = pool.take(100)
        block.exported = True
        del block
        pool.take(100)
        assert len(waits) == 1
        pool.take(100)
        assert len(waits) == 1  # it is ours alone again


def test_a_pool_that_goes_takes_its_memory_along_but_not_while_blocks_live() -> None:
    driver = FakeDriver()
    with driver.active():
        pool = Pool(driver)
        block = pool.take(100)
        pool.take(3 * MIB)
        del pool
        gc.collect()
        assert block.pointer in driver.device_blocks
        del block
        gc.collect()
        assert not driver.device_blocks
