// The matrices of a bi-attention in whole numbers, and how they are made.
//
// Every one is scaled where its numbers are used up: the image by row for the scores, by tile and channel for what the
// text reads; keys and values by column.

#pragma once

#include "bi_attention.hpp"
#include "integers.hpp"

#ifdef GLIP_INT16
namespace glip {

constexpr int64_t kPositions = 2 * kTile;  // of a tile: their products with a panel outweigh its sums' coming and going
constexpr float kImage = 4095.f;  // the largest number of the image's rows

// What weighs (Share) and what it weighs: the numbers and the largest of them.
template <typename Share>
struct Form;
template <>
struct Form<int16_t> {
    using Value = int16_t;
    static constexpr float kExponential = 8191.f;  // of what the text reads by,
    static constexpr float kShare = 32767.f;       // and the image
    static float image() { return largest_number(kPositions, kExponential); }
};
template <>
struct Form<uint8_t> {
    using Value = int8_t;
    static constexpr float kExponential = 255.f;
    static constexpr float kShare = 255.f;
    static float image() { return 127.f; }
};
template <typename Share>
constexpr bool in_bytes = sizeof(Share) == 1;
template <typename Share>
constexpr int64_t kGroup = 4 / sizeof(Share);  // numbers that one instruction multiplies a lane

template <typename Number>
struct Packed {  // a matrix of the text in panels, and what its columns' numbers are times
    Number* numbers;
    float* scale;
};

template <typename Share>
struct Workspace {  // of one thread, positions (kPositions)
    int16_t* rows;                         // the image (kPositions, C),
    typename Form<Share>::Value* groups;   // and in groups of positions (kPositions/group, stride, group)
    Share *exponentials, *shares;          // (kPositions, kPanel) in groups; (kPositions, depth)
    float *scores;                         // (kPositions, columns)
    float *row_scale, *channel_scale;      // (kPositions), (C)
    float *largest, *factor;               // (columns): the tile's largest score, and see find_factors
    float *gain, *kept;                    // (kPanel): of the tile's sums, and of those before
    float *head_scale;                     // (kPositions, h): in bytes, what a head's sums are times
    float* normal;                         // (kPositions, C): the rows, where there is a norm
};

// Of groups of positions: lines whose distance is a power of two would fall into a few sets of the first cache.
inline int64_t stride_of(const Attention& a) { return a.channels + 16; }

inline int64_t columns_of(const Attention& a) { return round_up(a.scores(), kLanes); }

// What the image reads is one product over all heads, or in bytes one of each, in whole groups.
template <typename Share>
int64_t head_depth(const Attention& a) {
    return in_bytes<Share> ? round_up(a.tokens, kGroup<Share>) : a.tokens;
}
template <typename Share>
int64_t depth_of(const Attention& a) {
    return in_bytes<Share> ? a.heads * head_depth<Share>(a) : columns_of(a);
}

// matrix (h*T, C) as (C, h*T): a column is a key.
inline void pack_keys(const Attention& a, const float* matrix, const Packed<int16_t>& packed) {
    const int64_t columns = columns_of(a);
    const float largest = largest_number(a.channels, kImage);
    for (int64_t column = 0; column < columns; ++column) {
        const int64_t first = column / kPanel * kPanel, width = std::min<int64_t>(kPanel, columns - first);
        int16_t* const panel = packed.numbers + first * a.channels;
        const float* const key = matrix + column * a.channels;
        float most = 0;
        if (column < a.scores())
            for (int64_t k = 0; k < a.channels; ++k) most = std::max(most, std::fabs(key[k]));
        const float scale = most / largest, factor = inverse(scale);
        packed.scale[column] = scale;
        for (int64_t k = 0; k < a.channels; ++k)
            panel[group_index<2>(width, k, column - first)] =
                column < a.scores() ? int16_t(std::lrint(key[k] * factor)) : int16_t(0);
    }
}

// matrix (h*T, C) as it is: a column is a channel. In 16 bits a row of shares sums up to 1 a head, and what rounding adds.
template <typename Share>
void pack_values(const Attention& a, const float* matrix, const Packed<typename Form<Share>::Value>& packed) {
    using Value = typename Form<Share>::Value;
    const int64_t depth = depth_of<Share>(a), each = head_depth<Share>(a);
    const float share = Form<Share>::kShare;
    const float largest = in_bytes<Share> ? 127.f : largest_number(1, float(a.heads) * share + float(depth) / 2);
    std::memset(packed.numbers, 0, depth * a.channels * sizeof(Value));
    for (int64_t c = 0; c < a.channels; ++c) {
        float most = 0;
        for (int64_t score = 0; score < a.scores(); ++score) most = std::max(most, std::fabs(matrix[score * a.channels + c]));
        packed.scale[c] = most / largest / (in_bytes<Share> ? 1.f : share);
        const float factor = most > 0 ? largest / most : 0.f;
        Value* const panel = packed.numbers + c / kPanel * kPanel * depth;
        for (int64_t score = 0; score < a.scores(); ++score) {
            const int64_t row = score / a.tokens * each + score % a.tokens;
            panel[group_index<kGroup<Share>>(kPanel, row, c % kPanel)] =
                Value(std::lrint(matrix[score * a.channels + c] * factor));
        }
    }
}

template <typename Share>
void take(const Attention& a, const float* image, int64_t count, const Workspace<Share>& work) {
    constexpr int64_t group = kGroup<Share>;
    const float pooled = Form<Share>::image();
    std::fill(work.channel_scale, work.channel_scale + a.channels, 0.f);
    for (int64_t i = 0; i < count; ++i) {
        const float* const row = image + i * a.channels;
        Vector most{};
        for (int64_t c = 0; c < a.channels; c += kLanes) {
            const Vector value = magnitude(load(row + c)), before = load(work.channel_scale + c);
            most = value > most ? value : most;
            store(work.channel_scale + c, value > before ? value : before);
        }
        work.row_scale[i] = largest_lane(most) / kImage;
        const float factor = inverse(work.row_scale[i]);
        for (int64_t c = 0; c < a.channels; c += kLanes)
            store(work.rows + i * a.channels + c, rounded(load(row + c) * factor));
    }
    for (int64_t c = 0; c < a.channels; c += kLanes) {
        const Vector scale = load(work.channel_scale + c) / pooled;
        const Vector factor = scale > 0.f ? 1.f / scale : Vector{};
        store(work.channel_scale + c, scale);
        for (int64_t i = 0; i < kPositions; i += group) {
            Integers numbers[group]{};
            for (int64_t next = 0; next < group && i + next < count; ++next)
                numbers[next] = rounded(load(image + (i + next) * a.channels + c) * factor);
            store_group(work.groups + i * stride_of(a) + group * c, numbers);
        }
    }
}

}  // namespace glip
#endif
