"""The CPU kernels of this folder, compiled once for the very machine they run on.

They are worth a compiler: with them GLIP-T's fusion head takes 0.8 s on two cores where OpenVINO's own operators take
1.15 s (800x1216, 11 tokens, fp32).

The environment variable GLIP_EXPORT_CPU_ISA hides instruction sets from them: `native` (the default) takes all that the
processor has; on x86-64 `avx512` does without VNNI and bf16, `avx2` without AVX-512 too, `generic` without AVX; on
AArch64 `neon` and `generic` are its baseline.
What is beyond the word is not used, and a processor that has less is used for
all it has. The backend openvino:bf16 needs AVX2 or AVX-512; without bf16, or where ONEDNN_MAX_CPU_ISA hides it from
oneDNN, OpenVINO's own operators stay in fp32 there.
"""

from glip_export.runtime.native.compiled import compiled_kernels, load_kernels
from glip_export.runtime.native.kernels import Kernels

__all__ = ["Kernels", "compiled_kernels", "load_kernels"]
