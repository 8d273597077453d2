// The image's half of a bi-attention: every position reads the tokens of every head, and takes what it read.
//
//   image_reads:  v (B, N, C), keys and values (B, h * T, C), bias (B, h * T), mask f32 (B, T), gain, offset f32 (C)
//                 -> out (B, N, C) = v + gain * (weights . values + offset)
//
// score = clamp(key . v + bias) + mask, weights = softmax of the scores over a head's T tokens; heads add up. C is a
// multiple of 32, of 256 at most. A mask may be minus infinity: it counts as the least float, so that a head whose
// tokens are all masked reads their mean, as with a large negative mask.
//
// A block goes through the heads; first through a head's keys, whose weights it holds, relative to a score that is the
// largest or near it, then through its values. kHeads heads of few tokens share a tile.

#pragma once

#include "bi_attention_strip.cuh"

namespace glip {

template <int kHeld, int kWords>
__device__ __forceinline__ void push(unsigned (&stack)[kHeld][kWords], const unsigned (&top)[kWords]) {
#pragma unroll
    for (int n = 0; n < kWords; ++n) {
#pragma unroll
        for (int i = kHeld - 1; i > 0; --i) stack[i][n] = stack[i - 1][n];
        stack[0][n] = top[n];
    }
}

template <int kHeld, int kWords>
__device__ __forceinline__ void pop(unsigned (&stack)[kHeld][kWords], unsigned (&top)[kWords]) {
#pragma unroll
    for (int n = 0; n < kWords; ++n) {
        top[n] = stack[0][n];
#pragma unroll
        for (int i = 0; i + 1 < kHeld; ++i) stack[i][n] = stack[i + 1][n];
    }
}

// Grid: x over positions, y over images. T is kHeld tiles at most.
template <typename T, int kChannels, int kHeads, int kHeld>
__device__ __forceinline__ void image_reads(int heads, int tokens, int positions, int channels, float low, float high,
                                            const T* __restrict__ v, const T* __restrict__ keys,
                                            const T* __restrict__ bias, const T* __restrict__ values,
                                            const float* __restrict__ mask, const float* __restrict__ gain,
                                            const float* __restrict__ offset, T* __restrict__ out) {
    using S = Strip<T, kChannels>;
    constexpr int kTileBytes = S::kTile * S::kRowBytes, kTokens = S::kTile / kHeads, kOfHead = S::kValues / kHeads;
    GLIP_DYNAMIC_SHARED(shared);
    unsigned char* const tiles = shared + S::kRows * S::kRowBytes;
    const int image = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * S::kRows;
    const int left = positions - first, chunks = (tokens + kTokens - 1) / kTokens;
    S::template bring<S::kRows>(shared, 0, v + (static_cast<long long>(image) * positions + first) * channels, left,
                                channels);

    const auto row_of = [=](int head, int token) { return (image * heads + head) * tokens + token; };
    // Of a head, or of kHeads from it on, the keys are brought in `chunks` steps and then the values, the last first.
    const auto bring_tile = [&](int first_head, int step) {
        const T* const from = step < chunks ? keys : values;
        const int token = (step < chunks ? step : 2 * chunks - 1 - step) * kTokens;
#pragma unroll
        for (int head = first_head; head < first_head + kHeads; ++head) {
            S::template bring<kTokens>(tiles + step % 2 * kTileBytes, (head - first_head) * kTokens,
                                       from + row_of(head, token) * static_cast<long long>(channels),
                                       head < heads ? tokens - token : 0, channels);
        }
    };
    // The tile of a step is there, and the next one is on its way.
    const auto take_tile = [&](int first_head, int step) {
        wait_for_copies();
        __syncthreads();
        const bool is_last = step + 1 == 2 * chunks;
        const int next_head = is_last ? first_head + kHeads : first_head;
        if (next_head < heads) bring_tile(next_head, is_last ? 0 : step + 1);
        return tiles + step % 2 * kTileBytes;
    };
    bring_tile(0, 0);

    typename S::Sums sums = {};
#pragma unroll 1
    for (int first_head = 0; first_head < heads; first_head += kHeads) {
        // The tile's weights, and a stack of those before it, the top first: registers have no place of a number.
        typename S::Words words = {}, before[kHeld > 1 ? kHeld - 1 : 1] = {};
        float reference[S::kSlots][kHeads], total[S::kSlots][kHeads];
#pragma unroll
        for (int i = 0; i < S::kSlots * kHeads; ++i) {
            reference[i / kHeads][i % kHeads] = kNothing;
            total[i / kHeads][i % kHeads] = 0.0f;
        }
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const unsigned char* const now = take_tile(first_head, chunk);
            // Of the tile's row of this lane's number; the lanes give it to each other below.
            const int own_head = first_head + S::lane() % S::kTile / kTokens;
            const int own_token = chunk * kTokens + S::lane() % kTokens;
            const bool is_token = own_head < heads && own_token < tokens;
            const float own_bias = is_token ? to_float(bias[row_of(own_head, own_token)]) : 0.0f;
            const float own_mask = is_token ? fmaxf(mask[image * tokens + own_token], kNothing) : kNoScore;
            typename S::Values weights;
            S::multiply(weights, shared, now);
#pragma unroll
            for (int n = 0; n < S::kValues; ++n) {
                const float added = from_lane(own_bias, S::column(n)), masked = from_lane(own_mask, S::column(n));
#pragma unroll
                for (int slot = 0; slot < S::kSlots; ++slot) {
                    weights[slot][n] = within(low, weights[slot][n] + added, high) + masked;
                }
            }
            float largest[S::kSlots][kHeads];
            bool is_far = false;
#pragma unroll
            for (int i = 0; i < S::kSlots * kHeads; ++i) {
                const int slot = i / kHeads, head = i % kHeads;
                largest[slot][head] = kNothing;
#pragma unroll
                for (int n = head * kOfHead; n < (head + 1) * kOfHead; ++n) {
                    largest[slot][head] = fmaxf(largest[slot][head], weights[slot][n]);
                }
                is_far |= largest[slot][head] > reference[slot][head] + kFar;
            }
            if (any_of_warp(is_far)) {
                float factor[S::kSlots][kHeads];
#pragma unroll
                for (int i = 0; i < S::kSlots * kHeads; ++i) {
                    const int slot = i / kHeads, head = i % kHeads;
                    const float next = fmaxf(max_over<3>(largest[slot][head]), reference[slot][head]);
                    factor[slot][head] = weight_of(reference[slot][head], next);
                    total[slot][head] *= factor[slot][head];
                    reference[slot][head] = next;
                }
#pragma unroll 1
                for (int i = 0; i + 1 < kHeld; ++i) {  // the last, which then is the first: in the end all are in place
                    typename S::Words last;
#pragma unroll
                    for (int n = 0; n < S::kWords; ++n) last[n] = before[kHeld > 1 ? kHeld - 2 : 0][n];
                    S::scale(last, [&](int slot, int n) { return factor[slot][n / kOfHead]; });
                    push(before, last);
                }
            }
#pragma unroll
            for (int slot = 0; slot < S::kSlots; ++slot) {
#pragma unroll
                for (int n = 0; n < S::kValues; ++n) {
                    weights[slot][n] = weight_of(weights[slot][n], reference[slot][n / kOfHead]);
                    total[slot][n / kOfHead] += weights[slot][n];
                }
            }
            S::hold(words, weights);
            if (chunk + 1 < chunks) push(before, words);
        }
#pragma unroll
        for (int i = 0; i < S::kSlots * kHeads; ++i) {  // of no head: 0
            float& sum = total[i / kHeads][i % kHeads];
            sum = sum_over<3>(sum);
            sum = sum == 0.0f ? 0.0f : 1.0f / sum;
        }
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const unsigned char* const now = take_tile(first_head, chunks + chunk);
            S::scale(words, [&](int slot, int n) { return total[slot][n / kOfHead]; });
            S::add(sums, words, now);
            pop(before, words);
        }
    }

    // Every value of v in the warp's own rows gives way to one of the result.
    constexpr int kStored = S::kIsHalf ? 2 : 4;
