"""Runs the short suite of tests/installed in new environments, with a wheel of this checkout, outside of it.

python tests/environments.py --bundle engines/demo                       # on every Python of pyproject.toml found here
python tests/environments.py --bundle engines/demo --lowest [--extras export,openvino]   # on the oldest of them

--lowest installs the lowest release that pyproject.toml allows of each requirement, all at once; with the extra export
that environment also exports the demo model itself and runs the suite on its own bundle. Exit code 1 where a suite
fails; 0, with the reason, where pip has no index to install from or no Python is found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "tests" / "installed"
NEWEST_EXTRAS = "bench,eval,label,serve"
LOWEST_EXTRAS = "bench,eval,hub,label,serve,triton"
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="the demo model's bundle")
    parser.add_argument("--pythons", default="", help="interpreters, with spaces between; by default those found")
    parser.add_argument("--lowest", action="store_true", help="the lowest releases allowed, on the oldest Python")
    parser.add_argument("--extras", default=None, help=f"by default {NEWEST_EXTRAS}, or {LOWEST_EXTRAS} with --lowest")
    given = parser.parse_args()
    extras = given.extras if given.extras is not None else LOWEST_EXTRAS if given.lowest else NEWEST_EXTRAS
    versions = python_versions()[:1] if given.lowest else python_versions()
    pythons = given.pythons.split() or find_pythons(versions)
    if not pythons:
        print(f"Skipped: none of Python {', '.join(versions)} with venv was found here")
        return 0
    with tempfile.TemporaryDirectory(prefix="glip-export-") as folder:
        try:
            wheel = build_wheel(Path(folder))
        except NoIndexError as error:
            print(f"Skipped: pip cannot install setuptools to build the wheel: {error}")
            return 0
        expected = Path(folder, "expected.json")
        here = _checked([sys.executable, SUITE / "test_installed.py", given.bundle.resolve()], {})
        expected.write_text(here, encoding="utf-8")
        suites = [
            Suite(
                python,
                wheel,
                tuple(extras.split(",")) if extras else (),
                given.lowest,
                given.bundle.resolve(),
                expected,
            )
            for python in pythons
        ]
        with ThreadPoolExecutor(2) as pool:
            return max(pool.map(Suite.run, suites))


@dataclass(frozen=True)
class Suite:
    """The short suite in one new environment."""

    python: str
    wheel: Path
    extras: tuple[str, ...]
    lowest: bool
    bundle: Path
    expected: Path

    def run(self) -> int:
        """Installs, runs, and prints one line; what went wrong in full. Returns the exit code."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="glip-export-") as name:
            folder = Path(name)
            try:
                python = self._install(folder)
                bundle = self._export(folder) if "export" in self.extras else self.bundle
                shutil.copytree(SUITE, folder / "suite", ignore=shutil.ignore_patterns("__pycache__"))
                environment = {
                    "GLIP_EXPORT_BUNDLE": str(bundle),
                    "GLIP_EXPORT_EXPECTED": str(self.expected),
                    "GLIP_EXPORT_EXTRAS": ",".join(self.extras),
                }
                words = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", folder / "suite", "suite"]
                output = _checked([python, *words], environment, cwd=folder)
            except subprocess.CalledProcessError as error:
                print(f"{self}: FAILED\n{error.stdout}\n{error.stderr}")
                return 1
        lines = output.strip().splitlines()
        skipped = [line for line in lines if line.startswith("SKIPPED")]
        print("\n  ".join([f"{self}: {lines[-1]}; with its installation {time.monotonic() - started:.0f} s", *skipped]))
        return 0

    def __str__(self) -> str:
        version = _checked([self.python, "-c", "import platform; print(platform.python_version())"], {}).strip()
        releases = "lowest" if self.lowest else "newest"
        return f"Python {version}, {releases} releases{''.join(f', {extra}' for extra in self.extras)}"

    def _install(self, folder: Path) -> Path:
        """A new environment with the wheel, its extras and pytest; its interpreter."""
        _checked([self.python, "-m", "venv", folder / "venv"], {})
        python = folder / "venv" / "bin" / "python"
        asked = f"glip-export[{','.join(self.extras)}] @ {self.wheel.as_uri()}"
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(lowest_releases(self.extras)) if self.lowest else "", encoding="utf-8")
        _checked([python, *PIP, "install", "pytest>=9", asked, "-c", constraints], {}, cwd=folder)
        return python

    def _export(self, folder: Path) -> Path:
        """The demo model's bundle, as this environment exports it."""
        demo, bundle = ROOT / "demo", folder / "bundle"
        words = ["--weights", demo / "glip_demo.safetensors", "--config", demo / "glip_demo.yaml"]
        words += ["--bert-config", demo / "bert_config.json", "--output", bundle]
        _checked([folder / "venv" / "bin" / "glip-export", "onnx", *words], {}, cwd=folder)
        return bundle


