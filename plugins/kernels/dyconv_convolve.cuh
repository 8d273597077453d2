// The convolutions of a DyConv block as implicit matrix products: what they read is gathered tap by tap into shared
// memory and multiplied there, so no column matrix is written. All levels are one launch.
//
//   offsets:   x (B, N, C), weight (27, 9 * C), bias (27) -> predicted f32 (B, N, 27), each level in planes (27, H, W):
//              dy, dx interleaved by tap, then the masks after their sigmoid
//   convolve:  x, predicted, weights (C, 9 * C) of DyConv 0, 1, 2
//              -> terms (B, R, C), the results of all terms behind one another, before bias and GroupNorm;
//                 statistics f32 (B, tiles, 3, C)
//
// Weights are laid out tap by tap: column tap * C + c. C is a multiple of 32. Halves are multiplied on tensor cores
// into float32, floats one by one; sampling is in float32. Of the next, smaller map the original reads its own level's
// offsets by that map's size: the raw-memory rule.
//
// A block makes 128 positions and all the channels that kColumns has room for. Each of its 512 threads gathers 16
// bytes of one position a step, a step ahead of the product. Grid: x over tiles, y over images, z over the result's
// channels.

#pragma once

#include "deform_im2col.cuh"
#include "dyconv_levels.cuh"
#include "warp.cuh"

namespace glip {

constexpr int kConvolveThreads = 512;
constexpr int kConvolveWarps = kConvolveThreads / 32;
constexpr int kStepBytes = 64;    // of a row between two barriers: 32 halves or 16 floats
constexpr int kRowBytes = 80;     // so apart in shared memory that eight rows lie in different banks
constexpr int kVectors = kStepBytes / 16;
static_assert(kTileRows * kVectors == kConvolveThreads, "a thread gathers one vector a step");

// Of which columns and rows of a tile each warp makes the product; how its lanes hold it, see warp.cuh.
template <int kColumns>
struct Product {
    static constexpr int kAcross = kColumns >= 256 ? 4 : 2, kDown = kConvolveWarps / kAcross;
    static constexpr int kRows = kTileRows / kDown / 16, kPairs = kColumns / kAcross / 8;
    static constexpr int kSharedBytes = 2 * (kTileRows + kColumns) * kRowBytes;
    static_assert(kDown * kColumns * sizeof(float) <= 2 * kTileRows * kRowBytes, "the statistics need this room");

    float sums[kRows][kPairs][4];
    int first_row, first_column;  // in the tile, of this lane

    __device__ __forceinline__ Product() {
        const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
        first_row = warp / kAcross * kRows * 16 + lane / 4;
        first_column = warp % kAcross * kPairs * 8 + lane % 4 * 2;
        for (int i = 0; i < kRows; ++i)
            for (int j = 0; j < kPairs; ++j)
                for (int k = 0; k < 4; ++k) sums[i][j][k] = 0.0f;
    }
    __device__ __forceinline__ int down() const { return static_cast<int>(threadIdx.x) / 32 / kAcross; }
    // Row and column in the tile of sums[i][j][k].
    __device__ __forceinline__ int row(int i, int k) const { return first_row + i * 16 + k / 2 * 8; }
    __device__ __forceinline__ int column(int j, int k) const { return first_column + j * 8 + k % 2; }
    // Whether no column of the warp is one of the result's.
    __device__ __forceinline__ bool is_idle(int columns) const { return first_column / 8 * 8 >= columns; }

    // One step: 32 halves of each row of samples and weights.
    __device__ __forceinline__ void add(const unsigned char* samples, const unsigned char* weights, __half) {
        const int lane = static_cast<int>(threadIdx.x) % 32, across = lane % 4 * 4;
        const unsigned char* const a = samples + first_row * kRowBytes + across;
        const unsigned char* const b = weights + (first_column / 8 * 8 + lane / 4) * kRowBytes + across;
#pragma unroll
        for (int k = 0; k < kStepBytes; k += 32) {
            unsigned left[kRows][4];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const unsigned char* const at = a + i * 16 * kRowBytes + k;
                left[i][0] = load_as<unsigned>(at);
                left[i][1] = load_as<unsigned>(at + 8 * kRowBytes);
                left[i][2] = load_as<unsigned>(at + 16);
                left[i][3] = load_as<unsigned>(at + 8 * kRowBytes + 16);
            }
#pragma unroll
            for (int j = 0; j < kPairs; ++j) {
                const unsigned char* const at = b + j * 8 * kRowBytes + k;
                const unsigned right[2] = {load_as<unsigned>(at), load_as<unsigned>(at + 16)};
#pragma unroll
                for (int i = 0; i < kRows; ++i) multiply_tile(sums[i][j], left[i], right);
            }
        }
    }

