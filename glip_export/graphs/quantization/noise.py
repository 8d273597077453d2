"""How much rounding to int8 adds to each product, from the calibration alone: nothing is run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir

from glip_export.bundle import Bundle
from glip_export.graphs.contracts import GRAPHS
from glip_export.graphs.quantization.calibration import Calibration
from glip_export.graphs.quantization.products import Product, products
from glip_export.graphs.quantization.rewrite import LARGEST, quantized_weight


@dataclass(frozen=True)
class Noise:
    """A module's signal over its rounding noise, in dB: of its weight, of its input (None: float), of their product."""

    graph: str
    module: str
    weight: float
    input: float | None
    product: float


def noise_table(bundle: Bundle, calibration: Calibration) -> list[Noise]:
    """A row for each module that can be int8, the noisiest first; a module's worst call counts.

    The input's noise is that of a step over its range, (scale^2 / 12); errors are taken as independent.
    """
    rows: dict[tuple[str, str], Noise] = {}
    for graph in GRAPHS:
        weights: dict[onnx_ir.Value, float] = {}
        for product in products(onnx_ir.load(bundle.graph_path(graph)).graph):
            if product.weight not in weights:
                weights[product.weight] = _weight_noise(product)
            row = _noise(graph, product, weights[product.weight], calibration)
            known = rows.get((graph, row.module))
            if known is None or row.product < known.product:
                rows[graph, row.module] = row
    return sorted(rows.values(), key=lambda row: (row.product, row.module))


def _noise(graph: str, product: Product, weight: float, calibration: Calibration) -> Noise:
    given, total = None, weight
    if product.activation:
        name = str(product.input.name)
        step = calibration.ranges[graph][name] / LARGEST
        share = step**2 / 12 / max(calibration.mean_squares[graph][name], 1e-30)
        given, total = _decibels(share), weight + share
    return Noise(graph, product.module, _decibels(weight), given, _decibels(total))


def _weight_noise(product: Product) -> float:
    assert product.weight.const_value is not None
    weight = product.weight.const_value.numpy()
    values, scale = quantized_weight(weight, product.axis)
    shape = [1] * weight.ndim
    shape[product.axis] = -1
    error = weight - values * scale.reshape(shape)
    return float(np.square(error).mean() / max(float(np.square(weight).mean()), 1e-30))


def _decibels(noise_share: float) -> float:
    return round(-10 * math.log10(max(noise_share, 1e-30)), 2)
