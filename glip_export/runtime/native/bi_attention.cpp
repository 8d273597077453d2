// The image's half of the bi-directional attention (glip_export/model/bi_attention.py, folded form) on the CPU.
//
// One pass over the image's positions in tiles that stay in the cache: scores against every head's tokens, the softmax
// over tokens and what it reads, and the softmax over positions, which is summed up as it goes with the largest score
// so far subtracted (Milakov and Gimelshein, 2018). The scores, 126 MB at 80 names, are never written to memory.

#include "bi_attention.hpp"
#include "integers.hpp"

namespace glip {
namespace {

int64_t columns_of(const Attention& a) { return round_up(a.scores(), kPanel); }
int64_t rows_of(const Attention& a) { return round_up(a.channels, kRows); }  // of the transposed values, whole calls

// keys (h*T, C) as (C, h*T), values (h*T, C) as they are, both packed; all columns() of them, with zeros behind.
void pack(const Attention& a, const float* matrix, bool transposed, float* packed, int threads) {
    const int64_t rows = transposed ? a.channels : columns_of(a), columns = transposed ? columns_of(a) : a.channels;
    in_parallel(threads, columns / kPanel, [&](int64_t panel, int) {
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = panel * kPanel; column < (panel + 1) * kPanel; ++column) {
                const int64_t score = transposed ? column : row, channel = transposed ? row : column;
                packed[packed_index(rows, row, column)] =
                    score < a.scores() ? matrix[score * a.channels + channel] : 0.f;
            }
    });
}

struct Workspace {  // of one thread
    float *operand, *transposed, *weights;  // values (kTile, C) and (rows, kTile); softmax's (kTile, columns)
    float *scores, *out;                // (kTile, columns), (kTile, C)
};

void take(const Attention& a, const float* values, int64_t count, const Workspace& work) {
    for (int64_t i = 0; i < kTile; ++i)
        for (int64_t c = 0; c < a.channels; c += kLanes) {
            const Vector value = i < count ? load(values + i * a.channels + c) : Vector{};
            store(work.operand + i * a.channels + c, value);
        }
    for (int64_t c = 0; c < a.channels; ++c)
        for (int64_t i = 0; i < kTile; ++i) work.transposed[c * kTile + i] = work.operand[i * a.channels + c];
}

void find_scores(const Attention& a, const float* keys, const float* bias, int64_t count, const Workspace& work) {
    const int64_t columns = columns_of(a);
    for (int64_t i = 0; i < kTile; ++i) std::memcpy(work.scores + i * columns, bias, columns * sizeof(float));
    for (int64_t panel = 0; panel < columns; panel += kPanel)
        for (int64_t i = 0; i < count; i += kRows)
            multiply(work.operand + i * a.channels, a.channels, keys + panel * a.channels,
                     work.scores + i * columns + panel, columns, a.channels);
    for (int64_t k = 0; k < count * columns; k += kLanes) {
        Vector score = load(work.scores + k);
        score = score < a.low ? Vector{} + a.low : score;
        store(work.scores + k, score > a.high ? Vector{} + a.high : score);
    }
}

// Adds a tile to what the text reads: the softmax over positions.
void pool(const Attention& a, int64_t count, const Workspace& work, const Pooled& pooled, float* exponentials) {
    const int64_t columns = columns_of(a);
    for (int64_t panel = 0; panel < columns; panel += kPanel) {
        for (int64_t column = panel; column < panel + kPanel; column += kLanes) {
            const Vector before = load(pooled.largest + column);
            Vector largest = before;
            for (int64_t i = 0; i < count; ++i) {
                const Vector score = load(work.scores + i * columns + column);
                largest = score > largest ? score : largest;
            }
            const Integers grown = largest > before;
            bool any = false;
            for (int lane = 0; lane < kLanes; ++lane) any |= grown[lane] != 0;
            if (any) {
                const Vector shrunk = exponential(before - largest);
                store(pooled.largest + column, largest);
                store(pooled.sum + column, load(pooled.sum + column) * shrunk);
                for (int64_t row = 0; row < rows_of(a); ++row) {
                    float* const value = pooled.values + panel * rows_of(a) + row * kPanel + column - panel;
                    store(value, load(value) * shrunk);
                }
            }
            Vector sum = load(pooled.sum + column);
            for (int64_t i = 0; i < kTile; ++i) {
                const Vector score = load(work.scores + i * columns + column);
                const Vector weight = i < count ? exponential(score - largest) : Vector{};
                sum += weight;
                store(exponentials + i * kPanel + column - panel, weight);
            }
            store(pooled.sum + column, sum);
        }
        for (int64_t row = 0; row < rows_of(a); row += kRows)
            multiply(work.transposed + row * kTile, kTile, exponentials,
                     pooled.values + panel * rows_of(a) + row * kPanel, kPanel, kTile);
    }
}

// What the image reads: the softmax over each head's tokens, times the values. mask (T) is added to the scores.
void read(const Attention& a, const float* mask, const float* values, int64_t count, const Workspace& work) {
    const int64_t columns = columns_of(a);
    Integers lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t head = 0; head < a.heads; ++head) {
            float* const scores = work.scores + i * columns + head * a.tokens;
            float* const weights = work.weights + i * columns + head * a.tokens;
            Vector largest = Vector{} + kLowest;
            for (int64_t t = 0; t < a.tokens; t += kLanes) {
                Vector score = load(scores + t) + load(mask + t);
                score = lane < int32_t(a.tokens - t) ? score : Vector{} + kLowest;
                largest = score > largest ? score : largest;
            }
            float most = largest[0];
            for (int k = 1; k < kLanes; ++k) most = std::max(most, largest[k]);
            Vector sums{};
            for (int64_t t = 0; t < a.tokens; t += kLanes) {
                const Vector weight = exponential(load(scores + t) + load(mask + t) - most);
                sums += lane < int32_t(a.tokens - t) ? weight : Vector{};
            }
            float sum = 0;
            for (int k = 0; k < kLanes; ++k) sum += sums[k];
            for (int64_t t = 0; t < a.tokens; t += kLanes) {  // what goes past the end is zero, or the next head's
                const Vector weight = exponential(load(scores + t) + load(mask + t) - most) / sum;
                store(weights + t, lane < int32_t(a.tokens - t) ? weight : Vector{});
            }
        }
    std::memset(work.out, 0, kTile * a.channels * sizeof(float));
    for (int64_t panel = 0; panel < a.channels; panel += kPanel)
        for (int64_t i = 0; i < count; i += kRows)
            multiply(work.weights + i * columns, columns, values + panel * columns, work.out + i * a.channels + panel,
                     a.channels, columns);
}