    // One step: 16 floats.
    __device__ __forceinline__ void add(const unsigned char* samples, const unsigned char* weights, float) {
        for (int k = 0; k < kStepBytes; k += 4) {
            float left[kRows][2];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                left[i][0] = load_as<float>(samples + row(i, 0) * kRowBytes + k);
                left[i][1] = load_as<float>(samples + row(i, 2) * kRowBytes + k);
            }
#pragma unroll
            for (int j = 0; j < kPairs; ++j) {
                const float right[2] = {load_as<float>(weights + column(j, 0) * kRowBytes + k),
                                        load_as<float>(weights + column(j, 1) * kRowBytes + k)};
#pragma unroll
                for (int i = 0; i < kRows; ++i)
#pragma unroll
                    for (int n = 0; n < 4; ++n) sums[i][j][n] += left[i][n / 2] * right[n % 2];
            }
        }
    }
};

// What is convolved: one map of one image, and where each tap of each position of the result is sampled.
template <typename T>
struct Sampled {
    const T* x;              // (height * width, C)
    const float* predicted;  // (18, positions); null: where the taps of a plain convolution lie
    const float* mask;       // (9, positions)
    int channels, height, width, out_width, positions, stride;

    __device__ __forceinline__ Sample at(int position, int tap) const {
        if (position >= positions) return Sample(-2.0f, -2.0f, 0.0f, height, width);
        const int row = position / out_width, column = position - row * out_width;
        float y = static_cast<float>(row * stride - 1 + tap / 3);
        float x_ = static_cast<float>(column * stride - 1 + tap % 3);
        if (predicted == nullptr) {
            Sample sample(y, x_, 1.0f, height, width);
            sample.inside &= 1u;  // the other corners' weights are zero
            return sample;
        }
        y += predicted[static_cast<long long>(2 * tap) * positions + position];
        x_ += predicted[static_cast<long long>(2 * tap + 1) * positions + position];
        return Sample(y, x_, mask[static_cast<long long>(tap) * positions + position], height, width);
    }

    // The corners' 16 bytes from a channel on; what lies outside is zero.
    __device__ __forceinline__ void gather(const Sample& sample, int channel, Bytes16 (&corners)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            corners[i] = {};
            if (!(sample.inside >> i & 1u)) continue;
            const long long pixel = static_cast<long long>(sample.top_left) + (i & 1) + (i & 2 ? width : 0);
            corners[i] = load_as<Bytes16>(x + pixel * channels + channel);
        }
    }
};

template <typename T>
__device__ __forceinline__ Bytes16 interpolate(const Sample& sample, const Bytes16 (&corners)[4]) {
    constexpr int kEach = 16 / sizeof(T);
    const Pack<T, kEach> from[4] = {load_as<Pack<T, kEach>>(&corners[0]), load_as<Pack<T, kEach>>(&corners[1]),
                                    load_as<Pack<T, kEach>>(&corners[2]), load_as<Pack<T, kEach>>(&corners[3])};
    Pack<T, kEach> sums;
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
        sums.value[n] = from_float<T>(
            sample.weight[0] * to_float(from[0].value[n]) + sample.weight[1] * to_float(from[1].value[n]) +
            sample.weight[2] * to_float(from[2].value[n]) + sample.weight[3] * to_float(from[3].value[n]));
    }
    return load_as<Bytes16>(&sums);
}

// The product of a tile's samples and the weights of `columns` channels of the result; `weight` points at the first.
template <typename T, int kColumns>
__device__ __forceinline__ void convolve_tile(const Sampled<T>& sampled, const T* __restrict__ weight, int columns,
                                              int first_position, unsigned char* shared, Product<kColumns>& product) {
    constexpr int kStep = kStepBytes / sizeof(T), kEach = 16 / sizeof(T);
    unsigned char *const samples = shared, *const weights = shared + 2 * kTileRows * kRowBytes;
    const int thread = static_cast<int>(threadIdx.x), row = thread / kVectors, vector = thread % kVectors;
    const int steps_of_tap = sampled.channels / kStep, steps = kTaps * steps_of_tap;
    const long long depth = static_cast<long long>(kTaps) * sampled.channels;

    const auto start_weights = [&](int step) {
        unsigned char* const to = weights + (step & 1) * kColumns * kRowBytes;
        for (int item = thread; item < kColumns * kVectors; item += kConvolveThreads) {
            const int column = item / kVectors;
            unsigned char* const place = to + column * kRowBytes + item % kVectors * 16;
            if (column < columns) {
                copy_async(place, weight + column * depth + step * kStep + item % kVectors * kEach);
            } else {
                store_as(place, Bytes16{});
            }
        }
    };
    Sample sample = sampled.at(first_position + row, 0);
    Bytes16 corners[4];
    const auto gather = [&](int step) {
        if (step % steps_of_tap == 0) sample = sampled.at(first_position + row, step / steps_of_tap);
        sampled.gather(sample, step % steps_of_tap * kStep + vector * kEach, corners);
    };
    const auto put_samples = [&](int step) {
        store_as(samples + ((step & 1) * kTileRows + row) * kRowBytes + vector * 16, interpolate<T>(sample, corners));
    };

    start_weights(0);
    gather(0);
    put_samples(0);
    wait_for_copies();
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
        const bool goes_on = step + 1 < steps;
        if (goes_on) {
            start_weights(step + 1);
            gather(step + 1);
        }
        if (!product.is_idle(columns)) {
            product.add(samples + (step & 1) * kTileRows * kRowBytes, weights + (step & 1) * kColumns * kRowBytes, T{});
        }
        if (goes_on) {
            put_samples(step + 1);
            wait_for_copies();
        }
        __syncthreads();
    }
}

