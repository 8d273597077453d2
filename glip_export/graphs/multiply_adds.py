"""Multiply-adds of one node, from its operator and its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from glip_export.errors import GlipExportError
from glip_export.graphs.contracts import DYCONV

Shapes = Sequence[Sequence[int]]

# They multiply too, but no graph of ours holds them: rather no number than a wrong one.
UNCOUNTED = {
    "Attention", "ConvInteger", "ConvTranspose", "Einsum", "GRU", "LSTM", "MatMulInteger", "MultiHeadAttention",
    "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip
COUNTED = {"Conv", "DeformConv", DYCONV, "Gemm", "MatMul"}


def node_macs(op: str, inputs: Shapes, outputs: Shapes) -> int:
    """Multiply-adds of one node from its operator and its shapes; 0 for what is no product of matrices.

    Raises GlipExportError for an operator that multiplies in a way not known here.
    """
    if op in UNCOUNTED:
        raise GlipExportError(f"multiply-adds of the operator {op} are not counted")
    if op in ("Conv", "DeformConv"):  # weight (O, I / groups, kh, kw): each output element sums I / groups * kh * kw
        return prod(outputs[0]) * prod(inputs[1][1:])
    if op == "MatMul":
        return prod(outputs[0]) * inputs[0][-1]
    if op == "Gemm":  # A (M, K) or, transposed, (K, M); Y (M, N)
        return prod(inputs[0]) * outputs[0][-1]
    if op == DYCONV:
        return _dyconv_macs(inputs)
    return 0


def _dyconv_macs(inputs: Shapes) -> int:
    """Of the maps (B, C, H, W), each is convolved as it is, all but the largest from a neighbour and for one."""
    maps = [shape for shape in inputs if len(shape) == 4]
    offset, _, weight, *_, attention, _, first, _, last, _ = inputs[len(maps) :]
    results = maps + 2 * maps[1:]
    positions, convolved = (sum(batch * height * width for batch, _, height, width in each) for each in (maps, results))
    per_image = len(results) * prod(attention) + len(maps) * (prod(first) + prod(last))
    return positions * prod(offset) + convolved * prod(weight) + maps[0][0] * per_image
