// One layer of BERT (glip_export/model/text_layer.py, and those of the text encoder) on the CPU.
//
// A text is few rows and many weights, so threads share a product's panels of columns, each with all rows, and every
// weight is read once. A panel is multiplied in pieces of its depth that stay in the nearest cache; a row has a scale
// for each piece, so that one outlier coarsens no more than its own.

#include <limits>

#include "layer_norm.hpp"
#include "linear.hpp"
#include "team.hpp"

namespace glip {
namespace {

constexpr int64_t kMostRows = 196;  // that one thread multiplies by a panel before it takes the next
constexpr int64_t kLeastRows = 24;
constexpr int64_t kRuns = 3;  // of panels, that each thread takes

template <typename T>
constexpr int64_t kPiece = 768 / sizeof(T);  // of the depth: with it a panel's is 48 KB

struct Shape {
    int64_t batch, tokens, channels, heads, hidden;
    int64_t rows() const { return batch * tokens; }
    int64_t depth() const { return channels / heads; }
};

struct Limits {
    float low, high;
    Vector clamp(Vector v) const { return smaller(larger(v, Vector{} + low), Vector{} + high); }
};

template <typename T>
struct Layer {
    Shape shape;
    Limits scores, values;  // what the scores are clamped to, and what the MLP gives
    Norm norm1, norm2;
    Linear<T> queries, projection, first, last;  // queries, keys and values
};

// Rows in pieces of their depth: scales and sums of piece p are from p * capacity on.
template <typename T>
struct PiecedRows {
    Rows<T> rows;
    int64_t capacity;
    Rows<T> piece(int64_t from) const {
        const int64_t skipped = from / kPiece<T> * capacity;
        return {rows.values + from, rows.scale + skipped, rows.sum + skipped, rows.stride};
    }
    void take(int64_t row, const float* values, int64_t depth) const {
        for (int64_t from = 0; from < depth; from += kPiece<T>)
            take_piece(piece(from), row, values + from, std::min(kPiece<T>, depth - from));
    }
    static void take_piece(const Rows<T>& piece, int64_t row, const float* values, int64_t depth) {
        take_row(piece, row, values, depth, is_whole<T> ? largest_of(values, depth) : 0.f);
    }
};

#ifdef GLIP_INT16
// Numbers of Rows rows times a piece of a panel, times the rows' scales -> tile, or added to it. Fetch: and what lies a
// piece further on comes nearer, for a text of a few words waits for its weights most of the time.
template <bool First, bool Fetch, int Rows, typename T>
void multiply_rows(const glip::Rows<T>& rows, int64_t row, const T* panel, int64_t depth, float* tile) {
    constexpr int group = 4 / sizeof(T);
    const T* const values = rows.values + row * rows.stride;
    Integers sum[Rows][kVectors]{};
    for (int64_t k = 0; k < padded_depth<T>(depth); k += group) {
        Integers weight[kVectors];
        for (int v = 0; v < kVectors; ++v) {
            const T* const from = panel + k * kPanel + v * group * kLanes;
            weight[v] = load_integers(from);
            if (Fetch) __builtin_prefetch(from + kPiece<T> * kPanel, 0, 2);
        }
        for (int r = 0; r < Rows; ++r) {
            int32_t four;
            std::memcpy(&four, values + r * rows.stride + k, 4);
            for (int v = 0; v < kVectors; ++v) sum[r][v] = add_products(values, sum[r][v], Integers{} + four, weight[v]);
        }
    }
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            if constexpr (sizeof(T) == 1) sum[r][v] -= rows.sum[row + r];
            float* const to = tile + r * kPanel + v * kLanes;
            const Vector value = to_float(sum[r][v]) * rows.scale[row + r];
            store(to, First ? value : load(to) + value);
        }
}
#endif

template <typename T>
Vector gelu_of(Vector value) {
    if constexpr (is_whole<T>)
        return gelu_of_whole<8 * sizeof(T)>(value);
    else
        return gelu(value);
}

template <bool First, typename T>
void multiply_piece(const Rows<T>& rows, int64_t first, int64_t count, const T* panel, int64_t depth, float* tile) {
    if constexpr (is_whole<T>) {
#ifdef GLIP_INT16
        constexpr int at_once = rows_of_a_product<T>();
        multiply_rows<First, true, at_once>(rows, first, panel, depth, tile);
        for (int64_t row = at_once; row < count; row += at_once)
            multiply_rows<First, false, at_once>(rows, first + row, panel, depth, tile + row * kPanel);
#endif
    } else {
        if (First) std::memset(tile, 0, (count + kRows) * kPanel * sizeof(float));
        for (int64_t row = 0; row < count; row += kRows)
            multiply(rows.values + (first + row) * rows.stride, rows.stride, panel, tile + row * kPanel, kPanel, depth);
    }
}

// finish(row, column, values) of rows times the layer, its bias added, for whole vectors of columns. tile: room of
// this thread for kMostRows + kMoreRows rows of a panel. A thread takes panels that lie one after the other.
template <typename T, typename Finish>
void apply_together(Team& team, int thread, int threads, const Linear<T>& layer, const PiecedRows<T>& rows,
                    int64_t count, float* tile, const Finish& finish) {
    const int64_t panels = layer.columns / kPanel, depth = padded_depth<T>(layer.depth);
    int64_t at_once = kMostRows;
    while (at_once > kLeastRows && panels * ((count + at_once - 1) / at_once) < 2 * threads) at_once /= 2;
    const int64_t blocks = (count + at_once - 1) / at_once, runs = std::min<int64_t>(panels, kRuns * threads);
    team.share(thread, runs * blocks, [&](int64_t item, int) {
        const int64_t run = item / blocks, first = item % blocks * at_once, all = std::min(at_once, count - first);
        for (int64_t each = panels * run / runs; each < panels * (run + 1) / runs; ++each) {
            const int64_t column = each * kPanel;
            const T* const panel = layer.weight + column * depth;
            for (int64_t from = 0; from < layer.depth; from += kPiece<T>) {
                const int64_t piece = std::min(kPiece<T>, layer.depth - from);
                from ? multiply_piece<false>(rows.piece(from), first, all, panel + from * kPanel, piece, tile)
                     : multiply_piece<true>(rows.piece(from), first, all, panel, piece, tile);
            }
            for (int64_t row = 0; row < all; ++row)
                for (int64_t k = 0; k < std::min<int64_t>(kPanel, layer.width - column); k += kLanes) {
                    Vector value = load(tile + row * kPanel + k);
                    if constexpr (is_whole<T>) value *= load(layer.scales() + column + k);
                    finish(first + row, column + k, value + load(layer.bias + column + k));
                }
        }
    });
}

// The attention of one head in one text, of rows (T, wide) that hold queries, keys and values.
struct Attention {
    Attention(const Shape& s) : s(s), columns(round_up(s.tokens, kPanel)), wide(round_up(s.depth(), kPanel)) {}
    int64_t floats() const { return (columns + s.tokens) * wide + columns + kTile * (columns + 2 * wide + 1); }

