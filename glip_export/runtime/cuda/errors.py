"""What the CUDA driver's errors mean to the person who meets them."""

from __future__ import annotations

from glip_export.errors import BackendError

NO_PACKAGE = "CUDA needs the package cuda-python: pip install 'glip-export[cuda]'"
NO_DRIVER = "there is no NVIDIA driver here (libcuda.so.1, nvcuda.dll): install one, or take the backend onnxruntime"

_LOST = "the CUDA context is lost: start the program again"
_NEWER = "the NVIDIA driver is too old for this CUDA: install a newer driver"
_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": "the NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_INVALID_DEVICE": "there is no such GPU: nvidia-smi lists them",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "the GPU is taken by another program alone: see nvidia-smi",
    "CUDA_ERROR_OUT_OF_MEMORY": "the GPU's memory is full: take smaller batches, or end what else uses it (nvidia-smi)",
    "CUDA_ERROR_STUB_LIBRARY": "the libcuda found is the toolkit's stub, not the driver: mend LD_LIBRARY_PATH",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the engine or kernel was not compiled for this GPU: build it again here",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": _NEWER,
    "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER": _NEWER,
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the NVIDIA driver and its library differ: restart the machine",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "the CUDA context that the session was opened in is gone: open it again",
    "CUDA_ERROR_INVALID_CONTEXT": "the CUDA context that the session was opened in is gone: open it again",
    "CUDA_ERROR_ILLEGAL_ADDRESS": f"a kernel left its memory; {_LOST}",
    "CUDA_ERROR_LAUNCH_FAILED": f"a kernel failed; {_LOST}",
    "CUDA_ERROR_LAUNCH_TIMEOUT": f"a kernel took longer than the display allows; {_LOST}",
    "CUDA_ERROR_ECC_UNCORRECTABLE": f"the GPU's memory is damaged (ECC); {_LOST}",
}


class CudaError(BackendError):
    """A call of the driver that failed; `code` is the driver's name of it, such as CUDA_ERROR_OUT_OF_MEMORY."""

    def __init__(self, code: str, call: str, detail: str = "") -> None:
        advice = _ADVICE.get(code, "an error of the NVIDIA driver")
        super().__init__(f"{advice} ({call}: {code}{f', {detail}' if detail else ''})")
        self.code = code
