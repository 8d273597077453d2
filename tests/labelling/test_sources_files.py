"""Files named by braces and wildcards."""

from __future__ import annotations

from pathlib import Path

import pytest

from glip_export.errors import GlipExportError
from glip_export.labelling.sources import files
from glip_export.labelling.sources.files import expand, is_pattern, suffix_of_pattern


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("p-{008..011}.tar", ["p-008.tar", "p-009.tar", "p-010.tar", "p-011.tar"]),
        ("p-{8..11}.tar", ["p-8.tar", "p-9.tar", "p-10.tar", "p-11.tar"]),
        ("p-{2..0}.tar", ["p-2.tar", "p-1.tar", "p-0.tar"]),
        ("{b,a}/{1..2}.tar", ["b/1.tar", "b/2.tar", "a/1.tar", "a/2.tar"]),
        ("x{,-old}.tar", ["x.tar", "x-old.tar"]),
        ("{a,b{1,2}}.tar", ["a.tar", "b1.tar", "b2.tar"]),
    ],
)
def test_braces_name_files_whether_they_are_there_or_not(tmp_path: Path, text: str, names: list[str]) -> None:
    found = expand(f"{tmp_path}/{text}")
    assert [each.relative for each in found.found] == names and found.base == f"{tmp_path}/"
    assert [each.path for each in found.found] == [f"{tmp_path}/{name}" for name in names]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("*.tar", ["a.tar", "b.tar"]),
        ("[!a].tar", ["b.tar"]),
        ("s/*.tar", ["1.tar", "2.tar"]),
        ("?/*.tar", ["s/1.tar", "s/2.tar", "t/1.tar"]),
        ("*/1.tar", ["s/1.tar", "t/1.tar"]),
        ("**/*.tar", ["a.tar", "b.tar", "s/1.tar", "s/2.tar", "t/1.tar", "t/u/9.tar"]),
        ("**/u/*.tar", ["t/u/9.tar"]),
        ("{t,s}/*.tar", ["t/1.tar", "s/1.tar", "s/2.tar"]),
        ("{b,a,b}.*", ["b.tar", "a.tar"]),
        (".*.tar", [".h.tar"]),
    ],
)
def test_wildcards_are_sorted_and_pass_over_hidden_files(tmp_path: Path, text: str, names: list[str]) -> None:
    for name in ("b.tar", "a.tar", "s/2.tar", "s/1.tar", "t/1.tar", "t/u/9.tar", ".h.tar", ".h/1.tar", "s/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [each.relative for each in expand(f"{tmp_path}/{text}").found] == names


def test_a_relative_pattern_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").touch()
    monkeypatch.chdir(tmp_path)
    assert [each.path for each in expand("*.tar").found] == [str(tmp_path / "a.tar")]


def test_what_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].tar").touch()
    assert not is_pattern(str(tmp_path / "a[1].tar")) and is_pattern(str(tmp_path / "b[1].tar"))
    assert not is_pattern("s3://b/x.tar?region=eu") and is_pattern("s3://b/?.tar?region=eu")
    assert suffix_of_pattern("s3://b/{a,b}.TAR?region=eu") == ".tar" and suffix_of_pattern("x.{tar,parquet}") == ""


def test_patterns_that_name_nothing_or_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GlipExportError, match="no file is like"):
        expand(f"{tmp_path}/nowhere/*.tar")
    with pytest.raises(GlipExportError, match=r"\*\* may stand once"):
        (tmp_path / "a.tar").touch()
        expand(f"{tmp_path}/**/b/**/*.tar")
    monkeypatch.setattr(files, "_MOST", 100)
    with pytest.raises(GlipExportError, match="names more than 100 files"):
        expand(f"{tmp_path}/{{0..99999999999}}.tar")
