// The convolution that predicts a DyConv block's offsets and masks, an ordinary one of 27 columns, a tile of positions at a
// time: in fp32, or in whole numbers of 16 bits.

#pragma once

#include "deform_samples.hpp"

namespace glip {

constexpr int kOffsets = 2 * kTaps;
constexpr int kPredicted = 3 * kTaps;  // of each position: offsets and masks
constexpr int kNarrow = 32;            // a panel for those

struct OffsetConv {
    int64_t channels;
    const float *weight, *bias;  // packed, and padded, to kNarrow
};

// What the offset convolution found of a tile, (kTile, kNarrow): offsets and masks as planes (27, H*W), as the original
// keeps them in memory.
inline void write_predicted(const Map& map, int64_t first, int64_t count, float* sums, float* planes) {
    for (int64_t k = kOffsets / kLanes * kLanes; k < kNarrow; k += kLanes)
        for (int64_t i = 0; i < count; ++i) {
            float* const values = sums + i * kNarrow + k;
            Vector sigmoid = load(values);
            const Vector small = exponential(sigmoid < 0.f ? sigmoid : -sigmoid);
            sigmoid = (sigmoid < 0.f ? small : Vector{} + 1.f) / (1.f + small);
            for (int64_t lane = std::max<int64_t>(kOffsets - k, 0); lane < kLanes; ++lane) values[lane] = sigmoid[lane];
        }
    for (int64_t plane = 0; plane < kPredicted; ++plane)
        for (int64_t i = 0; i < count; ++i) planes[plane * map.size() + first + i] = sums[i * kNarrow + plane];
}

// Which of a tile's positions have a pixel at each tap.
struct Inside {
    Inside(const Map& map, int64_t first, int64_t count) {
        int64_t row = first / map.width, column = first % map.width;
        for (int64_t i = 0; i < count; ++i) {
            for (int64_t tap = 0; tap < kTaps; ++tap) {
                const int64_t y = row + tap / 3 - 1, x = column + tap % 3 - 1;
                of[tap][i] = y >= 0 && y < map.height && x >= 0 && x < map.width;
            }
            if (++column == map.width) column = 0, ++row;
        }
    }
    bool of[kTaps][kTile]{};
};

// The offset convolution, an ordinary one. A tap's pixels lie as the positions do: of a call's rows they are copied
// only where some lie outside and count 0. samples (kTile, C), sums (kTile, kNarrow).
inline void predict_tile(const OffsetConv& conv, const Map& map, const float* pixels, int64_t tile, float* samples, float* sums,
                  float* planes) {
    const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, map.size() - first), channels = conv.channels;
    constexpr int rows = kLanes == 16 ? 12 : 3, vectors = kNarrow / kLanes;  // more rows fill the registers
    static_assert(kPredicted <= kNarrow && kTile % rows == 0, "a tile is whole calls");
    for (int64_t i = 0; i < kTile; ++i) std::memcpy(sums + i * kNarrow, conv.bias, kNarrow * sizeof(float));
    const Inside inside(map, first, count);
    for (int64_t tap = 0; tap < kTaps; ++tap) {
        const int64_t shift = (tap / 3 - 1) * map.width + tap % 3 - 1;
        const float* const weights = conv.weight + tap * channels * kNarrow;
        for (int64_t i = 0; i < count; i += rows) {
            const float* from = pixels + (first + i + shift) * channels;
            if (std::all_of(inside.of[tap] + i, inside.of[tap] + i + rows, [](bool is) { return is; })) {
                multiply<rows, vectors>(from, channels, weights, sums + i * kNarrow, kNarrow, channels);
                continue;
            }
            for (int64_t r = 0; r < rows; ++r)
                if (inside.of[tap][i + r])
                    std::memcpy(samples + r * channels, from + r * channels, channels * sizeof(float));
                else
                    std::memset(samples + r * channels, 0, channels * sizeof(float));
            multiply<rows, vectors>(samples, channels, weights, sums + i * kNarrow, kNarrow, channels);
        }
    }
    write_predicted(map, first, count, sums, planes);
}

#ifdef GLIP_INT16
// The offset convolution's weights in whole numbers of 16 bits, (9, C, kNarrow) in pairs, and each column's scale: the
// numbers are as large as they can be so that no tap's sum of products with pixels leaves 32 bits.
// Where it is inlined g++ 12 has been seen to crash.
__attribute__((noinline)) inline void pack_offsets(const OffsetConv& conv, int16_t* numbers, float* scale) {
    const int64_t channels = conv.channels;
    const float most_sum = kLargestSum / kPixel - float(channels);  // what rounding adds is less than one each
    for (int64_t column = 0; column < kNarrow; column += kLanes) {
        Vector most{}, sums{};
        for (int64_t tap = 0; tap < kTaps; ++tap) {
            Vector sum{};
            for (int64_t row = tap * channels; row < (tap + 1) * channels; ++row) {
                const Vector value = magnitude(load(conv.weight + row * kNarrow + column));
                most = value > most ? value : most;
                sum += value;
            }
            sums = sum > sums ? sum : sums;
        }
        const Vector by_value = most / 32767.f, by_sum = sums / most_sum, unit = by_value > by_sum ? by_value : by_sum;
        store(scale + column, unit);
        const Vector factor = unit > 0.f ? 1.f / unit : Vector{};
        for (int64_t row = 0; row < kTaps * channels; row += 2) {  // C is even
            const float* const weight = conv.weight + row * kNarrow + column;
            store_group(numbers + row * kNarrow + 2 * column,
                        {rounded(load(weight) * factor), rounded(load(weight + kNarrow) * factor)});
        }
    }
}

// As predict_tile, of pixels in whole numbers, of which there are those of a row and one more before and after the map:
// a tap's pixels lie as the positions do, and what is outside counts 0 times.
inline void predict_tile_whole(const OffsetConv& conv, const Map& map, const int16_t* pixels, const float* largest, int64_t tile,
                        const int16_t* weights, const float* scale, float* sums, float* planes) {
    constexpr int vectors = kNarrow / kLanes, rows = rows_of_a_call<vectors>();
    static_assert(kTile % rows == 0, "a tile is whole calls");
    const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, map.size() - first), channels = conv.channels;
    const Inside inside(map, first, count);
    std::memset(sums, 0, kTile * kNarrow * sizeof(float));
    for (int64_t tap = 0; tap < kTaps; ++tap) {
        const int64_t shift = (tap / 3 - 1) * map.width + tap % 3 - 1;
        float row_scale[kTile]{};
        for (int64_t i = 0; i < count; ++i)
            if (inside.of[tap][i]) row_scale[i] = largest[first + i + shift] / kPixel;
        for (int64_t i = 0; i < count; i += rows)
            multiply_groups<vectors>(pixels + (first + i + shift) * channels, channels, 2,
                                     weights + tap * channels * kNarrow, channels, [&](int r, int v, Integers sum) {
                                         float* const to = sums + (i + r) * kNarrow + v * kLanes;
                                         store(to, load(to) + to_float(sum) * row_scale[i + r]);
                                     });
    }
    for (int64_t i = 0; i < count; ++i)
        for (int64_t k = 0; k < kNarrow; k += kLanes) {
            float* const values = sums + i * kNarrow + k;
            store(values, load(values) * load(scale + k) + load(conv.bias + k));
        }
    write_predicted(map, first, count, sums, planes);
}
#endif

}  // namespace glip
