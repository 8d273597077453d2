"""Blocks through a real Ray cluster of two raylets: each answered once, whatever ends between."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cluster_stub import ClusterStub, source
from stub_worker import Stub, answer_to
from waiting import wait_until

from glip_export.errors import BackendError, GlipExportError, GlipExportWarning
from glip_export.labelling.cluster import nodes, run
from glip_export.labelling.cluster.connection import connected
from glip_export.labelling.cluster.label import Labelled, label_on
from glip_export.labelling.cluster.nodes import alive_nodes, here, never_grows, waiting_told
from glip_export.labelling.cluster.settings import Cluster
from glip_export.labelling.run import Plan, label
from glip_export.labelling.shards import read_shards, shard_files
from glip_export.labelling.sources import open_source

if TYPE_CHECKING:
    from raylets import Raylets

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster(raylets: Raylets) -> Iterator[Cluster]:
    asked = Cluster(raylets.address)
    with connected(asked):
        yield asked


def check_all(found: list[Labelled], count: int, errors: dict[int, str] | None = None) -> None:
    """Each picture has exactly one answer, the stub's, or an error with these words."""
    (end,) = [block for block, _ in found if not block.items]
    assert end.first == count
    answers = {}
    for block, answer in found:
        assert answer.first == block.first and len(answer.answers) == len(block.items)
        for place, one in enumerate(answer.answers, block.first):
            assert place not in answers
            answers[place] = one
    assert answers.keys() == set(range(count))
    for place, one in answers.items():
        if place in (errors or {}):
            assert errors[place] in one.error
            continue
        wanted = answer_to(place)
        assert not one.error and np.array_equal(one.boxes, wanted.boxes) and np.array_equal(one.scores, wanted.scores)


def test_every_picture_once_though_a_machine_dies_and_a_picture_kills(
    raylets: Raylets, cluster: Cluster, tiny_bundle: Path
) -> None:
    opening = ClusterStub(str(tiny_bundle), stub=Stub(kills=(101,), seconds=0.003))
    found = []
    try:
        for labelled in label_on(cluster, partial(source, 240, 8), opening):
            found.append(labelled)
            if len(found) == 10:
                (other,) = [node for node in alive_nodes() if node["NodeID"] != here()]
                raylets.kill(other)
    finally:
        raylets.add()
    check_all(found, 240, {101: "'000101.jpg' is set aside: two worker processes ended while they had it"})


