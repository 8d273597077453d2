"""What the kernels are compiled for: all that this machine's processor has, or less where the environment says so."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from glip_export.errors import BackendError
from glip_export.runtime.cpu import ONEDNN_WITHOUT_BF16, cpu_features

VARIABLE = "GLIP_EXPORT_CPU_ISA"
ONEDNN_VARIABLE = "ONEDNN_MAX_CPU_ISA"
NATIVE = "native"


@dataclass(frozen=True)
class InstructionSet:
    """What a word of the variable means: the compiler's flags, and what /proc/cpuinfo names of it."""

    flags: tuple[str, ...]
    needs: frozenset[str] = frozenset()


_ALL = InstructionSet(("-march=native",))
_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_X86 = {
    NATIVE: _ALL,
    "avx512": InstructionSet(tuple(f"-m{word.replace('bmi1', 'bmi')}" for word in _AVX512), frozenset(_AVX512)),
    "avx2": InstructionSet(tuple(f"-m{word.replace('bmi1', 'bmi')}" for word in _AVX2), frozenset(_AVX2)),
    "generic": InstructionSet(()),  # SSE2
}
_ARM = {NATIVE: _ALL, "neon": InstructionSet(("-march=armv8-a",)), "generic": InstructionSet(())}
_OTHERS = {NATIVE: _ALL, "generic": InstructionSet(())}


def instruction_sets() -> dict[str, InstructionSet]:
    """The words that this machine's architecture has, the most able first."""
    machine = platform.machine().lower()
    return _X86 if machine in ("x86_64", "amd64") else _ARM if machine in ("aarch64", "arm64") else _OTHERS


def chosen_flags(word: str | None = None) -> tuple[str, ...]:
    """The compiler's flags for a word, by default the environment's.

    The word hides what is beyond it; a processor that has less than it says is used for all it has. Raises BackendError
    for a word that this architecture does not have.
    """
    word = word or os.environ.get(VARIABLE) or NATIVE
    found = instruction_sets().get(word.lower())
    if found is None:
        words = ", ".join(instruction_sets())
        raise BackendError(f"{VARIABLE}={word} is none of what a {platform.machine()} processor has: {words}")
    return found.flags if has(found) else _ALL.flags


def has(wanted: InstructionSet) -> bool:
    """Whether this machine's processor can do it; where that cannot be read, it is believed to."""
    features = cpu_features()
    return features is None or wanted.needs <= features


def what_hides_bf16() -> str:
    """The setting of oneDNN by which OpenVINO's own operators are to do without bf16, or nothing."""
    value = os.environ.get(ONEDNN_VARIABLE, "")
    return f"{ONEDNN_VARIABLE}={value}" if value.upper() in ONEDNN_WITHOUT_BF16 else ""
