"""glip-export triton on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def glip_export(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glip_export.cli", "triton", *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)


def test_it_writes_what_was_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["--instances", 3, "--max-batch", 4, "--max-wait-us", 70, "--max-queue", 9, "--max-bytes", 1000]
    words += ["--max-pixels", 2000, "--max-names", 30, "--image-cache", 5, "--threads", 2]
    done = glip_export(tmp_path, tiny_bundle, "--output", "out", "--backend", "openvino", *words)
    assert done.returncode == 0, done.stderr
    assert "Wrote out: openvino, 3 instance(s), batches of up to 4." in done.stdout
    text = (tmp_path / "out" / "glip" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.max_batch_size, config.instance_group[0].count) == (4, 3)
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 70 and batching.default_queue_policy.max_queue_size == 9
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "backend": "openvino",
        "threads": "2",
        "max_bytes": "1000",
        "max_pixels": "2000",
        "max_names": "30",
        "image_cache_bytes": "5000000",
    }
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["glip"]


def test_mistakes_are_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for words, told in [
        ([tiny_bundle, "--output", "full"], "full is not empty"),
        ([tmp_path / "full", "--output", "out"], "is not a bundle"),
        ([tiny_bundle, "--output", "out", "--backend", "torch"], "take another --backend"),
        ([tiny_bundle, "--output", "out", "--max-pixels", 10**9], "--max-pixels is 1000000000"),
    ]:
        done = glip_export(tmp_path, *words)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and told in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
