// What plugins/launchers/dyconv.cu uses of the CUDA runtime, on the host shim: a launch runs at once.

#pragma once

#include <cuda_fp16.h>

#include <tuple>

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct cudaLaunchConfig_t {
    dim3 grid, block;  // not by the names that CUDA has for them, which are the shim's macros
    std::size_t shared_bytes;
    cudaStream_t stream;
    void* attributes;
    unsigned attribute_count;
};

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
    return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... given) {
    const std::tuple<Parameters...> arguments(given...);
    const auto outcome = glip_host::run(config->grid, config->block, config->shared_bytes, 0,
                                        [&] { std::apply(kernel, arguments); });
    return outcome == glip_host::Outcome::kDone ? cudaSuccess : cudaErrorLaunchFailure;
}
