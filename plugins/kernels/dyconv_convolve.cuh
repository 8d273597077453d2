// The convolutions of a DyConv block as implicit matrix products: what they read is gathered tap by tap into shared
// memory and multiplied there, so no column matrix is written. All levels are one launch.
//
//   offsets:   x of each level (B, H, W, C), weight (27, 9 * C), bias (27)
//              -> predicted f32 (B, N, 27), each level in planes (27, H, W): dy, dx interleaved by tap, then the masks
//              after their sigmoid
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

#include "dyconv_levels.cuh"
#include "samples.cuh"
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
        const int lane = static_cast<int>(threadIdx.x) % 32, warp_row = first_row - lane / 4;
        const int warp_column = first_column - lane % 4 * 2;
        // Matrices of a: rows 0 to 7 and 8 to 15 of 8 columns, then of the next 8; of b: 8 columns' two halves each.
        const unsigned char* const a = samples + (warp_row + lane % 16) * kRowBytes + lane / 16 * 16;
        const unsigned char* const b =
            weights + (warp_column + lane / 16 * 8 + lane % 8) * kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
        for (int k = 0; k < kStepBytes; k += 32) {
            unsigned left[kRows][4];
#pragma unroll
            for (int i = 0; i < kRows; ++i) load_matrices(left[i], shared_address(a + i * 16 * kRowBytes + k));
#pragma unroll
            for (int j = 0; j < kPairs; j += 2) {
                unsigned right[4];
                load_matrices(right, shared_address(b + j * 8 * kRowBytes + k));
#pragma unroll
                for (int i = 0; i < kRows; ++i) {
                    multiply_tile(sums[i][j], left[i], {right[0], right[1]});
                    multiply_tile(sums[i][j + 1], left[i], {right[2], right[3]});
                }
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

// What is convolved: one map of one image, and the size of the result.
template <typename T>
struct Map {
    const T* x;  // (height * width, C)
    int channels, height, width, out_width, positions, stride;

    // Where a tap of a position of the result lies, before it is moved.
    __device__ __forceinline__ int row(int position, int tap) const {
        return position / out_width * stride - 1 + tap / 3;
    }
    __device__ __forceinline__ int column(int position, int tap) const {
        return position % out_width * stride - 1 + tap % 3;
    }
};

// What a thread gathers: 16 bytes of one position a step. at_tap, then for its channels in turn start and finish.
//
// Of a plain convolution they are copied as they are.
template <typename T>
class Plain {
public:
    __device__ __forceinline__ Plain(const Map<T>& map, int position) : map_(map), position_(position) {}

    __device__ __forceinline__ void at_tap(int tap) {
        const int row = map_.row(position_, tap), column = map_.column(position_, tap);
        const bool in_row = row >= 0 && row < map_.height, in_column = column >= 0 && column < map_.width;
        const bool inside = position_ < map_.positions && in_row && in_column;
        from_ = inside ? map_.x + (row * map_.width + column) * map_.channels : nullptr;
    }
    __device__ __forceinline__ void start(int channel, unsigned char* place) {
        if (from_ != nullptr) {
            copy_async(place, from_ + channel);
        } else {
            store_as(place, Bytes16{});
        }
    }
    __device__ __forceinline__ void finish(unsigned char*) {}

private:
    const Map<T>& map_;
    int position_;
    const T* from_;
};

// Of a deformable one they are interpolated between the corners, which are on their way from start to finish.
template <typename T>
class Deformed {
public:
    // offset (18, positions), mask (9, positions)
    __device__ __forceinline__ Deformed(const Map<T>& map, const float* offset, const float* mask, int position)
        : map_(map), offset_(offset), mask_(mask), position_(position), sample_(-2.0f, -2.0f, 0.0f, 1, 1) {}

    __device__ __forceinline__ void at_tap(int tap) {
        if (position_ >= map_.positions) return;  // nothing is inside
        const long long plane = map_.positions;
        const float y = static_cast<float>(map_.row(position_, tap)) + offset_[2 * tap * plane + position_];
        const float x = static_cast<float>(map_.column(position_, tap)) + offset_[(2 * tap + 1) * plane + position_];
        sample_ = Sample(y, x, mask_[tap * plane + position_], map_.height, map_.width);
        first_ = sample_.top_left * map_.channels;
    }
    __device__ __forceinline__ void start(int channel, unsigned char*) {
        const int row = map_.width * map_.channels;
        load(0, first_ + channel);
        load(1, first_ + map_.channels + channel);
        load(2, first_ + row + channel);
        load(3, first_ + row + map_.channels + channel);
    }
    __device__ __forceinline__ void finish(unsigned char* place) {
        constexpr int kEach = 16 / sizeof(T);
        Pack<T, kEach> from[4], sums;
#pragma unroll
        for (int i = 0; i < 4; ++i) from[i] = load_as<Pack<T, kEach>>(&corners_[i]);
#pragma unroll
        for (int n = 0; n < kEach; ++n) {
            sums.value[n] = from_float<T>(
                sample_.weight[0] * to_float(from[0].value[n]) + sample_.weight[1] * to_float(from[1].value[n]) +
                sample_.weight[2] * to_float(from[2].value[n]) + sample_.weight[3] * to_float(from[3].value[n]));
        }
        store_as(place, load_as<Bytes16>(&sums));
    }

private:
    __device__ __forceinline__ void load(int corner, int at) {
        corners_[corner] = sample_.inside >> corner & 1u ? load_as<Bytes16>(map_.x + at) : Bytes16{};
    }

    const Map<T>& map_;
    const float *offset_, *mask_;
    int position_, first_ = 0;
    Sample sample_;
    Bytes16 corners_[4];
};

// The product of a tile's samples and the weights of `columns` channels of the result; `weight` points at the first.
// The source is of the position that this thread gathers.
template <typename T, int kColumns, typename Source>
__device__ __forceinline__ void convolve_tile(Source& source, int channels, const T* __restrict__ weight, int columns,
                                              unsigned char* shared, Product<kColumns>& product) {
    constexpr int kStep = kStepBytes / sizeof(T), kEach = 16 / sizeof(T);
    constexpr int kSamples = kTileRows * kRowBytes, kWeights = kColumns * kRowBytes;
    const int thread = static_cast<int>(threadIdx.x), row = thread / kVectors, vector = thread % kVectors;
    unsigned char* const place = shared + row * kRowBytes + vector * 16;  // of samples
    unsigned char* const weights = shared + 2 * kSamples;
    const int depth = kTaps * channels;
    const T* from = weight + row * depth + vector * kEach;  // of the next step

    const auto start_weights = [&](int buffer) {
#pragma unroll
        for (int first = 0; first < kColumns; first += kTileRows) {  // a thread copies of as many rows apart
            if (kColumns < kTileRows && row >= kColumns) break;
            unsigned char* const to = weights + buffer * kWeights + (first + row) * kRowBytes + vector * 16;
            if (first + row < columns) {
                copy_async(to, from + first * depth);
            } else {
                store_as(to, Bytes16{});
            }
        }
        from += kStep;
    };

    int tap = 0, channel = 0;
    source.at_tap(tap);
    start_weights(0);
    source.start(vector * kEach, place);
    source.finish(place);
    wait_for_copies();
    __syncthreads();
    for (int buffer = 0;; buffer ^= 1) {
        channel += kStep;
        if (channel == channels) {
            channel = 0;
            if (++tap < kTaps) source.at_tap(tap);
        }
        const bool goes_on = tap < kTaps;
        unsigned char* const next = place + (buffer ^ 1) * kSamples;
        if (goes_on) {
            start_weights(buffer ^ 1);
            source.start(channel + vector * kEach, next);
        }
        if (!product.is_idle(columns)) {
            product.add(shared + buffer * kSamples, weights + buffer * kWeights, T{});
        }
        if (goes_on) source.finish(next);
        wait_for_copies();
        __syncthreads();
        if (!goes_on) return;
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
__device__ __forceinline__ void predict_offsets(const Levels& levels, int channels, const OfLevels<const T>& x,
                                                const T* __restrict__ weight, const T* __restrict__ bias,
                                                float* __restrict__ predicted) {
    GLIP_DYNAMIC_SHARED(shared);
    int tile = static_cast<int>(blockIdx.x), level = 0;
    for (; level + 1 < levels.count && tile >= tiles_of(size_of(levels, level)); ++level) {
        tile -= tiles_of(size_of(levels, level));
    }
    const int positions = size_of(levels, level), width = levels.width[level];
    const long long before = static_cast<long long>(blockIdx.y) * levels.positions + first_of(levels, level);
    const Map<T> map{
        map_of(levels, x, level, channels), channels, levels.height[level], width, width, positions, 1};
    Plain<T> source(map, tile * kTileRows + static_cast<int>(threadIdx.x) / kVectors);
    Product<kOffsetColumns> product;
    convolve_tile<T>(source, channels, weight, kPredicted, shared, product);
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

template <typename T>
__device__ __forceinline__ void convolve_terms(const Levels& levels, int channels, const OfLevels<const T>& x,
                                               const float* __restrict__ predicted, const T* const (&weights)[3],
                                               T* __restrict__ terms, float* __restrict__ statistics) {
    GLIP_DYNAMIC_SHARED(shared);
    const int block = static_cast<int>(blockIdx.x), first_column = static_cast<int>(blockIdx.z) * kTermColumns;
    const Term term = find_term(levels, [=](const Term& at) { return block < at.first_tile + at.tiles; });
    const int tile = block - term.first_tile, positions = size_of(levels, term.out);
    const int columns = channels - first_column < kTermColumns ? channels - first_column : kTermColumns;
    const long long image = static_cast<long long>(blockIdx.y) * levels.positions;
    const Map<T> map{map_of(levels, x, term.from, channels), channels, levels.height[term.from],
                     levels.width[term.from], levels.width[term.out], positions, term.stride};
    const float* const offset = predicted + (image + first_of(levels, term.level)) * kPredicted;
    const float* const mask = offset + static_cast<long long>(2 * kTaps) * size_of(levels, term.level);
    Deformed<T> source(map, offset, mask, tile * kTileRows + static_cast<int>(threadIdx.x) / kVectors);
    Product<kTermColumns> product;
    const T* const weight = weights[term.index] + static_cast<long long>(first_column) * kTaps * channels;
    convolve_tile<T>(source, channels, weight, columns, shared, product);

    const int left = positions - tile * kTileRows, count = left < kTileRows ? left : kTileRows;
    const long long first_row =
        static_cast<long long>(blockIdx.y) * levels.rows + term.first_row + tile * kTileRows;
    T* const results = terms + first_row * channels + first_column;
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
    const long long place = static_cast<long long>(blockIdx.y) * levels.tiles + block;
    float* const of_tile = statistics + place * kStatistics * channels + first_column;
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
            weight_of[i][n] = 0.0f;
            if (!is_position(i, 2 * n)) continue;
            const int position = tile * kTileRows + product.row(i, 2 * n), width = levels.width[term.out];
            weight_of[i][n] = share_of_mean(position / width, levels.height[term.out], levels.height[term.level]) *
                              share_of_mean(position % width, width, levels.width[term.level]);
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
        glip_dyconv_offsets_##suffix(glip::Levels levels, int channels, GLIP_OF_LEVELS(const T, x), const T* weight, \
                                     const T* bias, float* predicted) {                                              \
        glip::predict_offsets<T>(levels, channels, GLIP_GATHERED(const T, x), weight, bias, predicted);              \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(glip::kConvolveThreads) glip_dyconv_convolve_##suffix(              \
        glip::Levels levels, int channels, GLIP_OF_LEVELS(const T, x), const float* predicted, const T* weight0,     \
        const T* weight1, const T* weight2, T* terms, float* statistics) {                                           \
        glip::convolve_terms<T>(levels, channels, GLIP_GATHERED(const T, x), predicted, {weight0, weight1, weight2}, \
                                terms, statistics);                                                                  \
    }

GLIP_DYCONV_CONVOLVE(f32, float)
GLIP_DYCONV_CONVOLVE(f16, __half)

#undef GLIP_DYCONV_CONVOLVE
