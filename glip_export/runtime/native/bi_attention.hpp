// What the forms of the bi-attention have in common: in floats (bi_attention.cpp), in whole numbers
// (bi_attention_whole.cpp).

#pragma once

#include "layer_norm.hpp"
#include "product.hpp"

namespace glip {

constexpr float kLowest = -3e38f;
static_assert(kTile % kTogether == 0, "a tile is whole rows that are normalized together");

struct Attention {
    int64_t positions, channels, heads, tokens;
    float low, high;  // what scores are clamped to
    float epsilon;    // of the norm
    int64_t scores() const { return heads * tokens; }
    int64_t tiles(int64_t tile) const { return (positions + tile - 1) / tile; }
};

// One picture's arrays, as glip_bi_attention has them.
struct AttentionArrays {
    const float *image, *keys, *bias, *values, *mask;
    const float* norm;  // (4, C) or none: its weight and bias, and what is read times and plus; see add_read
    float *to_text, *to_image;
};

// A tile's rows (count, C): of the image as it is, or normalized into room (kTogether whole times, C).
inline const float* rows_of_tile(const Attention& a, const AttentionArrays& arrays, int64_t first, int64_t count,
                                 float* room) {
    const float* const image = arrays.image + first * a.channels;
    if (!arrays.norm) return image;
    for (int64_t i = 0; i < count; i += kTogether) {
        const float* from[kTogether];
        for (int64_t r = 0; r < kTogether; ++r) from[r] = image + std::min(i + r, count - 1) * a.channels;
        Vector largest[kTogether];
        normalize({arrays.norm, arrays.norm + a.channels, a.epsilon}, from, a.channels, room + i * a.channels, largest);
    }
    return room;
}

// What a tile read becomes the rows it was read for plus gain * (read + offset).
inline void add_read(const Attention& a, const AttentionArrays& arrays, const float* rows, int64_t count, float* read) {
    if (!arrays.norm) return;
    const float *const gain = arrays.norm + 2 * a.channels, *const offset = arrays.norm + 3 * a.channels;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < a.channels; c += kLanes) {
            float* const at = read + i * a.channels + c;
            store(at, load(rows + i * a.channels + c) + load(gain + c) * (load(at) + load(offset + c)));
        }
}

// What one thread sums up for the text: of each column the largest score so far, and with it subtracted the sum of the
// exponentials and of the values they weigh, see sum_index.
struct Pooled {
    float *largest, *sum, *values;
};

// Where the sum of a channel and a score lies: panel by panel of columns, each (rows, its width).
inline int64_t sum_index(int64_t rows, int64_t columns, int64_t channel, int64_t score) {
    const int64_t first = score / kPanel * kPanel, width = std::min<int64_t>(kPanel, columns - first);
    return first * rows + channel * width + score - first;
}

// The threads' sums together: out (h*T, C).
inline void merge(const Attention& a, int64_t rows, int64_t columns, const std::vector<Pooled>& parts, float* out) {
    for (int64_t score = 0; score < a.scores(); ++score) {
        float largest = kLowest;
        for (const Pooled& part : parts) largest = std::max(largest, part.largest[score]);
        std::vector<float> share;
        float sum = 0;
        for (const Pooled& part : parts) {
            share.push_back(exponential(Vector{} + (part.largest[score] - largest))[0]);
            sum += part.sum[score] * share.back();
        }
        for (int64_t c = 0; c < a.channels; ++c) {
            float value = 0;
            for (size_t i = 0; i < parts.size(); ++i) value += parts[i].values[sum_index(rows, columns, c, score)] * share[i];
            out[score * a.channels + c] = value / sum;
        }
    }
}

// In whole numbers, where glip_has_int16.
void attend_in_int16(const Attention& a, const AttentionArrays& arrays, int threads);

// Where glip_has_int8: what is read by the scores in numbers of 8 bits, the scores of 16.
void attend_in_int8(const Attention& a, const AttentionArrays& arrays, int threads);

}  // namespace glip
