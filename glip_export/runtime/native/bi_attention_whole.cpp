// The bi-attention in whole numbers: the pass of bi_attention.cpp over the same positions. Scores are products of 16 bits,
// for the softmax makes much of their errors; what text and image read is summed up in 16 bits, or in 8.

#include "bi_attention_softmax.hpp"

#ifdef GLIP_INT16
namespace glip {
namespace {

// What the image reads: the shares of each head's tokens, times the values.
void read(const Attention& a, const Packed<int16_t>& values, int64_t count, const Workspace<int16_t>& work, float* out) {
    const int64_t columns = columns_of(a);
    constexpr int rows = rows_of_a_call<kVectors>();
    for (int64_t panel = 0; panel < a.channels; panel += kPanel)
        for (int64_t i = 0; i < count; i += rows)
            multiply_groups<kVectors>(work.shares + i * columns, columns, 2, values.numbers + panel * columns, columns,
                                     [&](int r, int v, Integers sum) {
                                         if (i + r >= count) return;
                                         const int64_t column = panel + v * kLanes;
                                         store(out + (i + r) * a.channels + column,
                                               to_float(sum) * load(values.scale + column));
                                     });
}

#ifdef GLIP_INT8
void read(const Attention& a, const Packed<int8_t>& values, int64_t count, const Workspace<uint8_t>& work, float* out) {
    const int64_t each = head_depth<uint8_t>(a), depth = depth_of<uint8_t>(a);
    constexpr int rows = rows_of_a_call<kVectors>();
    for (int64_t panel = 0; panel < a.channels; panel += kPanel)
        for (int64_t i = 0; i < count; i += rows) {
            const int64_t some = std::min<int64_t>(rows, count - i), channels = a.channels, heads = a.heads;
            float* const to = out + i * channels + panel;
            const float* const column = values.scale + panel;
            for (int64_t head = 0; head < heads; ++head) {
                const float* const row = work.head_scale + i * heads + head;
                multiply_groups<kVectors>(work.shares + i * depth + head * each, depth, 4,
                                          values.numbers + panel * depth + head * each * kPanel, each,
                                          [=](int r, int v, Integers sum) {
                                              if (r >= some) return;
                                              float* const sums = to + r * channels + v * kLanes;
                                              const Vector scale = load(column + v * kLanes) * row[r * heads];
                                              const Vector before = head ? load(sums) : Vector{};
                                              store(sums, before + to_float(sum) * scale);
                                          });
            }
        }
}
#endif

// call(number of vectors as a type, first column) for every panel.
template <typename Call>
void for_panels(int64_t columns, const Call& call) {
    for (int64_t panel = 0; panel < columns; panel += kPanel)
        by_width(std::min<int64_t>(kPanel, columns - panel), [&](auto vectors) { call(vectors, panel); });
}

template <typename Share>
void attend(const Attention& a, const AttentionArrays& arrays, int threads) {
    using Value = typename Form<Share>::Value;
    thread_local Scratch<int16_t> sixteens;
    thread_local Scratch<Share> weights;
    thread_local Scratch<Value> weighed;
    thread_local Scratch<float> floats;
    threads = int(std::min<int64_t>(threads, a.tiles(kPositions)));
    const int64_t columns = columns_of(a), channels = a.channels, depth = depth_of<Share>(a), slack = 2 * kLanes;
    const int64_t slack_rows = kGroup<Share> * kRows * kVectors;  // a call of the last channels reads past them
    const int64_t own_rows = kPositions * channels, own_weights = round_up(kPositions * (kPanel + depth) + slack, 64);
    const int64_t own_weighed = round_up(kPositions * stride_of(a) + slack_rows, 64);
    const int64_t own_floats = round_up(kPositions * (columns + 1 + channels + a.heads) + channels + 2 * kPanel +
                                            3 * slack + (4 + channels) * columns, 16);
    int16_t* const all_rows = sixteens.at_least(channels * columns + threads * own_rows);
    Share* const all_weights = weights.at_least(threads * own_weights);
    Value* const all_weighed = weighed.at_least(channels * depth + threads * own_weighed);
    float* const all_floats = floats.at_least(2 * columns + channels + a.tokens + slack + threads * own_floats);

    const Packed<int16_t> keys{all_rows, all_floats};
    const Packed<Value> values{all_weighed, all_floats + columns};
    in_parallel(threads, 2, [&](int64_t which, int) {
        if (which) pack_values<Share>(a, arrays.values, values); else pack_keys(a, arrays.keys, keys);
    });
    float* const bias = values.scale + channels;
    std::fill(std::copy(arrays.bias, arrays.bias + a.scores(), bias), bias + columns, 0.f);
    float* const mask = bias + columns;
    std::fill(std::copy(arrays.mask, arrays.mask + a.tokens, mask), mask + a.tokens + slack, 0.f);

    std::vector<Pooled> parts(threads);
    in_parallel(threads, threads, [&](int64_t part, int) {  // the same tiles in every call: the same result to the bit
        Workspace<Share> work;
        work.rows = all_rows + channels * columns + part * own_rows;
        work.groups = all_weighed + channels * depth + part * own_weighed;
        work.exponentials = all_weights + part * own_weights;
        work.shares = work.exponentials + kPositions * kPanel;
        float* room = mask + a.tokens + slack + part * own_floats;
        const auto next = [&room](int64_t count) { return std::exchange(room, room + count); };
        work.scores = next(kPositions * columns + slack);
        work.row_scale = next(kPositions), work.channel_scale = next(channels);
        work.largest = next(columns + slack), work.factor = next(columns + slack);
        work.gain = next(kPanel), work.kept = next(kPanel);
        work.head_scale = next(kPositions * a.heads), work.normal = next(kPositions * channels);
        Pooled& pooled = parts[part];
        pooled.largest = next(columns), pooled.sum = next(columns), pooled.values = next(channels * columns);
        std::fill(pooled.largest, pooled.largest + columns, kLowest);
        std::memset(pooled.sum, 0, (1 + channels) * columns * sizeof(float));
        std::memset(work.shares, 0, (kPositions * depth + slack) * sizeof(Share));
        const int64_t tiles = a.tiles(kPositions), last = (part + 1) * tiles / threads;
        for (int64_t tile = part * tiles / threads; tile < last; ++tile) {
            const int64_t first = tile * kPositions, count = std::min<int64_t>(kPositions, a.positions - first);
            float* const out = arrays.to_image + first * channels;
            const float* const rows = rows_of_tile(a, arrays, first, count, work.normal);
            take(a, rows, count, work);
            for_panels(columns, [&](auto vectors, int64_t panel) {
                find_scores<vectors>(a, keys, bias, count, panel, work);
                pool<vectors>(a, count, panel, work, pooled);
            });
            find_factors(a, mask, work);
            if (!share_out_tile(a, count, work)) {
                for_panels(columns, [&](auto vectors, int64_t panel) {
                    find_scores<vectors>(a, keys, bias, count, panel, work);
                });
                weigh_rows(a, mask, count, work);
                share_out_tile(a, count, work);
            }
            read(a, values, count, work, out);
            add_read(a, arrays, rows, count, out);
        }
    });
    merge(a, channels, columns, parts, arrays.to_text);
}

}  // namespace

void attend_in_int16(const Attention& a, const AttentionArrays& arrays, int threads) {
    attend<int16_t>(a, arrays, threads);
}

#ifdef GLIP_INT8
void attend_in_int8(const Attention& a, const AttentionArrays& arrays, int threads) {
    attend<uint8_t>(a, arrays, threads);
}
#endif

}  // namespace glip
#endif

extern "C" {

int glip_has_int16() {
#ifdef GLIP_INT16
    return 1;
#else
    return 0;
#endif
}
}
