// A residual stream's sum and its LayerNorm, in one pass over the maps.
//
//   x (M, C) X [, added (M, C) T, bias f32 (C)] -> sum f32 (M, C) = x + (added + bias), where something is added
//   [norm_weight, norm_bias f32 (C)] -> normed (M, C) T, the LayerNorm of the sum, where it has weights
//
// C is a multiple of 8. A row stands in the registers of `lanes` neighbouring lanes, a power of two, 4 values at a time
// and kEach times, so that lanes next to each other read what is next to each other in both types; so its mean is found first, then the squares about it, both in float32. Grid: x over rows.

#pragma once

#include "samples.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kNormThreads = 128;
constexpr int kNormVector = 4;

// Four values, in float32.
template <typename T>
__device__ __forceinline__ void load_vector(float (&values)[kNormVector], const T* from) {
    const auto read = load_as<Pack<T, kNormVector>>(from);
#pragma unroll
    for (int n = 0; n < kNormVector; ++n) values[n] = to_float(read.value[n]);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const float (&values)[kNormVector]) {
    Pack<T, kNormVector> made;
#pragma unroll
    for (int n = 0; n < kNormVector; ++n) made.value[n] = from_float<T>(values[n]);
    store_as(to, made);
}

// Over neighbouring lanes; each of them gets it.
__device__ __forceinline__ float sum_over_lanes(float value, int lanes) {
    for (int bit = 1; bit < lanes; bit <<= 1) value += __shfl_xor_sync(0xffffffffu, value, bit);
    return value;
}

template <typename X, typename T, int kEach>
__device__ __forceinline__ void add_norm(long long rows, int channels, int lanes, float epsilon,
                                         const X* __restrict__ x, const T* __restrict__ added,
                                         const float* __restrict__ bias, const float* __restrict__ norm_weight,
                                         const float* __restrict__ norm_bias, float* __restrict__ sum,
                                         T* __restrict__ normed) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % lanes;
    const long long row = static_cast<long long>(blockIdx.x) * (kNormThreads / lanes) + thread / lanes;
    const long long begin = row * channels;
    const auto channel_of = [=](int i) { return (i * lanes + lane) * kNormVector; };
    const auto is_given = [=](int i) { return row < rows && channel_of(i) < channels; };  // all lanes shuffle

    float values[kEach][kNormVector];
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        if (!is_given(i)) continue;
        load_vector(values[i], x + begin + channel_of(i));
        if (added != nullptr) {
            float other[kNormVector], shift[kNormVector];
            load_vector(other, added + begin + channel_of(i));
            load_vector(shift, bias + channel_of(i));
#pragma unroll
            for (int n = 0; n < kNormVector; ++n) values[i][n] += other[n] + shift[n];
            store_vector(sum + begin + channel_of(i), values[i]);
        }
#pragma unroll
        for (int n = 0; n < kNormVector; ++n) total += values[i][n];
    }
    if (normed == nullptr) return;

    const float count = static_cast<float>(channels), mean = sum_over_lanes(total, lanes) / count;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        if (!is_given(i)) continue;
#pragma unroll
        for (int n = 0; n < kNormVector; ++n) {
            values[i][n] -= mean;
            squares += values[i][n] * values[i][n];
        }
    }
    const float scale = 1.0f / sqrtf(sum_over_lanes(squares, lanes) / count + epsilon);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        if (!is_given(i)) continue;
        float weight[kNormVector], shift[kNormVector];
        load_vector(weight, norm_weight + channel_of(i));
        load_vector(shift, norm_bias + channel_of(i));
#pragma unroll
        for (int n = 0; n < kNormVector; ++n) values[i][n] = values[i][n] * scale * weight[n] + shift[n];
        store_vector(normed + begin + channel_of(i), values[i]);
    }
}

}  // namespace glip

#define GLIP_ADD_NORM(name, X, T, each)                                                                            \
    extern "C" __global__ void __launch_bounds__(glip::kNormThreads)                                               \
        name(long long rows, int channels, int lanes, float epsilon, const X* x, const T* added, const float* bias, \
             const float* norm_weight, const float* norm_bias, float* sum, T* normed) {                            \
        glip::add_norm<X, T, each>(rows, channels, lanes, epsilon, x, added, bias, norm_weight, norm_bias, sum,    \
                                   normed);                                                                        \
    }

GLIP_ADD_NORM(glip_add_norm_f32, float, float, 6)
GLIP_ADD_NORM(glip_add_norm_f32_wide, float, float, 24)
GLIP_ADD_NORM(glip_add_norm_f16, float, __half, 6)
GLIP_ADD_NORM(glip_add_norm_f16_wide, float, __half, 24)
GLIP_ADD_NORM(glip_add_norm_f16_of_f16, __half, __half, 6)
GLIP_ADD_NORM(glip_add_norm_f16_of_f16_wide, __half, __half, 24)

#undef GLIP_ADD_NORM
