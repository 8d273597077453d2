// Both softmaxes of a bi-attention in whole numbers, with one exponential of each score.
//
// The exponentials that the text reads by, over positions, have the largest of their column and tile subtracted, not the
// largest so far: a tile of small ones is not rounded away. What the image reads by, over tokens, are the same ones times
// what makes up for the columns' different largest; in 8 bits their sum is that of the rounded numbers, so that they
// still make up one.

#pragma once

#include "bi_attention_whole.hpp"

#ifdef GLIP_INT16
namespace glip {

// Of one panel.
template <int Vectors, typename Share>
void find_scores(const Attention& a, const Packed<int16_t>& keys, const float* bias, int64_t count, int64_t panel,
                 const Workspace<Share>& work) {
    const int64_t columns = columns_of(a);
    constexpr int rows = rows_of_a_call<Vectors>();
    const float low = a.low, high = a.high;
    for (int64_t i = 0; i < count; i += rows) {
        float* const scores = work.scores + i * columns + panel;
        const float *const row_scale = work.row_scale + i, *const scale = keys.scale + panel, *const start = bias + panel;
        multiply_groups<Vectors>(
            work.rows + i * a.channels, a.channels, 2, keys.numbers + panel * a.channels, a.channels,
            [=](int r, int v, Integers sum) {
                Vector score = to_float(sum) * (row_scale[r] * load(scale + v * kLanes)) + load(start + v * kLanes);
                score = score < low ? Vector{} + low : score;
                score = score > high ? Vector{} + high : score;
                store(scores + r * columns + v * kLanes, score);
            });
    }
}

// The exponential of x <= 0, but never so small that a product of two is no normal number.
inline Vector weight_of(Vector x) { return exponential_of_whole(x > -40.f ? x : Vector{} - 40.f); }
constexpr float kTold = 1e-12f;  // beside which what is so small is rounded to zero

// One panel: the exponentials, in the scores' place too, and how the tile's sums and those before go together.
template <int Vectors, typename Share>
void weigh(const Attention& a, int64_t count, int64_t panel, const Workspace<Share>& work, const Pooled& pooled) {
    constexpr int64_t group = kGroup<Share>;
    const int64_t columns = columns_of(a);
    float* const scores = work.scores + panel;
    Vector largest[Vectors];
    for (Vector& most : largest) most = Vector{} + kLowest;
    for (int64_t i = 0; i < count; ++i)
        for (int v = 0; v < Vectors; ++v) {
            const Vector score = load(scores + i * columns + v * kLanes);
            largest[v] = score > largest[v] ? score : largest[v];
        }
    Integers sum[Vectors]{};
    for (int64_t i = 0; i < kPositions; i += group)
        for (int v = 0; v < Vectors; ++v) {
            Integers numbers[group]{};
            for (int64_t next = 0; next < group && i + next < count; ++next) {
                float* const score = scores + (i + next) * columns + v * kLanes;
                const Vector weight = weight_of(load(score) - largest[v]);
                numbers[next] = rounded(weight * Form<Share>::kExponential);
                sum[v] += numbers[next];
                store(score, weight);
            }
            store_group(work.exponentials + (i * Vectors + group * v) * kLanes, numbers);
        }
    for (int v = 0; v < Vectors; ++v) {
        const int64_t place = v * kLanes, column = panel + place;
        const Vector before = load(pooled.largest + column), now = largest[v] > before ? largest[v] : before;
        const Vector kept = exponential(before - now), gain = exponential(largest[v] - now);
        store(work.largest + column, largest[v]);
        store(pooled.largest + column, now);
        store(pooled.sum + column, load(pooled.sum + column) * kept + to_float(sum[v]) * gain);
        store(work.kept + place, kept);
        store(work.gain + place, gain);
    }
}

// Adds a tile's panel to what the text reads: the softmax over positions.
template <int Vectors, typename Share>
void pool(const Attention& a, int64_t count, int64_t panel, const Workspace<Share>& work, const Pooled& pooled) {
    constexpr int64_t group = kGroup<Share>;
    constexpr int rows = rows_of_a_call<Vectors>();
    weigh<Vectors>(a, count, panel, work, pooled);
    const float *const channel_scale = work.channel_scale, *const tile_gain = work.gain, *const kept = work.kept;
    for (int64_t c = 0; c < a.channels; c += rows) {
        float* const values = pooled.values + panel * a.channels + c * Vectors * kLanes;
        const int64_t some = std::min<int64_t>(rows, a.channels - c);
        for (int64_t k = 0; k < some * Vectors; ++k)  // they come from the second cache while the product is computed
            __builtin_prefetch(values + k * kLanes, 1);
        multiply_groups<Vectors>(work.groups + group * c, group, group * stride_of(a), work.exponentials, kPositions,
                                 [=](int r, int v, Integers sum) {
                                     if (r >= some) return;
                                     float* const value = values + (r * Vectors + v) * kLanes;
                                     const Vector gain = channel_scale[c + r] * load(tile_gain + v * kLanes);
                                     store(value, load(value) * load(kept + v * kLanes) + to_float(sum) * gain);
                                 });
    }
}

// What the columns' exponentials are times, for those of one row and head to have the same score subtracted: the largest
// of the tile and head, by which the image reads.
template <typename Share>
void find_factors(const Attention& a, const float* mask, const Workspace<Share>& work) {
    for (int64_t head = 0; head < a.heads; ++head) {
        const float* const largest = work.largest + head * a.tokens;
        float* const factor = work.factor + head * a.tokens;
        float most = kLowest;
        for (int64_t t = 0; t < a.tokens; ++t) most = std::max(most, largest[t] + mask[t]);
        for (int64_t t = 0; t < a.tokens; t += kLanes)  // what goes past the end is the next head's, found after it
            store(factor + t, weight_of(load(largest + t) + load(mask + t) - most));
    }
}

// The same for a tile where that will not do: its scores become exponentials with the largest of each row and head
// subtracted, which are times 1.
template <typename Share>
void weigh_rows(const Attention& a, const float* mask, int64_t count, const Workspace<Share>& work) {
    const int64_t columns = columns_of(a);
    std::vector<float> row(a.tokens + kLanes);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t head = 0; head < a.heads; ++head) {
            float* const scores = work.scores + i * columns + head * a.tokens;
            float most = kLowest;
            for (int64_t t = 0; t < a.tokens; ++t) most = std::max(most, row[t] = scores[t] + mask[t]);
            for (int64_t t = 0; t < a.tokens; t += kLanes) store(row.data() + t, weight_of(load(row.data() + t) - most));
            std::copy(row.data(), row.data() + a.tokens, scores);
        }
    std::fill(work.factor, work.factor + columns, 1.f);
}

