// What both kernels of the bi-attention are made of: a block keeps rows in shared memory, others are streamed past them
// in tiles; products of the two, and of weights and a tile, stay in registers, a strip of the rows a warp.
//
// Halves are multiplied on tensor cores into float32, floats one by one. Rows are of up to kChannels channels, with
// zeros behind the last; a row's 16-byte chunks are exchanged by its number, so that eight rows lie in all banks.

#pragma once

#include "samples.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kStripWarps = 4;
constexpr int kStripThreads = 32 * kStripWarps;
constexpr float kNothing = -3e38f;  // no score is less
constexpr float kNoScore = -3.4e38f;  // has no weight beside it
constexpr float kFar = 8.0f;        // weights are of scores that are so much over their reference at most

// The same sizes in bytes for both types, which 64 KB hold at 256 channels: the rows and two tiles.
template <typename T, int kChannels>
struct Strip {
    static constexpr int kEach = 16 / sizeof(T), kRowBytes = kChannels * sizeof(T), kChunks = kRowBytes / 16;
    static constexpr bool kIsHalf = sizeof(T) == 2;
    static constexpr int kRows = 128 / sizeof(T);  // of a block
    static constexpr int kTile = 64 / sizeof(T);   // rows that are streamed at once
    static constexpr int kOfWarp = kRows / kStripWarps;
    // A lane's scores of a tile: in kSlots rows kValues columns each. Four lanes next to each other share their rows.
    static constexpr int kSlots = kIsHalf ? 2 : 1, kValues = kTile / 4;
    // Its sums of floats: kDeep rows, kWide times 4 channels; of halves two rows, pairs of all eights of channels.
    static constexpr int kAcross = kChannels / 4 < 32 ? kChannels / 4 : 32;
    static constexpr int kDeep = kOfWarp * kAcross / 32, kWide = kChannels / 4 / kAcross;
    static constexpr int kFours = kIsHalf ? kChannels / 8 : kDeep * kWide;
    static constexpr int kWords = kIsHalf ? kValues : kSlots * kValues;  // that hold a tile's weights
    static_assert(kRowBytes % 128 == 0 && kChannels % kAcross == 0, "eight chunks a row at least");

    using Values = float[kSlots][kValues];
    using Words = unsigned[kWords];
    using Sums = float[kFours][4];

    static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
    // In the block.
    static __device__ __forceinline__ int first_row() { return static_cast<int>(threadIdx.x) / 32 * kOfWarp; }
    static __device__ __forceinline__ int row(int slot) { return first_row() + lane() / 4 + 8 * slot; }
    // In the tile.
    static __device__ __forceinline__ int column(int value) {
        return kIsHalf ? value / 2 * 8 + lane() % 4 * 2 + value % 2 : value * 4 + lane() % 4;
    }
    // Where sums[i][n] belongs.
    static __device__ __forceinline__ int row_of(int i, int n) {
        return first_row() + (kIsHalf ? lane() / 4 + n / 2 * 8 : lane() / kAcross * kDeep + i / kWide);
    }
    static __device__ __forceinline__ int channel_of(int i, int n) {
        return kIsHalf ? i * 8 + lane() % 4 * 2 + n % 2 : (lane() % kAcross + i % kWide * kAcross) * 4 + n;
    }

    static __device__ __forceinline__ int place(int row, int chunk) {
        return row * kRowBytes + (chunk ^ (row & 7)) * 16;
    }

    // Starts to bring `count` rows of global memory; the others of kCount are zeros.
    template <int kCount>
    static __device__ __forceinline__ void bring(unsigned char* shared, int first, const T* from, int count,
                                                 int channels) {
        static_assert(kStripThreads % kChunks == 0, "a thread brings one chunk of several rows");
        constexpr int kApart = kStripThreads / kChunks;  // rows that a thread brings a chunk of
        const int thread = static_cast<int>(threadIdx.x), chunk = thread % kChunks;
        from += static_cast<long long>(thread / kChunks) * channels + chunk * kEach;
#pragma unroll 1
        for (int row = thread / kChunks; row < kCount; row += kApart) {
            unsigned char* const to = shared + place(first + row, chunk);
            if (row < count && chunk * kEach < channels) {
                copy_async(to, from);
            } else {
                store_as(to, Bytes16{});
            }
            from += kApart * channels;
        }
    }