// What every row of a tile weighs, added up by columns: totals[c], c < kColumns, in shared memory and after a barrier.
template <int kColumns, typename Value>
__device__ __forceinline__ void add_up(const Product<kColumns>& product, float* partial, const Value& value) {
    constexpr int kDown = Product<kColumns>::kDown;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int j = 0; j < Product<kColumns>::kPairs; ++j) {
        for (int n = 0; n < 2; ++n) {
            float sum = 0.0f;
            for (int i = 0; i < Product<kColumns>::kRows; ++i) sum += value(i, j, n) + value(i, j, n + 2);
            sum = sum_over<4 | 8 | 16>(sum);
            if (lane < 4) partial[product.down() * kColumns + product.column(j, n)] = sum;
        }
    }
    __syncthreads();
    for (int column = static_cast<int>(threadIdx.x); column < kColumns; column += kConvolveThreads) {
        float total = 0.0f;
        for (int down = 0; down < kDown; ++down) total += partial[down * kColumns + column];
        partial[column] = total;  // of this thread's column alone
    }
    __syncthreads();
}

constexpr int kOffsetColumns = 32;
constexpr int kTermColumns = 256;

template <typename T>
__device__ __forceinline__ void predict_offsets(const Levels& levels, int channels, const T* __restrict__ x,
                                                const T* __restrict__ weight, const T* __restrict__ bias,
                                                float* __restrict__ predicted) {
    GLIP_DYNAMIC_SHARED(shared);
    int tile = static_cast<int>(blockIdx.x), level = 0;
    for (; level + 1 < levels.count && tile >= tiles_of(size_of(levels, level)); ++level) {
        tile -= tiles_of(size_of(levels, level));
    }
    const int positions = size_of(levels, level);
    const long long before =
        static_cast<long long>(blockIdx.y) * first_of(levels, levels.count) + first_of(levels, level);
    const Sampled<T> sampled{x + before * channels, nullptr, nullptr, channels, levels.height[level],
                             levels.width[level], levels.width[level], positions, 1};
    Product<kOffsetColumns> product;
    convolve_tile<T, kOffsetColumns>(sampled, weight, kPredicted, tile * kTileRows, shared, product);
    float* const planes = predicted + before * kPredicted;
    for (int i = 0; i < Product<kOffsetColumns>::kRows; ++i) {
        for (int j = 0; j < Product<kOffsetColumns>::kPairs; ++j) {
            for (int k = 0; k < 4; ++k) {
                const int position = tile * kTileRows + product.row(i, k), column = product.column(j, k);
                if (position >= positions || column >= kPredicted) continue;
                const float value = product.sums[i][j][k] + to_float(bias[column]);
                planes[static_cast<long long>(column) * positions + position] =
                    column < 2 * kTaps ? value : 1.0f / (1.0f + expf(-value));
            }
        }
    }
}

// Where a term stands: what it samples, and of its results the first.
template <typename T>
__device__ __forceinline__ Sampled<T> sampled_by(const Levels& levels, const Term& term, int channels, const T* x,
                                                 const float* predicted) {
    const long long image = static_cast<long long>(blockIdx.y) * first_of(levels, levels.count);
    const float* const offset = predicted + (image + first_of(levels, term.level)) * kPredicted;
    return {x + (image + first_of(levels, term.from)) * channels,
            offset,
            offset + static_cast<long long>(2 * kTaps) * size_of(levels, term.level),
            channels,
            levels.height[term.from],
            levels.width[term.from],
            levels.width[term.out],
            size_of(levels, term.out),
            term.stride};
}

