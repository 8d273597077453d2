"""What this machine's processor has, and what the switches of the libraries we use hide of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "avx10_2", "bf16"})  # Linux's words; the last is Arm's
# Of oneDNN's ONEDNN_MAX_CPU_ISA, those up to which it has no products of bf16, but emulates them.
ONEDNN_WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
_SWITCHES = {
    "ONEDNN_MAX_CPU_ISA": ONEDNN_WITHOUT_BF16,
    "DNNL_MAX_CPU_ISA": ONEDNN_WITHOUT_BF16,
    "ATEN_CPU_CAPABILITY": frozenset({"DEFAULT", "AVX2"}),  # torch's
    "GLIP_EXPORT_CPU_ISA": frozenset({"AVX512", "AVX2", "GENERIC", "NEON"}),  # our kernels'
}


@cache
def cpu_features(path: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """The instruction sets in Linux's words, such as avx2 and avx512_bf16; None where the system does not tell."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(words.split())
    return None


def why_no_bf16(features: frozenset[str] | None, environment: Mapping[str, str] = os.environ) -> str:
    """Why there are no products of bf16, that is, none but emulated ones; "" where there are, or it cannot be told."""
    if features is not None and not features & BF16_FEATURES:
        return "this CPU has no bf16 products"
    for name, values in _SWITCHES.items():
        if environment.get(name, "").upper() in values:
            return f"{name}={environment[name]} hides the CPU's bf16 products"
    return ""