    // The warp's rows times the tile's.
    static __device__ __forceinline__ void multiply(Values& values, const unsigned char* rows,
                                                    const unsigned char* tile) {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot)
#pragma unroll
            for (int n = 0; n < kValues; ++n) values[slot][n] = 0.0f;
        if constexpr (kIsHalf) {
            float sums[kTile / 8][4] = {};
            const SharedAddress a = shared_address(rows + (first_row() + lane() % 16) * kRowBytes);
            const SharedAddress b = shared_address(tile + (lane() / 16 * 8 + lane() % 8) * kRowBytes);
            const int chunk_a = (lane() / 16 ^ lane() % 8) * 16, chunk_b = (lane() / 8 % 2 ^ lane() % 8) * 16;
#pragma unroll
            for (int k = 0; k < kRowBytes; k += 32) {
                const int high = k / 128 * 128, low = k % 128;
                unsigned left[4], right[4];
                load_matrices(left, a + (chunk_a ^ low) + high);
#pragma unroll
                for (int j = 0; j < kTile / 8; j += 2) {
                    load_matrices(right, b + (chunk_b ^ low) + (high + j * 8 * kRowBytes));
                    multiply_tile(sums[j], left, {right[0], right[1]});
                    multiply_tile(sums[j + 1], left, {right[2], right[3]});
                }
            }
#pragma unroll
            for (int n = 0; n < kValues; ++n) {
                values[0][n] = sums[n / 2][n % 2];
                values[kSlots - 1][n] = sums[n / 2][2 + n % 2];
            }
        } else {
#pragma unroll 2
            for (int chunk = 0; chunk < kChunks; ++chunk) {
                const Pack<T, 4> left = load_as<Pack<T, 4>>(rows + place(row(0), chunk));
#pragma unroll
                for (int n = 0; n < kValues; ++n) {
                    const Pack<T, 4> right = load_as<Pack<T, 4>>(tile + place(column(n), chunk));
#pragma unroll
                    for (int i = 0; i < 4; ++i) values[0][n] += left.value[i] * right.value[i];
                }
            }
        }
    }

    // Weights of a tile's rows, as `add` takes them.
    static __device__ __forceinline__ void hold(Words& words, const Values& weights) {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
#pragma unroll
            for (int n = 0; n < kValues; n += kIsHalf ? 2 : 1) {
                if constexpr (kIsHalf) {
                    words[n + slot] = pair_of_halves(weights[slot][n], weights[slot][n + 1]);
                } else {
                    words[n] = __float_as_uint(weights[slot][n]);
                }
            }
        }
    }

    // They times a factor a slot and value.
    template <typename Factor>
    static __device__ __forceinline__ void scale(Words& words, const Factor& factor) {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
#pragma unroll
            for (int n = 0; n < kValues; n += kIsHalf ? 2 : 1) {
                if constexpr (kIsHalf) {
                    const Pack<__half, 2> pair = load_as<Pack<__half, 2>>(&words[n + slot]);
                    words[n + slot] = pair_of_halves(to_float(pair.value[0]) * factor(slot, n),
                                                     to_float(pair.value[1]) * factor(slot, n + 1));
                } else {
                    words[n] = __float_as_uint(__uint_as_float(words[n]) * factor(slot, n));
                }
            }
        }
    }

    // sums += weights times the tile's rows.
    static __device__ __forceinline__ void add(Sums& sums, const Words& words,
                                               const unsigned char* tile) {
        if constexpr (kIsHalf) {
            const SharedAddress b = shared_address(tile + lane() % 16 * kRowBytes);
            const int chunk_b = (lane() / 16 ^ lane() % 8) * 16;
#pragma unroll
            for (int k = 0; k < kTile; k += 16) {
                const int word = k / 4;  // of columns 8 further: 2 further
                const unsigned left[4] = {words[word], words[word + 1], words[word + 2], words[word + 3]};
#pragma unroll
                for (int c = 0; c < kRowBytes; c += 32) {
                    unsigned right[4];
                    load_transposed(right, b + (chunk_b ^ c % 128) + (k * kRowBytes + c / 128 * 128));
                    multiply_tile(sums[c / 16], left, {right[0], right[1]});
                    multiply_tile(sums[c / 16 + 1], left, {right[2], right[3]});
                }
            }
        } else {
#pragma unroll
            for (int k = 0; k < kTile; ++k) {
                float weights[kDeep];
#pragma unroll
                for (int i = 0; i < kDeep; ++i) {
                    const int row = lane() / kAcross * kDeep + i;
                    weights[i] = from_lane(__uint_as_float(words[k / 4]), row * 4 + k % 4);
                }
#pragma unroll
                for (int w = 0; w < kWide; ++w) {
                    const Pack<T, 4> right = load_as<Pack<T, 4>>(tile + place(k, lane() % kAcross + w * kAcross));
#pragma unroll
                    for (int i = 0; i < kDeep; ++i)
#pragma unroll
                        for (int n = 0; n < 4; ++n) sums[i * kWide + w][n] += weights[i] * right.value[n];
                }
            }
        }
    }

    // sums times a factor a slot.
    static __device__ __forceinline__ void rescale(Sums& sums, const float (&factor)[kSlots]) {
#pragma unroll
        for (int i = 0; i < kFours; ++i) {
#pragma unroll
            for (int n = 0; n < 4; ++n) sums[i][n] *= of_sum(factor, i, n);
        }
    }

    // A slot's value, of the row of sums[i][n]; by a whole warp.
    static __device__ __forceinline__ float of_sum(const float (&value)[kSlots], int i, int n) {
        if constexpr (kIsHalf) return value[n / 2];
        return from_lane(value[0], (lane() / kAcross * kDeep + i / kWide) * 4);
    }
};

__device__ __forceinline__ float weight_of(float score, float reference) {
    return power_of_two((score - reference) * kLog2OfE);
}

}  // namespace glip