@pytest.mark.filterwarnings("ignore:opened with care")
def test_a_machine_that_joins_gets_work_its_gpu_too(
    raylets: Raylets, cluster: Cluster, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The source does not end before the new machine's worker is there."""
    wait_until(lambda: len(alive_nodes()) == 2)  # one that was killed before is told of late
    (other,) = [node for node in alive_nodes() if node["NodeID"] != here()]
    raylets.kill(other)
    wait_until(lambda: len(alive_nodes()) == 1)
    opening = ClusterStub(str(tiny_bundle), stub=Stub(seconds=0.01), notes=tmp_path)
    with closing(label_on(cluster, partial(source, 1_000_000, 8), opening)) as found:
        next(found)
        assert len(list(tmp_path.iterdir())) == 1
        raylets.add("--num-gpus=1")
        next(block for block, _ in found if len(list(tmp_path.iterdir())) == 2)
    check_all(
        list(label_on(replace(cluster, gpus_per_worker=1), partial(source, 40, 8), ClusterStub(str(tiny_bundle)))), 40
    )


@pytest.mark.filterwarnings("ignore:opened with care")
def test_a_machine_without_the_bundle_is_brought_it_once(
    raylets: Raylets, cluster: Cluster, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = run.shipped
    monkeypatch.setattr(run, "shipped", lambda path: replace(shipped(path), path=Path("/nowhere/tiny")))
    opening = ClusterStub(str(tiny_bundle), notes=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_all(list(label_on(cluster, partial(source, 40, 4), opening)), 40)
    assert [str(each.message) for each in caught if each.category is GlipExportWarning] == ["opened with care"]
    (kept,) = {Path(note.read_text()) for note in tmp_path.iterdir()}
    assert kept.is_relative_to(raylets.cache)
    files = [file for file in tiny_bundle.iterdir() if file.name != "cache"]
    assert all((kept / file.name).read_bytes() == file.read_bytes() for file in files)
    model = next(kept.glob("*.onnx"))
    model.write_bytes(bytes(model.stat().st_size))  # of the same size
    check_all(list(label_on(cluster, partial(source, 8, 4), ClusterStub(str(tiny_bundle)))), 8)
    assert all((kept / file.name).read_bytes() == file.read_bytes() for file in files)


@pytest.mark.parametrize("asked", [{"threads_per_worker": 2}, {"gpus_per_worker": 2.0}])
def test_what_no_machine_has_room_for(cluster: Cluster, tiny_bundle: Path, asked: dict[str, float]) -> None:
    wait_until(never_grows)
    with pytest.raises(BackendError, match=r"no machine .*, which takes . CPU.*: the most that one has are 1 CPU and"):
        list(label_on(replace(cluster, **asked), partial(source, 8, 4), ClusterStub(str(tiny_bundle))))  # type: ignore[arg-type]


def test_waiting_for_other_work_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "WAIT_SECONDS", 0.0)
    told = pytest.warns(GlipExportWarning, match=r"no worker has started .* 3 CPU of one machine")
    with told as found, waiting_told(replace(cluster, threads_per_worker=3), lambda: False):
        wait_until(lambda: found.list)


@pytest.mark.parametrize(
    ("stub", "fails", "words"),
    [
        (Stub(fails_to_open=True), False, r"^there is no such backend \(on [0-9.]+\)$"),
        (Stub(raises=(5,)), False, "^picture 5 broke the backend$"),
        (Stub(), True, "^the source's disk is gone$"),
        (Stub(dies_at_opening=True), False, "ended each time that it opened the bundle"),
    ],
)
def test_errors_are_the_ones_that_were_raised(
    cluster: Cluster, tiny_bundle: Path, stub: Stub, fails: bool, words: str
) -> None:
    with pytest.raises(GlipExportError, match=words):
        list(label_on(cluster, partial(source, 16, 4, fails), ClusterStub(str(tiny_bundle), stub=stub)))


def test_shards_are_those_of_this_machine(cluster: Cluster, tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    from glip_export.labelling.local import answers
    from glip_export.labelling.worker import Opening
    from glip_export.prompt import Prompt

    opening = Opening(str(tiny_bundle), "onnxruntime", Prompt.of("cat. circle"), 0.05, threads=1)
    for name, how in {
        "here": lambda blocks: answers(blocks(), opening, 1),
        "ray": lambda blocks: label_on(cluster, blocks, opening),
    }.items():
        plan = Plan(open_source(str(scenes)), tmp_path / name, shard=8, block=2)
        assert label(plan, {"floor": 0.05}, how).pictures == 11
    files = shard_files(tmp_path / "here")
    assert len(files) == 2 and sum(len(row.answer.labels) for row in read_shards(tmp_path / "here")) > 20
    for file in files:
        assert (tmp_path / "ray" / "shards" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.filterwarnings("ignore:opened with care")
def test_the_driver_keeps_nothing_of_blocks_that_are_answered(cluster: Cluster, tiny_bundle: Path) -> None:
    from ray.data._internal.execution.operators.map_operator import MapOperator

    kept: list[int] = []
    found = []
    for labelled in label_on(cluster, partial(source, 200, 4), ClusterStub(str(tiny_bundle))):
        found.append(labelled)
        if len(found) == 40:
            steps = [each for each in gc.get_objects() if issubclass(type(each), MapOperator)]
            kept += [len(step._output_blocks_stats) for step in steps]
    check_all(found, 200)
    assert kept and not any(kept)
