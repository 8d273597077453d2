"""Names in one line and in files: where a stop ends one, and what a file may hold."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from glip_export.errors import PromptError
from glip_export.names import read_names, read_names_file, split_names
from glip_export.prompt import Prompt, tokenizer


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("St. Bernard. cat", ["St. Bernard", "cat"]),
        ("cat. st. bernard.", ["cat", "st. bernard"]),
        ("Mr. Potato Head. Dr. Pepper can", ["Mr. Potato Head", "Dr. Pepper can"]),
        ("Mt. Fuji. cat vs. dog. No. 5 sign", ["Mt. Fuji", "cat vs. dog", "No. 5 sign"]),
        ("U.S. flag. flag of the U.S.", ["U.S. flag", "flag of the U.S"]),
        ("3.5 mm jack. v1.2 box", ["3.5 mm jack", "v1.2 box"]),
        ("yes. no. cat", ["yes", "no", "cat"]),
        ("best. cat. first. dr.", ["best", "cat", "first", "dr"]),
        ("cat.dog. a. b. C. D", ["cat", "dog", "a", "b", "C", "D"]),
        (" . ..", []),
    ],
)
def test_a_stop_inside_a_name_ends_it_not(text: str, names: list[str]) -> None:
    assert split_names(text) == names


def test_caption_and_tokens_of_a_name_with_a_stop() -> None:
    prompt = Prompt.of("St. Bernard. cat")
    assert prompt == Prompt.of(["St. Bernard", "cat"])
    (chunk,) = prompt.chunks()
    assert chunk.caption == "St. Bernard. cat"
    words = tokenizer().encode(chunk.caption).tokens
    assert [[words[token] for token in tokens] for tokens in chunk.class_tokens] == [["st", ".", "bernard"], ["cat"]]


@pytest.mark.parametrize(
    "data", [b"cat\nSt. Bernard\n", b"\xef\xbb\xbfcat\r\n\r\n  St. Bernard  ", b"cat\rSt. Bernard\r\r"]
)
def test_a_name_a_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    assert read_names_file(tmp_path / "names.txt") == read_names(str(tmp_path / "names.txt")) == ("cat", "St. Bernard")


def test_words_are_names() -> None:
    assert read_names("cat. remote control") == ("cat", "remote control")
    assert read_names("black/white cat") == ("black/white cat",)
    assert read_names("and/or. names.txt. cat") == ("and/or", "names", "txt", "cat")
    with pytest.raises(PromptError, match="the prompt is empty"):
        read_names(". .")


@pytest.mark.parametrize("words", ["class_names.txt", "lists/coco", "./names", "a folder/names.TXT", "classes.names"])
def test_a_missing_file_is_no_list_of_names(words: str) -> None:
    with pytest.raises(PromptError) as caught:
        read_names(words, "--names")
    assert str(caught.value).startswith(f"--names {Path(words)} does not exist")


def test_files_that_hold_no_names(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf \n\n")
    (tmp_path / "utf16.txt").write_bytes("cat\n".encode("utf-16"))
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "large.txt").write_bytes(b"a\n" * 2_000_001)
    told = {"empty.txt": "holds no name", "utf16.txt": "not UTF-8", "folder.txt": "a folder", "large.txt": "too large"}
    for name, words in {**told, "nul\0.txt": "cannot read"}.items():
        with pytest.raises(PromptError, match=words) as caught:
            read_names(str(tmp_path / name), "--prompt-file")
        assert "--prompt-file" in str(caught.value) and "\n" not in str(caught.value)


HOLES = {"prefix": "there are some ", "name": "holes", "suffix": " on the road "}
ODINW = "[{'prefix': ' ', 'name': 'fish', 'suffix': '', }, {'prefix': '', 'name': 'stingray', 'suffix': ' , flat.'}, ]"


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.json", json.dumps(["St. Bernard", HOLES, {"name": "cat"}]), None),
        (
            "b.YAML",
            "- St. Bernard\n- {prefix: 'there are some ', name: holes, suffix: ' on the road '}\n- name: cat\n",
            None,
        ),
        ("c.yml", f'"{ODINW}"', "odinw"),
        ("d.yaml", f'DATASETS:\n  CAPTION_PROMPT: "{ODINW}"\nMODEL: {{}}\n', "odinw"),
    ],
)
def test_names_in_json_and_yaml_are_kept_as_written(tmp_path: Path, name: str, text: str, names: str | None) -> None:
    (tmp_path / name).write_text(text)
    found = read_names(str(tmp_path / name))
    if names == "odinw":
        (chunk,) = Prompt.of(found).chunks()
        assert chunk.caption == " fish. stingray , flat."
        assert chunk.class_tokens == ((1,), (3, 4))
        return
    assert found == ("St. Bernard", HOLES, {"prefix": "", "name": "cat", "suffix": ""})
    prompt = Prompt.of(found)
    assert prompt.names == ("St. Bernard", "holes", "cat")
    (chunk,) = prompt.chunks()
    assert chunk.caption == "St. Bernard. there are some holes on the road . cat"
    assert chunk.class_tokens == ((1, 2, 3), (8,), (13,))


def test_a_list_of_plain_names_is_no_prompt_of_words(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["cat", "trap_(door)"]')
    assert (
        Prompt.of(read_names(str(tmp_path / "a.json"))) == Prompt.of(["cat", "trap_(door)"]) == Prompt(("cat", "trap "))
    )


# Ten lists of nine aliases each of the one before: two kilobytes that are three billion names.
BOMB = "- &a0 [x]\n" + "".join(f"- &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(10))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '["cat", 3]', "name 2 of the prompt is 3: it is a text, or {prefix, name, suffix} of texts"),
        ("a.json", '["cat", {"name": "dog", "sufix": "s"}]', "name 2 of the prompt is {'name': 'dog', 'sufix': 's'}"),
        ("a.json", '[{"prefix": "a "}]', "name 1 of the prompt is"),
        ("a.json", '[{"prefix": null, "name": "b"}]', "name 1 of the prompt is"),
        ("a.json", '["cat", {"prefix": "a ", "name": " . "}]', "name 2 is empty"),
        ("a.json", '{"names": ["cat"]}', "it takes a list of names"),
        ("a.json", "[]", "it takes a list of names"),
        ("a.json", "cat\ndog\n", "is not valid JSON"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.yaml", "- cat\n- no\n", "name 2 of the prompt is False"),
        ("a.yaml", "- [cat]\n", "name 1 of the prompt is ['cat']"),
        ("a.yaml", "cat: [\n", "not valid YAML"),
        ("a.yaml", "cat. dog", "it takes a list of names"),
        ("a.yaml", "DATASETS: {TRAIN: x}", "has no DATASETS.CAPTION_PROMPT"),
        ("a.yaml", "- a\n" * 250_001, "too large for YAML"),
        ("a.yaml", BOMB, "name 1 of the prompt is ['x']"),
        ("a.yaml", BOMB.replace("- &a0 [x]\n", "- &a0 x\n"), "name 2 of the prompt is ['x', 'x',"),
        ("a.yaml", f"DATASETS:\n  CAPTION_PROMPT:\n{textwrap.indent(BOMB, '    ')}", "name 1 of the prompt is ['x']"),
        ("a.yaml", f"top:\n{textwrap.indent(BOMB, '    ')}", "it takes a list of names"),
        ("a.yaml", "- &a [*a]\n", "name 1 of the prompt is [[[[[...]]]]]"),
    ],
)
def test_json_and_yaml_that_hold_no_names(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PromptError) as caught:
        read_names_file(tmp_path / name, "--prompt-file")
    assert f"--prompt-file {tmp_path / name}" in str(caught.value) and told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_name_of_a_list() -> None:
    for entry in (3, None, b"cat", ("a ", "cat", ""), {"name": 3}, {}, {"name": "cat", "words": ""}):
        with pytest.raises(PromptError, match="name 2 of the prompt is"):
            Prompt.of(["dog", entry])  # type: ignore[list-item]