class NoIndexError(Exception):
    """pip finds no package index."""


def project() -> dict:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python_versions() -> list[str]:
    """The Pythons that pyproject.toml names: ["3.11", ...]."""
    prefix = "Programming Language :: Python :: "
    return [line.removeprefix(prefix) for line in project()["project"]["classifiers"] if line.startswith(prefix)]


def find_pythons(versions: Sequence[str]) -> list[str]:
    """An interpreter of each version that is here, on PATH or of pyenv, and can make environments."""
    found = []
    for version in versions:
        on_path = [str(Path(folder, f"python{version}")) for folder in os.get_exec_path()]
        of_pyenv = map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        works = next((python for python in (*on_path, *of_pyenv) if _makes_environments(python, version)), None)
        found += [works] if works else []
        if works is None:
            print(f"Python {version}: not installed here")
    return found


def _makes_environments(python: str, version: str) -> bool:
    code = "import ensurepip, venv, sys; print('{}.{}'.format(*sys.version_info))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version  # a shim of pyenv's may stand for none


def lowest_releases(extras: Sequence[str]) -> list[str]:
    """ "numpy==1.26" for "numpy>=1.26", of the dependencies and the extras; what has no bound is left free."""
    described = project()["project"]
    lines = [
        *described["dependencies"],
        *(line for extra in extras for line in described["optional-dependencies"][extra]),
    ]
    return [pinned for line in lines for pinned in _pinned(Requirement(line))]


def _pinned(requirement: Requirement) -> list[str]:
    bounds = [bound.version for bound in requirement.specifier if bound.operator in (">=", "==")]
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return [f"{requirement.name}=={bound}{marker}" for bound in bounds]


def build_wheel(folder: Path) -> Path:
    """A wheel of this checkout in folder/dist, built of a copy with the lowest setuptools that pyproject.toml allows.

    Built in place, files of an earlier build/ would come along. Raises NoIndexError.
    """
    source, backend = folder / "source", folder / "setuptools"
    copy_sources(source)
    requires = [pinned for line in project()["build-system"]["requires"] for pinned in _pinned(Requirement(line))]
    try:
        _checked([sys.executable, *PIP, "install", "--target", backend, *requires], {})
    except subprocess.CalledProcessError as error:
        raise NoIndexError(error.stderr.strip().splitlines()[-1]) from error
    return build(source, folder / "dist", backend, "wheel")


def copy_sources(target: Path) -> None:
    """What the distribution is made of."""
    for name in ("glip_export", "plugins"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "engines").mkdir()
    for path in (ROOT / "engines").glob("*.yaml"):
        shutil.copy(path, target / "engines")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)


def build(source: Path, target: Path, backend: Path, kind: str) -> Path:
    """A wheel or an sdist of a folder, by setuptools in `backend`."""
    target.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    output = _checked([sys.executable, "-c", code, target], {"PYTHONPATH": str(backend)}, cwd=source)
    return target / output.strip().splitlines()[-1]


def _checked(command: Sequence[str | Path], environment: dict[str, str], cwd: Path | None = None) -> str:
    """What it prints. Raises CalledProcessError with both its outputs."""
    ours = ("PYTEST_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        cwd=cwd,
        env={**kept, **environment},
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
