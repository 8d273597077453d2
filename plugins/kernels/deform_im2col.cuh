// Modulated deformable im2col (Zhu et al., 2019): 3x3, padding 1, dilation 1, one offset group.
//
//   x (B, C, H, W), offset (B, 18, Ho, Wo) as dy, dx interleaved per tap, mask (B, 9, Ho, Wo)
//   -> columns (B, C * 9, Ho * Wo), row c * 9 + tap
//
// A corner outside the map counts as 0, the mask multiplies the interpolated value. Positions and interpolation are in
// float32 whatever T is. H * W and Ho * Wo stay below 2^31; everything larger is counted in 64 bits.
//
// One thread makes N adjacent positions of one tap: it finds where to sample once and then goes through a slab of
// channels. Neighbouring threads write neighbouring positions, and N = 2 makes that one store of two values.
// Grid: x over positions, y = slab * 9 + tap, z over images; any grid with y complete gives the same result.

#pragma once

#include "samples.cuh"

namespace glip {

constexpr int kIm2ColThreads = 256;

// The N samples of one image and tap from `position` on; offset and mask point at the image.
template <typename T, int N>
__device__ __forceinline__ void make_columns(const T* __restrict__ x, const T* __restrict__ offset,
                                             const T* __restrict__ mask, T* __restrict__ columns, long long position,
                                             int tap, int channels, int height, int width, int out_width,
                                             long long positions, int stride) {
    const Pack<T, N> dy = load_pack<T, N>(offset + 2 * tap * positions + position);
    const Pack<T, N> dx = load_pack<T, N>(offset + (2 * tap + 1) * positions + position);
    const Pack<T, N> modulation = load_pack<T, N>(mask + tap * positions + position);
    const auto sample_at = [&](int n) {
        const int flat = static_cast<int>(position) + n;
        const int row = flat / out_width, column = flat - row * out_width;
        return Sample(static_cast<float>(row * stride - 1 + tap / 3) + to_float(dy.value[n]),
                      static_cast<float>(column * stride - 1 + tap % 3) + to_float(dx.value[n]),
                      to_float(modulation.value[n]), height, width);
    };
    const long long plane = static_cast<long long>(height) * width;
    const Sample first = sample_at(0), last = sample_at(N - 1);
    T* target = columns + tap * positions + position;
#pragma unroll 2
    for (int channel = 0; channel < channels; ++channel) {
        Pack<T, N> out;
        out.value[0] = from_float<T>(first.of(x));
        if (N == 2) out.value[N - 1] = from_float<T>(last.of(x));
        *reinterpret_cast<Pack<T, N>*>(target) = out;
        x += plane;
        target += kTaps * positions;
    }
}

template <typename T, int N>
__device__ __forceinline__ void deform_im2col(const T* __restrict__ x, const T* __restrict__ offset,
                                              const T* __restrict__ mask, T* __restrict__ columns, int batch,
                                              int channels, int height, int width, int out_height, int out_width,
                                              int stride, int slab) {
    static_assert(N == 1 || N == 2, "a thread makes one or two positions");
    const int tap = static_cast<int>(blockIdx.y % kTaps);
    const int first_channel = static_cast<int>(blockIdx.y / kTaps) * slab;
    const int slab_channels = channels - first_channel < slab ? channels - first_channel : slab;
    const long long plane = static_cast<long long>(height) * width;
    const long long positions = static_cast<long long>(out_height) * out_width;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x * N;
    const long long start = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    for (long long image = blockIdx.z; image < batch; image += gridDim.z) {
        const long long row = image * channels + first_channel;
        for (long long position = start; position < positions; position += step) {
            make_columns<T, N>(x + row * plane, offset + image * 2 * kTaps * positions,
                               mask + image * kTaps * positions, columns + row * kTaps * positions, position, tap,
                               slab_channels, height, width, out_width, positions, stride);
        }
    }
}

}  // namespace glip

// The _pair kernels need an even Ho * Wo, and offset, mask and columns aligned to two values.
#define GLIP_DEFORM_IM2COL(name, T, N)                                                                              \
    extern "C" __global__ void __launch_bounds__(glip::kIm2ColThreads)                                              \
        name(const T* x, const T* offset, const T* mask, T* columns, int batch, int channels, int height, int width, \
             int out_height, int out_width, int stride, int slab) {                                                 \
        glip::deform_im2col<T, N>(x, offset, mask, columns, batch, channels, height, width, out_height, out_width,  \
                                  stride, slab);                                                                    \
    }

GLIP_DEFORM_IM2COL(glip_deform_im2col_f32, float, 1)
GLIP_DEFORM_IM2COL(glip_deform_im2col_f32_pair, float, 2)
GLIP_DEFORM_IM2COL(glip_deform_im2col_f16, __half, 1)
GLIP_DEFORM_IM2COL(glip_deform_im2col_f16_pair, __half, 2)

#undef GLIP_DEFORM_IM2COL
