// The image's half of the bi-directional attention (glip_export/model/bi_attention.py, folded form) on the CPU.
//
// One pass over the image's positions in tiles that stay in the cache: scores against every head's tokens, the softmax
// over tokens and what it reads, and the softmax over positions, which is summed up as it goes with the largest score
// so far subtracted (Milakov and Gimelshein, 2018). The scores, 126 MB at 80 names, are never written to memory.

#include "product.hpp"

namespace glip {
namespace {

constexpr float kLowest = -3e38f;

struct Attention {
    int64_t positions, channels, heads, tokens;
    float low, high;  // what scores are clamped to
    int64_t scores() const { return heads * tokens; }
    int64_t columns() const { return round_up(scores(), kPanel); }
    int64_t rows() const { return round_up(channels, kRows); }  // of the transposed values, whole calls
    int64_t tiles() const { return (positions + kTile - 1) / kTile; }
};

// keys (h*T, C) as (C, h*T), values (h*T, C) as they are, both packed; all columns() of them, with zeros behind.
template <typename T>
void pack(const Attention& a, const float* matrix, bool transposed, T* packed, int threads) {
    const int64_t rows = transposed ? a.channels : a.columns(), columns = transposed ? a.columns() : a.channels;
    in_parallel(threads, columns / kPanel, [&](int64_t panel, int) {
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = panel * kPanel; column < (panel + 1) * kPanel; ++column) {
                const int64_t score = transposed ? column : row, channel = transposed ? row : column;
                const float value = score < a.scores() ? matrix[score * a.channels + channel] : 0.f;
                T& to = packed[packed_index<T>(rows, row, column)];
                if constexpr (sizeof(T) == 2) to = to_bf16(value); else to = value;
            }
    });
}

// What one thread sums up for the text: of each column the largest score so far, and with it subtracted the sum of the
// exponentials and of the values they weigh, (rows, columns).
struct Pooled {
    float *largest, *sum, *values;
};

template <typename T>
struct Workspace {  // of one thread
    T *operand, *transposed, *weights;  // values (kTile, C) and (rows, kTile); softmax's (kTile, columns)
    float *scores, *out;                // (kTile, columns), (kTile, C)
};

template <typename T>
void take(const Attention& a, const float* values, int64_t count, const Workspace<T>& work) {
    for (int64_t i = 0; i < kTile; ++i)
        for (int64_t c = 0; c < a.channels; c += kLanes) {
            const Vector value = i < count ? load(values + i * a.channels + c) : Vector{};
            store(work.operand + i * a.channels + c, value);
        }
    for (int64_t c = 0; c < a.channels; ++c)
        for (int64_t i = 0; i < kTile; ++i) work.transposed[c * kTile + i] = work.operand[i * a.channels + c];
}

template <typename T>
void find_scores(const Attention& a, const T* keys, const float* bias, int64_t count, const Workspace<T>& work) {
    const int64_t columns = a.columns();
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

// Two rows of a panel's operand: in bf16 they lie in pairs.
inline void store_pair(float* panel, int64_t row, int64_t column, Vector even, Vector odd) {
    store(panel + row * kPanel + column, even);
    store(panel + (row + 1) * kPanel + column, odd);
}

inline Integers bf16_bits(Vector value) {
    Integers bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits + 0x7FFF + ((bits >> 16) & 1);
}

inline void store_pair(uint16_t* panel, int64_t row, int64_t column, Vector even, Vector odd) {
    const Integers pair = ((bf16_bits(even) >> 16) & 0xFFFF) | (bf16_bits(odd) & int32_t(0xFFFF0000));
    std::memcpy(panel + (row * kPanel + column * 2), &pair, sizeof pair);
}

// Adds a tile to what the text reads: the softmax over positions.
template <typename T>
void pool(const Attention& a, int64_t count, const Workspace<T>& work, const Pooled& pooled, T* exponentials) {
    const int64_t columns = a.columns();
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
                for (int64_t row = 0; row < a.rows(); ++row) {
                    float* const value = pooled.values + row * columns + column;
                    store(value, load(value) * shrunk);
                }
            }
            Vector sum = load(pooled.sum + column);
            for (int64_t i = 0; i < kTile; i += 2) {
                Vector pair[2];
                for (int64_t odd = 0; odd < 2; ++odd) {
                    const Vector score = load(work.scores + (i + odd) * columns + column);
                    pair[odd] = i + odd < count ? exponential(score - largest) : Vector{};
                    sum += pair[odd];
                }
                store_pair(exponentials, i, column - panel, pair[0], pair[1]);
            }
            store(pooled.sum + column, sum);
        }
        for (int64_t row = 0; row < a.rows(); row += kRows)
            multiply(work.transposed + row * kTile, kTile, exponentials, pooled.values + row * columns + panel, columns,
                     kTile);
    }
}

