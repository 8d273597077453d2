"""Where the test data is, and the small model and its bundle that many tests share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from compact_oracle import OracleCase, cases

if TYPE_CHECKING:
    from plugins.host_kernels import HostKernels

    from glip_export.model.glip import Glip

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parents[1] / "demo"
_TINY = OracleCase("tiny")


@pytest.fixture(scope="session")
def oracle_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small GLIP that the original ran: weights.pth, drawn, config.yaml, bert_config.json, prompt.json, io.npz."""
    from filelock import FileLock

    folder = _kept("oracle", _TINY.weights_key()) or _shared(tmp_path_factory) / "oracle"
    with FileLock(_shared(tmp_path_factory) / "oracle.lock"):
        if not (folder / "weights.pth").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for file in _TINY.folder.iterdir():
                shutil.copy(file, folder)
            _TINY.write_checkpoint(folder / "weights.partial").rename(folder / "weights.pth")
    return folder


@pytest.fixture(scope="session")
def oracle_full_dump() -> Path:
    """config.yaml with every key of the original, and the bert_config.json of the same small GLIP."""
    return DATA / "oracle" / "full_dump"


@pytest.fixture(scope="session")
def oracle_small() -> Path:
    """The original's captions, sizes, score aggregation, box decoding and NMS."""
    return DATA / "oracle" / "small"


@pytest.fixture(scope="session")
def tiny_oracle() -> OracleCase:
    """The original's numbers of the small GLIP on two pictures: see `compact_oracle`."""
    return _TINY


@pytest.fixture(scope="session")
def tiny_io() -> dict[str, np.ndarray]:
    """What the small GLIP was given, raw_image0, raw_image1 and image_batch, and the original's whole tensors."""
    from glip_export.config import load_config
    from glip_export.image import preprocess

    pictures = _TINY.pictures()
    image = load_config(_TINY.config, (), _TINY.bert_config).image
    drawn = {f"raw_image{number}": picture for number, picture in enumerate(pictures)}
    return {**drawn, "image_batch": preprocess(pictures, image).images, **_TINY.whole}


@pytest.fixture(scope="session")
def tiny_class_map() -> np.ndarray:
    """(1, 64, 4) f32: the class map (MEAN) of the small oracle's prompt."""
    return _TINY.class_map(64)


@pytest.fixture(scope="session")
def tiny_model(oracle_tiny: Path) -> Glip:
    """The small GLIP in PyTorch."""
    from glip_export import load_model

    return load_model(
        oracle_tiny / "weights.pth", oracle_tiny / "config.yaml", bert_config=oracle_tiny / "bert_config.json"
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Glip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small GLIP's bundle, exported once for all of pytest's workers; not to be changed."""
    return _exported_once("tiny", lambda: tiny_model, tmp_path_factory)


@pytest.fixture(scope="session")
def several_scales_bundle(oracle_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small GLIP's bundle with TEST.USE_MULTISCALE, at the scales of `multiscale_oracle`, likewise."""
    import multiscale_oracle

    from glip_export import load_model

    def load() -> Glip:
        words = multiscale_oracle.overrides()
        return load_model(
            oracle_tiny / "weights.pth", oracle_tiny / "config.yaml", words, oracle_tiny / "bert_config.json"
        )

    return _exported_once("several-scales", load, tmp_path_factory)


@pytest.fixture
def tiny_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The small GLIP's bundle to be changed, or to keep what sessions keep in it; without anybody's caches."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny", ignore=shutil.ignore_patterns("cache")))


@pytest.fixture(scope="session")
def tiny_unfused_bundle(oracle_bundle: Callable[[OracleCase], Path]) -> Path:
    """The bundle of the small GLIP without fusion, likewise."""
    return oracle_bundle(OracleCase("tiny_unfused"))


@pytest.fixture(scope="session")
def oracle_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[OracleCase], Path]:
    """The bundle of any of the small models that the original ran, likewise."""
    from glip_export import load_model

    def export(case: OracleCase) -> Path:
        folder = _kept("oracle", case.weights_key()) or _shared(tmp_path_factory) / f"oracle-{case.name}"

        def load() -> Glip:  # under the export's lock
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "weights.pth").exists():
                case.write_checkpoint(folder / "weights.partial").rename(folder / "weights.pth")
            return load_model(folder / "weights.pth", case.config, bert_config=case.bert_config)

        return _exported_once(case.name, load, tmp_path_factory)

    return export


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model's bundle, exported once for all of pytest's workers; not to be changed."""
    weights = DEMO / "glip_demo.safetensors"
    if not weights.exists():
        pytest.skip(f"the demo model's weights {weights.name} are not there yet")

    def load() -> Glip:
        from glip_export import load_model

        return load_model(weights, DEMO / "glip_demo.yaml", bert_config=DEMO / "bert_config.json")

    return _exported_once("demo", load, tmp_path_factory)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """The CUDA kernels as plain C++, built once for all of pytest's workers."""
    from filelock import FileLock
    from plugins.host_kernels import HostKernels, build, compiler

    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    shared = _shared(tmp_path_factory)
    library = shared / "libglip_host_kernels.so"
    with FileLock(shared / "host_kernels.lock"):
        if not library.exists():
            build(library)
    return HostKernels(library)


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all workers of this run."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def _exported_once(name: str, load: Callable[[], Glip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from filelock import FileLock

    from glip_export import export_onnx

    shared = _shared(tmp_path_factory)
    bundle = shared / name
    # A worker that crashes leaves no lock behind; one that hangs is ended before this runs out, with its test's name.
    with FileLock(shared / f"{name}.lock", timeout=1800):
        if not bundle.exists():
            kept = _kept_export(name)
            if kept is not None and kept.exists():
                shutil.copytree(kept, bundle)
            else:
                export_onnx(load(), bundle)
                if kept is not None:
                    _keep(bundle, kept)
    return bundle


def _kept_export(name: str) -> Path | None:
    """Where this very export is kept between runs on a developer's machine; None in CI, which exports anew."""
    package = Path(__file__).parents[1] / "glip_export"
    made_by = [Path(__file__).parent / "data" / "oracle" / "multiscale" / "case.json"]
    made_by += [DEMO / "glip_demo.safetensors", *(source for name in cases() for source in OracleCase(name).sources)]
    made_by += [
        file
        for room in ("bundle", "checkpoint", "config", "graphs", "model", "data")
        for file in (package / room).glob("*.*")
    ]
    versions = [f"{module} {version(module)}" for module in ("torch", "onnx", "onnxscript")]
    key = hashlib.sha256(f"{package} {versions}".encode())  # a bundle remembers where its checkpoint is
    for file in sorted(made_by):
        key.update(file.read_bytes())
    return _kept(name, key.hexdigest()[:16])


def _kept(name: str, key: str) -> Path | None:
    from glip_export.bundle.files import user_cache

    folder = None if os.environ.get("CI") else user_cache("tests")
    return None if folder is None else folder / f"{name}-{key}"


def _keep(bundle: Path, kept: Path) -> None:
    """Copies it into the cache, whole or not at all; the oldest of the same name go."""
    partial = kept.with_name(f"{kept.name}.{os.getpid()}")
    shutil.copytree(bundle, partial)
    with contextlib.suppress(OSError):  # another run was quicker
        partial.rename(kept)
    shutil.rmtree(partial, ignore_errors=True)
    others = sorted(kept.parent.glob(f"{bundle.name}-*"), key=lambda path: path.stat().st_mtime)
    for old in others[:-8]:
        shutil.rmtree(old, ignore_errors=True)