void attend(const Attention& a, const AttentionArrays& arrays, int threads) {
    thread_local Scratch<float> operands;
    thread_local Scratch<float> floats;
    threads = int(std::min<int64_t>(threads, a.tiles(kTile)));
    const int64_t columns = columns_of(a), slack = kLanes;
    const int64_t packed = a.channels * columns;
    const int64_t own_operands =
        kTile * a.channels + rows_of(a) * kTile + kTile * columns + slack + kTile * kPanel;
    const int64_t own_floats = kTile * columns + slack + 2 * kTile * a.channels + (2 + rows_of(a)) * columns;
    float* const all_operands = operands.at_least(2 * packed + threads * own_operands);
    float* const all_floats = floats.at_least(columns + a.tokens + slack + threads * own_floats);

    pack(a, arrays.keys, true, all_operands, threads);
    pack(a, arrays.values, false, all_operands + packed, threads);
    float* const padded_bias = all_floats;
    std::fill(std::copy(arrays.bias, arrays.bias + a.scores(), padded_bias), padded_bias + columns, 0.f);
    float* const padded_mask = padded_bias + columns;
    std::fill(std::copy(arrays.mask, arrays.mask + a.tokens, padded_mask), padded_mask + a.tokens + slack, 0.f);

    std::vector<Pooled> parts(threads);
    in_parallel(threads, threads, [&](int64_t part, int) {  // the same tiles in every call: the same result to the bit
        Workspace work;
        work.operand = all_operands + 2 * packed + part * own_operands;
        work.transposed = work.operand + kTile * a.channels;
        work.weights = work.transposed + rows_of(a) * kTile;
        float* const exponentials = work.weights + kTile * columns + slack;
        work.scores = padded_mask + a.tokens + slack + part * own_floats;
        work.out = work.scores + kTile * columns + slack;
        Pooled& pooled = parts[part];
        float* const normal = work.out + kTile * a.channels;
        pooled.largest = normal + kTile * a.channels;
        pooled.sum = pooled.largest + columns, pooled.values = pooled.sum + columns;
        std::fill(pooled.largest, pooled.largest + columns, kLowest);
        std::memset(pooled.sum, 0, (1 + rows_of(a)) * columns * sizeof(float));
        std::memset(static_cast<void*>(work.transposed), 0, (rows_of(a) * kTile + kTile * columns) * sizeof(float));
        for (int64_t tile = part * a.tiles(kTile) / threads; tile < (part + 1) * a.tiles(kTile) / threads; ++tile) {
            const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, a.positions - first);
            const float* const rows = rows_of_tile(a, arrays, first, count, normal);
            take(a, rows, count, work);
            find_scores(a, all_operands, padded_bias, count, work);
            pool(a, count, work, pooled, exponentials);
            read(a, padded_mask, all_operands + packed, count, work);
            add_read(a, arrays, rows, count, work.out);
            std::memcpy(arrays.to_image + first * a.channels, work.out, count * a.channels * sizeof(float));
        }
    });
    merge(a, rows_of(a), columns, parts, arrays.to_text);
}

}  // namespace
}  // namespace glip

