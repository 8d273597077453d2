// The levels of a DyConv block, and its deformable convolutions, numbered as they are stored.
//
// Maps are (B, H, W, C), channels last, each where it is. What is made of them stands behind one another, a level's
// positions behind the larger ones': N in all. A level has up to three terms: its own map's, the larger neighbour's
// with stride 2, and the smaller neighbour's at that one's size, to be enlarged.

#pragma once

#include "of_levels.cuh"

namespace glip {

constexpr int kTerms = 3;
constexpr int kOwn = 0, kLarger = 1, kSmaller = 2;
constexpr int kTileRows = 128;     // positions that a block convolves
constexpr int kStatistics = 3;     // of a tile and channel: mean, squares about it, its part of the enlarged map's mean
constexpr int kPredicted = 27;     // of a position: nine dy, dx, then nine masks
constexpr int kCoefficients = 8;   // of a level and channel: three terms' scales, their shift, DyReLU's two lines

// The argument of every kernel of a block. Widths and heights fall from level to level, halved and rounded up. Of an
// image: positions of all levels, rows of all terms' results, tiles that they are made in. apart: positions from an
// image of a map to the next; 0 where a map's images follow on one another.
struct Levels {
    int count, positions, rows, tiles, apart;
    int height[kMostLevels];
    int width[kMostLevels];
};

// One deformable convolution: DyConv[index] of level `from`, at the size of level `out`.
struct Term {
    int index, level, kind, from, out, stride;
    int first_tile, tiles;
    int first_row;  // of its results
};

__device__ __forceinline__ int size_of(const Levels& levels, int level) {
    return levels.height[level] * levels.width[level];
}

__device__ __forceinline__ int tiles_of(int positions) { return (positions + kTileRows - 1) / kTileRows; }

// The map of this block's image, y of the grid.
template <typename T>
__device__ __forceinline__ T* map_of(const Levels& levels, const OfLevels<T>& maps, int level, int channels) {
    const int apart = levels.apart > 0 ? levels.apart : size_of(levels, level);
    return maps[level] + static_cast<long long>(blockIdx.y) * apart * channels;
}

// The first position of a level among all.
__device__ __forceinline__ int first_of(const Levels& levels, int level) {
    int first = 0;
#pragma unroll 1
    for (int l = 0; l < level; ++l) first += size_of(levels, l);
    return first;
}

// The first term that `found` says yes to; the last one if it never does.
template <typename Found>
__device__ __forceinline__ Term find_term(const Levels& levels, const Found& found) {
    Term term{};
#pragma unroll 1
    for (int level = 0; level < levels.count; ++level) {
#pragma unroll 1
        for (int kind = 0; kind < kTerms; ++kind) {
            if ((kind == kLarger && level == 0) || (kind == kSmaller && level + 1 == levels.count)) continue;
            const int from = kind == kLarger ? level - 1 : kind == kSmaller ? level + 1 : level;
            const int out = kind == kSmaller ? from : level;
            const int index = kind == kOwn ? 1 : kind == kLarger ? 2 : 0;
            const int before = term.tiles == 0 ? 0 : size_of(levels, term.out);
            term = {index, level, kind, from, out, kind == kLarger ? 2 : 1, term.first_tile + term.tiles,
                    tiles_of(size_of(levels, out)), term.first_row + before};
            if (found(term)) return term;
        }
    }
    return term;
}

// How an axis is enlarged with its corners aligned: where output `at` lies between two inputs, as PyTorch counts it.
struct Between {
    int low, next;  // next is 0 where there is no further input
    float share;    // of the input after `low`

    __device__ __forceinline__ Between(int at, int from, int to) {
        const float step = to > 1 ? static_cast<float>(from - 1) / static_cast<float>(to - 1) : 0.0f;
        const float place = static_cast<float>(at) * step;
        low = static_cast<int>(place) < from - 1 ? static_cast<int>(place) : from - 1;
        next = low + 1 < from ? 1 : 0;
        share = next ? place - static_cast<float>(low) : 0.0f;
    }
};

// What input `at` contributes to the mean of the axis enlarged.
__device__ __forceinline__ float share_of_mean(int at, int from, int to) {
    const float outputs = from > 1 ? static_cast<float>(to - 1) / static_cast<float>(from - 1) : 0.0f;
    int first = from > 1 ? static_cast<int>(static_cast<float>(at - 1) * outputs) - 1 : 0;
    int last = from > 1 ? static_cast<int>(static_cast<float>(at + 1) * outputs) + 1 : to - 1;
    first = first < 0 ? 0 : first;
    last = last < to - 1 ? last : to - 1;
    float sum = 0.0f;
#pragma unroll 1
    for (int output = first; output <= last; ++output) {
        const Between between(output, from, to);
        if (between.low == at) sum += 1.0f - between.share;
        if (between.low + 1 == at && between.next) sum += between.share;
    }
    return sum / static_cast<float>(to);
}

}  // namespace glip
