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

#include <cuda_fp16.h>

namespace glip {

constexpr int kTaps = 9;
constexpr int kIm2ColThreads = 256;

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
    T value[N];
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
    return __float2half_rn(value);
}

// Where one value is sampled: the four corners' weights, and which of them lie inside the map.
struct Sample {
    int top_left;  // index in a channel's plane; of use only where a corner is inside
    int width;
    unsigned inside;
    float weight[4];

    // y and x may be anything, infinities and NaN included: what is far outside samples nothing.
    __device__ __forceinline__ Sample(float y, float x, float mask, int height, int width_) : width(width_) {
        y = fminf(fmaxf(y, -2.0f), static_cast<float>(height + 1));
        x = fminf(fmaxf(x, -2.0f), static_cast<float>(width + 1));
        const float top = floorf(y), left = floorf(x);
        const int row = static_cast<int>(top), column = static_cast<int>(left);
        const float below = y - top, above = top + 1.0f - y, right = x - left, before = left + 1.0f - x;
        const bool in_top = row >= 0 && row < height, in_bottom = row >= -1 && row < height - 1;
        const bool in_left = column >= 0 && column < width, in_right = column >= -1 && column < width - 1;
        top_left = row * width + column;
        inside = (in_top && in_left ? 1u : 0u) | (in_top && in_right ? 2u : 0u) | (in_bottom && in_left ? 4u : 0u) |
                 (in_bottom && in_right ? 8u : 0u);
        weight[0] = above * before * mask;
        weight[1] = above * right * mask;
        weight[2] = below * before * mask;
        weight[3] = below * right * mask;
    }

    template <typename T>
    __device__ __forceinline__ float of(const T* __restrict__ plane) const {
        const float v0 = inside & 1u ? to_float(plane[top_left]) : 0.0f;
        const float v1 = inside & 2u ? to_float(plane[top_left + 1]) : 0.0f;
        const float v2 = inside & 4u ? to_float(plane[top_left + width]) : 0.0f;
        const float v3 = inside & 8u ? to_float(plane[top_left + width + 1]) : 0.0f;
        return weight[0] * v0 + weight[1] * v1 + weight[2] * v2 + weight[3] * v3;
    }
};

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* __restrict__ from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

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
