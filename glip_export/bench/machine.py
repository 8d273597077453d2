"""What was measured on: processor, memory, system, packages."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from glip_export.bundle import installed_versions
from glip_export.processes import usable_cores

PACKAGES = (
    "cuda-bindings", "glip-export", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx",
    "torch",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """For the report's JSON: nothing in it names a person, a host or a folder."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "logical_cpus": os.cpu_count(),
        "memory_mb": _memory_mb(),
        "gpu": _gpu(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": installed_versions(*PACKAGES),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory_mb() -> float | None:
    """Physical memory in MB (10^6)."""
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in names:
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    return psutil.virtual_memory().total / 1e6


def _gpu() -> str | None:
    """Model and driver of each NVIDIA GPU; None without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, encoding="utf-8", timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in answer.splitlines() if line.strip()) or None
