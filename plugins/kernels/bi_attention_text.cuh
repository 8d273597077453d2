// The text's half of a bi-attention: every token of every head reads the image's positions. The scores are never
// written: blocks go through a part of the positions each with the softmax's sums so far, and a second kernel adds up.
//
//   text_reads:    v (B, N, C), keys (B, R, C), bias (B, R) -> partial f32 (B, splits, R, C), states f32
//                  (B, splits, R, 2): of a part the sums of weights times v, the score that they are relative to and the weights' sum
//   text_combine:  partial, states -> out (B, R, C)
//
// score = clamp(key . v + bias), weights = softmax of the scores over N. C is a multiple of 32, of 256 at most. Every
// sum has one order, so every run gives the same bits.

#pragma once

#include "bi_attention_strip.cuh"

namespace glip {

constexpr int kTextCombineThreads = 256;

// Grid: x over rows, y over parts of the positions, none of them empty, z over images.
template <typename T, int kChannels>
__device__ __forceinline__ void text_reads(int rows, int positions, int channels, float low, float high,
                                           const T* __restrict__ v, const T* __restrict__ keys,
                                           const T* __restrict__ bias, float* __restrict__ partial,
                                           float* __restrict__ states) {
    using S = Strip<T, kChannels>;
    constexpr int kTileBytes = S::kTile * S::kRowBytes;
    GLIP_DYNAMIC_SHARED(shared);
    unsigned char* const tiles = shared + S::kRows * S::kRowBytes;
    const int first_row = static_cast<int>(blockIdx.x) * S::kRows;
    const long long image = blockIdx.z, split = blockIdx.y, splits = gridDim.y;
    const int count = (positions + S::kTile - 1) / S::kTile;
    const int first = static_cast<int>(count * split / splits), end = static_cast<int>(count * (split + 1) / splits);
    const T* const of_image = v + image * positions * channels;

    S::template bring<S::kRows>(shared, 0, keys + (image * rows + first_row) * channels, rows - first_row, channels);
    const auto bring_tile = [&](int tile) {
        const int position = tile * S::kTile;
        S::template bring<S::kTile>(tiles + tile % 2 * kTileBytes, 0,
                                    of_image + static_cast<long long>(position) * channels, positions - position,
                                    channels);
    };
    bring_tile(first);

    float added[S::kSlots], reference[S::kSlots], total[S::kSlots];
#pragma unroll
    for (int slot = 0; slot < S::kSlots; ++slot) {
        const int row = first_row + S::row(slot);
        added[slot] = row < rows ? to_float(bias[image * rows + row]) : 0.0f;
        reference[slot] = kNothing;
        total[slot] = 0.0f;
    }
    typename S::Sums sums = {};
    for (int tile = first; tile < end; ++tile) {
        wait_for_copies();
        __syncthreads();
        if (tile + 1 < end) bring_tile(tile + 1);
        const unsigned char* const now = tiles + tile % 2 * kTileBytes;
        typename S::Values weights;
        S::multiply(weights, shared, now);
        const int left = positions - tile * S::kTile;
        float largest[S::kSlots];
        bool is_far = false;
#pragma unroll
        for (int slot = 0; slot < S::kSlots; ++slot) {
            largest[slot] = kNothing;
#pragma unroll
            for (int n = 0; n < S::kValues; ++n) {
                float& score = weights[slot][n];
                score = S::column(n) < left ? within(low, score + added[slot], high) : kNoScore;
                largest[slot] = fmaxf(largest[slot], score);
            }
            is_far |= largest[slot] > reference[slot] + kFar;
        }
        if (any_of_warp(is_far)) {
            float factor[S::kSlots];
#pragma unroll
            for (int slot = 0; slot < S::kSlots; ++slot) {
                const float next = fmaxf(max_over<3>(largest[slot]), reference[slot]);
                factor[slot] = weight_of(reference[slot], next);
                total[slot] *= factor[slot];
                reference[slot] = next;
            }
            S::rescale(sums, factor);
        }
#pragma unroll
        for (int slot = 0; slot < S::kSlots; ++slot) {
#pragma unroll
            for (int n = 0; n < S::kValues; ++n) {
                weights[slot][n] = weight_of(weights[slot][n], reference[slot]);
                total[slot] += weights[slot][n];
            }
        }
        typename S::Words words;
        S::hold(words, weights);
        S::add(sums, words, now);
    }

    const long long part = (image * splits + split) * rows + first_row;
#pragma unroll
    for (int slot = 0; slot < S::kSlots; ++slot) {
        total[slot] = sum_over<3>(total[slot]);
        if (S::lane() % 4 != 0 || first_row + S::row(slot) >= rows) continue;
        store_as(states + (part + S::row(slot)) * 2, Pack<float, 2>{{reference[slot], total[slot]}});
    }
    constexpr int kStored = S::kIsHalf ? 2 : 4;
#pragma unroll
    for (int i = 0; i < S::kFours; ++i) {
#pragma unroll
        for (int n = 0; n < 4; n += kStored) {
            const int row = S::row_of(i, n), channel = S::channel_of(i, n);
            if (first_row + row >= rows || channel >= channels) continue;
            Pack<float, kStored> pack;
#pragma unroll
            for (int k = 0; k < kStored; ++k) pack.value[k] = sums[i][n + k];
            store_as(partial + (part + row) * channels + channel, pack);
        }
    }
}

// Grid: x over rows, y over images.
template <typename T>
__device__ __forceinline__ void text_combine(int rows, int channels, int splits, const float* __restrict__ partial,
                                             const float* __restrict__ states, T* __restrict__ out) {
    __shared__ float4 sums[kTextCombineThreads];
    __shared__ float totals[kTextCombineThreads];
    const int across = channels / 4, down = kTextCombineThreads / across;
    const int thread = static_cast<int>(threadIdx.x), slice = thread / across, channel = thread % across * 4;
    const long long row = blockIdx.x, image = blockIdx.y;
    const auto place = [=](int split) { return (image * splits + split) * rows + row; };
    float largest = kNothing, total = 0.0f;
    for (int split = 0; split < splits; ++split) largest = fmaxf(largest, states[place(split) * 2]);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int split = slice; slice < down && split < splits; split += down) {
        const float weight = weight_of(states[place(split) * 2], largest);
        const float4 part = load_as<float4>(partial + place(split) * channels + channel);
        total += weight * states[place(split) * 2 + 1];
        sum = make_float4(sum.x + weight * part.x, sum.y + weight * part.y, sum.z + weight * part.z,
                          sum.w + weight * part.w);
    }
    sums[thread] = sum;
    totals[thread] = total;
    __syncthreads();
    if (slice != 0) return;
    for (int other = 1; other < down; ++other) {
        const float4 part = sums[other * across + thread];
        total += totals[other * across + thread];
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
    }
    const Pack<T, 4> result{{from_float<T>(sum.x / total), from_float<T>(sum.y / total), from_float<T>(sum.z / total),
                             from_float<T>(sum.w / total)}};
    store_as(out + (image * rows + row) * channels + channel, result);
}

}  // namespace glip

#define GLIP_TEXT_READS(suffix, T, channels)                                                                       \
    extern "C" __global__ void __launch_bounds__(glip::kStripThreads) glip_text_reads_##suffix##_##channels(       \
        int rows, int positions, int width, float low, float high, const T* v, const T* keys, const T* bias,       \
        float* partial, float* states) {                                                                           \
        glip::text_reads<T, channels>(rows, positions, width, low, high, v, keys, bias, partial, states);          \
    }

#define GLIP_TEXT_COMBINE(suffix, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(glip::kTextCombineThreads) glip_text_combine_##suffix(            \
        int rows, int channels, int splits, const float* partial, const float* states, T* out) {                   \
        glip::text_combine<T>(rows, channels, splits, partial, states, out);                                       \
    }

GLIP_TEXT_READS(f32, float, 64)
GLIP_TEXT_READS(f32, float, 256)
GLIP_TEXT_READS(f16, __half, 64)
GLIP_TEXT_READS(f16, __half, 256)
GLIP_TEXT_COMBINE(f32, float)
GLIP_TEXT_COMBINE(f16, __half)

#undef GLIP_TEXT_READS
#undef GLIP_TEXT_COMBINE
