"""Modules that go back to float for an AP: as few as hold the drop, from trials that are not the output, resumably."""

import json
from types import SimpleNamespace

import pytest
from command_line import CAT

from glip_export.bundle import Bundle
from glip_export.errors import GlipExportError
from glip_export.evaluation import int8_search
from glip_export.evaluation.int8_search import ap_of_each, within_drop
from glip_export.graphs.quantization.calibration import Calibration, calibrate
from glip_export.graphs.quantization.int8_bundle import int8_modules
from glip_export.prompt import Prompt

pytest.importorskip("pycocotools", reason="the extra eval is not installed")

FP32 = 0.6


class Costs:
    """A data set on which some modules in int8 cost AP: stands for evaluating, and tells what was evaluated."""

    def __init__(self, costs: dict[str, float], known: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.costs, self.known = costs, known
        self.floats: list[set[str]] = []
        self.path, self.sha256, self.images = "annotations.json", "ab" * 32, ()
        monkeypatch.setattr(int8_search, "Detector", SimpleNamespace(open=lambda path, backend, threads: path))
        monkeypatch.setattr(int8_search, "evaluate_coco", self.evaluate)

    def evaluate(self, path, dataset, progress):
        assert dataset is self
        bundle = Bundle.open(path)
        if bundle.precision == "fp32":
            return SimpleNamespace(values={"AP": FP32})
        floats = set(bundle.extra["quantization"]["float"])
        self.floats.append(floats)
        return SimpleNamespace(values={"AP": FP32 - sum(self.costs.get(m, 0.0) for m in self.known if m not in floats)})


@pytest.fixture
def bundle(tiny_copy) -> Bundle:
    return Bundle.open(tiny_copy)


@pytest.fixture
def calibration(bundle) -> Calibration:
    return calibrate(bundle, [CAT], Prompt.of("cat. remote control"), threads=1)


@pytest.fixture
def modules(bundle) -> list[str]:
    return [module for listed in int8_modules(bundle).values() for module in listed]


def test_as_few_go_back_as_hold_the_drop(bundle, calibration, modules, tmp_path, monkeypatch):
    dataset = Costs({modules[2]: 0.02, modules[4]: 0.004}, modules, monkeypatch)
    output = tmp_path / "int8"
    found = within_drop(bundle, output, calibration, modules, [], dataset, 0.005, threads=1, facts={"worst": ["x"]})
    assert found.went_back == tuple(modules[:3]) and found.bundle.path == output
    assert (found.fp32, found.int8) == (FP32, pytest.approx(0.596))
    done = Bundle.open(output).extra["quantization"]
    assert done["float"] == sorted(modules[:3]) and done["worst"] == ["x"]
    assert done["ap"]["went_back"] == modules[:3] and done["ap"]["fp32"] == FP32
    assert len(dataset.floats) == 4  # none, 1, 3, 2
    assert not list((bundle.path / "cache").glob("quantize-*/trial"))
    before = len(dataset.floats)
    again = within_drop(bundle, output, calibration, modules, [], dataset, 0.005, threads=1)
    assert again.went_back == found.went_back and len(dataset.floats) == before  # nothing is measured twice


def test_nothing_goes_back_where_int8_is_good_enough(bundle, calibration, modules, tmp_path, monkeypatch):
    dataset = Costs({modules[0]: 0.02}, modules, monkeypatch)
    found = within_drop(bundle, tmp_path / "int8", calibration, modules[1:], modules[:1], dataset, 0.0, threads=1)
    assert found.went_back == () and dataset.floats == [{modules[0]}]  # what the user keeps float stays so


def test_a_drop_that_cannot_be_held_leaves_the_output_alone(bundle, calibration, modules, tmp_path, monkeypatch):
    dataset = Costs({modules[0]: 0.02}, modules, monkeypatch)
    with pytest.raises(GlipExportError, match=r"falls by 0\.0200, more than --max-ap-drop 0\.01"):
        within_drop(bundle, tmp_path / "int8", calibration, modules[1:3], [], dataset, 0.01, threads=1)
    assert not (tmp_path / "int8").exists()


def test_each_module_alone_in_int8(bundle, calibration, modules, monkeypatch):
    dataset = Costs({modules[1]: 0.02}, modules, monkeypatch)
    fp32, alone = ap_of_each(bundle, calibration, modules[:3], dataset, threads=1)
    assert fp32 == FP32 and alone == {modules[0]: FP32, modules[1]: pytest.approx(0.58), modules[2]: FP32}
    assert dataset.floats[0] == set(modules) - {modules[0]}
    kept = json.loads(next((bundle.path / "cache").glob("quantize-*/ap-*.json")).read_text())
    assert len(kept) == 4
