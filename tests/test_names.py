"""Names in one line and in files: where a stop ends one, and what a file may hold."""

from __future__ import annotations

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
