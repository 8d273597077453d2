"""glip-export onnx: a mistake is one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from command_line import refused


class Bomb:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('exploded', 'w')",))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ("weights.pth", "no such")),
        (lambda path: path.mkdir(), ("weights.pth", "directory")),
        (lambda path: path.write_bytes(b""), ("weights.pth", "empty")),
        (lambda path: path.write_bytes(b"\x89PNG nothing of the kind" * 99), ("weights.pth",)),
        (lambda path: path.write_bytes(pickle.dumps({"model": Bomb()})), ("weights.pth", "pickled code")),
    ],
)
def test_onnx_refuses_bad_weights(glip_export, tmp_path: Path, make, words) -> None:
    make(tmp_path / "weights.pth")
    before = sorted(tmp_path.rglob("*"))
    refused(glip_export("onnx", "--weights", "weights.pth", "--output", "engines/x"), *words)
    assert sorted(tmp_path.rglob("*")) == before  # nothing written, nothing executed


def test_onnx_refuses_truncated_weights(glip_export, tmp_path: Path, oracle_tiny: Path) -> None:
    data = (oracle_tiny / "weights.pth").read_bytes()
    for length in (10, 4000, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        refused(glip_export("onnx", "--weights", "cut.pth"), "cut.pth")
    assert not (tmp_path / "engines").exists()


def test_onnx_refuses_another_models_weights(glip_export, tmp_path: Path, oracle_tiny: Path) -> None:
    import torch

    torch.save({"model": {"module.conv1.weight": torch.zeros(4, 3, 3, 3)}}, tmp_path / "resnet.pth")
    refused(glip_export("onnx", "--weights", "resnet.pth"), "--config")
    refused(
        glip_export("onnx", "--weights", "resnet.pth", "--config", oracle_tiny / "config.yaml"), "LANG_DIM"
    )  # its BERT is not bert-base
    tiny = ["--config", oracle_tiny / "config.yaml", "--bert-config", oracle_tiny / "bert_config.json"]
    refused(glip_export("onnx", "--weights", "resnet.pth", *tiny), "resnet.pth", "missing")


def test_onnx_refuses_averaged_weights_that_are_not_there(glip_export, oracle_tiny: Path) -> None:
    refused(glip_export("onnx", "--weights", oracle_tiny / "weights.pth", "--ema"), "weights.pth", "leave out --ema")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("MODEL: [", ("bad.yaml",)),
        ("just a text", ("bad.yaml",)),
        ("MODEL:\n  META_ARCHITECTURE: GeneralizedVLRCNN\n  SWINT:\n    EMBED_DIM: wide\n", ("EMBED_DIM",)),
        ("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n", ("META_ARCHITECTURE",)),
    ],
)
def test_onnx_refuses_a_wrong_yaml(glip_export, tmp_path: Path, oracle_tiny: Path, yaml: str, words) -> None:
    (tmp_path / "bad.yaml").write_text(yaml)
    refused(glip_export("onnx", "--weights", oracle_tiny / "weights.pth", "--config", "bad.yaml"), *words)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.DYHEAD.SCORE_AGGG", "MEAN"], ("SCORE_AGGG", "SCORE_AGG")),
        (["MODEL.DYHEAD.SCORE_AGG", "MEEN"], ("SCORE_AGG", "MEEN")),
        (["MODEL.ATSS.PRE_NMS_TOP_N", "many"], ("PRE_NMS_TOP_N",)),
        (["MODEL.DYHEAD.SCORE_AGG"], ("SCORE_AGG",)),
        (["MODEL.DYHEAD.FUSE_CONFIG.TYPE", "MHA-S"], ("b_attn", "no place", "TYPE MHA-B")),
        (["--wieghts", "x"], ("--wieghts",)),
    ],
)
def test_onnx_refuses_wrong_overrides(glip_export, tmp_path: Path, oracle_tiny: Path, overrides, words) -> None:
    given = ["--weights", oracle_tiny / "weights.pth", "--config", oracle_tiny / "config.yaml"]
    given += ["--bert-config", oracle_tiny / "bert_config.json"]
    refused(glip_export("onnx", *given, "--output", "engines/x", *overrides), *words)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("size", ["800", "800x", "axb", "800x1333", "0x0", "-64x64"])
def test_onnx_refuses_wrong_image_sizes(glip_export, oracle_tiny: Path, size: str) -> None:
    refused(glip_export("onnx", "--weights", oracle_tiny / "weights.pth", f"--image-size={size}"), "size")


def test_onnx_refuses_to_overwrite_a_folder_of_the_users(glip_export, tmp_path: Path, oracle_tiny: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mother.jpg").write_bytes(b"dear")
    given = ["--weights", oracle_tiny / "weights.pth", "--config", oracle_tiny / "config.yaml"]
    given += ["--bert-config", oracle_tiny / "bert_config.json", "--output", "photos"]
    refused(glip_export("onnx", *given), "photos")
    assert (tmp_path / "photos" / "mother.jpg").read_bytes() == b"dear"
