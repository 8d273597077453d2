"""glip-export label: nothing that it writes or replaces is a picture, a source or a file of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CAT, refused
from PIL import Image

ASK = ("--prompt", "cat", "--threads", "1")


@pytest.fixture
def run(glip_export: Callable, tiny_bundle: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Labels, by default two pictures in `pictures`, into `ds`, as YOLO with the pictures copied."""
    for number in range(2):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.open(CAT).crop((10 * number, 0, 120 + 10 * number, 90)).save(path)

    def label(source: object = "pictures", *more: object, output: object = "ds") -> tuple[int, str, str]:
        how = ("--format", "yolo", "--pictures", "copy", "--bundle", tiny_bundle)
        return glip_export("label", source, *ASK, *how, "--output", output, *more)

    return label


def forget(output: str = "ds") -> None:
    """What a person removes who wants to label anew into the same folder."""
    shutil.rmtree(Path(output, "shards"))


def test_a_source_in_a_folder_that_is_replaced_is_refused(run: Callable) -> None:
    assert run()[0] == 0
    forget()
    images = Path("ds/yolo/images/train")
    Path("list.txt").write_text(f"{images}/0.png\n")
    Path("inside.txt").write_text("x\n")
    shutil.copy("list.txt", "ds/yolo/list.txt")
    Path("linked").symlink_to(images.absolute())
    Path("many").mkdir()
    Path("many/one.png").symlink_to((images / "0.png").absolute())
    for source in (images, "ds/yolo", images.absolute().as_uri(), "list.txt", "ds/yolo/list.txt", "linked", "many"):
        refused(run(source), "yolo, which this run replaces: name another --output")
    assert {path.name for path in images.iterdir()} == {"0.png", "1.png"}
    assert run(images, output="other")[0] == 0


def test_files_that_the_run_keeps_are_no_source(run: Callable) -> None:
    assert run("pictures", "--format", "parquet")[0] == 0
    for source in ("ds/shards", "ds/{shards,x}/*.parquet", "ds/parquet/part-000000.parquet", "ds/p*/*.parquet"):
        refused(run(source, "--column", "source"), ", which this run replaces: name another --output")
    assert len(list(Path("ds/shards").iterdir())) == 1


def test_a_listed_picture_is_never_removed(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run()[0] == 0
    forget()
    monkeypatch.setattr("glip_export.cli.label_files._LOOKED_AT", 1)
    last = Path("ds/yolo/images/train/1.png")
    Path("list.txt").write_text(f"pictures/0.png\n{last}\n")
    for name in ("run.json", "summary.json"):  # as where a person began anew, and kept the data set
        Path("ds", name).unlink()
    refused(run("list.txt"), "is not replaced, since", "1.png' in it is a picture of the source")
    assert last.is_file()


@pytest.mark.parametrize("name", ["summary.json", "run.json", "shards/page.json", "yolo/x/page.json", "jsonl/a.json"])
def test_a_result_never_falls_on_the_runs_own_files(run: Callable, name: str) -> None:
    refused(run("pictures", "--json", f"ds/{name}"), "name another file")
    Path("ds").mkdir(exist_ok=True)
    Path("elsewhere").symlink_to(Path("ds").absolute())
    refused(run("pictures", "--json", f"elsewhere/{name}"), "name another file")
    assert not Path("ds/shards").exists()


def test_results_have_their_own_endings(run: Callable) -> None:
    for option, name in (
        ("--html", "pictures/z.jpg"),
        ("--json", "pictures/z.html"),
        ("--html", "page"),
    ):
        refused(run("pictures", option, name), "has another ending: name a file that ends with .")
    assert len(list(Path("pictures").iterdir())) == 2
    assert run("pictures", "--html", "ds/page.HTM", "--json", "ds/result.json")[0] == 0
    assert Path("ds/page.HTM").is_file() and Path("ds/result.json").is_file()


def test_an_unset_shell_variable_is_told(run: Callable) -> None:
    refused(run(""), "SOURCE is empty")
    refused(run("pictures", output=""), "--output is empty: name a folder")
    refused(run("pictures", output="pictures/0.png"), "is a file: name a folder")
    assert not Path("shards").exists()
