// What stands between the products of a layer of BERT: attention, residual sum with its norm, clamped GELU.
//
//   attention:  qkv (B, T, 3 * C), mask f32 (masks, T), masks is B or 1 -> out (B, T, C)
//   norm:       x f32 (R, C), added (R, C) -> out f32 (R, C), and where `narrow` is given the same in T
//   gelu:       x (n) -> out (n)
//
// All sums are in float32. A text has at most a few hundred tokens, so this is a small part of an image's arithmetic:
// what counts is that there are three kernels and not twenty.

#pragma once

#include "samples.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kTextThreads = 128;
constexpr int kQueries = 16;     // of a block
constexpr int kKeys = 64;        // in shared memory at once
constexpr int kMaxDepth = 128;   // of a head
constexpr int kRowThreads = 256;
constexpr int kGeluEach = 8;     // values of a thread

// Rows of one head of q, k or v as floats into shared memory, zeros after the last token; `apart` floats a row.
template <typename T>
__device__ __forceinline__ void load_rows(float* __restrict__ to, int apart, const T* __restrict__ from, int stride,
                                          int rows, int left, int depth) {
    constexpr int kEach = 16 / sizeof(T);
    const int vectors = depth / kEach;
    for (int item = static_cast<int>(threadIdx.x); item < rows * vectors; item += kTextThreads) {
        const int row = item / vectors, column = item % vectors * kEach;
        Pack<T, kEach> values{};
        if (row < left) values = load_as<Pack<T, kEach>>(from + static_cast<long long>(row) * stride + column);
#pragma unroll
        for (int n = 0; n < kEach; ++n) to[row * apart + column + n] = row < left ? to_float(values.value[n]) : 0.0f;
    }
}