// What the image reads: the softmax over each head's tokens, times the values. mask (T) is added to the scores.
template <typename T>
void read(const Attention& a, const float* mask, const T* values, int64_t count, const Workspace<T>& work) {
    const int64_t columns = a.columns();
    Integers lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t head = 0; head < a.heads; ++head) {
            float* const scores = work.scores + i * columns + head * a.tokens;
            T* const weights = work.weights + i * columns + head * a.tokens;
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

// The threads' sums together: out (h*T, C).
void merge(const Attention& a, const std::vector<Pooled>& parts, float* out) {
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
            for (size_t i = 0; i < parts.size(); ++i) value += parts[i].values[c * a.columns() + score] * share[i];
            out[score * a.channels + c] = value / sum;
        }
    }
}

template <typename T>
void attend(const Attention& a, const float* image, const float* keys, const float* bias, const float* values,
            const float* mask, float* to_text, float* to_image, int threads) {
    thread_local Scratch<T> operands;
    thread_local Scratch<float> floats;
    threads = int(std::min<int64_t>(threads, a.tiles()));
    const int64_t columns = a.columns(), slack = kLanes;
    const int64_t packed = a.channels * columns;
    const int64_t own_operands =
        kTile * a.channels + a.rows() * kTile + kTile * columns + slack + kTile * kPanel;
    const int64_t own_floats = kTile * columns + slack + kTile * a.channels + (2 + a.rows()) * columns;
    T* const all_operands = operands.at_least(2 * packed + threads * own_operands);
    float* const all_floats = floats.at_least(columns + a.tokens + slack + threads * own_floats);

    pack(a, keys, true, all_operands, threads);
    pack(a, values, false, all_operands + packed, threads);
    float* const padded_bias = all_floats;
    std::fill(std::copy(bias, bias + a.scores(), padded_bias), padded_bias + columns, 0.f);
    float* const padded_mask = padded_bias + columns;
    std::fill(std::copy(mask, mask + a.tokens, padded_mask), padded_mask + a.tokens + slack, 0.f);

    std::vector<Pooled> parts(threads);
    in_parallel(threads, threads, [&](int64_t part, int) {  // the same tiles in every call: the same result to the bit
        Workspace<T> work;
        work.operand = all_operands + 2 * packed + part * own_operands;
        work.transposed = work.operand + kTile * a.channels;
        work.weights = work.transposed + a.rows() * kTile;
        T* const exponentials = work.weights + kTile * columns + slack;
        work.scores = padded_mask + a.tokens + slack + part * own_floats;
        work.out = work.scores + kTile * columns + slack;
        Pooled& pooled = parts[part];
        pooled.largest = work.out + kTile * a.channels;
        pooled.sum = pooled.largest + columns, pooled.values = pooled.sum + columns;
        std::fill(pooled.largest, pooled.largest + columns, kLowest);
        std::memset(pooled.sum, 0, (1 + a.rows()) * columns * sizeof(float));
        std::memset(static_cast<void*>(work.transposed), 0, (a.rows() * kTile + kTile * columns) * sizeof(T));
        for (int64_t tile = part * a.tiles() / threads; tile < (part + 1) * a.tiles() / threads; ++tile) {
            const int64_t first = tile * kTile, count = std::min<int64_t>(kTile, a.positions - first);
            take(a, image + first * a.channels, count, work);
            find_scores(a, all_operands, padded_bias, count, work);
            pool(a, count, work, pooled, exponentials);
            read(a, padded_mask, all_operands + packed, count, work);
            std::memcpy(to_image + first * a.channels, work.out, count * a.channels * sizeof(float));
        }
    });
    merge(a, parts, to_text);
}

}  // namespace
}  // namespace glip

extern "C" {

// sizes: batch, N, C, heads, T. image (B, N, C), keys and values (B, h*T, C), bias (B, h*T), mask (B, T), all f32 ->
// to_text (B, h*T, C), the means of `image` over positions; to_image (B, N, C). C is a multiple of glip_panel, scores
// are clamped to low..high. bf16 only where glip_has_bf16. 1 if there was not the memory.
int glip_bi_attention(const int64_t* sizes, const float* image, const float* keys, const float* bias,
                      const float* values, const float* mask, float* to_text, float* to_image, float low, float high,
                      int bf16, int threads) {
    const glip::Attention a{sizes[1], sizes[2], sizes[3], sizes[4], low, high};
    return glip::reported([&] {
        for (int64_t b = 0; b < sizes[0]; ++b) {
            const int64_t maps = b * a.positions * a.channels, texts = b * a.scores() * a.channels;
            const auto run = [&](auto attend) {
                attend(a, image + maps, keys + texts, bias + b * a.scores(), values + texts, mask + b * a.tokens,
                       to_text + texts, to_image + maps, threads);
            };
#ifdef __AVX512BF16__
            if (bf16) {
                run(glip::attend<uint16_t>);
                continue;
            }
#endif
            (void)bf16;
            run(glip::attend<float>);
        }
    });
}
}
