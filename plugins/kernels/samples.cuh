// What deformable convolutions and others share: values of both precisions, several at once, and where one is sampled.
// No kernels: launchers that are linked together include it.

#pragma once

#include <cuda_fp16.h>

namespace glip {

constexpr int kTaps = 9;

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

}  // namespace glip
