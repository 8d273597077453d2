#include <cuda_runtime_api.h>

#include "../kernels/deform_im2col.cuh"
#include "glip_launchers.h"
#include "launch_plan.h"

static_assert(glip::kThreads == glip::kIm2ColThreads, "the plan counts in the kernels' blocks");

namespace {

template <typename T>
using Kernel = void (*)(const T*, const T*, const T*, T*, int, int, int, int, int, int, int, int);

template <typename T>
int launch(Kernel<T> single, Kernel<T> pair, const void* x, const void* offset, const void* mask, void* columns,
           int32_t batch, int32_t channels, int32_t height, int32_t width, int32_t out_height, int32_t out_width,
           int32_t stride, void* stream) {
    const auto aligned = [&](std::size_t bytes) {
        return glip::is_aligned(offset, bytes) && glip::is_aligned(mask, bytes) && glip::is_aligned(columns, bytes);
    };
    if (!glip::im2col_fits(batch, channels, height, width, out_height, out_width, stride) ||
        !glip::is_aligned(x, sizeof(T)) || !aligned(sizeof(T))) {
        return cudaErrorInvalidValue;
    }
    const auto plan = glip::plan_im2col(batch, channels, out_height, out_width, aligned(2 * sizeof(T)));
    const dim3 grid(plan.grid[0], plan.grid[1], plan.grid[2]);
    (plan.pair ? pair : single)<<<grid, glip::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(x), static_cast<const T*>(offset), static_cast<const T*>(mask), static_cast<T*>(columns),
        batch, channels, height, width, out_height, out_width, stride, plan.slab);
    return cudaPeekAtLastError();
}

}  // namespace

int glip_launch_deform_im2col_f32(const void* x, const void* offset, const void* mask, void* columns, int32_t batch,
                                  int32_t channels, int32_t height, int32_t width, int32_t out_height,
                                  int32_t out_width, int32_t stride, void* stream) {
    return launch<float>(glip_deform_im2col_f32, glip_deform_im2col_f32_pair, x, offset, mask, columns, batch,
                         channels, height, width, out_height, out_width, stride, stream);
}

int glip_launch_deform_im2col_f16(const void* x, const void* offset, const void* mask, void* columns, int32_t batch,
                                  int32_t channels, int32_t height, int32_t width, int32_t out_height,
                                  int32_t out_width, int32_t stride, void* stream) {
    return launch<__half>(glip_deform_im2col_f16, glip_deform_im2col_f16_pair, x, offset, mask, columns, batch,
                          channels, height, width, out_height, out_width, stride, stream);
}