#pragma unroll
    for (int i = 0; i < S::kFours; ++i) {
#pragma unroll
        for (int n = 0; n < 4; n += kStored) {
            const int channel = S::channel_of(i, n);
            if (channel >= channels) continue;
            unsigned char* const place = shared + S::place(S::row_of(i, n), channel / S::kEach) +
                                         channel % S::kEach * static_cast<int>(sizeof(T));
            Pack<T, kStored> pack = load_as<Pack<T, kStored>>(place);
#pragma unroll
            for (int k = 0; k < kStored; ++k) {
                const float read = sums[i][n + k] + offset[channel + k];
                pack.value[k] = from_float<T>(to_float(pack.value[k]) + gain[channel + k] * read);
            }
            store_as(place, pack);
        }
    }
    __syncwarp();
    T* const to = out + (static_cast<long long>(image) * positions + first) * channels;
    for (int i = S::lane(); i < S::kOfWarp * S::kChunks; i += 32) {
        const int row = S::first_row() + i / S::kChunks, chunk = i % S::kChunks;
        if (row >= left || chunk * S::kEach >= channels) continue;
        store_as(to + static_cast<long long>(row) * channels + chunk * S::kEach,
                 load_as<Bytes16>(shared + S::place(row, chunk)));
    }
}

}  // namespace glip

#define GLIP_IMAGE_READS(suffix, T, channels, shape, heads_of_tile, held)                                           \
    extern "C" __global__ void __launch_bounds__(glip::kStripThreads) glip_image_reads_##suffix##_##channels##shape( \
        int heads, int tokens, int positions, int width, float low, float high, const T* v, const T* keys,          \
        const T* bias, const T* values, const float* mask, const float* gain, const float* offset, T* out) {        \
        glip::image_reads<T, channels, heads_of_tile, held>(heads, tokens, positions, width, low, high, v, keys,    \
                                                            bias, values, mask, gain, offset, out);                 \
    }

GLIP_IMAGE_READS(f32, float, 64, , 1, 16)
GLIP_IMAGE_READS(f32, float, 256, , 1, 16)
GLIP_IMAGE_READS(f16, __half, 64, , 1, 8)
GLIP_IMAGE_READS(f16, __half, 256, , 1, 8)
GLIP_IMAGE_READS(f16, __half, 64, _pair, 2, 1)
GLIP_IMAGE_READS(f16, __half, 256, _pair, 2, 1)

#undef GLIP_IMAGE_READS