    void run(const float* rows, int64_t stride, const float* mask, const Limits& limits, int64_t head, float* memory,
             float* out) const {
        const int64_t depth = s.depth();
        float* const keys = memory;                         // (depth, tokens), packed
        float* const values = keys + columns * wide;        // (tokens, depth), packed
        float* const added = values + s.tokens * wide;      // the mask, of whole panels
        float* const scores = added + columns;              // (kTile, tokens)
        float* const means = scores + kTile * columns;      // (kTile, depth)
        float* const total = means + kTile * wide;          // (kTile)
        float* const queries = total + kTile;               // (tokens, depth), so that a tile may have rows to spare
        std::memset(keys, 0, (values - keys + s.tokens * wide) * sizeof(float));
        for (int64_t token = 0; token < s.tokens; ++token) {
            const float* const from = rows + token * stride + head * depth;
            for (int64_t k = 0; k < depth; ++k) {
                keys[packed_index(depth, k, token)] = from[s.channels + k];
                values[packed_index(s.tokens, token, k)] = from[2 * s.channels + k];
            }
        }
        for (int64_t token = 0; token < columns; ++token)
            added[token] = token < s.tokens ? mask[token] : -std::numeric_limits<float>::infinity();
        for (int64_t first = 0; first < s.tokens; first += kTile) {
            const int64_t count = std::min<int64_t>(kTile, s.tokens - first), all = round_up(count, kRows);
            std::memset(scores, 0, all * columns * sizeof(float));
            std::memset(means, 0, all * wide * sizeof(float));
            for (int64_t row = 0; row < count; ++row)
                std::memcpy(queries + row * depth, rows + (first + row) * stride + head * depth, depth * sizeof(float));
            for (int64_t column = 0; column < columns; column += kPanel)
                for (int64_t row = 0; row < all; row += kRows)
                    multiply(queries + row * depth, depth, keys + column * depth, scores + row * columns + column, columns,
                             depth);
            for (int64_t row = 0; row < count; ++row) total[row] = soften(scores + row * columns, added, limits);
            for (int64_t column = 0; column < wide; column += kPanel)
                for (int64_t row = 0; row < all; row += kRows)
                    multiply(scores + row * columns, columns, values + column * s.tokens, means + row * wide + column, wide,
                             s.tokens);
            for (int64_t row = 0; row < count; ++row)
                for (int64_t k = 0; k < depth; ++k)
                    out[(first + row) * s.channels + head * depth + k] = means[row * wide + k] / total[row];
        }
    }

private:
    // Scores, clamped and masked, become exponentials, whose sum this gives.
    float soften(float* scores, const float* added, const Limits& limits) const {
        Vector largest = Vector{} - std::numeric_limits<float>::infinity();
        for (int64_t k = 0; k < columns; k += kLanes) {
            const Vector score = limits.clamp(load(scores + k)) + load(added + k);
            largest = larger(score, largest);
            store(scores + k, score);
        }
        const float most = largest_lane(largest);
        Vector sum{};
        for (int64_t k = 0; k < columns; k += kLanes) {
            const Vector share = exponential(load(scores + k) - most);
            sum += share;
            store(scores + k, share);
        }
        return sum_of(sum);
    }