// One row's softmax over a head's tokens, to numbers of which what they read is times `scale`; in bytes the largest is
// 255. False where all exponentials are so small, the tile's largest being far from this row's, that they tell nothing.
template <typename Share>
bool share_out(int64_t tokens, const float* exponentials, const float* factor, Share* shares, float* scale) {
    Integers lane, numbers_sum{};
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    const auto weight = [&](int64_t t) {
        const Vector whole = load(exponentials + t) * load(factor + t);
        return lane < int32_t(tokens - t) ? whole : Vector{};
    };
    Vector largest{}, sum{};
    for (int64_t t = 0; t < tokens; t += kLanes) {
        const Vector value = weight(t);
        if constexpr (in_bytes<Share>) largest = value > largest ? value : largest;
        else sum += value;
    }
    const float whole = in_bytes<Share> ? largest_lane(largest) : sum_of(sum);
    if (!(whole > kTold)) return false;
    const float to_numbers = Form<Share>::kShare / whole;
    for (int64_t t = 0; t < tokens; t += kLanes) {  // what goes past the end is zero, or the next head's
        const Integers numbers = rounded(weight(t) * to_numbers);
        if constexpr (in_bytes<Share>) numbers_sum += numbers;
        store(shares + t, numbers);
    }
    if constexpr (in_bytes<Share>) *scale = 1.f / float(sum_of(numbers_sum));
    return true;
}

// All rows and heads of a tile, after `pool`.
template <typename Share>
bool share_out_tile(const Attention& a, int64_t count, const Workspace<Share>& work) {
    const int64_t columns = columns_of(a), depth = depth_of<Share>(a), each = head_depth<Share>(a);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t head = 0; head < a.heads; ++head)
            if (!share_out(a.tokens, work.scores + i * columns + head * a.tokens, work.factor + head * a.tokens,
                           work.shares + i * depth + head * each, work.head_scale + i * a.heads + head))
                return false;
    return true;
}

}  // namespace glip
#endif
