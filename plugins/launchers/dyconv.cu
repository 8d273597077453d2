#include <cuda_runtime_api.h>

#include "../kernels/dyconv_convolve.cuh"
#include "../kernels/dyconv_finish.cuh"
#include "dyconv_plan.h"
#include "glip_launchers.h"

static_assert(glip::kDyConvMaxLevels == glip::kMostLevels && glip::kTileRows == 128 && glip::kTermColumns == 256 &&
                  glip::kOffsetColumns == 32 && glip::kConvolveThreads == 512 && glip::kFinishThreads == 1024 &&
                  glip::kCombineThreads == 256 && glip::kCombineEach == 4 && glip::kCombineRows == 8 &&
                  glip::kRowBytes == 80,
              "the plan counts in the kernels' blocks");

namespace {

template <typename T>
struct Kernels;

template <>
struct Kernels<float> {
    static constexpr auto offsets = glip_dyconv_offsets_f32;
    static constexpr auto convolve = glip_dyconv_convolve_f32;
    static constexpr auto coefficients = glip_dyconv_coefficients_f32;
    static constexpr auto combine = glip_dyconv_combine_f32;
};

template <>
struct Kernels<__half> {
    static constexpr auto offsets = glip_dyconv_offsets_f16;
    static constexpr auto convolve = glip_dyconv_convolve_f16;
    static constexpr auto coefficients = glip_dyconv_coefficients_f16;
    static constexpr auto combine = glip_dyconv_combine_f16;
};

#define GLIP_EACH(levels) levels[0], levels[1], levels[2], levels[3], levels[4], levels[5]

template <typename T>
int launch(const void* const* maps, const void* const* parameters, void* const* outs, void* workspace,
           const glip::DyConvSizes& sizes, const float* epsilon, void* stream) {
    if (!glip::dyconv_fits(sizes) || !glip::is_aligned(workspace, glip::kDyConvAligned)) return cudaErrorInvalidValue;
    const auto plan = glip::plan_dyconv(sizes, sizeof(T));
    glip::Levels levels{sizes.levels, static_cast<int>(plan.positions), static_cast<int>(plan.rows),
                        static_cast<int>(plan.tiles), 0, {}, {}};
    const T* x[glip::kMostLevels] = {};
    T* out[glip::kMostLevels] = {};
    for (int level = 0; level < sizes.levels; ++level) {
        levels.height[level] = sizes.sides[2 * level];
        levels.width[level] = sizes.sides[2 * level + 1];
        x[level] = static_cast<const T*>(maps[level]);
        out[level] = static_cast<T*>(outs[level]);
        if (!glip::is_aligned(x[level], glip::kDyConvAligned) || !glip::is_aligned(out[level], glip::kDyConvAligned)) {
            return cudaErrorInvalidValue;
        }
    }
    const T* p[glip::kDyConvParameters];
    for (int place = 0; place < glip::kDyConvParameters; ++place) {
        const bool wide = glip::dyconv_parameter_count(place, sizes.channels) >= glip::kDyConvAligned;
        p[place] = static_cast<const T*>(parameters[place]);
        if (!glip::is_aligned(p[place], wide ? glip::kDyConvAligned : sizeof(T))) return cudaErrorInvalidValue;
    }
    const auto part = [&](int number) { return static_cast<char*>(workspace) + plan.part[number]; };
    auto* const predicted = reinterpret_cast<float*>(part(0));
    auto* const terms = reinterpret_cast<T*>(part(1));
    auto *const statistics = reinterpret_cast<float*>(part(2)), *const coefficients = reinterpret_cast<float*>(part(3));

    int launched = 0;
    const auto run = [&](auto kernel, auto... arguments) -> cudaError_t {
        const auto bytes = plan.shared_bytes[launched];
        const auto& grid = plan.grid[launched];
        // Above 48 KB a kernel has to be told, in every context.
        const auto told =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
        if (told != cudaSuccess) return told;
        const cudaLaunchConfig_t config{dim3{grid[0], grid[1], grid[2]}, dim3{plan.threads[launched++], 1, 1}, bytes,
                                        static_cast<cudaStream_t>(stream), nullptr, 0};
        return cudaLaunchKernelEx(&config, kernel, arguments...);
    };
    const int channels = sizes.channels;
    auto error = run(Kernels<T>::offsets, levels, channels, GLIP_EACH(x), p[0], p[1], predicted);
    if (error == cudaSuccess) {
        error = run(Kernels<T>::convolve, levels, channels, GLIP_EACH(x), predicted, p[2], p[6], p[10], terms,
                    statistics);
    }
    if (error == cudaSuccess) {
        error = run(Kernels<T>::coefficients, levels, channels, sizes.groups, epsilon[0], epsilon[1], epsilon[2],
                    statistics, p[3], p[4], p[5], p[7], p[8], p[9], p[11], p[12], p[13], p[14], p[15], p[16], p[17],
                    p[18], p[19], coefficients);
    }
    if (error == cudaSuccess) error = run(Kernels<T>::combine, levels, channels, terms, coefficients, GLIP_EACH(out));
    return error;
}

}  // namespace

int glip_launch_dyconv_f32(const void* const* maps, const void* const* parameters, void* const* outs, void* workspace,
                           int32_t batch, int32_t channels, int32_t groups, int32_t levels, const int32_t* sides,
                           const float* epsilon, void* stream) {
    return launch<float>(maps, parameters, outs, workspace, {batch, channels, groups, levels, sides}, epsilon, stream);
}

int glip_launch_dyconv_f16(const void* const* maps, const void* const* parameters, void* const* outs, void* workspace,
                           int32_t batch, int32_t channels, int32_t groups, int32_t levels, const int32_t* sides,
                           const float* epsilon, void* stream) {
    return launch<__half>(maps, parameters, outs, workspace, {batch, channels, groups, levels, sides}, epsilon, stream);
}

size_t glip_launch_dyconv_workspace_bytes(int32_t value_bytes, int32_t batch, int32_t channels, int32_t groups,
                                          int32_t levels, const int32_t* sides) {
    const glip::DyConvSizes sizes{batch, channels, groups, levels, sides};
    return glip::dyconv_fits(sizes) ? glip::plan_dyconv(sizes, static_cast<size_t>(value_bytes)).workspace_bytes : 0;
}
