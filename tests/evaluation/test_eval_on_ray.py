"""eval --ray: a cluster finds what this machine finds, in the same order, and its faults are told on one line."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

import ray_token
from answers import Answers, write_set

from glip_export.config import GlipConfig
from glip_export.errors import BackendError, GlipExportError
from glip_export.evaluation import CocoDataset, evaluate_coco
from glip_export.evaluation.openers import BundleOpener, Opener, changed
from glip_export.evaluation.pictures import in_groups, read_batches
from glip_export.labelling.cluster.settings import Cluster

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")


class Killed(Answers):
    """Ends its process at picture 3, each time."""

    def detect(self, pictures, prompt, chunk=None):
        if 3 in [int(picture[0, 0, 0]) for picture in pictures]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(pictures, prompt, chunk)


@dataclass(frozen=True)
class KilledOpener:
    """Opens one, whatever the bundle."""

    bundle: Path

    def __call__(self) -> Killed:
        return Killed({})

    def at(self, bundle: Path) -> KilledOpener:
        return KilledOpener(bundle)


def other_config(config: GlipConfig) -> GlipConfig:
    return config


@needs_ray
def test_a_cluster_finds_what_this_machine_finds(eval_coco, photos, tiny_bundle: Path, tmp_path: Path) -> None:
    """With a broken picture among the first, so that what runs together is not what stands together."""
    assert os.environ["RAY_AUTH_TOKEN"] == ray_token.TOKEN["RAY_AUTH_TOKEN"]
    images = tmp_path / "images"
    images.mkdir()
    for picture in photos[1].iterdir():
        (images / picture.name).write_bytes(picture.read_bytes() if picture.name != "2.png" else b"broken")
    words = ["--images", images, "--annotations", photos[0], "--bundle", tiny_bundle, "--batch", 2]
    for name, how in {"here": ("--threads", 1), "ray": ("--ray", "local")}.items():
        result = eval_coco(*words, *how, "--output", name, "--json", f"{name}.json")
        assert result[0] == 0, result
    kept = [tmp_path / name / "onnxruntime" / "detections.json" for name in ("here", "ray")]
    assert kept[0].read_bytes() == kept[1].read_bytes() and len(json.loads(kept[0].read_text())) > 200
    here, ray = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("here", "ray"))
    for report in (here, ray):
        del report["backends"]["onnxruntime"]["seconds"]
    assert here == ray


@needs_ray
def test_pictures_that_end_two_workers_end_the_run(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # this module, for the workers
    sizes = dict.fromkeys(range(1, 5), (200, 200))
    dataset = CocoDataset.read(*write_set(tmp_path, sizes, [(image, 1, (10, 20, 100, 100)) for image in sizes]))
    with pytest.raises(BackendError, match=r"^two worker processes ended while they had it: 3.png, 4.png; killed"):
        evaluate_coco(
            KilledOpener(tiny_bundle), dataset, batch=2, workers=Cluster("local", workers=1), config=GlipConfig()
        )


def test_what_opens_no_bundle_cannot_be_sent(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, {1: (200, 200)}, [(1, 1, (10, 20, 100, 100))]))
    with pytest.raises(GlipExportError, match="a cluster needs what opens a bundle"):
        evaluate_coco(partial(Answers, {}), dataset, workers=Cluster("local"), config=GlipConfig())


def test_an_opener_is_sent_with_the_change_that_a_verb_makes(tiny_bundle: Path) -> None:
    opener = changed(BundleOpener(Path("/nowhere"), "onnxruntime", GlipConfig(), threads=1), other_config)
    assert isinstance(opener, Opener) and opener.bundle == Path("/nowhere")
    sent = pickle.loads(pickle.dumps(opener.at(tiny_bundle)))
    assert sent.bundle == tiny_bundle and sent().session.name.startswith("onnxruntime")
    assert not isinstance(changed(partial(Answers, {}), other_config), Opener)


def test_several_threads_read_the_same_batches(tmp_path: Path) -> None:
    dataset = CocoDataset.read(*write_set(tmp_path, dict.fromkeys(range(1, 20), (30, 40))))
    for image in (2, 3, 11):
        dataset.images[image].path.unlink()
    one, four = (
        list(read_batches(in_groups(dataset.images, False), 1, 3, GlipConfig().image, threads=threads))
        for threads in (1, 4)
    )
    assert [batch.read for batch in one] == [batch.read for batch in four]
    assert [batch.problems for batch in one] == [batch.problems for batch in four]
    assert one[0].read == [2, 5, 6]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--ray", "auto", "--workers", 2), "--workers are processes of this machine"),
        (("--gpus-per-worker", 1), "--gpus-per-worker is for --ray"),
        (("--ray", "ray://head:10001"), "a Ray Client's address"),
    ],
)
def test_options_that_exclude_each_other(eval_coco, photos, tiny_bundle: Path, words, told: str) -> None:
    code, _, err = eval_coco("--images", photos[1], "--annotations", photos[0], "--bundle", tiny_bundle, *words)
    assert code == 2 and told in err
