"""One threshold for all names, or a file with one of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_runs import NAMES, answer

from glip_export.errors import GlipExportError
from glip_export.labelling.thresholds import Thresholds

BOX = (1, 2, 30, 40)


def test_a_file_gives_some_names_their_own(tmp_path: Path) -> None:
    for name, text in (("t.json", '{"dog": 0.7, "cat": 0.2}'), ("t.yaml", "dog: 0.7\ncat: 0.2\n")):
        (tmp_path / name).write_text(text)
        thresholds = Thresholds.from_file(tmp_path / name, NAMES, 0.4)
        assert thresholds.values == (0.2, 0.7, 0.4) and thresholds.floor == 0.2
        np.testing.assert_array_equal(thresholds.of(np.array([1, 1, 0])), np.float32([0.7, 0.7, 0.2]))


def test_each_detection_is_held_to_its_own_name() -> None:
    given = answer((1, 0.8, BOX), (1, 0.7, BOX), (1, 0.69, BOX), (2, 0.3, BOX), (0, 0.2, BOX), (0, 0.19, BOX))
    kept = Thresholds((0.2, 0.7, 0.4)).kept(given)
    assert kept.labels.tolist() == [1, 1, 0]
    assert kept.scores.tolist() == np.float32([0.8, 0.7, 0.2]).tolist()  # what scores just that is kept
    assert kept.boxes.shape == (3, 4) and (kept.height, kept.width) == (given.height, given.width)
    assert Thresholds.same(0.1, NAMES).kept(given) is given
    assert len(Thresholds.same(1, NAMES).kept(given).scores) == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", '{"remote controll": 0.4}', "'remote controll' is none of the names: did you mean 'remote control'"),
        ("t.json", '{"zebra": 0.4}', "'zebra' is none of the 3 names"),
        ("t.json", '{"cat": 1.5}', "the threshold of 'cat' is a number from 0 to 1, not 1.5"),
        ("t.json", '{"cat": true}', "not True"),
        ("t.json", '{"cat": NaN}', "not nan"),
        ("t.json", '{"cat": "0.5"}', "not '0.5'"),
        ("t.json", '{"cat": 0.4, "dog": 0.1, "cat": 0.5}', "the threshold of 'cat' stands twice: remove one"),
        ("t.yaml", "cat: 0.4\nno: 0.5", "YAML reads no, yes, on, off and null as False: put the name in quotes"),
        ("t.json", "[0.5]", "give thresholds by name"),
        ("t.json", "{}", "give thresholds by name"),
        ("t.json", "cat: 0.5", "not valid JSON"),
        ("t.yml", "cat: [", "not valid YAML"),
        ("gone.json", None, "cannot read the file of thresholds"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(GlipExportError) as caught:
        Thresholds.from_file(tmp_path / name, NAMES)
    assert message in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_threshold_is_from_0_to_1(threshold: float) -> None:
    with pytest.raises(GlipExportError, match="from 0 to 1"):
        Thresholds.same(threshold, NAMES)
