// One block of Swin (glip_export/model/swin_block.py) on the CPU, all of it on two windows at a time, whose rows never
// leave the cache: they are read where the shift and the windows say, and what becomes of them is written back there.
// No shifted, padded or transposed copy of the map is made.

#include "layer_norm.hpp"
#include "window_attention_int16.hpp"

namespace glip {
namespace {

constexpr int64_t kWindowsAtOnce = 2;
static_assert(kTogether <= kSpare);

template <typename T>
struct Block {
    Shape shape;
    Norm norm1, norm2;
    Linear<T> queries, projection, first, last;  // queries, keys and values
    const float* relative;                       // as the attention shares them
};

template <typename T>
struct Workspace {  // of one thread
    Rows<T> rows, hidden_rows;
    float *wide, *residual;  // (3, heads, rows, head) or (rows, hidden), (rows, C)
    float* attention;
    float* lines;  // kTogether rows
};

template <typename T>
using AttentionOf = Attention<std::conditional_t<is_whole<T>, int16_t, float>>;

// kTogether rows from `row` on, normalized.
template <typename T>
void take_normalized(const Norm& norm, const float* const* from, int64_t channels, const Rows<T>& rows, int64_t row,
                     float* lines) {
    Vector largest[kTogether];
    normalize(norm, from, channels, lines, largest);
    for (int r = 0; r < kTogether; ++r)
        take_row(rows, row + r, lines + r * channels, channels, largest_lane(largest[r]));
}

template <typename T>
void take_gelu(const Rows<T>& rows, int64_t row, float* values, int64_t depth) {
    Vector largest{};
    for (int64_t k = 0; k < depth; k += kLanes) {
        Vector value = load(values + k);
        if constexpr (is_whole<T>)
            value = gelu_of_whole<8 * sizeof(T)>(value);
        else
            value = gelu(value);
        largest = larger(magnitude(value), largest);
        store(values + k, value);
    }
    take_row(rows, row, values, depth, largest_lane(largest));
}

// The windows from `first` on, of one picture (H*W, C).
template <typename T>
void run_windows(const Block<T>& b, const float* x, float* out, int64_t first, int64_t count, const Workspace<T>& w) {
    const Shape& s = b.shape;
    const int64_t channels = s.channels, hidden_depth = s.hidden;
    std::vector<Window> windows;
    std::vector<const float*> from;  // every row's
    std::vector<float*> to;
    for (int64_t window = first; window < first + count; ++window) {
        windows.emplace_back(s, window, int64_t(from.size()));
        for (const int64_t place : windows.back().places)
            from.push_back(x + place * channels), to.push_back(out + place * channels);
    }
    const int64_t all = int64_t(from.size());
    from.resize(all + kSpare, w.lines), to.resize(all + kSpare, w.lines);
    Rows<T> rows = w.rows, hidden = w.hidden_rows;
    rows.stride = padded_depth<T>(channels), hidden.stride = padded_depth<T>(hidden_depth);
    for (int64_t row = 0; row < all; row += kTogether)
        take_normalized(b.norm1, &from[row], channels, rows, row, w.lines);
    float *const values = w.wide, *const residual = w.residual;
    std::vector<float*> column_of;  // whole vectors of columns, those of one head together
    const int64_t of_part = (all + kSpare) * s.head();
    for (int64_t column = 0; column < 3 * channels; column += kLanes)
        column_of.push_back(values + column / s.head() * of_part + column % s.head());
    apply(b.queries, rows, all, [columns = column_of.data(), size = s.head()](int64_t row, int64_t column, Vector v) {
        store(columns[column / kLanes] + row * size, v);
    });
    const AttentionOf<T> attention(s, b.relative, w.attention);
    for (const Window& window : windows)
        for (int64_t head = 0; head < s.heads; ++head)
            attention.of_head(s, window, values + head * of_part, s.heads * of_part, b.queries.bias, head, residual);
    for (int64_t row = 0; row < all; ++row) {
        const float* const read = residual + row * channels;
        take_row(rows, row, read, channels, is_whole<T> ? largest_of(read, channels) : 0.f);
    }
    apply(b.projection, rows, all, [=, inputs = from.data()](int64_t row, int64_t column, Vector v) {
        store(residual + row * channels + column, load(inputs[row] + column) + v);
    });
    for (int64_t row = 0; row < all; ++row) from[row] = residual + row * channels;
    for (int64_t row = 0; row < all; row += kTogether)
        take_normalized(b.norm2, &from[row], channels, rows, row, w.lines);
    apply(b.first, rows, all,
          [=](int64_t row, int64_t column, Vector v) { store(values + row * hidden_depth + column, v); });
    for (int64_t row = 0; row < all; ++row) take_gelu(hidden, row, values + row * hidden_depth, hidden_depth);
    apply(b.last, hidden, all, [=, outputs = to.data()](int64_t row, int64_t column, Vector v) {
        store(outputs[row] + column, load(residual + row * channels + column) + v);
    });
}

template <typename T>
void run(Block<T> b, int64_t batch, const float* x, float* out, int threads) {
    thread_local Scratch<T> operands;
    thread_local Scratch<float> floats, shared;
    thread_local Scratch<int32_t> sums;
    const Shape& s = b.shape;
    const int64_t rows = s.positions() * kWindowsAtOnce + kSpare;
    const int64_t depth = round_up(padded_depth<T>(s.channels), 64), hidden = round_up(padded_depth<T>(s.hidden), 64);
    const int64_t own_operands = rows * (depth + hidden), columns = std::max(b.queries.columns, b.first.columns);
    const int64_t of_head = AttentionOf<T>::floats(s);
    const int64_t own_floats = round_up(rows * (columns + s.channels + 2) + of_head + kTogether * s.channels, 16);
    b.relative = AttentionOf<T>::share(s, b.relative, shared.at_least(AttentionOf<T>::shared_floats(s)));
    T* const all_operands = operands.at_least(threads * own_operands);
    float* const all_floats = floats.at_least(threads * own_floats);
    int32_t* const all_sums = sums.at_least(threads * 2 * rows);
    const int64_t windows = s.rows() * s.columns(), units = (windows + kWindowsAtOnce - 1) / kWindowsAtOnce;
    in_parallel(threads, batch * units, [&](int64_t item, int thread) {
        Workspace<T> w;
        float* at = all_floats + thread * own_floats;
        const auto next = [&](int64_t count) { return std::exchange(at, at + count); };
        T* const operand = all_operands + thread * own_operands;
        int32_t* const sum = all_sums + thread * 2 * rows;
        w.wide = next(rows * columns), w.residual = next(rows * s.channels);
        w.attention = next(of_head), w.lines = next(kTogether * s.channels);
        w.rows = {operand, next(rows), sum, depth}, w.hidden_rows = {operand + rows * depth, next(rows), sum + rows, hidden};
        const int64_t picture = item / units, first = item % units * kWindowsAtOnce;
        const int64_t map = s.height * s.width * s.channels;
        run_windows(b, x + picture * map, out + picture * map, first, std::min(kWindowsAtOnce, windows - first), w);
    });
}

template <typename T>
void run_packed(const int64_t* sizes, const float* x, const void* const* parameters, const float* epsilon, float* out,
                int threads) {
    const Shape s{sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7]};
    const auto floats = [&](int index) { return static_cast<const float*>(parameters[index]); };
    const auto layer = [&](int index, int64_t depth, int64_t width) {
        return Linear<T>(parameters[index], floats(index + 1), depth, width);
    };
    const Block<T> block{s,
                         {floats(0), floats(1), epsilon[0]},
                         {floats(2), floats(3), epsilon[1]},
                         layer(4, s.channels, 3 * s.channels),
                         layer(6, s.channels, s.channels),
                         layer(8, s.channels, s.hidden),
                         layer(10, s.hidden, s.channels),
                         floats(12)};
    run(block, sizes[0], x, out, threads);
}

}  // namespace
}  // namespace glip

