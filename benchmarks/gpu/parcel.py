"""What run.py takes along to a machine without network, made where there is one: run.py --prepare."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import full_size
import models
import step_ap
import typer
from context import Context

SCENES = 200
PYTHON, PLATFORMS = "3.12", ("manylinux2014_x86_64", "manylinux_2_28_x86_64")  # of the machine that it goes to


def prepare(folder: Path, scenes: int = SCENES) -> None:
    """Held-out scenes, pycocotools, the three bundles' skeletons, and the CPU's AP on the scenes.

    What is there already stays.
    """
    annotations = folder / step_ap.SCENES / "annotations.json"
    if not annotations.is_file():
        from glip_export.training.scenes import scene_sets, write_scenes

        write_scenes(scene_sets()["val"], scenes, annotations.parent)
    _say(annotations.parent)
    if not (folder / step_ap.PACKAGES).is_dir():
        _fetch("pycocotools", folder / step_ap.PACKAGES)
    _say(folder / step_ap.PACKAGES)
    with tempfile.TemporaryDirectory(prefix="glip-parcel-") as output:  # a gigabyte for some minutes
        context = Context(Path(output), parcel=folder)
        for name in models.MODELS:
            models.prepare(context, name)
            _say(folder / name)
        if not (folder / step_ap.REFERENCE).is_file():
            dataset = step_ap.read_scenes(context)
            bundle = models.bundle_of(context, models.DEMO)
            step_ap.write_reference(folder / step_ap.REFERENCE, step_ap.asked_of(bundle, dataset), bundle, dataset)
        full_size.prepare(context)
    _say(folder / full_size.SKELETON)


def _fetch(package: str, folder: Path) -> None:
    """A package for the other machine's Python, unpacked. Raises GlipExportError."""
    from glip_export.errors import GlipExportError

    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", PYTHON, "--dest", wheels]
        command += [word for platform in PLATFORMS for word in ("--platform", platform)]
        done = subprocess.run([*command, package], capture_output=True, text=True, encoding="utf-8", check=False)
        found = list(Path(wheels).glob("*.whl"))
        if done.returncode or not found:
            last = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise GlipExportError(f"no {package} for Python {PYTHON} ({last}): is there a network, and pip?")
        partial = folder.with_name(f"{folder.name}.partial")
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(partial)
        partial.rename(folder)


def _say(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB")