extern "C" {

// sizes: batch, N, C, heads, T, whether there is a norm. image (B, N, C), keys and values (B, h*T, C), bias (B, h*T), mask (B, T), all f32 ->
// to_text (B, h*T, C), the means of `image` over positions; to_image (B, N, C), what it reads. With norm (4, C), a
// LayerNorm's weight and bias, a gain and an offset, the rows of `image` are normalized first, and to_image is those plus
// gain * (read + offset). C is a multiple of glip_panel, scores are clamped to low..high. precision: 0, fp32; 1, int16, only where glip_has_int16; 2, int8, only where glip_has_int8:
// what is read, the scores in int16.
// 1 if there was not the memory.
int glip_bi_attention(const int64_t* sizes, const float* image, const float* keys, const float* bias,
                      const float* values, const float* mask, const float* norm, float* to_text, float* to_image, float low,
                      float high, float epsilon, int precision, int threads) {
    const glip::Attention a{sizes[1], sizes[2], sizes[3], sizes[4], low, high, epsilon};
    return glip::reported([&] {
        for (int64_t b = 0; b < sizes[0]; ++b) {
            const int64_t maps = b * a.positions * a.channels, texts = b * a.scores() * a.channels;
            const glip::AttentionArrays arrays{image + maps,  keys + texts,    bias + b * a.scores(), values + texts,
                                               mask + b * a.tokens, sizes[5] ? norm : nullptr, to_text + texts,
                                               to_image + maps};
#ifdef GLIP_INT16
            if (precision == 1) {
                glip::attend_in_int16(a, arrays, threads);
                continue;
            }
#endif
#ifdef GLIP_INT8
            if (precision == 2) {
                glip::attend_in_int8(a, arrays, threads);
                continue;
            }
#endif
            (void)precision;
            glip::attend(a, arrays, threads);
        }
    });
}
}
