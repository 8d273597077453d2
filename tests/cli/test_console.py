"""What commands share on the terminal: warnings, and options that are given once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer
from command_line import CAT, refused

from glip_export.bench import cli as bench_cli
from glip_export.cli.console import run_app
from glip_export.errors import GlipExportWarning


def test_a_warning_is_one_line_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    def app() -> None:
        for words in ("first", "first", "second"):
            warnings.warn(words, GlipExportWarning, stacklevel=1)

    run_app(app, "glip-export")
    streams = capsys.readouterr()
    assert streams.err == "glip-export: warning: first\nglip-export: warning: second\n" and streams.out == ""


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a verb too, where typer would end without a word."""
    app = typer.Typer()

    @app.command()
    def verb() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["glip-export"])
    with pytest.raises(SystemExit) as stopped:
        run_app(app, "glip-export")
    assert stopped.value.code == 130 and capsys.readouterr() == ("", "glip-export: interrupted\n")


def test_unk_prompt_is_told_on_the_command_line(glip_export, tiny_bundle: Path) -> None:
    words = ("detect", CAT, "--prompt", "\u732b. cat", "--bundle", tiny_bundle, "--threads", 1)
    code, _, err = glip_export(*words)
    assert code == 0, err
    assert [line for line in err.splitlines() if line] == [
        "glip-export: warning: the model's vocabulary has no word for '\u732b': read as [UNK], so that names with "
        "nothing else in them all get the same boxes"
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("detect", "a.jpg", "--prompt", "cat", "--prompt", "dog"), ("--prompt once", "separated by stops")),
        (("detect", "a.jpg", "--prompt=cat", "--threshold", "0.5", "--threshold", "0.6"), ("--threshold once",)),
        (("eval", "coco", "--images", "a", "--annotations", "b", "--names", "c", "--names", "d"), ("--names once",)),
        (("info", "--json", "a", "--json", "b"), ("--json once",)),
        (("onnx", "--weights", "a.pth", "--weights", "b.pth"), ("--weights once",)),
    ],
)
def test_an_option_given_twice_is_refused(glip_export, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    refused(glip_export(*words), *told)


def test_bench_refuses_an_option_given_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["glip-bench", "--prompt", "cat", "--prompt", "dog"])
    with pytest.raises(SystemExit) as stopped:
        bench_cli.main()
    refused((stopped.value.code, *capsys.readouterr()), "glip-bench: give --prompt once")  # type: ignore[arg-type]


def test_bench_tells_of_words_that_the_model_lacks() -> None:
    with pytest.warns(GlipExportWarning, match="no word for '\u732b'"):
        assert bench_cli._names("\u732b. cat", coco=False, file=None) == ("\u732b", "cat")


def test_repeatable_options_are_given_again(glip_export, tmp_path: Path) -> None:
    code, _, err = glip_export("verify", "none", "--backend", "torch", "--backend", "onnxruntime")
    assert code == 2 and "once" not in err and "none" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows' shell cannot close a stream")
def test_a_closed_or_full_stream_is_no_traceback(tmp_path: Path, tiny_bundle: Path) -> None:
    """And no file that is written takes the place of the closed standard output."""
    program = f"{sys.executable} -m glip_export.cli"
    detect = f"detect {CAT} --prompt cat --bundle {tiny_bundle} --threads 1 --no-draw --json found.json"
    for words, streams, code in (
        ("--version", ">&-", 0),
        ("--help", ">&- 2>&-", 0),
        (detect, ">&- 2>&- <&-", 0),
        ("info nothing", ">&-", 2),
        ("info nothing", "2>&-", 2),
    ):
        command = f"{program} {words} {streams}"
        ran = subprocess.run(command, check=False, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (code, "") and "Traceback" not in ran.stderr, words
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["results"]
    if os.path.exists("/dev/full"):
        ran = subprocess.run(f"{program} info nothing 2>/dev/full", check=False, shell=True, cwd=tmp_path)
        assert ran.returncode == 2
