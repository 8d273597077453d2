"""What commands share on the terminal: warnings, and options that are given once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
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