extern "C" {

int glip_has_int8() {
#ifdef GLIP_INT8
    return 1;
#else
    return 0;
#endif
}

// weight (width, depth) f32 -> packed: depth in whole pairs (int16) or fours (int8), width in whole panels, then
// of whole numbers a scale for each column.
void glip_layer_pack(const float* weight, int64_t depth, int64_t width, int precision, void* packed) {
    glip::of_precision(precision, [&](auto zero) {
        glip::pack_linear(weight, depth, width, static_cast<decltype(zero)*>(packed));
    });
}

// sizes: batch, H, W, C, heads, window, shift, hidden. x (B, H*W, C) -> out, the same. parameters: the norms' weights
// and biases, then the layers qkv (with the queries' scale in it), projection, MLP's first and last, each packed and its
// bias padded to whole panels, then the relative biases (heads, window^2, window^2 rounded up to panels). C and hidden
// are multiples of 32, as is what a head has of C. 1 if there was not the memory.
int glip_swin_block(const int64_t* sizes, const float* x, const void* const* parameters, const float* epsilon, float* out,
                    int precision, int threads) {
    return glip::reported([&] {
        switch (glip::Precision(precision)) {
#ifdef GLIP_INT8
            case glip::Precision::kInt8:
                return glip::run_packed<int8_t>(sizes, x, parameters, epsilon, out, threads);
#endif
#ifdef GLIP_INT16
            case glip::Precision::kInt16:
                return glip::run_packed<int16_t>(sizes, x, parameters, epsilon, out, threads);
#endif
            default:
                return glip::run_packed<float>(sizes, x, parameters, epsilon, out, threads);
        }
    });
}
}
