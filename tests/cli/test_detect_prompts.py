"""glip-export detect --names and --sentence: what is asked, what is written, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import CAT, refused
from http_service import AMPLE_MS, running_service

from glip_export import Detector, Prompt
from glip_export.serving.settings import Settings

SENTENCE = r"[a cat] beside [a red remote control] \[1\]"
HOLES = {"prefix": "a picture of a ", "name": "cat", "suffix": " asleep "}


def found(tmp_path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((tmp_path / "found.json").read_text())


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["--sentence", SENTENCE], Prompt.from_sentence(SENTENCE)),
        (["--names", "names.json"], Prompt.of([HOLES, "remote control"])),
        (["--names", "names.yaml"], Prompt.of([HOLES, "remote control"])),
    ],
)
def test_detect_is_the_detectors(
    glip_export, tmp_path: Path, tiny_bundle: Path, words: list[str], prompt: Prompt
) -> None:
    (tmp_path / "names.json").write_text(json.dumps([HOLES, "remote control"]))
    (tmp_path / "names.yaml").write_text(f"- {json.dumps(HOLES)}\n- remote control\n")
    asked = ["--bundle", tiny_bundle, "--threads", "1", "--json", "found.json", "--html", "found.html"]
    assert glip_export("detect", CAT, *words, *asked)[0] == 0
    (result,) = found(tmp_path)["results"]
    (right,) = Detector.open(tiny_bundle, "auto", threads=1).detect([CAT], prompt)
    assert result["classes"] == list(prompt.names)
    assert [one["label"] for one in result["detections"]] == right.labels.tolist()
    np.testing.assert_allclose([one["score"] for one in result["detections"]], right.scores, atol=1e-6)
    assert len(set(right.labels.tolist())) == 2


def test_what_the_json_says_of_the_prompt(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    run = ["detect", CAT, "--bundle", tiny_bundle, "--no-draw", "--json", "found.json"]
    assert glip_export(*run, "--sentence", SENTENCE)[0] == 0
    document = found(tmp_path)
    assert document["sentence"] == SENTENCE and "prompt" not in document
    assert document["caption"] == "a cat beside a red remote control [1]"
    assert document["phrases"] == [
        {"name": "a cat", "spans": [[0, 5]]},
        {"name": "a red remote control", "spans": [[13, 33]]},
    ]
    (tmp_path / "names.json").write_text(json.dumps([HOLES, "cup"]))
    assert glip_export(*run, "--names", "names.json")[0] == 0
    assert found(tmp_path)["prompt"] == [HOLES, "cup"]


def test_with_a_server(glip_export, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps([HOLES, "cup"]))
    with running_service(settings=Settings(deadline_ms=AMPLE_MS)) as service:
        run = ["detect", CAT, "--server", service.url, "--no-draw", "--json", "found.json"]
        for words, names in (
            (["--sentence", SENTENCE], ["a cat", "a red remote control"]),
            (["--names", "names.json"], ["cat", "cup"]),
        ):
            assert glip_export(*run, *words)[0] == 0
            assert found(tmp_path)["results"][0]["classes"] == names


def test_refused(glip_export, tmp_path: Path, tiny_bundle: Path) -> None:
    run = ["detect", CAT, "--bundle", tiny_bundle]
    one_of = "one of --prompt, --names and --sentence"
    refused(glip_export(*run), one_of)
    refused(glip_export(*run, "--sentence", "[a cat]", "--prompt", "cat"), one_of)
    refused(glip_export(*run, "--sentence", "[a cat"), "is not closed")
    refused(glip_export(*run, "--sentence", "[a] " * 300), "takes 302 tokens")
    (tmp_path / "names.json").write_text('["cat", {"nam": "dog"}]')
    refused(glip_export(*run, "--names", "names.json"), "--names names.json: name 2 of the prompt is {'nam': 'dog'}")
    refused(glip_export(*run, "--names", "none.yaml"), "--names none.yaml does not exist")
    assert not (tmp_path / "detections").exists()
