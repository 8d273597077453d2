"""What is in the wheel and the sdist, and which releases the lowest environment is made of."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from environments import (
    LOWEST_EXTRAS,
    NEWEST_EXTRAS,
    ROOT,
    NoIndexError,
    build,
    build_wheel,
    find_pythons,
    lowest_releases,
    project,
    python_versions,
)
from packaging.requirements import Requirement

MOVED = {"plugins/kernels": "glip_export/trt/kernel_sources", "engines": "glip_export/trt/recipes"}
HARDWARE = {"gpu", "trt", "pycuda"}  # extras whose oldest releases no CPU can run


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dist/*.whl, and with setuptools/ to build with."""
    folder = tmp_path_factory.mktemp("built")
    try:
        build_wheel(folder)
    except NoIndexError as error:
        pytest.skip(f"pip cannot install setuptools to build with: {error}")
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = (built / "dist").glob("*.whl")
    return path


def needed() -> dict[str, bytes]:
    """Every file of the package, and of the folders that are installed inside it, by its name in the wheel."""
    files = {path: str(path.relative_to(ROOT)) for path in (ROOT / "glip_export").rglob("*")}
    for source, target in MOVED.items():
        files |= {path: f"{target}/{path.name}" for path in (ROOT / source).glob("*")}
    ours = {path: name for path, name in files.items() if path.is_file() and "__pycache__" not in path.parts}
    return {name: path.read_bytes() for path, name in ours.items()}


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    files = needed()
    for must in ("data/bert_base_uncased_vocab.txt", "serving/page/index.html", "data/pictures/cat.jpg"):
        assert f"glip_export/{must}" in files
    assert {Path(name).suffix for name in files} >= {".py", ".cu", ".cuh", ".cpp", ".hpp", ".yaml", ".css", ".js"}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    about = {name for name in inside if ".dist-info/" in name}
    assert {name: content for name, content in inside.items() if name not in about} == files
    (licence,) = (name for name in about if name.endswith("/LICENSE"))
    assert inside[licence] == (ROOT / "LICENSE").read_bytes()
    (scripts,) = (inside[name].decode() for name in about if name.endswith("/entry_points.txt"))
    assert "glip-export = glip_export.cli:main" in scripts and "glip-bench = glip_export.bench.cli:main" in scripts


def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path) -> None:
    sdist = build(built / "source", built / "sdist", built / "setuptools", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(built / "unpacked", filter="data")
    (source,) = (built / "unpacked").iterdir()
    again = build(source, built / "again", built / "setuptools", "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist()} == {
            item.filename: item.CRC for item in other.infolist()
        }


def test_every_requirement_that_a_cpu_can_run_has_a_lower_bound() -> None:
    described = project()["project"]
    extras = {name for name in described["optional-dependencies"] if name not in HARDWARE | {"dev"}}
    asked = [
        *described["dependencies"],
        *(line for name in extras for line in described["optional-dependencies"][name]),
    ]
    assert len(lowest_releases(sorted(extras))) == len(asked)
    assert {*LOWEST_EXTRAS.split(","), *NEWEST_EXTRAS.split(",")} <= extras
    assert f"numpy=={dict(map(_bound, described['dependencies']))['numpy']}" in lowest_releases([])


def test_a_requirement_has_the_same_bound_everywhere() -> None:
    """One environment holds the lowest of all."""
    described = project()["project"]
    lists = [described["dependencies"], *described["optional-dependencies"].values()]
    bounds = [_bound(line) for lines in lists for line in lines]
    assert len(set(bounds)) == len({name for name, _ in bounds})


def _bound(line: str) -> tuple[str, str]:
    requirement = Requirement(line)
    return requirement.name.lower(), next(
        (bound.version for bound in requirement.specifier if ">" in bound.operator), ""
    )


def test_the_lowest_python_is_the_first_that_pyproject_names(tmp_path: Path, monkeypatch, capsys) -> None:
    assert project()["project"]["requires-python"] == f">={python_versions()[0]}"
    assert project()["tool"]["ruff"]["target-version"] == f"py{python_versions()[0].replace('.', '')}"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert find_pythons(["3.12"]) == []
    assert capsys.readouterr().out == "Python 3.12: not installed here\n"