template <typename T>
__device__ __forceinline__ void convolve_terms(const Levels& levels, int channels, const T* __restrict__ x,
                                               const float* __restrict__ predicted, const T* const (&weights)[3],
                                               T* __restrict__ terms, float* __restrict__ statistics) {
    GLIP_DYNAMIC_SHARED(shared);
    const int block = static_cast<int>(blockIdx.x), first_column = static_cast<int>(blockIdx.z) * kTermColumns;
    const Term term = find_term(levels, [=](const Term& at) { return block < at.first_tile + at.tiles; });
    const Term last = find_term(levels, [](const Term&) { return false; });
    const int tile = block - term.first_tile, positions = size_of(levels, term.out);
    const int columns = channels - first_column < kTermColumns ? channels - first_column : kTermColumns;
    const Sampled<T> sampled = sampled_by(levels, term, channels, x, predicted);
    Product<kTermColumns> product;
    const T* const weight = weights[term.index] + static_cast<long long>(first_column) * kTaps * channels;
    convolve_tile<T, kTermColumns>(sampled, weight, columns, tile * kTileRows, shared, product);

    const int left = positions - tile * kTileRows, count = left < kTileRows ? left : kTileRows;
    const long long rows = last.first_row + size_of(levels, last.out);
    T* const results =
        terms + (blockIdx.y * rows + term.first_row + tile * kTileRows) * channels + first_column;
    using Of = Product<kTermColumns>;
    for (int j = 0; j < Of::kPairs; ++j) {
        if (product.column(j, 0) >= columns) continue;
        for (int i = 0; i < Of::kRows; ++i) {
            for (int k = 0; k < 4; k += 2) {
                if (product.row(i, k) >= count) continue;
                const Pack<T, 2> pair{{from_float<T>(product.sums[i][j][k]), from_float<T>(product.sums[i][j][k + 1])}};
                store_as(results + static_cast<long long>(product.row(i, k)) * channels + product.column(j, k), pair);
            }
        }
    }

    // The samples' room is free; a row that is no position counts nothing.
    float* const totals = reinterpret_cast<float*>(shared);
    const auto is_position = [&](int i, int n) { return product.row(i, n) < count; };
    float* const of_tile = statistics + (static_cast<long long>(blockIdx.y) * (last.first_tile + last.tiles) + block) *
                                            kStatistics * channels + first_column;
    const auto note = [&](int statistic, float factor) {
        for (int column = static_cast<int>(threadIdx.x); column < columns; column += kConvolveThreads) {
            of_tile[statistic * channels + column] = totals[column] * factor;
        }
    };
    add_up<kTermColumns>(product, totals,
                         [&](int i, int j, int n) { return is_position(i, n) ? product.sums[i][j][n] : 0.0f; });
    note(0, 1.0f / static_cast<float>(count));
    float mean[Of::kPairs][2];
    for (int j = 0; j < Of::kPairs; ++j) {
        for (int n = 0; n < 2; ++n) mean[j][n] = totals[product.column(j, n)] / static_cast<float>(count);
    }
    __syncthreads();
    add_up<kTermColumns>(product, totals, [&](int i, int j, int n) {
        const float distance = product.sums[i][j][n] - mean[j][n % 2];
        return is_position(i, n) ? distance * distance : 0.0f;
    });
    note(1, 1.0f);
    if (term.kind != kSmaller) return;
    float weight_of[Of::kRows][2];
    for (int i = 0; i < Of::kRows; ++i) {
        for (int n = 0; n < 2; ++n) {
            const int position = tile * kTileRows + product.row(i, 2 * n), width = levels.width[term.out];
            weight_of[i][n] = is_position(i, 2 * n)
                                  ? share_of_mean(position / width, levels.height[term.out], levels.height[term.level]) *
                                        share_of_mean(position % width, width, levels.width[term.level])
                                  : 0.0f;
        }
    }
    __syncthreads();
    add_up<kTermColumns>(product, totals,
                         [&](int i, int j, int n) { return weight_of[i][n / 2] * product.sums[i][j][n]; });
    note(2, 1.0f);
}

}  // namespace glip

#define GLIP_DYCONV_CONVOLVE(suffix, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(glip::kConvolveThreads)                                             \
        glip_dyconv_offsets_##suffix(glip::Levels levels, int channels, const T* x, const T* weight, const T* bias,  \
                                     float* predicted) {                                                             \
        glip::predict_offsets<T>(levels, channels, x, weight, bias, predicted);                                      \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(glip::kConvolveThreads) glip_dyconv_convolve_##suffix(               \
        glip::Levels levels, int channels, const T* x, const float* predicted, const T* weight0, const T* weight1,    \
        const T* weight2, T* terms, float* statistics) {                                                              \
        glip::convolve_terms<T>(levels, channels, x, predicted, {weight0, weight1, weight2}, terms, statistics);      \
    }

GLIP_DYCONV_CONVOLVE(f32, float)
GLIP_DYCONV_CONVOLVE(f16, __half)

#undef GLIP_DYCONV_CONVOLVE
