"""What eval flickr30k writes: never on what it reads, and such that it can be scored again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_flickr import CAPTION, PEOPLE, entry, write_entities, write_grounding

Run = Callable[..., tuple[int, str, str]]
KEPT = Path("out") / "onnxruntime" / "detections.jsonl"


@pytest.fixture
def scored(photos: tuple[Path, Path], tmp_path: Path) -> list[object]:
    """Three photos: a sentence too long, one of 101 phrases and one of a broken span; of the last picture all."""
    entries = []
    for image in json.loads(photos[0].read_text())["images"][:3]:
        facts = {key: image[key] for key in ("file_name", "height", "width")}
        entries += [entry(len(entries) + sentence, image["id"], sentence, **facts) for sentence in range(4)]
    entries[0]["caption"] += " word" * 300
    entries[2]["tokens_positive_eval"] = [[[0, 7]]] * 101
    entries[7]["tokens_positive_eval"] = [[[0, len(CAPTION) + 1]]]
    for each in entries[8:]:
        each["tokens_positive_eval"] = None
    last = "[/EN#1/vehicles A car]"  # a type that no sentence that runs has
    sentences = {each: "\n".join([PEOPLE] * 3 + [last if each == "3" else PEOPLE]) for each in ("1", "2", "3")}
    entities = write_entities(tmp_path / "entities", sentences)
    return ["--annotations", write_grounding(tmp_path / "grounding_test.json", entries), "--entities", entities]


@pytest.fixture
def words(scored, photos: tuple[Path, Path], tiny_bundle: Path, tmp_path: Path) -> list[object]:
    images = shutil.copytree(photos[1], tmp_path / "images")
    return [*scored, "--images", images, "--bundle", tiny_bundle, "--threads", 1, "--output", "out"]


def test_sentences_that_were_left_out_are_kept_as_such(eval_flickr: Run, words, scored, tmp_path: Path) -> None:
    def one(path: str) -> dict[str, Any]:
        (backend,) = json.loads((tmp_path / path).read_text())["backends"].values()
        return {key: backend[key] for key in ("scores", "phrases", "sentences", "detections")}

    assert eval_flickr(*words, "--json", "recall.json")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / KEPT).open()]
    assert [(each["image_id"], each["sentence_id"]) for each in lines] == [(n // 4 + 1, n % 4) for n in range(12)]
    assert [n for n, each in enumerate(lines) if each.get("left_out")] == [0, 2, 7, 8, 9, 10, 11]
    assert not any("boxes" in each for each in lines if each.get("left_out"))
    code, out, err = eval_flickr(*scored, "--detections", KEPT, "--json", "again.json")
    assert code == 0 and "7 sentence(s) are not counted" in out, err
    assert one("again.json") == one("recall.json") and one("again.json")["sentences"] == 5
    (tmp_path / "less.jsonl").write_text("".join((tmp_path / KEPT).read_text().splitlines(keepends=True)[:-1]))
    code, _, err = eval_flickr(*scored, "--detections", "less.jsonl")
    assert code == 2 and "nothing is given for 1 of 6 sentences" in err and "--limit" not in err


def test_a_limit_is_needed_again(eval_flickr: Run, words, scored) -> None:
    assert eval_flickr(*words, "--limit", 1)[0] == 0
    code, _, err = eval_flickr(*scored, "--detections", KEPT)
    assert code == 2 and "is scored with the same --limit" in err and len(err.splitlines()) == 1
    code, out, _ = eval_flickr(*scored, "--detections", KEPT, "--limit", 1)
    assert code == 0 and "2 sentence(s) are not counted" in out


@pytest.mark.parametrize("name", ["test.txt", "Annotations/2.xml", "Sentences/2.txt"])
def test_no_file_of_the_entities_is_written(eval_flickr: Run, words, scored, name: str, tmp_path: Path) -> None:
    target = tmp_path / "entities" / name
    before = target.read_bytes()
    (tmp_path / "found.jsonl").write_text(
        "".join(
            json.dumps({"image_id": picture, "sentence_id": sentence, "boxes": [[]] * phrases}) + "\n"
            for picture in (1, 2, 3)
            for sentence in range(4)
            for phrases in (1 if (picture, sentence) == (3, 3) else 2,)
        )
    )
    for given in (words, [*scored, "--detections", "found.jsonl"]):
        code, _, err = eval_flickr(*given, "--json", target)
        assert code == 2 and f"--json {target} is a file that this command reads" in err
    assert eval_flickr(*scored, "--detections", "found.jsonl", "--json", "recall.json")[0] == 0  # else it is scored
    (tmp_path / KEPT).parent.mkdir(parents=True)
    os.link(target, tmp_path / KEPT)
    code, _, err = eval_flickr(*words)
    assert code == 2 and "is a file that this command reads" in err
    assert target.read_bytes() == before
