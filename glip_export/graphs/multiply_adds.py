"""Multiply-adds of one node, from its operator and its shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from glip_export.errors import GlipExportError

Shapes = Sequence[Sequence[int]]

# They multiply too, but no graph of ours holds them: rather no number than a wrong one.
UNCOUNTED = {
    "Attention", "ConvInteger", "ConvTranspose", "Einsum", "GRU", "LSTM", "MatMulInteger", "MultiHeadAttention",
    "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip
COUNTED = {"Conv", "DeformConv", "Gemm", "MatMul"}


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
    return 0
