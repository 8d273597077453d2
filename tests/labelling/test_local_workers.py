"""Blocks through worker processes: each picture once, and what becomes of one that ends its process."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelling.stub_worker import Stub, answer_to, blocks, items
from waiting import wait_until_gone

from glip_export.errors import BackendError
from glip_export.labelling.items import Answer
from glip_export.labelling.local import answers


def run(stub: Stub, count: int = 40, size: int = 8, workers: int = 2) -> dict[int, Answer]:
    """The answers by place; fails where one comes twice."""
    found: dict[int, Answer] = {}
    for block, answer in answers(blocks(items(count), size), stub, workers):
        assert answer.first == block.first and len(answer.answers) == len(block.items)
        for place, one in enumerate(answer.answers, start=block.first):
            assert place not in found
            found[place] = one
    return found


def same(found: Answer, expected: Answer) -> bool:
    """Whether they are equal to the bit."""
    return found.error == expected.error and all(
        getattr(found, name).tobytes() == getattr(expected, name).tobytes() for name in ("labels", "scores", "boxes")
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_picture_is_answered_once(workers: int) -> None:
    found = run(Stub(), 41, 8, workers)
    assert sorted(found) == list(range(41))
    assert all(same(answer, answer_to(place)) for place, answer in found.items())


def test_no_more_processes_than_blocks(tmp_path: Path) -> None:
    run(Stub(notes=tmp_path), 5, 8, workers=4)
    assert len({note.name.split("-")[1] for note in tmp_path.iterdir()}) == 1


def test_a_picture_that_ends_two_processes_is_set_aside() -> None:
    found = run(Stub(kills=(13, 14, 39)))
    assert sorted(found) == list(range(40))
    for place, answer in found.items():
        if place in (13, 14, 39):
            assert answer.error == (
                f"'{place:06d}.jpg' is set aside: two worker processes ended while they had it (SIGKILL)"
            )
        else:
            assert same(answer, answer_to(place))


def test_a_process_that_is_killed_from_outside_costs_no_picture(tmp_path: Path) -> None:
    found = run(Stub(once=(3, 20), notes=tmp_path))
    assert all(same(found[place], answer_to(place)) for place in range(40))


def test_a_block_of_one_picture_is_tried_again(tmp_path: Path) -> None:
    assert same(run(Stub(once=(0,), notes=tmp_path), 1)[0], answer_to(0))
    assert "two worker processes" in run(Stub(kills=(0,)), 1)[0].error


def test_where_every_process_ends_the_run_does() -> None:
    with pytest.raises(BackendError, match=r"50 worker processes ended one after another \(SIGKILL\)"):
        run(Stub(kills=tuple(range(200))), 200, 60, workers=1)


def test_what_opening_raises_is_told() -> None:
    with pytest.raises(BackendError, match="there is no such backend"):
        run(Stub(fails_to_open=True))
    with pytest.raises(BackendError, match=r"ended while it opened the bundle \(SIGKILL\)"):
        run(Stub(dies_at_opening=True))


def test_what_a_worker_raises_is_told() -> None:
    with pytest.raises(BackendError, match="picture 9 broke the backend"):
        run(Stub(raises=(9,)))


def test_closed_early_it_ends_its_processes(tmp_path: Path) -> None:
    running = answers(blocks(items(400), 4), Stub(seconds=0.01, notes=tmp_path), 2)
    next(running)
    pids = {int(note.name.split("-")[1]) for note in tmp_path.iterdir()}
    running.close()
    wait_until_gone(pids)
