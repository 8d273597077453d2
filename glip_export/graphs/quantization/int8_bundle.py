"""An fp32 bundle and its calibration to an int8 bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import onnx
import onnx_ir

from glip_export.bundle import Bundle, installed_versions, write_manifest
from glip_export.bundle.files import atomic_directory
from glip_export.errors import BundleError, GlipExportError
from glip_export.graphs.contracts import GRAPHS
from glip_export.graphs.quantization.calibration import Calibration
from glip_export.graphs.quantization.products import Product, products
from glip_export.graphs.quantization.rewrite import quantized

INT8 = "int8"
EXTRA = "quantization"  # the manifest's key of what was done


def check_is_fp32(bundle: Bundle) -> None:
    """Raises BundleError for a bundle that is not fp32."""
    if bundle.precision != "fp32":
        raise BundleError(
            f"{bundle.path} is {bundle.precision} already: quantize the fp32 bundle that it was made from"
        )


def int8_modules(bundle: Bundle) -> dict[str, list[str]]:
    """Of each graph the modules that can be int8, in the order they run."""
    return {
        graph: list(dict.fromkeys(product.module for product in products(onnx_ir.load(bundle.graph_path(graph)).graph)))
        for graph in GRAPHS
    }


def float_modules(bundle: Bundle, patterns: Sequence[str]) -> list[str]:
    """The modules that a pattern names: itself or what it is in, with * and ?.

    Raises GlipExportError for a pattern that names none, and for patterns that leave nothing in int8.
    """
    known = [module for modules in int8_modules(bundle).values() for module in modules]
    for pattern in patterns:
        if not any(_matches(module, pattern) for module in known):
            raise GlipExportError(
                f"--float {pattern} names no module that could be int8; modules are such as {known[0]}, {known[-1]}"
            )
    kept = [module for module in known if any(_matches(module, pattern) for pattern in patterns)]
    if len(kept) == len(known):
        raise GlipExportError(f"--float {' --float '.join(patterns)} leaves nothing in int8: name fewer modules")
    return kept


def write_int8_bundle(
    bundle: Bundle,
    output: Path | str,
    calibration: Calibration,
    kept_float: Iterable[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> Bundle:
    """Writes the bundle in int8, whole or not at all, and opens it.

    kept_float: modules that stay as they are. facts: noted in the manifest under "quantization" beside what was done.
    Raises BundleError for a bundle that is not fp32, or an output that is a folder of others.
    """
    check_is_fp32(bundle)
    kept = set(kept_float)
    graphs = []
    with atomic_directory(output) as folder:
        for name in GRAPHS:
            model = onnx_ir.load(bundle.graph_path(name))
            result = quantized(model, calibration.ranges[name], lambda product: _stays(product, kept))
            path = folder / f"{name}.onnx"
            onnx_ir.save(result, path, external_data=f"{name}.onnx.data")
            onnx.checker.check_model(str(path), full_check=True)
            graphs.append(replace(bundle.graphs[name], file=path.name, nodes=len(result.graph)))
        write_manifest(
            folder,
            name=Path(output).name,
            config=bundle.config,
            weights=bundle.weights,
            graphs=graphs,
            precision=INT8,
            image_size=bundle.image_size,
            versions={**bundle.versions, **installed_versions("onnxruntime", "onnx", "onnx-ir")},
            extra={**bundle.extra, EXTRA: {**_done(bundle, calibration, kept), **(facts or {})}},
        )
    return Bundle.open(output, verify=False)


def _done(bundle: Bundle, calibration: Calibration, kept: set[str]) -> dict[str, Any]:
    return {
        "calibration_sha256": calibration.sha256,
        "pictures": len(calibration.pictures),
        "names": len(calibration.prompt.names),
        "method": calibration.method,
        "float": sorted(kept),
        "of": {"name": bundle.name, "bytes": sum(graph.bytes for graph in bundle.graphs.values())},
    }


def _stays(product: Product, kept: set[str]) -> bool:
    return product.module in kept


def _matches(module: str, pattern: str) -> bool:
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