// Grid: x over groups of queries, y over heads, z over texts. Shared memory: (kQueries + kKeys) rows of depth + 4
// floats, then kQueries rows of scores, `room` floats each: the tokens rounded up to kKeys, and one.
template <typename T>
__device__ __forceinline__ void attend(const T* __restrict__ qkv, const float* __restrict__ mask, T* __restrict__ out,
                                       int tokens, int heads, int depth, int masks, float scale, float low,
                                       float high) {
    GLIP_DYNAMIC_SHARED(shared);
    const int apart = depth + 4, room = (tokens + kKeys - 1) / kKeys * kKeys + 1;
    float* const queries = reinterpret_cast<float*>(shared);
    float* const chunk = queries + kQueries * apart;
    float* const scores = chunk + kKeys * apart;

    const int thread = static_cast<int>(threadIdx.x), channels = heads * depth, stride = 3 * channels;
    const int first = static_cast<int>(blockIdx.x) * kQueries, head = static_cast<int>(blockIdx.y) * depth;
    const int text = static_cast<int>(blockIdx.z);
    const T* const of_text = qkv + static_cast<long long>(text) * tokens * stride + head;
    const float* const added = mask + (masks == 1 ? 0 : text) * tokens;
    const int row = thread / 16 * 2, column = thread % 16;  // of this thread's part of a tile

    load_rows<T>(queries, apart, of_text + static_cast<long long>(first) * stride, stride, kQueries, tokens - first,
                 depth);
#pragma unroll 1
    for (int key = 0; key < tokens; key += kKeys) {
        __syncthreads();  // the last chunk was read
        load_rows<T>(chunk, apart, of_text + static_cast<long long>(key) * stride + channels, stride, kKeys,
                     tokens - key, depth);
        __syncthreads();
        float sums[2][4] = {};
#pragma unroll 2
        for (int d = 0; d < depth; d += 4) {
            float4 q[2], k[4];
#pragma unroll
            for (int i = 0; i < 2; ++i) q[i] = load_as<float4>(queries + (row + i) * apart + d);
#pragma unroll
            for (int j = 0; j < 4; ++j) k[j] = load_as<float4>(chunk + (column + 16 * j) * apart + d);
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    sums[i][j] += q[i].x * k[j].x + q[i].y * k[j].y + q[i].z * k[j].z + q[i].w * k[j].w;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) scores[(row + i) * room + key + column + 16 * j] = sums[i][j] * scale;
    }
    __syncthreads();

    float* const of_query = scores + thread / 8 * room;  // eight threads a query
    float largest = -3.4028235e38f;
    for (int t = thread % 8; t < tokens; t += 8) {
        of_query[t] = within(low, of_query[t], high) + added[t];
        largest = fmaxf(largest, of_query[t]);
    }
    largest = max_over<7>(largest);
    float sum = 0.0f;
    for (int t = thread % 8; t < tokens; t += 8) {
        of_query[t] = expf(of_query[t] - largest);
        sum += of_query[t];
    }
    sum = sum_over<7>(sum);
    for (int t = thread % 8; t < tokens; t += 8) of_query[t] /= sum;

    float sums[2][kMaxDepth / kKeys][4] = {};
#pragma unroll 1
    for (int key = 0; key < tokens; key += kKeys) {
        __syncthreads();  // the keys, or the last values, were read; the first time the softmax is there
        load_rows<T>(chunk, apart, of_text + static_cast<long long>(key) * stride + 2 * channels, stride, kKeys,
                     tokens - key, depth);
        __syncthreads();
        const int keys = tokens - key < kKeys ? tokens - key : kKeys;
#pragma unroll 4
        for (int k = 0; k < keys; ++k) {
            const float p[2] = {scores[row * room + key + k], scores[(row + 1) * room + key + k]};
#pragma unroll
            for (int j = 0; j < kMaxDepth / kKeys; ++j) {
                const int d = column * 4 + j * kKeys;
                if (d >= depth) break;
                const float4 v = load_as<float4>(chunk + k * apart + d);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    sums[i][j][0] += p[i] * v.x;
                    sums[i][j][1] += p[i] * v.y;
                    sums[i][j][2] += p[i] * v.z;
                    sums[i][j][3] += p[i] * v.w;
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if (first + row + i >= tokens) break;
        T* const target = out + (static_cast<long long>(text) * tokens + first + row + i) * channels + head;
#pragma unroll
        for (int j = 0; j < kMaxDepth / kKeys; ++j) {
            const int d = column * 4 + j * kKeys;
            if (d >= depth) break;
            Pack<T, 4> values;
#pragma unroll
            for (int n = 0; n < 4; ++n) values.value[n] = from_float<T>(sums[i][j][n]);
            store_as(target + d, values);
        }
    }
}

// out = clamp(LayerNorm(x + clamp(added))). One block a row. Shared memory: C floats.
template <typename T>
__device__ __forceinline__ void norm_of_sum(const float* __restrict__ x, const T* __restrict__ added,
                                            const float* __restrict__ weight, const float* __restrict__ bias,
                                            float* __restrict__ out, T* __restrict__ narrow, int channels,
                                            float epsilon, float added_low, float added_high, float low, float high) {
    GLIP_DYNAMIC_SHARED(shared);
    __shared__ float scratch[kRowThreads / 32];
    float* const values = reinterpret_cast<float*>(shared);
    const int thread = static_cast<int>(threadIdx.x);
    const long long row = static_cast<long long>(blockIdx.x) * channels;
    float sum = 0.0f;
    for (int c = thread; c < channels; c += kRowThreads) {
        values[c] = x[row + c] + within(added_low, to_float(added[row + c]), added_high);
        sum += values[c];
    }
    const float mean = sum_over_block(sum, scratch) / static_cast<float>(channels);
    float squares = 0.0f;
    for (int c = thread; c < channels; c += kRowThreads) {
        squares += (values[c] - mean) * (values[c] - mean);
    }
    const float variance = sum_over_block(squares, scratch) / static_cast<float>(channels);
    const float factor = 1.0f / sqrtf(variance + epsilon);
    for (int c = thread; c < channels; c += kRowThreads) {
        const float value = within(low, (values[c] - mean) * factor * weight[c] + bias[c], high);
        out[row + c] = value;
        if (narrow != nullptr) narrow[row + c] = from_float<T>(value);
    }
}

// clamp(GELU(clamp(x))), the exact GELU; n is a multiple of kGeluEach.
template <typename T>
__device__ __forceinline__ void clamped_gelu(const T* __restrict__ x, T* __restrict__ out, long long count, float low,
                                             float high) {
    const long long first = (static_cast<long long>(blockIdx.x) * kRowThreads + threadIdx.x) * kGeluEach;
    if (first >= count) return;
    constexpr int kEach = 16 / sizeof(T);
#pragma unroll
    for (int part = 0; part < kGeluEach; part += kEach) {
        auto values = load_as<Pack<T, kEach>>(x + first + part);
#pragma unroll
        for (int n = 0; n < kEach; ++n) {
            const float value = within(low, to_float(values.value[n]), high);
            const float share = 0.5f * (1.0f + erff(value * 0.70710678118654752f));
            values.value[n] = from_float<T>(within(low, value * share, high));
        }
        store_as(out + first + part, values);
    }
}

}  // namespace glip

#define GLIP_TEXT_LAYER(suffix, T)                                                                             \
    extern "C" __global__ void __launch_bounds__(glip::kTextThreads) glip_text_attention_##suffix(             \
        const T* qkv, const float* mask, T* out, int tokens, int heads, int depth, int masks, float scale,     \
        float low, float high) {                                                                               \
        glip::attend<T>(qkv, mask, out, tokens, heads, depth, masks, scale, low, high);                        \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(glip::kRowThreads) glip_text_norm_##suffix(                  \
        const float* x, const T* added, const float* weight, const float* bias, float* out, T* narrow,         \
        int channels, float epsilon, float added_low, float added_high, float low, float high) {               \
        glip::norm_of_sum<T>(x, added, weight, bias, out, narrow, channels, epsilon, added_low, added_high,    \
                             low, high);                                                                       \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(glip::kRowThreads) glip_text_gelu_##suffix(                  \
        const T* x, T* out, long long count, float low, float high) {                                          \
        glip::clamped_gelu<T>(x, out, count, low, high);                                                       \
    }

GLIP_TEXT_LAYER(f32, float)
GLIP_TEXT_LAYER(f16, __half)

#undef GLIP_TEXT_LAYER