    const Shape s;
    const int64_t columns, wide;
};

template <typename T>
void run(const Layer<T>& layer, const float* x, const float* mask, float* out, int threads) {
    thread_local Scratch<T> operands;
    thread_local Scratch<float> floats;
    thread_local Scratch<int32_t> sums;
    const Shape& s = layer.shape;
    const int64_t count = s.rows(), capacity = count + kMoreRows, wide = 3 * s.channels;
    const int64_t deepest = std::max(s.channels, s.hidden), pieces = (deepest + kPiece<T> - 1) / kPiece<T>;
    const Attention attention(s);
    const int64_t own = round_up(  // a thread's
        std::max({(kMostRows + kMoreRows) * kPanel, attention.floats(), kTogether * s.channels}), 16);
    float* at = floats.at_least(threads * own + count * (std::max(wide, s.hidden) + 2 * s.channels) + capacity * pieces);
    const auto next = [&](int64_t size) { return std::exchange(at, at + size); };
    float* const owns = next(threads * own);
    float* const values = next(count * std::max(wide, s.hidden));
    float* const narrow = next(count * s.channels);
    float* const text = next(count * s.channels);  // between attention and MLP
    const PiecedRows<T> rows{{operands.at_least(capacity * round_up(padded_depth<T>(deepest), 64)), next(capacity * pieces),
                              sums.at_least(capacity * pieces), 0},
                             capacity};
    const auto of_depth = [&](int64_t depth) {
        PiecedRows<T> pieced = rows;
        pieced.rows.stride = padded_depth<T>(depth);
        return pieced;
    };
    const PiecedRows<T> of_channels = of_depth(s.channels), of_hidden = of_depth(s.hidden);
    const Limits limits = layer.values;

    Team::run(threads, [&](Team& team, int thread) {
        float* const mine = owns + thread * own;
        const auto for_rows = [&](const auto& work) {
            const int64_t blocks = std::min<int64_t>(count, 4 * threads);
            team.share(thread, blocks, [&](int64_t block, int) {
                for (int64_t row = count * block / blocks; row < count * (block + 1) / blocks; ++row) work(row);
            });
        };
        const auto for_normalized = [&](const Norm& norm, const auto& work) {  // of every row of `narrow`
            team.share(thread, (count + kTogether - 1) / kTogether, [&](int64_t group, int) {
                const int64_t first = group * kTogether;
                const float* from[kTogether];
                for (int64_t r = 0; r < kTogether; ++r) from[r] = narrow + std::min(first + r, count - 1) * s.channels;
                Vector largest[kTogether];
                normalize(norm, from, s.channels, mine, largest);
                for (int64_t r = 0; r < std::min<int64_t>(kTogether, count - first); ++r)
                    work(first + r, mine + r * s.channels);
            });
        };
        const auto apply = [&](const Linear<T>& linear, const PiecedRows<T>& pieced, const auto& finish) {
            apply_together(team, thread, threads, linear, pieced, count, mine, finish);
        };
        for_rows([&](int64_t row) { of_channels.take(row, x + row * s.channels, s.channels); });
        apply(layer.queries, of_channels,
              [=](int64_t row, int64_t k, Vector value) { store(values + row * wide + k, value); });
        team.share(thread, s.batch * s.heads, [&](int64_t item, int) {
            const int64_t first = item / s.heads * s.tokens;
            attention.run(values + first * wide, wide, mask + first, layer.scores, item % s.heads, mine,
                          narrow + first * s.channels);
        });
        for_rows([&](int64_t row) { of_channels.take(row, narrow + row * s.channels, s.channels); });
        apply(layer.projection, of_channels, [=](int64_t row, int64_t k, Vector value) {
            store(narrow + row * s.channels + k, value + load(x + row * s.channels + k));
        });
        for_normalized(layer.norm1, [&](int64_t row, const float* line) {
            std::memcpy(text + row * s.channels, line, s.channels * sizeof(float));
            of_channels.take(row, line, s.channels);
        });
        apply(layer.first, of_channels, [=](int64_t row, int64_t k, Vector value) {
            value = limits.clamp(value);
            store(values + row * s.hidden + k, limits.clamp(gelu_of<T>(value)));
        });
        for_rows([&](int64_t row) { of_hidden.take(row, values + row * s.hidden, s.hidden); });
        apply(layer.last, of_hidden, [=](int64_t row, int64_t k, Vector value) {
            store(narrow + row * s.channels + k, limits.clamp(value) + load(text + row * s.channels + k));
        });
        for_normalized(layer.norm2, [&](int64_t row, const float* line) {
            for (int64_t k = 0; k < s.channels; k += kLanes)
                store(out + row * s.channels + k, limits.clamp(load(line + k)));
        });
    });
}

template <typename T>
void run_packed(const int64_t* sizes, const float* x, const float* mask, const void* const* parameters,
                const float* numbers, float* out, int threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
    const auto floats = [&](int index) { return static_cast<const float*>(parameters[index]); };
    const auto linear = [&](int index, int64_t depth, int64_t width) {
        return Linear<T>(parameters[index], floats(index + 1), depth, width);
    };
    const Layer<T> layer{s,
                         {numbers[0], numbers[1]},
                         {numbers[2], numbers[3]},
                         {floats(0), floats(1), numbers[4]},
                         {floats(2), floats(3), numbers[5]},
                         linear(4, s.channels, 3 * s.channels),
                         linear(6, s.channels, s.channels),
                         linear(8, s.channels, s.hidden),
                         linear(10, s.hidden, s.channels)};
    run(layer, x, mask, out, threads);
}

}  // namespace
}  // namespace glip

extern "C" {

// sizes: batch, T, C, heads, hidden; C and hidden are multiples of 16, and C of the heads. x (B, T, C) -> out, the same.
// mask (B, T) is added to the scores. parameters: both norms' weights and biases, then the layers qkv (with the queries'
// scale in it), projection, MLP's first and last, each packed and its bias padded to whole panels. numbers: what scores
// are clamped to, what the MLP's values and the result are, the norms' epsilons. 1 if there was not the memory.
int glip_bert_layer(const int64_t* sizes, const float* x, const float* mask, const void* const* parameters,
                    const float* numbers, float* out, int precision, int threads) {
    return glip::reported([&] {
        switch (glip::Precision(precision)) {
#ifdef GLIP_INT8
            case glip::Precision::kInt8:
                return glip::run_packed<int8_t>(sizes, x, mask, parameters, numbers, out, threads);
#endif
#ifdef GLIP_INT16
            case glip::Precision::kInt16:
                return glip::run_packed<int16_t>(sizes, x, mask, parameters, numbers, out, threads);
#endif
            default:
                return glip::run_packed<float>(sizes, x, mask, parameters, numbers, out, threads);
        }
    });
}
}
