"""docs/scale: the files that start `label` on a cluster are well formed, and ask it for what it has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from glip_export.cli.app import app

FOLDER = Path(__file__).parents[2] / "docs" / "scale"
SLURM = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8"}
ASKED = {"SOURCE": "/data/my pictures", "NAMES": "/data/names.txt", "OUTPUT": "/data/labels", "BUNDLE": "/data/bundle"}


def manifest() -> dict[str, Any]:
    (only,) = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    return only


def groups() -> list[dict[str, Any]]:
    spec = manifest()["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def run_slurm(folder: Path, **environment: str) -> list[str]:
    """What srun is told, by stand-ins that write it down."""
    for name, script in {"scontrol": "printf 'n1\\nn2\\nn3\\n'", "srun": f'printf "%s\\n" "$@" >{folder}/told'}.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", str(FOLDER / "slurm.sh")], env={**path, **environment}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return (folder / "told").read_text().splitlines()


def parsed(words: list[str]) -> dict[str, Any]:
    """What `glip-export label` takes the words for; its files need not be there. Fails for an option it has not."""
    assert words[:2] == ["glip-export", "label"]
    label = typer.main.get_command(app).commands["label"]  # type: ignore[attr-defined]
    values, rest, _ = label.make_parser(label.context_class(label)).parse_args(list(words[2:]))
    assert not rest
    return values


def test_the_manifest_is_a_job_that_goes_on() -> None:
    spec = manifest()["spec"]
    assert (manifest()["apiVersion"], manifest()["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True


def test_all_pods_have_one_image_and_the_data() -> None:
    image = re.search(r"^FROM rayproject/ray:([\d.]+)-", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert image and manifest()["spec"]["rayClusterSpec"]["rayVersion"] == image[1]
    containers = [container for group in groups() for container in group["template"]["spec"]["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for group, container in zip(groups(), containers, strict=True):
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert {volume["name"] for volume in group["template"]["spec"]["volumes"]} == set(mounts)
        assert mounts["data"].get("readOnly", False) is (container["name"] != "ray-head")  # the driver alone writes


def test_the_driver_has_its_node_to_itself_and_workers_scale() -> None:
    head, *workers = groups()
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    of_gpus = set()
    for group in workers:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]  # Ray counts cores by the limit
        of_gpus.add("nvidia.com/gpu" in resources["limits"])
    assert of_gpus == {True, False}


def test_the_manifest_asks_for_what_label_has() -> None:
    values = parsed(shlex.split(manifest()["spec"]["entrypoint"]))
    assert values["ray"] == "auto" and values["source"] == "/data/pictures"


def test_the_slurm_script_is_bash() -> None:
    ran = subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_slurm_script_starts_ray_on_every_node(tmp_path: Path) -> None:
    told = run_slurm(tmp_path, **SLURM, **ASKED, SLURM_GPUS_ON_NODE="4")
    start = told[: told.index("--")]
    assert start[:4] == ["--cpus-per-task=8", "--kill-on-bad-exit=1", "ray", "symmetric-run"]
    options = dict(zip(start[4:-1:2], start[5::2], strict=True))
    assert options == {"--address": "n1:24711", "--min-nodes": "3", "--num-cpus": "8", "--num-gpus": "4"}


@pytest.mark.parametrize("arguments", [None, "--backend onnxruntime:cuda --gpus-per-worker 1"])
def test_the_slurm_script_asks_for_what_label_has(tmp_path: Path, arguments: str | None) -> None:
    told = run_slurm(tmp_path, **SLURM, **ASKED, **({"ARGUMENTS": arguments} if arguments else {}))
    values = parsed(told[told.index("--") + 1 :])
    assert values["source"] == "/data/my pictures" and values["ray"] == "auto"
    assert values["backend"] == ("onnxruntime:cuda" if arguments else "openvino")
